//! A scheduler's process: terms, and the engine of one. It follows the shell around the core line by line: events
//! queue, a batch is decided while the one before is being committed, orders go out after their commit, and a
//! commit that failed means that the state is read again.

use crate::{
    commit::{Flight, Outcome, Work},
    faults::SKEW_MAX_US,
    listen::{ListenAct, Reads},
    network::Place,
    sim::{Act, MS, SECOND, Sim, Us, note},
};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use zectre_common::{
    id::{DeploymentId, NodeId, ProxyId},
    state::Reason,
    time::Time,
};
use zectre_scheduler_core::{Cluster, Command, Event, Snapshot};

/// How often a leader looks whether it still holds the lock.
const CHECK_US: Us = SECOND;
/// A database that doesn't answer for so long has dropped the lock, or is about to.
const CHECK_TIMEOUT_US: Us = 3 * SECOND;

/// Something that is due in a scheduler.
#[derive(Debug, Clone)]
pub(crate) enum LeaderAct {
    /// Stand for election.
    Stand(u64),
    /// The first half of the rows is read.
    ReadFirst(u64),
    /// The second half is.
    ReadSecond(u64, Box<Snapshot>),
    /// Something waits in the queue.
    Pump(u64),
    /// A deadline of the core's is due.
    Alarm(u64, Us),
    /// A commit reaches the database.
    Apply(u64, u64),
    /// A commit's outcome is known.
    Committed(u64, u64, Outcome),
    /// Is the lock still held?
    Hold(u64, Us),
    /// The listener's turn.
    Listen(u64, ListenAct),
    /// A letter from somebody else's machine, for whoever leads.
    Hear(u64, Box<Letter>),
}

/// Who waits for the effects of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nobody.
    Nobody,
    /// An agent that told its digest: host, its incarnation, the call.
    Digest(usize, u64, u64),
    /// An agent that told news.
    News(usize, u64, u64),
    /// An agent that registered, as this node.
    Register(usize, u64, NodeId),
    /// The listener, for the rest of its round.
    Listener(u64),
}

/// Who waits for a deployment: the proxy, its incarnation.
pub(crate) type Waiter = (usize, u64);

/// Something for the engine.
#[derive(Debug, Clone)]
pub(crate) enum Letter {
    /// An event, and who waits for its effects.
    Event(Event, Reply),
    /// A request waits for a deployment.
    Wake(DeploymentId, Waiter),
    /// Somebody changed something: look at the operations.
    Nudge,
    /// An agent started, and may have no identity yet.
    Join(usize, u64),
}

/// One term of one scheduler.
#[derive(Debug)]
pub(crate) struct Term {
    pub(crate) id: u64,
    pub(crate) epoch: u64,
    /// `None` while it is read.
    pub(crate) cluster: Option<Cluster>,
    pub(crate) inbox: VecDeque<Letter>,
    /// Decided, not handed in for commit yet.
    pub(crate) work: Work,
    /// The commit under way.
    pub(crate) flight: Option<Flight>,
    pub(crate) waiters: BTreeMap<DeploymentId, Vec<Waiter>>,
    pub(crate) known_proxies: BTreeSet<ProxyId>,
    pub(crate) reads: Reads,
    pub(crate) rounds: u32,
    /// When proxies' rows were read last.
    pub(crate) read_proxies_us: Us,
    pub(crate) is_listening: bool,
    /// When the engine was told that a deployment was asked for, or began to listen.
    pub(crate) told_active: BTreeMap<DeploymentId, Time>,
    /// What proxies had told with each activity that waits in the queue, as it really was.
    pub(crate) told_next: VecDeque<Vec<(DeploymentId, Time)>>,
    /// Nothing was decided since the state was read.
    pub(crate) is_fresh: bool,
    alarm_us: Option<Us>,
    pump_due: bool,
}

/// A scheduler's process.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) is_up: bool,
    /// Counts its starts.
    pub(crate) incarnation: u64,
    /// How far its clock is ahead.
    pub(crate) skew_us: i64,
    /// It stands still until then.
    pub(crate) frozen_until_us: Us,
    pub(crate) term: Option<Term>,
}

impl Sim {
    /// One more scheduler, which stands for election.
    pub(crate) fn add_scheduler(&mut self) {
        let index = self.schedulers.len();
        let skew_us = self.skew_us(SKEW_MAX_US);
        self.schedulers.push(Scheduler {
            is_up: true,
            incarnation: 0,
            skew_us,
            frozen_until_us: 0,
            term: None,
        });
        self.after(index as Us * MS, Act::Leader(index, LeaderAct::Stand(0)));
    }

    /// The term with this id, if it goes on.
    pub(crate) fn term(&mut self, index: usize, id: u64) -> Option<&mut Term> {
        let term = self.schedulers[index].term.as_mut();
        term.filter(|term| term.id == id)
    }

    /// Whether a scheduler reaches the database.
    pub(crate) fn has_database(&self, index: usize) -> bool {
        !self.database.is_down && self.network.reaches(Place::Scheduler(index), Place::Database)
    }

    pub(crate) fn perform_leader(&mut self, index: usize, act: LeaderAct) {
        let scheduler = &self.schedulers[index];
        if scheduler.frozen_until_us > self.now_us {
            let rest_us = scheduler.frozen_until_us - self.now_us;
            // Whoever calls has given up and closed the connection by then.
            if matches!(act, LeaderAct::Hear(..)) && rest_us > 3 * SECOND {
                return;
            }
            // What the database does with a commit, it does without the leader.
            if !matches!(act, LeaderAct::Apply(..)) {
                return self.after(rest_us, Act::Leader(index, act));
            }
        }
        match act {
            LeaderAct::Stand(incarnation) => self.stand(index, incarnation),
            LeaderAct::ReadFirst(term) => self.read_first(index, term),
            LeaderAct::ReadSecond(term, snapshot) => self.read_second(index, term, *snapshot),
            LeaderAct::Pump(term) => self.pump(index, term),
            LeaderAct::Alarm(term, at_us) => self.alarm(index, term, at_us),
            LeaderAct::Apply(term, commit) => self.apply_commit(index, term, commit),
            LeaderAct::Committed(term, commit, outcome) => self.committed(index, term, commit, outcome),
            LeaderAct::Hold(term, since_us) => self.check_lock(index, term, since_us),
            LeaderAct::Listen(term, act) => self.perform_listen(index, term, act),
            LeaderAct::Hear(incarnation, letter) => self.hear(index, incarnation, *letter),
        }
    }

    /// Takes office when nobody else holds the lock.
    fn stand(&mut self, index: usize, incarnation: u64) {
        let scheduler = &self.schedulers[index];
        if !scheduler.is_up || scheduler.incarnation != incarnation || scheduler.term.is_some() {
            return;
        }
        let free = self.database.lock.is_none() && self.database.fences.is_empty();
        if !self.has_database(index) || !free {
            let pause_us = self.random.between(20 * MS, 500 * MS);
            return self.after(pause_us, Act::Leader(index, LeaderAct::Stand(incarnation)));
        }
        let id = self.fresh();
        self.database.leader_epoch += 1;
        (self.database.leader, self.database.lock) = (Some(index), Some((index, id)));
        let epoch = self.database.leader_epoch;
        note!(self, "scheduler {index} leads with epoch {epoch}");
        self.schedulers[index].term = Some(Term {
            id,
            epoch,
            cluster: None,
            inbox: VecDeque::new(),
            work: Work::default(),
            flight: None,
            waiters: BTreeMap::new(),
            known_proxies: BTreeSet::new(),
            reads: Reads::default(),
            rounds: 0,
            read_proxies_us: 0,
            is_listening: false,
            told_active: BTreeMap::new(),
            told_next: VecDeque::new(),
            is_fresh: true,
            alarm_us: None,
            pump_due: false,
        });
        self.begin_reading(index, id);
        let since_us = self.now_us;
        self.after(CHECK_US, Act::Leader(index, LeaderAct::Hold(id, since_us)));
    }

    /// Reads the state, as at the beginning of a term.
    pub(crate) fn begin_reading(&mut self, index: usize, id: u64) {
        let latency_us = self.latency_us();
        self.after(latency_us, Act::Leader(index, LeaderAct::ReadFirst(id)));
    }

    fn read_first(&mut self, index: usize, id: u64) {
        if self.term(index, id).is_none() {
            return;
        }
        if !self.has_database(index) {
            return self.end_term(index, "the state can't be read");
        }
        let mut snapshot = Snapshot {
            deployments: self.database.live_deployments(),
            ..Snapshot::default()
        };
        snapshot.environments = self.database.environments_of(&snapshot.deployments);
        let latency_us = self.latency_us();
        let act = LeaderAct::ReadSecond(id, Box::new(snapshot));
        self.after(latency_us, Act::Leader(index, act));
    }

    fn read_second(&mut self, index: usize, id: u64, mut snapshot: Snapshot) {
        if self.term(index, id).is_none() {
            return;
        }
        if !self.has_database(index) {
            return self.end_term(index, "the state can't be read");
        }
        let now = self.clock(self.schedulers[index].skew_us);
        self.database.complete(&mut snapshot, self.now_us, now);
        let (settings, seed) = (crate::settings(), self.random.next());
        let cluster = Cluster::load(settings, seed, snapshot, now);
        note!(
            self,
            "scheduler {index} read the state: {} tasks",
            cluster.tasks().count()
        );
        self.check_state(index, &cluster);
        let now_us = self.now_us;
        let Some(term) = self.term(index, id) else { return };
        let awake = cluster.deployments().filter(|deployment| !deployment.asleep);
        // Of what was asked for until now it could not hear.
        term.told_active = awake.map(|deployment| (deployment.id, now)).collect();
        (term.cluster, term.read_proxies_us, term.is_fresh) = (Some(cluster), now_us, true);
        term.inbox.push_front(Letter::Event(Event::Tick, Reply::Nobody));
        let listens = std::mem::replace(&mut term.is_listening, true);
        if !listens {
            self.after(0, Act::Leader(index, LeaderAct::Listen(id, ListenAct::Round)));
        }
        self.wake_engine(index, id);
    }

    /// Lets the engine look at its queue.
    pub(crate) fn wake_engine(&mut self, index: usize, id: u64) {
        let delay_us = self.random.between(10, 300);
        let Some(term) = self.term(index, id) else { return };
        if !std::mem::replace(&mut term.pump_due, true) {
            self.after(delay_us, Act::Leader(index, LeaderAct::Pump(id)));
        }
    }

    /// Hands the engine something.
    pub(crate) fn post(&mut self, index: usize, id: u64, letter: Letter) {
        if let Some(term) = self.term(index, id) {
            term.inbox.push_back(letter);
            self.wake_engine(index, id);
        }
    }

    /// One turn of the engine's loop: what was decided is handed in, and as long as nothing forbids it, the next
    /// letters are decided, and then what is due.
    pub(crate) fn pump(&mut self, index: usize, id: u64) {
        let Some(term) = self.term(index, id) else { return };
        term.pump_due = false;
        loop {
            self.hand_in(index, id);
            if self.violation.is_some() || !self.may_decide(index, id) {
                return;
            }
            let letters = self.gather(index, id);
            if letters.is_empty() {
                let now = self.clock(self.schedulers[index].skew_us);
                let Some(cluster) = self.term(index, id).and_then(|term| term.cluster.as_ref()) else {
                    return;
                };
                if cluster.next_deadline().is_none_or(|at| at > now) {
                    return self.arm(index, id);
                }
                self.decide(index, id, Event::Tick, Reply::Nobody);
            }
            for letter in letters {
                self.take(index, id, letter);
            }
        }
    }

    /// Nothing is decided on top of a commit that will say with which epoch its tasks left the routing.
    fn may_decide(&mut self, index: usize, id: u64) -> bool {
        self.term(index, id).is_some_and(|term| {
            let waits = term.flight.as_ref().is_some_and(|flight| flight.raises_epoch);
            term.cluster.is_some() && !waits
        })
    }

    /// What is there: one letter beside a commit under way, else as many as make a batch.
    fn gather(&mut self, index: usize, id: u64) -> Vec<Letter> {
        let Some(term) = self.term(index, id) else {
            return Vec::new();
        };
        if term.flight.is_some() {
            return term.inbox.pop_front().into_iter().collect();
        }
        std::mem::take(&mut term.inbox).into_iter().collect()
    }

    fn take(&mut self, index: usize, id: u64, letter: Letter) {
        match letter {
            Letter::Event(event, reply) => self.decide(index, id, event, reply),
            Letter::Wake(deployment, waiter) => {
                let Some(term) = self.term(index, id) else { return };
                let cluster = term.cluster.as_ref();
                if cluster.is_some_and(|cluster| cluster.deployment(deployment).is_none()) {
                    // Its row is brought, and the wake repeated.
                    let act = ListenAct::Bring(deployment, waiter);
                    return self.after(0, Act::Leader(index, LeaderAct::Listen(id, act)));
                }
                term.waiters.entry(deployment).or_default().push(waiter);
                self.decide(index, id, Event::Wake(deployment), Reply::Nobody);
                self.answer_ready(index, id, deployment);
            }
            // Told to the listener before they come here.
            Letter::Nudge | Letter::Join(..) => {}
        }
    }

    pub(crate) fn decide(&mut self, index: usize, id: u64, event: Event, reply: Reply) {
        let speaker = match &event {
            Event::Heartbeat { node_id, .. } | Event::TaskReports { node_id, .. } => Some(*node_id),
            _ => None,
        };
        let commands = self.step(index, id, event);
        let orders = self.absorb(index, id, commands);
        let Some(term) = self.term(index, id) else { return };
        term.work.events += 1;
        if reply == Reply::Nobody {
            term.work.after.orders.extend(orders);
            return;
        }
        let is_own = |order: &Command| crate::commit::node_of(order) == speaker;
        let (own, others): (Vec<Command>, Vec<Command>) = orders.into_iter().partition(is_own);
        term.work.after.answers.push((reply, own));
        term.work.after.orders.extend(others);
    }

    /// Sorts a step's commands: rows into the batch, answers to whoever waits, orders to the caller.
    fn absorb(&mut self, index: usize, id: u64, commands: Vec<Command>) -> Vec<Command> {
        let (mut orders, mut rewoken) = (Vec::new(), Vec::new());
        for command in commands {
            let Some(term) = self.term(index, id) else { break };
            match term.work.batch.absorb(command) {
                None => {}
                Some(Command::Asleep(deployment)) => {
                    rewoken.extend(term.waiters.contains_key(&deployment).then_some(deployment));
                }
                // Its proxies ask anew, where somebody still wants that version.
                Some(Command::Displaced(deployment)) => {
                    self.answer_failure(index, id, deployment, Reason::Superseded);
                }
                Some(Command::Ready(deployment)) => self.answer_ready(index, id, deployment),
                Some(Command::WakeFailed {
                    deployment_id,
                    reason,
                    ..
                }) => {
                    self.answer_failure(index, id, deployment_id, reason);
                }
                Some(order) => orders.push(order),
            }
        }
        for deployment in rewoken {
            self.decide(index, id, Event::Wake(deployment), Reply::Nobody);
        }
        orders
    }

    fn answer_ready(&mut self, index: usize, id: u64, deployment: DeploymentId) {
        let Some(term) = self.term(index, id) else { return };
        let Some(cluster) = term.cluster.as_ref() else {
            return;
        };
        let epoch = cluster.routing_epoch();
        let backends: Vec<_> = cluster
            .tasks_to_tell(deployment)
            .filter(|task| task.address.is_some() && task.port.is_some())
            .map(|task| task.id)
            .collect();
        if backends.is_empty() {
            return;
        }
        let waiters = term.waiters.remove(&deployment).unwrap_or_default();
        if waiters.is_empty() {
            return;
        }
        let late_us = self.wake_mishap(id, deployment, &backends);
        for waiter in waiters {
            self.answer_wake(
                index,
                waiter,
                deployment,
                Some((backends.clone(), epoch)),
                late_us,
            );
        }
    }

    fn answer_failure(&mut self, index: usize, id: u64, deployment: DeploymentId, reason: Reason) {
        let Some(term) = self.term(index, id) else { return };
        let waiters = term.waiters.remove(&deployment).unwrap_or_default();
        if !waiters.is_empty() {
            note!(
                self,
                "wake of {} failed: {reason}",
                crate::trace::short(deployment.get())
            );
        }
        for waiter in waiters {
            self.answer_wake(index, waiter, deployment, None, 0);
        }
    }

    /// Sets the alarm for the core's next deadline.
    pub(crate) fn arm(&mut self, index: usize, id: u64) {
        let now = self.clock(self.schedulers[index].skew_us);
        let now_us = self.now_us;
        let Some(term) = self.term(index, id) else { return };
        let Some(at) = term.cluster.as_ref().and_then(Cluster::next_deadline) else {
            return;
        };
        let at_us = now_us + at.since(now).as_micros() as Us + 1;
        if term.alarm_us.is_none_or(|set| set > at_us || set <= now_us) {
            term.alarm_us = Some(at_us);
            self.after(at_us - now_us, Act::Leader(index, LeaderAct::Alarm(id, at_us)));
        }
    }

    fn alarm(&mut self, index: usize, id: u64, at_us: Us) {
        if let Some(term) = self.term(index, id).filter(|term| term.alarm_us == Some(at_us)) {
            term.alarm_us = None;
            self.pump(index, id);
        }
    }

    /// Looks whether the lock is still held; it goes with its connection.
    fn check_lock(&mut self, index: usize, id: u64, since_us: Us) {
        if self.term(index, id).is_none() {
            return;
        }
        let now_us = self.now_us;
        let reached = self.has_database(index);
        if reached && self.database.lock != Some((index, id)) {
            return self.end_term(index, "the lock is lost");
        }
        if !reached && now_us - since_us >= CHECK_US + CHECK_TIMEOUT_US {
            return self.end_term(index, "the database does not answer");
        }
        let since_us = if reached { now_us } else { since_us };
        self.after(CHECK_US, Act::Leader(index, LeaderAct::Hold(id, since_us)));
    }

    /// Steps down, and stands again.
    pub(crate) fn end_term(&mut self, index: usize, why: &str) {
        note!(self, "scheduler {index} no longer leads: {why}");
        let Some(term) = self.schedulers[index].term.take() else {
            return;
        };
        for (deployment, waiters) in term.waiters {
            for waiter in waiters {
                self.answer_wake(index, waiter, deployment, None, 0);
            }
        }
        if self.database.lock == Some((index, term.id)) {
            self.release_lock(index, term.id);
        }
        let incarnation = self.schedulers[index].incarnation;
        self.after(500 * MS, Act::Leader(index, LeaderAct::Stand(incarnation)));
    }

    /// The connection that held the lock is gone: at once when the server was told, else when it notices.
    pub(crate) fn release_lock(&mut self, index: usize, term: u64) {
        if self.has_database(index) {
            self.database.lock = None;
        } else {
            let notices_us = self.random.between(0, 5 * SECOND);
            self.after(notices_us, Act::Heal(crate::faults::Healing::Unlock(index, term)));
        }
    }
}
