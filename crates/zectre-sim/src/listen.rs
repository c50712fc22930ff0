//! What a leader hears from outside: the rows that others wrote (each read takes its time, so what was read may be
//! old when the engine gets it; but one is read after the other, so that it never replaces what was read later), and
//! calls from agents, proxies and the API.

use crate::{
    database::{ACTIVITY_WINDOW_US, ago},
    host::HostAct,
    leader::{LeaderAct, Letter, Reply, Waiter},
    network::Place,
    sim::{Act, SECOND, Sim, Us, note},
};
use std::{collections::VecDeque, time::Duration};
use zectre_common::id::{DeploymentId, NodeId};
use zectre_scheduler_core::{Event, Operation};

/// The longest that anything waits for which no notification came.
const RESYNC_US: Us = SECOND;
/// A leader that has not read proxies' rows for so long can't tell who was silent.
const GAP_US: Us = 5 * SECOND;
/// Deleted rows are looked for once in so many rounds.
const GONE_EVERY: u32 = 5;

/// For whom operations are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// The listener's round.
    Round,
    /// A call of the API.
    Nudge,
}

/// A piece of the listener's work.
#[derive(Debug, Clone)]
pub(crate) enum ListenAct {
    /// Once a second: everything.
    Round,
    /// A proxy's row changed.
    ProxyNotified,
    /// Read what waits for a build that has ended.
    Sources,
    /// Read the operations.
    Operations(For),
    /// Read the deployments of these operations.
    Load(For, Vec<Operation>),
    /// What was read arrives.
    Post(Vec<Letter>),
    /// A wake of a deployment that the engine doesn't know.
    Bring(DeploymentId, Waiter),
    /// Nodes and deployments whose rows are gone.
    Gone,
}

/// Who reads rows for the engine: one at a time, from before the read until it has what was read, as the shell's
/// `Handle::reading` has it. What proxies wrote is read apart.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    is_busy: bool,
    waiting: VecDeque<ListenAct>,
}

impl Reads {
    /// Gives it back when it is its turn, else keeps it.
    fn begin(&mut self, act: ListenAct) -> Option<ListenAct> {
        if self.is_busy {
            self.waiting.push_back(act);
            return None;
        }
        self.is_busy = true;
        Some(act)
    }

    /// One has what it read. Whose turn it is.
    fn end(&mut self) -> Option<ListenAct> {
        let next = self.waiting.pop_front();
        self.is_busy = next.is_some();
        next
    }
}

impl Sim {
    pub(crate) fn perform_listen(&mut self, index: usize, id: u64, act: ListenAct) {
        let has_database = self.has_database(index);
        let Some(term) = self.term(index, id) else { return };
        match act {
            // The round fails; the next one is due as ever.
            ListenAct::Round if !has_database => self.next_round(index, id),
            ListenAct::Round => {
                self.read_proxies(index, id);
                self.after(0, listen(index, id, ListenAct::Sources));
                self.after(0, listen(index, id, ListenAct::Operations(For::Round)));
            }
            ListenAct::ProxyNotified if has_database => self.read_proxies(index, id),
            ListenAct::ProxyNotified => {}
            ListenAct::Load(origin, operations) if has_database => {
                self.load_operations(index, id, origin, operations);
            }
            ListenAct::Load(origin, _) => self.give_up(index, id, &ListenAct::Operations(origin)),
            ListenAct::Post(letters) => {
                for letter in letters {
                    self.post(index, id, letter);
                }
                self.end_reading(index, id);
            }
            ListenAct::Sources | ListenAct::Operations(_) | ListenAct::Bring(..) | ListenAct::Gone => {
                if let Some(first) = term.reads.begin(act) {
                    self.read(index, id, &first);
                }
            }
        }
    }

    /// Reads rows: whose turn it is.
    fn read(&mut self, index: usize, id: u64, act: &ListenAct) {
        if !self.has_database(index) {
            return self.give_up(index, id, act);
        }
        match act {
            ListenAct::Sources => {
                let letters = self.read_letters(&crate::operator::sourced(&self.database));
                self.post_later(index, id, letters);
            }
            ListenAct::Operations(origin) => {
                let operations = self.database.open_operations();
                let latency_us = self.latency_us();
                self.after(
                    latency_us,
                    listen(index, id, ListenAct::Load(*origin, operations)),
                );
            }
            ListenAct::Bring(deployment, waiter) => {
                let (deployment, waiter) = (*deployment, *waiter);
                let mut letters = self.read_letters(&[deployment]);
                if letters.is_empty() {
                    self.answer_wake(index, waiter, deployment, None, 0);
                } else {
                    letters.push(Letter::Wake(deployment, waiter));
                }
                self.post_later(index, id, letters);
            }
            ListenAct::Gone => self.read_gone(index, id),
            // These read nothing that others wait for.
            ListenAct::Round | ListenAct::ProxyNotified | ListenAct::Load(..) | ListenAct::Post(_) => {}
        }
    }

    /// The database does not answer.
    fn give_up(&mut self, index: usize, id: u64, act: &ListenAct) {
        match act {
            ListenAct::Operations(For::Round) => self.next_round(index, id),
            ListenAct::Bring(deployment, waiter) => self.answer_wake(index, *waiter, *deployment, None, 0),
            _ => {}
        }
        self.end_reading(index, id);
    }

    fn end_reading(&mut self, index: usize, id: u64) {
        let Some(term) = self.term(index, id) else { return };
        if let Some(next) = term.reads.end() {
            self.read(index, id, &next);
        }
    }

    fn next_round(&mut self, index: usize, id: u64) {
        self.after(RESYNC_US, listen(index, id, ListenAct::Round));
    }

    /// What was read takes a moment to arrive; then the next one may read. Nothing is there at once.
    fn post_later(&mut self, index: usize, id: u64, letters: Vec<Letter>) {
        let latency_us = if letters.is_empty() { 0 } else { self.latency_us() };
        self.after(latency_us, listen(index, id, ListenAct::Post(letters)));
    }

    fn read_letters(&self, ids: &[DeploymentId]) -> Vec<Letter> {
        let read = self.database.read_deployments(ids).into_iter();
        read.map(|(environment, deployments)| {
            let event = Event::Loaded {
                environment,
                deployments,
            };
            Letter::Event(event, Reply::Nobody)
        })
        .collect()
    }

    fn read_proxies(&mut self, index: usize, id: u64) {
        let now = self.clock(self.schedulers[index].skew_us);
        let (now_us, database_now) = (self.now_us, self.clock(0));
        let Some(term) = self.term(index, id) else { return };
        let has_listened = now_us - term.read_proxies_us < GAP_US;
        term.read_proxies_us = now_us;
        let live = self.database.live_proxies(now_us, now, has_listened);
        let asked = self.checks.asked_us.clone();
        let Some(term) = self.term(index, id) else { return };
        // Those of them that are gone are told by their leases.
        let ids = live
            .iter()
            .filter(|_| has_listened)
            .map(|proxy| proxy.id)
            .collect();
        let mut before = std::mem::replace(&mut term.known_proxies, ids);
        if !has_listened {
            before.clear();
        }
        let mut events: Vec<Event> = before
            .difference(&term.known_proxies)
            .map(|gone| Event::ProxyGone(*gone))
            .collect();
        events.extend(live.into_iter().map(Event::ProxyReport));
        events.push(Event::Activity(self.database.recent_activity(database_now, now)));
        let lately = asked.iter().filter(|(_, us)| now_us - **us < ACTIVITY_WINDOW_US);
        let told = lately.map(|(id, us)| (*id, ago(now, Duration::from_micros(now_us - us))));
        let told = told.collect();
        let Some(term) = self.term(index, id) else { return };
        term.told_next.push_back(told);
        // The lease is counted from the moment it was read; the queue is where it waits.
        for event in events {
            self.post(index, id, Letter::Event(event, Reply::Nobody));
        }
    }

    fn load_operations(&mut self, index: usize, id: u64, origin: For, operations: Vec<Operation>) {
        let mut ids: Vec<DeploymentId> = operations.iter().filter_map(|o| o.deployment_id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut letters = self.read_letters(&ids);
        if operations.iter().any(|operation| operation.node_id.is_some()) {
            letters.extend(self.node_letters(index, id));
        }
        let count = operations.len();
        let round = self.term(index, id).map_or(0, |term| u64::from(term.rounds));
        for (nth, operation) in operations.into_iter().enumerate() {
            let is_last = nth + 1 == count;
            let reply = match origin {
                For::Round if is_last => Reply::Listener(round),
                _ => Reply::Nobody,
            };
            letters.push(Letter::Event(Event::Operation(operation), reply));
        }
        self.post_later(index, id, letters);
        if origin == For::Round && count == 0 {
            self.listener_goes_on(index, id, round);
        }
    }

    /// The operations of a round are committed: the rest of it, and the next one.
    pub(crate) fn listener_goes_on(&mut self, index: usize, id: u64, round: u64) {
        let Some(term) = self
            .term(index, id)
            .filter(|term| u64::from(term.rounds) == round)
        else {
            return;
        };
        term.rounds += 1;
        if term.rounds.is_multiple_of(GONE_EVERY) {
            self.after(0, listen(index, id, ListenAct::Gone));
        }
        self.next_round(index, id);
    }

    /// Where the rows want another eligibility than the engine knows, or are gone.
    fn node_letters(&mut self, index: usize, id: u64) -> Vec<Letter> {
        let Some(cluster) = self.schedulers[index]
            .term
            .as_ref()
            .filter(|term| term.id == id)
            .and_then(|term| term.cluster.as_ref())
        else {
            return Vec::new();
        };
        let rows = &self.database.nodes;
        let event = |node: &zectre_scheduler_core::Node| match rows.get(&node.id) {
            None => Some(Event::NodeGone(node.id)),
            Some(row) if row.eligibility != node.eligibility => Some(Event::NodeWanted {
                id: node.id,
                eligibility: row.eligibility,
            }),
            Some(_) => None,
        };
        let letters = cluster.nodes().filter_map(event);
        letters.map(|event| Letter::Event(event, Reply::Nobody)).collect()
    }

    fn read_gone(&mut self, index: usize, id: u64) {
        let mut letters = self.node_letters(index, id);
        let cluster = self.schedulers[index]
            .term
            .as_ref()
            .and_then(|t| t.cluster.as_ref());
        let rows = &self.database.deployments;
        let gone = cluster
            .into_iter()
            .flat_map(zectre_scheduler_core::Cluster::deployments)
            .filter(|known| !rows.contains_key(&known.id));
        letters.extend(gone.map(|known| Letter::Event(Event::DeploymentGone(known.id), Reply::Nobody)));
        self.post_later(index, id, letters);
    }

    /// A call from another machine reaches a scheduler.
    pub(crate) fn hear(&mut self, index: usize, incarnation: u64, letter: Letter) {
        let scheduler = &self.schedulers[index];
        if !scheduler.is_up || scheduler.incarnation != incarnation {
            return;
        }
        let Some(term) = scheduler.term.as_ref() else {
            return self.forward(index, letter);
        };
        let id = term.id;
        match letter {
            Letter::Nudge => self.after(0, listen(index, id, ListenAct::Operations(For::Nudge))),
            Letter::Join(host, host_incarnation) => self.admit(index, id, host, host_incarnation),
            Letter::Event(Event::Heartbeat { node_id, .. }, Reply::Digest(host, host_incarnation, _))
                if term.cluster.as_ref().is_some_and(|c| c.node(node_id).is_none()) =>
            {
                let act = HostAct::Unknown(host_incarnation);
                self.send(Place::Scheduler(index), Place::Host(host), Act::Host(host, act));
            }
            mut letter => {
                let now = self.clock(self.schedulers[index].skew_us);
                if let Letter::Event(Event::Heartbeat { heard_at, .. }, _) = &mut letter {
                    *heard_at = now;
                }
                self.post(index, id, letter);
            }
        }
    }

    /// A follower passes a call on to the leader that the database names.
    fn forward(&mut self, index: usize, letter: Letter) {
        let leader = self.database.leader.filter(|leader| *leader != index);
        if let Some(leader) = leader.filter(|_| self.has_database(index)) {
            let incarnation = self.schedulers[leader].incarnation;
            let act = Act::Leader(leader, LeaderAct::Hear(incarnation, Box::new(letter)));
            self.send(Place::Scheduler(index), Place::Scheduler(leader), act);
        }
    }

    /// Calls some scheduler; whoever doesn't lead passes it on.
    pub(crate) fn call_scheduler(&mut self, from: Place, letter: Letter) {
        let index = self.random.below(self.schedulers.len());
        let incarnation = self.schedulers[index].incarnation;
        let act = Act::Leader(index, LeaderAct::Hear(incarnation, Box::new(letter)));
        self.send(from, Place::Scheduler(index), act);
    }

    /// A node is made by its registration; one whose row was deleted joins as a new one.
    fn admit(&mut self, index: usize, id: u64, host: usize, incarnation: u64) {
        if !self.has_database(index) {
            return;
        }
        let facts = self.hosts[host].facts.clone();
        let by_name = self
            .database
            .nodes
            .values()
            .find(|row| row.facts.name == facts.name);
        let known = by_name.map(|row| row.id);
        let node =
            known.unwrap_or_else(|| NodeId::from_uuid(uuid::Uuid::from_u128(u128::from(self.fresh()))));
        if known.is_none() {
            let now = self.clock(0);
            let row = zectre_scheduler_core::Node::new(node, facts.clone(), now);
            self.database.nodes.insert(node, row);
            note!(
                self,
                "host {host} joins as node {}",
                crate::trace::short(node.get())
            );
        }
        let reply = Reply::Register(host, incarnation, node);
        self.post(
            index,
            id,
            Letter::Event(Event::NodeRegistered { id: node, facts }, reply),
        );
    }
}

pub(crate) fn listen(index: usize, id: u64, act: ListenAct) -> Act {
    Act::Leader(index, LeaderAct::Listen(id, act))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A world whose first scheduler leads and knows a deployment, unless that takes long.
    fn led(seed: u64) -> Option<(Sim, u64, DeploymentId)> {
        let mut sim = Sim::new(seed, false);
        while sim.now_us < 60 * SECOND && sim.violation.is_none() {
            sim.advance();
            let term = sim.schedulers[0].term.as_ref();
            let known = term.and_then(|term| {
                let deployment = term.cluster.as_ref()?.deployments().next()?;
                Some((term.id, deployment.id))
            });
            if let Some((term, id)) = known {
                return Some((sim, term, id));
            }
        }
        None
    }

    #[test]
    fn what_was_read_later_is_what_the_engine_knows() {
        const LAST: u32 = 15;
        let mut compared = 0;
        for seed in 1..40 {
            // In some the other scheduler leads all the time.
            let Some((mut sim, term, id)) = led(seed) else {
                continue;
            };
            sim.network.slow = true;
            for replicas in 11..=LAST {
                let row = sim.database.deployments.get_mut(&id).expect("it was written");
                row.replicas = replicas;
                sim.perform_listen(0, term, ListenAct::Bring(id, (0, 0)));
            }
            let until_us = sim.now_us + 30 * SECOND;
            let is_busy = |sim: &Sim| {
                let term = sim.schedulers[0]
                    .term
                    .as_ref()
                    .filter(|current| current.id == term);
                term.is_some_and(|term| term.reads.is_busy || !term.inbox.is_empty())
            };
            while is_busy(&sim) && sim.now_us < until_us && sim.violation.is_none() {
                sim.advance();
            }
            let told = sim.term(0, term).and_then(|term| term.cluster.as_ref());
            let told = told
                .and_then(|cluster| cluster.deployment(id))
                .map(|known| known.replicas);
            // A term may end meanwhile: then all that was read for it is lost with it. People may change the row.
            let Some(told) = told else { continue };
            let row = sim.database.deployments.get(&id).map(|row| row.replicas);
            assert!(
                told == LAST || row == Some(told),
                "seed {seed}: {told} for {row:?}"
            );
            compared += 1;
        }
        assert!(compared > 10, "only {compared} worlds were looked at");
    }

    #[test]
    fn one_reads_after_the_other() {
        let mut reads = Reads::default();
        assert!(matches!(
            reads.begin(ListenAct::Sources),
            Some(ListenAct::Sources)
        ));
        assert!(reads.begin(ListenAct::Gone).is_none());
        assert!(reads.begin(ListenAct::Operations(For::Nudge)).is_none());
        assert!(matches!(reads.end(), Some(ListenAct::Gone)));
        assert!(
            reads.begin(ListenAct::Sources).is_none(),
            "it waits behind those that wait"
        );
        assert!(matches!(reads.end(), Some(ListenAct::Operations(For::Nudge))));
        assert!(matches!(reads.end(), Some(ListenAct::Sources)));
        assert!(reads.end().is_none());
        assert!(reads.begin(ListenAct::Gone).is_some());
    }
}
