//! The one task that owns the cluster's state. Events come through a bounded queue; while one batch is being
//! committed the next one gathers. Orders go out only after their commit, and a commit that fails means that
//! memory is ahead of the database: it is dropped and read again.

use crate::{
    core::{Cluster, Command, Event, NodeFacts, Settings, step},
    dispatch::Dispatcher,
    error::Error,
    metrics::{Metrics, StateLabel},
    order::Order,
    store::{Batch, CommitError, Store},
    wake::{Waiters, WakeReply},
};
use std::time::Duration;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use zectre_common::{
    id::{DeploymentId, NodeId},
    state::{NodeStatus, TaskState},
    time::Time,
};
use zectre_service::tasks::Shutdown;

/// Events that wait for the engine.
pub const QUEUE_MAX: usize = 8_192;
/// Events of one commit.
const BATCH_MAX: usize = 1_024;
/// A commit that takes longer has failed.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at the state between two steps.
type Look = Box<dyn FnOnce(&Cluster) + Send>;

enum Message {
    Event {
        event: Event,
        committed: Option<oneshot::Sender<Vec<Order>>>,
    },
    Wake {
        id: DeploymentId,
        reply: oneshot::Sender<WakeReply>,
    },
    Look(Look),
}

/// Talks to the engine of one term.
#[derive(Clone)]
pub struct Handle {
    messages: mpsc::Sender<Message>,
}

impl Handle {
    /// Hands in an event; waits only for room in the queue.
    pub async fn send(&self, event: Event) -> Result<(), Error> {
        self.push(Message::Event {
            event,
            committed: None,
        })
        .await
    }

    /// Hands in an event and waits until its effects are committed. Returns the orders that belong in the answer to
    /// the node that the event came from.
    pub async fn apply(&self, event: Event) -> Result<Vec<Order>, Error> {
        let (committed, done) = oneshot::channel();
        self.push(Message::Event {
            event,
            committed: Some(committed),
        })
        .await?;
        done.await.map_err(|_| Error::LeadLost)
    }

    /// Wakes a deployment and waits for it, or for its failure.
    pub async fn wake(&self, id: DeploymentId) -> Result<WakeReply, Error> {
        let (reply, answer) = oneshot::channel();
        self.push(Message::Wake { id, reply }).await?;
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
        self.messages.send(message).await.map_err(|_| Error::LeadLost)
    }
}

/// Owns the cluster's state for one term.
pub struct Engine {
    epoch: u64,
    store: Store,
    settings: Settings,
    cluster: Cluster,
    dispatcher: Dispatcher,
    metrics: Metrics,
    messages: mpsc::Receiver<Message>,
    handle: Handle,
    waiters: Waiters,
}

/// What one batch has to do after its commit.
#[derive(Default)]
struct Work {
    batch: Batch,
    events: usize,
    orders: Vec<Order>,
    answers: Vec<(oneshot::Sender<Vec<Order>>, Vec<Order>)>,
}

impl Engine {
    /// Reads the state from the database for the leader of `epoch`.
    pub async fn load(
        epoch: u64,
        store: Store,
        settings: Settings,
        dispatcher: Dispatcher,
        metrics: Metrics,
    ) -> Result<(Self, Handle), Error> {
        let cluster = load(&store, settings, epoch).await?;
        let (sender, messages) = mpsc::channel(QUEUE_MAX);
        let handle = Handle { messages: sender };
        let waiters = Waiters::default();
        let engine = Self {
            epoch,
            store,
            settings,
            cluster,
            dispatcher,
            metrics,
            messages,
            handle: handle.clone(),
            waiters,
        };
        Ok((engine, handle))
    }

    /// Decides until it is asked to stop, or may no longer lead.
    pub async fn run(mut self, stop: &Shutdown) -> Result<(), Error> {
        // What was due while nobody led.
        let mut work = Work::default();
        self.decide(Event::Tick, None, &mut work);
        self.finish(work).await?;
        loop {
            let deadline = self
                .cluster
                .next_deadline()
                .map(|at| Instant::now() + at.since(Time::now()));
            let message = tokio::select! {
                () = stop.requested() => return Ok(()),
                message = self.messages.recv() => message,
                () = sleep_until(deadline) => Some(Message::Event { event: Event::Tick, committed: None }),
            };
            let Some(mut message) = message else { return Ok(()) };
            let mut work = Work::default();
            loop {
                self.take(message, &mut work);
                if work.events >= BATCH_MAX {
                    break;
                }
                match self.messages.try_recv() {
                    Ok(next) => message = next,
                    Err(_) => break,
                }
            }
            self.finish(work).await?;
            self.count_tasks();
        }
    }

    fn take(&mut self, message: Message, work: &mut Work) {
        match message {
            Message::Look(look) => look(&self.cluster),
            Message::Event { event, committed } => self.decide(event, committed, work),
            Message::Wake { id, reply } => {
                if self.cluster.deployment(id).is_none() {
                    // The caller brings its row and asks again.
                    drop(reply.send(WakeReply::Unknown));
                    return;
                }
                self.waiters.add(id, reply);
                self.decide(Event::Wake(id), None, work);
                self.waiters.answer_ready(&self.cluster, id);
            }
        }
    }

    fn decide(&mut self, event: Event, committed: Option<oneshot::Sender<Vec<Order>>>, work: &mut Work) {
        let now = Time::now();
        let speaker = match &event {
            Event::Heartbeat { node_id, .. } | Event::TaskReports { node_id, .. } => Some(*node_id),
            _ => None,
        };
        work.events += 1;
        self.metrics.decisions.inc();
        let commands = step(&mut self.cluster, event, now);
        let orders = self.absorb(commands, now, &mut work.batch);
        match committed {
            Some(committed) => {
                let (own, others) = orders
                    .into_iter()
                    .partition(|order| Some(order.node_id) == speaker);
                work.answers.push((committed, own));
                work.orders.extend::<Vec<Order>>(others);
            }
            None => work.orders.extend(orders),
        }
    }

    /// Sorts a step's commands: rows into the batch, answers to whoever waits, orders to the caller.
    fn absorb(&mut self, commands: Vec<Command>, now: Time, batch: &mut Batch) -> Vec<Order> {
        let mut orders = Vec::new();
        for command in commands {
            let Some(told) = batch.absorb(command, now) else {
                continue;
            };
            let cluster = &self.cluster;
            match Order::from_command(told, |id| {
                cluster.deployment(id).map(|deployment| deployment.spec.clone())
            }) {
                Ok(order) => orders.push(order),
                // The address is known and the port is open: nobody has to wait for the commit of that news.
                Err(Command::Ready(id)) => self.waiters.answer_ready(&self.cluster, id),
                Err(Command::WakeFailed {
                    deployment_id,
                    reason,
                    message,
                }) => {
                    self.waiters.answer_failure(deployment_id, reason, &message);
                }
                Err(_) => {}
            }
        }
        orders
    }

    /// Commits, feeds the raised epoch back, and commits what follows from it; then the orders go out.
    async fn finish(&mut self, mut work: Work) -> Result<(), Error> {
        let mut orders = std::mem::take(&mut work.orders);
        let mut batch = work.batch;
        if work.events > 0 {
            self.metrics.batch_events.observe(work.events as f64);
        }
        // Bounded: the second batch stops tasks, which raises no epoch again.
        for _ in 0..4 {
            if batch.is_empty() {
                break;
            }
            self.metrics.batch_rows.observe(batch.rows() as f64);
            let started = Instant::now();
            let commit = tokio::time::timeout(COMMIT_TIMEOUT, self.store.commit(self.epoch, &batch)).await;
            self.metrics
                .commit_seconds
                .observe(started.elapsed().as_secs_f64());
            let raised =
                match commit.unwrap_or_else(|_| Err(CommitError::Database(sqlx::Error::PoolTimedOut))) {
                    Ok(raised) => raised,
                    Err(error @ CommitError::Fenced(_)) => return Err(error.into()),
                    Err(error) => return self.reload(&error).await,
                };
            self.dispatch(std::mem::take(&mut orders));
            batch = Batch::default();
            if let Some(epoch) = raised {
                let now = Time::now();
                let commands = step(&mut self.cluster, Event::EpochRaised(epoch), now);
                orders = self.absorb(commands, now, &mut batch);
            }
        }
        self.dispatch(orders);
        for (committed, orders) in work.answers {
            // The caller may have given up; its heartbeat comes again.
            drop(committed.send(orders));
        }
        Ok(())
    }

    fn dispatch(&self, orders: Vec<Order>) {
        for order in orders {
            if let Some(node) = self.cluster.node(order.node_id) {
                self.dispatcher.send(&node.facts, order, &self.handle);
            }
        }
    }

    /// Forgets what could not be saved. Nothing of it was sent, so nothing has to be taken back.
    async fn reload(&mut self, error: &CommitError) -> Result<(), Error> {
        self.metrics.commit_failures.inc();
        tracing::error!(%error, "a batch was not saved; reading the state again");
        self.waiters = Waiters::default();
        self.cluster = load(&self.store, self.settings, self.epoch).await?;
        Ok(())
    }

    fn count_tasks(&self) {
        for state in TaskState::ALL.iter().filter(|state| !state.is_ended()) {
            self.metrics
                .tasks
                .get_or_create(&StateLabel {
                    state: state.as_str(),
                })
                .set(self.cluster.count_in(*state) as i64);
        }
    }
}

async fn load(store: &Store, settings: Settings, epoch: u64) -> Result<Cluster, Error> {
    let mut snapshot = store.load_live().await?;
    let now = Time::now();
    for lease in store.proxies().await? {
        snapshot.proxies.push(lease.at(now));
    }
    snapshot.routing_epoch = store.routing_epoch().await?;
    // Ids must differ from those of the same epoch before a reload.
    let seed = epoch.rotate_left(32) ^ now.unix_ms() as u64;
    Ok(Cluster::load(settings, seed, snapshot, now))
}

/// Never, when there is no deadline.
async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The numbers of [`zectre_common::wire::scheduler::SchedulerStatus`].
pub fn counts(cluster: &Cluster) -> (u32, u32, u32) {
    let ready = cluster
        .nodes()
        .filter(|node| node.status == NodeStatus::Ready)
        .count();
    (
        ready as u32,
        cluster.tasks().count() as u32,
        cluster.rollouts() as u32,
    )
}

/// What the agent of a node said about its machine, for whoever needs its address.
pub fn facts(cluster: &Cluster, id: NodeId) -> Option<NodeFacts> {
    cluster.node(id).map(|node| node.facts.clone())
}
