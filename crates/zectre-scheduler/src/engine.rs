//! The one task that owns the cluster's state. Events come through a bounded queue; while one batch is being
//! committed the next one is decided. Orders go out only after their commit, and a commit that fails ends the term:
//! memory is ahead of the database then, and nothing of it was sent.

use crate::{
    commit::{Committer, Saved},
    core::{Cluster, Command, Event, NodeFacts, Settings, step},
    dispatch::Dispatcher,
    error::Error,
    handle::{self, Answer, Handle, Message, Queues},
    metrics::{Metrics, StateLabel},
    order::Order,
    store::{Batch, CommitError, Contexts, Store, Wakes},
    wake::{Waiters, WakeReply},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::{sync::oneshot, time::Instant};
use zectre_common::{
    id::{DeploymentId, NodeId, ProxyId},
    routing,
    state::{NodeStatus, TaskState},
    time::Time,
};
use zectre_service::tasks::Shutdown;

/// Events of one commit.
const BATCH_EVENTS_MAX: usize = 1_024;
/// Messages that are heard before a deadline that has come: a full queue doesn't put it off.
const HEARD_MAX: usize = BATCH_EVENTS_MAX;
/// Rows of one commit, but for what its last event adds: about 0.1 s of PostgreSQL's time.
const BATCH_ROWS_MAX: usize = 4_096;
/// How long renewed leases wait for a commit that somebody waits for: at 10,000 nodes that makes 4 commits a second
/// of them, in place of as many as the database can do.
const LEASE_ROWS_WAIT: Duration = Duration::from_millis(250);

/// Owns the cluster's state for one term.
pub struct Engine {
    cluster: Cluster,
    committer: Committer,
    dispatcher: Dispatcher,
    metrics: Metrics,
    queues: Queues,
    handle: Handle,
    waiters: Waiters,
    /// What went to sleep in the step under way, while somebody waits for it.
    rewoken: Vec<DeploymentId>,
    /// Decided, not handed in for commit yet.
    work: Work,
    /// The commit under way.
    flight: Option<Flight>,
    /// Messages since the last tick.
    heard: usize,
    /// Somebody who waits for a program was answered just now.
    answered: bool,
}

/// What was decided together.
#[derive(Default)]
struct Work {
    batch: Batch,
    events: usize,
    after: After,
    /// Since when there is something to save.
    since: Option<Instant>,
}

/// What is done once it is committed.
#[derive(Default)]
struct After {
    orders: Vec<Order>,
    answers: Vec<(oneshot::Sender<Answer>, Answer)>,
}

/// A commit under way.
struct Flight {
    /// Which tasks wait for the epoch that it raises is known only until something else is decided.
    raises_epoch: bool,
    wakes: Wakes,
    after: After,
    saved: oneshot::Receiver<Result<Saved, CommitError>>,
}

impl Work {
    fn is_full(&self) -> bool {
        self.events >= BATCH_EVENTS_MAX || self.batch.rows() >= BATCH_ROWS_MAX
    }

    /// Until when it may wait: nobody does for what it saves.
    fn may_wait_until(&self) -> Option<Instant> {
        let waits = self.batch.holds_leases_only() && self.after.is_empty() && !self.is_full();
        self.since.filter(|_| waits).map(|since| since + LEASE_ROWS_WAIT)
    }
}

impl Engine {
    /// Reads the state from the database for the leader of `epoch`.
    pub async fn load(
        epoch: u64,
        store: Store,
        settings: Settings,
        committer: Committer,
        dispatcher: Dispatcher,
        metrics: Metrics,
    ) -> Result<(Self, Handle), Error> {
        let cluster = load(&store, settings, epoch).await?;
        let (handle, queues) = handle::queues();
        let engine = Self {
            cluster,
            committer,
            dispatcher,
            metrics,
            queues,
            handle: handle.clone(),
            waiters: Waiters::default(),
            rewoken: Vec::new(),
            work: Work::default(),
            flight: None,
            heard: 0,
            answered: false,
        };
        Ok((engine, handle))
    }

    /// The proxies that it begins with.
    pub fn proxies(&self) -> BTreeSet<ProxyId> {
        self.cluster.proxies().map(|proxy| proxy.id).collect()
    }

    /// Decides until it is asked to stop, or may no longer lead.
    pub async fn run(mut self, stop: &Shutdown) -> Result<(), Error> {
        // What was due while nobody led.
        self.decide(Event::Tick, None);
        loop {
            // Their answers go out first: writing a commit out keeps this thread for as long as a start takes.
            if std::mem::take(&mut self.answered) {
                tokio::task::yield_now().await;
            }
            self.hand_in().await;
            let open = self.may_decide();
            let deadline = self.cluster.next_deadline();
            let deadline = deadline.map(|at| Instant::now() + at.since(Time::now()));
            let deadline = deadline.into_iter().chain(self.work.may_wait_until()).min();
            // Messages first: a node that has spoken is not lost. But not for ever.
            let patient = self.heard < HEARD_MAX;
            tokio::select! {
                biased;
                () = stop.requested() => return Ok(()),
                saved = landing(&mut self.flight) => self.landed(saved)?,
                () = sleep_until(deadline), if open && !patient => self.tick(),
                Some(message) = self.queues.next(), if open => self.gather(message),
                () = sleep_until(deadline), if open && patient => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        self.heard = 0;
        self.decide(Event::Tick, None);
    }

    /// Nothing is decided on top of a commit that will say with which epoch its tasks left the routing.
    fn may_decide(&self) -> bool {
        self.flight
            .as_ref()
            .is_none_or(|flight| !flight.raises_epoch && !self.work.is_full())
    }

    /// Takes what is there: one message beside a commit under way, else as many as make a batch.
    fn gather(&mut self, first: (Instant, Message)) {
        let mut next = Some(first);
        while let Some((since, message)) = next {
            self.take(since, message);
            self.heard += 1;
            if self.flight.is_some() || self.work.is_full() {
                return;
            }
            next = self.queues.try_next();
        }
    }

    fn take(&mut self, since: Instant, message: Message) {
        let kind = match &message {
            Message::Look(_) => "look",
            Message::Event { event, .. } => kind(event),
            Message::Wake { .. } => "wake",
        };
        match message {
            Message::Look(look) => look(&self.cluster),
            Message::Event { event, committed } => self.decide(event, committed),
            Message::Wake {
                id,
                unless_superseded,
                reply,
            } => {
                if self.cluster.deployment(id).is_none() {
                    // The caller brings its row and asks again.
                    drop(reply.send(WakeReply::Unknown));
                    return;
                }
                if unless_superseded && self.cluster.comes_back(id) {
                    drop(reply.send(WakeReply::Superseded));
                    return;
                }
                self.waiters.add(id, unless_superseded, reply);
                self.decide(Event::Wake(id), None);
                self.answered |= self.waiters.answer_ready(&self.cluster, id);
            }
        }
        self.metrics.decided(kind, since.elapsed());
    }

    fn decide(&mut self, event: Event, committed: Option<oneshot::Sender<Answer>>) {
        let now = Time::now();
        if let Event::NodeGone(id) = &event {
            self.dispatcher.forget(*id);
        }
        let speaker = match &event {
            Event::Heartbeat { node_id, .. } | Event::TaskReports { node_id, .. } => Some(*node_id),
            _ => None,
        };
        let is_heartbeat = matches!(event, Event::Heartbeat { .. });
        self.work.events += 1;
        let commands = step(&mut self.cluster, event, now);
        let orders = self.absorb(commands, now);
        // Each is awake then, so that this ends.
        for id in std::mem::take(&mut self.rewoken) {
            self.decide(Event::Wake(id), None);
        }
        if self.work.since.is_none() && !self.work.batch.is_empty() {
            self.work.since = Some(Instant::now());
        }
        let Some(committed) = committed else {
            self.work.after.orders.extend(orders);
            return;
        };
        let known = speaker.is_some_and(|id| self.cluster.node(id).is_some());
        let (orders, others): (Vec<_>, Vec<_>) = orders
            .into_iter()
            .partition(|order| Some(order.node_id) == speaker);
        self.work.after.orders.extend(others);
        if is_heartbeat && orders.is_empty() {
            // The caller may have given up; its heartbeat comes again.
            drop(committed.send(Answer { orders, known }));
            return;
        }
        self.work
            .after
            .answers
            .push((committed, Answer { orders, known }));
    }

    /// Sorts a step's commands: rows into the batch, answers to whoever waits, orders to the caller.
    fn absorb(&mut self, commands: Vec<Command>, now: Time) -> Vec<Order> {
        let mut orders = Vec::new();
        for command in commands {
            let Some(told) = self.work.batch.absorb(command, now) else {
                continue;
            };
            let cluster = &self.cluster;
            match Order::from_command(told, |id| {
                cluster.deployment(id).map(|deployment| deployment.spec.clone())
            }) {
                Ok(order) => orders.push(order),
                // The address is known and the port is open: nobody has to wait for the commit of that news.
                Err(Command::Ready(id)) => self.answered |= self.waiters.answer_ready(&self.cluster, id),
                Err(Command::Asleep(id)) if self.waiters.wait_for(id) => self.rewoken.push(id),
                Err(Command::Displaced(id)) => {
                    if self.waiters.answer_superseded(id) {
                        self.rewoken.push(id);
                    }
                }
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

    /// Hands what was decided to the committer, unless it is busy. What changed no row is done at once.
    async fn hand_in(&mut self) {
        let waits = self
            .work
            .may_wait_until()
            .is_some_and(|until| Instant::now() < until);
        if self.flight.is_some() || self.work.events == 0 || waits {
            return;
        }
        let Work {
            batch, events, after, ..
        } = std::mem::take(&mut self.work);
        self.metrics.batch_events.observe(events as f64);
        if batch.is_empty() {
            return self.carry_out(after, &Contexts::new());
        }
        self.metrics.batch_rows.observe(batch.rows() as f64);
        let (raises_epoch, wakes) = (batch.raises_epoch(), batch.wakes());
        let saved = self.committer.save(batch, after.named(&wakes)).await;
        self.flight = Some(Flight {
            raises_epoch,
            wakes,
            after,
            saved,
        });
    }

    /// A commit is done: its orders go out, and the raised epoch is fed back.
    fn landed(&mut self, saved: Result<Saved, CommitError>) -> Result<(), Error> {
        let Some(flight) = self.flight.take() else {
            return Ok(());
        };
        let saved = match saved {
            Ok(saved) => saved,
            Err(error @ CommitError::Fenced(_)) => return Err(error.into()),
            // Memory is ahead of the rows, or nobody knows. The next term begins with an election, which waits until
            // this one's last transaction is over; what was read for this term and still comes is lost with it.
            Err(error) => {
                self.metrics.commit_failures.inc();
                return Err(error.into());
            }
        };
        self.metrics.commit_seconds.observe(saved.time.as_secs_f64());
        self.count_wakes(&flight.wakes, &saved.contexts);
        self.carry_out(flight.after, &saved.contexts);
        if let Some(epoch) = saved.raised {
            self.decide(Event::EpochRaised(epoch), None);
        }
        self.count_tasks();
        Ok(())
    }

    fn carry_out(&mut self, after: After, contexts: &Contexts) {
        for mut order in after.orders {
            if self.is_over(&order) {
                continue;
            }
            order.complete(contexts);
            self.dispatch(order);
        }
        for (committed, mut answer) in after.answers {
            answer.orders.retain(|order| !self.is_over(order));
            answer
                .orders
                .iter_mut()
                .for_each(|order| order.complete(contexts));
            // A caller that has given up gets its orders like any other.
            if let Err(unheard) = committed.send(answer) {
                unheard.orders.into_iter().for_each(|order| self.dispatch(order));
            }
        }
    }

    fn dispatch(&self, order: Order) {
        if let Some(node) = self.cluster.node(order.node_id) {
            self.dispatcher.send(&node.facts, order, &self.handle);
        }
    }

    /// A start whose task has ended, or is to, while it waited for its commit: its place may be another one's.
    fn is_over(&self, order: &Order) -> bool {
        let known = self.cluster.task(order.task_id);
        order.starts().is_some() && known.is_none_or(|known| known.generation != order.generation)
    }

    /// Counts them by the names that were read beside the commit.
    fn count_wakes(&self, wakes: &Wakes, contexts: &Contexts) {
        for id in &wakes.deployments {
            let (context, deployment) = (contexts.get(id), self.cluster.deployment(*id));
            let name = context.zip(deployment).map(|(context, deployment)| {
                let app = routing::subdomain(&context.application, &context.namespace);
                (app, deployment.spec.environment.as_str())
            });
            self.metrics.wakes.of_deployment(name);
        }
        for (node, count) in &wakes.nodes {
            self.metrics.wakes.of_node(*node, *count);
        }
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
    let leases = store.proxies(false).await?;
    snapshot
        .proxies
        .extend(leases.into_iter().filter_map(|lease| lease.at(now)));
    snapshot.routing_epoch = store.routing_epoch().await?;
    // Ids must differ from those of every term before.
    let seed = epoch.rotate_left(32) ^ now.unix_ms() as u64;
    Ok(Cluster::load(settings, seed, snapshot, now))
}

/// How the metrics name an event.
fn kind(event: &Event) -> &'static str {
    match event {
        Event::Heartbeat { .. } => "heartbeat",
        Event::TaskReports { .. } => "report",
        Event::Operation(_) => "operation",
        Event::Wake(_) => "wake",
        _ => "other",
    }
}

impl After {
    fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.answers.is_empty()
    }

    /// The deployments of which more is to be known: tasks of them are to be started, or they are woken.
    fn named(&self, wakes: &Wakes) -> Vec<DeploymentId> {
        let answered = self.answers.iter().flat_map(|(_, answer)| &answer.orders);
        let mut ids: Vec<DeploymentId> = self
            .orders
            .iter()
            .chain(answered)
            .filter_map(Order::starts)
            .chain(wakes.deployments.iter().copied())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

/// The end of the commit under way; never, when there is none.
async fn landing(flight: &mut Option<Flight>) -> Result<Saved, CommitError> {
    match flight {
        // The committer ends only with the term, and fails only with the runtime.
        Some(flight) => (&mut flight.saved)
            .await
            .unwrap_or(Err(CommitError::Database(sqlx::Error::WorkerCrashed))),
        None => std::future::pending().await,
    }
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
