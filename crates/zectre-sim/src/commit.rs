//! A batch on its way into the database: it can be slow, be refused, fail, or succeed without anyone hearing of it.

use crate::{
    database::Batch,
    host::HostAct,
    leader::{LeaderAct, Letter, Reply},
    network::Place,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
    trouble::Trouble,
};
use zectre_common::id::NodeId;
use zectre_scheduler_core::{Command, Event, step};

/// A commit that takes longer has failed.
const TIMEOUT_US: Us = 10 * SECOND;
/// What the leader hears of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It is committed.
    Saved,
    /// A newer leader was elected.
    Fenced,
    /// It failed, or nobody knows.
    Failed,
}

/// What was decided together.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) batch: Batch,
    pub(crate) events: usize,
    pub(crate) after: After,
}

/// What is done once it is committed.
#[derive(Debug, Default)]
pub(crate) struct After {
    pub(crate) orders: Vec<Command>,
    pub(crate) answers: Vec<(Reply, Vec<Command>)>,
}

/// A commit under way.
#[derive(Debug)]
pub(crate) struct Flight {
    id: u64,
    pub(crate) raises_epoch: bool,
    after: After,
    /// The database has it.
    is_applied: bool,
    /// The routing epoch that it raised.
    raised: Option<u64>,
}

/// Whom an order is for.
pub(crate) fn node_of(order: &Command) -> Option<NodeId> {
    match order {
        Command::Start { node_id, .. } | Command::Stop { node_id, .. } | Command::Forget { node_id, .. } => {
            Some(*node_id)
        }
        _ => None,
    }
}

impl Sim {
    /// One step of the core, checked.
    pub(crate) fn step(&mut self, index: usize, id: u64, event: Event) -> Vec<Command> {
        let now = self.clock(self.schedulers[index].skew_us);
        let told = crate::checks::tell_event(&event);
        let Some(term) = self.schedulers[index].term.as_mut().filter(|term| term.id == id) else {
            return Vec::new();
        };
        let Some(cluster) = term.cluster.as_mut() else {
            return Vec::new();
        };
        if let Event::Activity(_) = &event {
            for (deployment, at) in term.told_next.pop_front().unwrap_or_default() {
                let told = term.told_active.entry(deployment).or_insert(at);
                *told = (*told).max(at);
            }
        }
        // The first step after reading begins what people asked for meanwhile.
        let is_fresh = std::mem::take(&mut term.is_fresh);
        let before = crate::checks::Before::of(cluster, &event, is_fresh);
        let commands = step(cluster, event, now);
        let reasons = commands.iter().filter_map(crate::checks::reason_of);
        self.checks.reasons.extend(reasons);
        if let Some(told) = told {
            note!(self, "scheduler {index}: {told} → {} commands", commands.len());
        }
        self.check_step(index, id, &before, &commands, now);
        commands
    }

    /// Hands what was decided to the database, unless it is busy. What changed no row is done at once.
    pub(crate) fn hand_in(&mut self, index: usize, id: u64) {
        let number = self.fresh();
        let Some(term) = self.term(index, id) else { return };
        if term.flight.is_some() || term.work.events == 0 {
            return;
        }
        let epoch = term.epoch;
        let Work { batch, mut after, .. } = std::mem::take(&mut term.work);
        if batch.is_empty() {
            self.carry_out(index, id, after);
            return self.check_memory(index, id);
        }
        if crate::is_planted!(DispatchBeforeCommit) {
            let orders = std::mem::take(&mut after.orders);
            self.dispatch(index, id, orders);
        }
        let Some(term) = self.term(index, id) else { return };
        term.flight = Some(Flight {
            id: number,
            raises_epoch: batch.raises_epoch,
            after,
            is_applied: false,
            raised: None,
        });
        self.node_mishap(&batch);
        let reached = self.has_database(index);
        let fenced = self.database.leader_epoch != epoch && !crate::is_planted!(NoDatabaseFence);
        let (apply_us, heard_us, outcome) = match (reached, fenced) {
            (false, _) => {
                let patience_us = self.random.pick(&[5 * MS, 3 * SECOND, TIMEOUT_US]);
                (None, patience_us.unwrap_or(TIMEOUT_US), Outcome::Failed)
            }
            (true, true) => {
                self.trouble(Trouble::CommitFenced);
                (None, 2 * MS, Outcome::Fenced)
            }
            (true, false) => self.fate(id),
        };
        if let Some(apply_us) = apply_us {
            // The transaction lives in the database from here on, with or without its leader.
            self.database.fences.insert(number);
            self.checks.in_flight.insert(number, (epoch, batch));
            self.after(apply_us, Act::Leader(index, LeaderAct::Apply(id, number)));
        }
        let act = LeaderAct::Committed(id, number, outcome);
        self.after(heard_us, Act::Leader(index, act));
    }

    /// When a commit is applied (if it is), when its leader hears of it, and what.
    fn fate(&mut self, term: u64) -> (Option<Us>, Us, Outcome) {
        let is_doomed = self.faults.doomed_term.take() == Some(term);
        let quick_us = self.random.between(300, 4 * MS);
        let slow_us = self.random.between(100 * MS, TIMEOUT_US - 100 * MS);
        let good = |at_us| (Some(at_us), at_us + 100, Outcome::Saved);
        if !self.is_stormy() {
            return good(quick_us);
        }
        if is_doomed {
            return (None, quick_us, Outcome::Failed);
        }
        let (slow, fails) = (self.faults.slow_per_mille, self.faults.fail_per_mille);
        let roll = self.random.below(1_000) as u64;
        if roll >= slow + fails {
            return good(quick_us);
        }
        if roll < slow {
            self.trouble(Trouble::CommitSlow);
            return good(slow_us);
        }
        let (trouble, apply_us, heard_us) = match self.random.below(3) {
            0 => (Trouble::CommitFailed, None, quick_us),
            1 => (Trouble::CommitUnheard, Some(quick_us), quick_us + 5 * MS),
            _ => (Trouble::CommitLate, Some(TIMEOUT_US + slow_us / 3), TIMEOUT_US),
        };
        self.trouble(trouble);
        (apply_us, heard_us, Outcome::Failed)
    }

    /// The database commits.
    pub(crate) fn apply_commit(&mut self, index: usize, id: u64, number: u64) {
        // They lock the same rows: one that came later waits.
        if self.database.fences.first().is_some_and(|first| *first < number) {
            return self.after(MS, Act::Leader(index, LeaderAct::Apply(id, number)));
        }
        self.database.fences.remove(&number);
        let Some((epoch, batch)) = self.checks.in_flight.remove(&number) else {
            return;
        };
        if self.database.is_down {
            // It went down with the transaction open.
            return;
        }
        if epoch < self.database.leader_epoch {
            let newest = self.database.leader_epoch;
            let detail = format!("epoch {epoch} wrote after epoch {newest} was elected");
            return self.fail("5: an old leader changes nothing", detail);
        }
        self.check_batch(&batch);
        let raised = self.database.apply(&batch);
        if let Some(epoch) = raised {
            note!(self, "the routing epoch is {epoch}");
            self.notify_routing();
        }
        self.check_rows();
        let term = self.term(index, id);
        let flight = term.and_then(|term| term.flight.as_mut());
        if let Some(flight) = flight.filter(|flight| flight.id == number) {
            (flight.is_applied, flight.raised) = (true, raised);
        }
    }

    /// The leader hears of its commit.
    pub(crate) fn committed(&mut self, index: usize, id: u64, number: u64, outcome: Outcome) {
        let reached = self.has_database(index);
        let is_held = self.database.fences.contains(&number);
        let Some(term) = self.term(index, id) else { return };
        let flight = term.flight.as_ref();
        if flight.is_none_or(|flight| flight.id != number) {
            return;
        }
        if outcome == Outcome::Saved && is_held && reached {
            // It waits for another one's locks.
            let act = LeaderAct::Committed(id, number, outcome);
            return self.after(MS, Act::Leader(index, act));
        }
        let Some(flight) = term.flight.take() else { return };
        match (outcome, flight.is_applied) {
            (Outcome::Fenced, _) => self.end_term(index, "its commit was fenced"),
            (Outcome::Saved, true) if reached => {
                let raised = flight.raised;
                self.carry_out(index, id, flight.after);
                if let Some(epoch) = raised.filter(|_| !crate::is_planted!(EpochNotFedBack)) {
                    self.decide(index, id, Event::EpochRaised(epoch), Reply::Nobody);
                }
                let idle = self.term(index, id).is_some_and(|term| term.work.events == 0);
                if idle {
                    self.check_memory(index, id);
                }
                self.pump(index, id);
            }
            // The answer is lost with the connection, or the database went down before it had it.
            _ => self.lose_commit(index, id),
        }
    }

    /// Memory is ahead of the rows, or nobody knows: the term ends. Nothing of it was sent, so nothing has to be taken
    /// back.
    fn lose_commit(&mut self, index: usize, id: u64) {
        if crate::is_planted!(FailedCommitPassedOver) {
            return self.wake_engine(index, id);
        }
        if !crate::is_planted!(FailedCommitReloads) {
            return self.end_term(index, "a batch was not saved");
        }
        note!(
            self,
            "scheduler {index}: a batch was not saved; reading the state again"
        );
        let Some(term) = self.term(index, id) else { return };
        (term.work, term.cluster) = (Work::default(), None);
        self.begin_reading(index, id);
    }

    /// All is saved: the orders go out, and who waited is answered.
    fn carry_out(&mut self, index: usize, id: u64, after: After) {
        self.dispatch(index, id, after.orders);
        for (reply, orders) in after.answers {
            self.answer(index, id, reply, orders);
        }
    }

    fn answer(&mut self, index: usize, id: u64, reply: Reply, orders: Vec<Command>) {
        let orders = self.compose(index, id, orders);
        let Some(epoch) = self.term(index, id).map(|term| term.epoch) else {
            return;
        };
        let from = Place::Scheduler(index);
        match reply {
            Reply::Nobody => {}
            Reply::Listener(round) => self.listener_goes_on(index, id, round),
            Reply::Digest(host, incarnation, call) => {
                let act = HostAct::Answer(incarnation, call, epoch, orders);
                self.send(from, Place::Host(host), Act::Host(host, act));
            }
            Reply::News(host, incarnation, call) => {
                let act = HostAct::NewsTold(incarnation, call, epoch, orders);
                self.send(from, Place::Host(host), Act::Host(host, act));
            }
            Reply::Register(host, incarnation, node) => {
                let act = HostAct::Registered(incarnation, node);
                self.send(from, Place::Host(host), Act::Host(host, act));
            }
        }
    }

    /// Sends orders, each on its own, so that they can overtake each other.
    pub(crate) fn dispatch(&mut self, index: usize, id: u64, orders: Vec<Command>) {
        let orders = self.compose(index, id, orders);
        let Some(epoch) = self.term(index, id).map(|term| term.epoch) else {
            return;
        };
        for order in orders {
            if self.start_mishap(&order) {
                continue;
            }
            let host = node_of(&order).and_then(|node| self.hosts.iter().position(|h| h.node == Some(node)));
            let Some(host) = host else { continue };
            let incarnation = self.hosts[host].incarnation;
            let act = HostAct::Orders(incarnation, epoch, vec![order]);
            self.send(Place::Scheduler(index), Place::Host(host), Act::Host(host, act));
        }
    }

    /// A start whose task has ended, or is to, while it waited for its commit: its place may be another one's.
    fn is_over(&mut self, index: usize, id: u64, order: &Command) -> bool {
        let (Command::Start { task, .. }, false) = (order, crate::is_planted!(StartOutlivesTask)) else {
            return false;
        };
        let cluster = self.term(index, id).and_then(|term| term.cluster.as_ref());
        let known = cluster.and_then(|cluster| cluster.task(task.id));
        known.is_none_or(|known| known.generation != task.generation)
    }

    /// Makes what is sent; a start whose artifact is gone fails here.
    fn compose(&mut self, index: usize, id: u64, orders: Vec<Command>) -> Vec<Command> {
        let mut composed = Vec::new();
        let Some(epoch) = self.term(index, id).map(|term| term.epoch) else {
            return composed;
        };
        for order in orders {
            if self.is_over(index, id, &order) {
                continue;
            }
            self.check_order(epoch, &order);
            match &order {
                Command::Start { node_id, task } if self.operator.lacks_artifact(task.deployment_id) => {
                    note!(self, "the artifact of task {} is gone", short(task.id.get()));
                    let report = crate::host::missing_artifact(task.id, task.generation);
                    let event = Event::TaskReports {
                        node_id: *node_id,
                        tasks: vec![report],
                    };
                    self.post(index, id, Letter::Event(event, Reply::Nobody));
                }
                _ => composed.push(order),
            }
        }
        composed
    }
}
