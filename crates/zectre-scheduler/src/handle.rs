//! How the rest talks to the engine: two bounded queues, one of them for signs of life, which cost little and keep nodes
//! and proxies from being taken for lost.

use crate::{
    core::{Cluster, Event},
    error::Error,
    order::Order,
    wake::WakeReply,
};
use std::sync::Arc;
use tokio::{
    sync::{Mutex, OwnedMutexGuard, mpsc, oneshot},
    time::Instant,
};
use zectre_common::id::DeploymentId;

/// Messages that wait for the engine, in each of the two queues.
pub const QUEUE_MAX: usize = 8_192;
/// Signs of life that are heard before one message of another kind. One of those may be news of hundreds of tasks, and
/// makes a commit of 0.1 s together with a few others; a fleet of 10,000 sends 500 heartbeats meanwhile.
const SIGNS_IN_TURN: u32 = 64;

/// Looks at the state between two steps.
pub(crate) type Look = Box<dyn FnOnce(&Cluster) + Send>;

/// What a node is answered.
#[derive(Debug)]
pub struct Answer {
    /// The orders that belong in the answer to the node that the event came from.
    pub orders: Vec<Order>,
    /// Whether the node that spoke has a row.
    pub known: bool,
}

/// What the engine is told or asked.
pub(crate) enum Message {
    /// Something happened.
    Event {
        event: Event,
        committed: Option<oneshot::Sender<Answer>>,
    },
    /// Somebody waits for a deployment.
    Wake {
        id: DeploymentId,
        /// A request of a proxy does: a superseded version is the API's to wake.
        unless_superseded: bool,
        reply: oneshot::Sender<WakeReply>,
    },
    /// Somebody looks.
    Look(Look),
}

/// Talks to the engine of one term.
#[derive(Clone)]
pub struct Handle {
    messages: mpsc::Sender<(Instant, Message)>,
    /// Signs of life have a queue of their own: nobody is lost because of all that others have to tell.
    signs: mpsc::Sender<(Instant, Message)>,
    reads: Arc<Mutex<()>>,
}

/// While this lives, nobody else reads rows and hands them in: what was read later comes later.
pub type Reading = OwnedMutexGuard<()>;

impl Handle {
    /// Hands in an event; waits only for room in the queue.
    pub async fn send(&self, event: Event) -> Result<(), Error> {
        self.push(Message::Event {
            event,
            committed: None,
        })
        .await
    }

    /// Hands in an event and waits until its effects are committed. A heartbeat that calls for no order is answered
    /// at once: the answer promises nothing, and the next digest says all of it again.
    pub async fn apply(&self, event: Event) -> Result<Answer, Error> {
        let done = self.submit(event).await?;
        done.await.map_err(|_| Error::LeadLost)
    }

    /// Hands in an event; the answer comes when its effects are committed, and never when the term ends first.
    pub async fn submit(&self, event: Event) -> Result<oneshot::Receiver<Answer>, Error> {
        let (committed, done) = oneshot::channel();
        self.push(Message::Event {
            event,
            committed: Some(committed),
        })
        .await?;
        Ok(done)
    }

    /// To be held from before a read of rows that others write until they are handed in.
    pub async fn reading(&self) -> Reading {
        Arc::clone(&self.reads).lock_owned().await
    }

    /// Wakes a deployment and waits for it, or for its failure; a superseded one not where `unless_superseded`.
    pub async fn wake(&self, id: DeploymentId, unless_superseded: bool) -> Result<WakeReply, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Message::Wake {
            id,
            unless_superseded,
            reply,
        })
        .await?;
        answer.await.map_err(|_| Error::LeadLost)
    }

    /// Looks at the state.
    pub async fn look<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cluster) -> T + Send + 'static,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        // Whoever asked may be gone; then nobody wants the answer.
        let look: Look = Box::new(move |cluster| drop(reply.send(look(cluster))));
        self.push(Message::Look(look)).await?;
        answer.await.map_err(|_| Error::LeadLost)
    }

    async fn push(&self, message: Message) -> Result<(), Error> {
        let queue = if is_sign_of_life(&message) {
            &self.signs
        } else {
            &self.messages
        };
        let sent = queue.send((Instant::now(), message)).await;
        sent.map_err(|_| Error::LeadLost)
    }
}

/// A proxy that was taken for gone is not waited for, and tasks are stopped that it still routes to; what it says to be in
/// use must not be put to sleep: that must not stand behind the news of a whole fleet. All of it goes by one queue, so
/// that its order stays.
fn is_sign_of_life(message: &Message) -> bool {
    matches!(
        message,
        Message::Event {
            event: Event::Heartbeat { .. } | Event::ProxyReport(_) | Event::ProxyGone(_) | Event::Activity(_),
            ..
        }
    )
}

/// The engine's end.
pub(crate) struct Queues {
    messages: mpsc::Receiver<(Instant, Message)>,
    signs: mpsc::Receiver<(Instant, Message)>,
    /// Signs of life since the last message of another kind.
    in_turn: u32,
}

/// Both ends.
pub(crate) fn queues() -> (Handle, Queues) {
    let (sender, messages) = mpsc::channel(QUEUE_MAX);
    let (sign, signs) = mpsc::channel(QUEUE_MAX);
    let handle = Handle {
        messages: sender,
        signs: sign,
        reads: Arc::default(),
    };
    let queues = Queues {
        messages,
        signs,
        in_turn: 0,
    };
    (handle, queues)
}

impl Queues {
    /// The next message and since when it waits; none when nobody can send any more.
    pub(crate) async fn next(&mut self) -> Option<(Instant, Message)> {
        if let Some(waiting) = self.try_next() {
            return Some(waiting);
        }
        tokio::select! {
            Some(message) = self.signs.recv() => Some(message),
            Some(message) = self.messages.recv() => Some(message),
            else => None,
        }
    }

    /// The same without waiting.
    pub(crate) fn try_next(&mut self) -> Option<(Instant, Message)> {
        if self.in_turn < SIGNS_IN_TURN
            && let Ok(sign) = self.signs.try_recv()
        {
            self.in_turn += 1;
            return Some(sign);
        }
        self.in_turn = 0;
        self.messages.try_recv().or_else(|_| self.signs.try_recv()).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::id::{NodeId, ProxyId};

    #[tokio::test]
    async fn signs_of_life_overtake_news_and_news_is_not_kept_waiting() {
        let (handle, mut queues) = queues();
        for _ in 0..3 {
            handle.send(Event::Tick).await.expect("there is room");
        }
        for _ in 0..SIGNS_IN_TURN {
            let (node_id, tasks) = (NodeId::new(), Vec::new());
            let heard_at = zectre_common::time::Time::now();
            let beat = Event::Heartbeat {
                node_id,
                heard_at,
                tasks,
            };
            handle.send(beat).await.expect("there is room");
        }
        handle
            .send(Event::ProxyGone(ProxyId::new()))
            .await
            .expect("there is room");
        let mut next = || match queues.try_next().expect("there is more").1 {
            Message::Event { event, .. } => event,
            _ => unreachable!("only events were sent"),
        };
        for _ in 0..SIGNS_IN_TURN {
            assert!(matches!(next(), Event::Heartbeat { .. }));
        }
        assert!(matches!(next(), Event::Tick));
        assert!(matches!(next(), Event::ProxyGone(_)));
        assert!(matches!((next(), next()), (Event::Tick, Event::Tick)));
    }
}
