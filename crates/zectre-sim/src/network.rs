//! Who can reach whom, how long it takes, and what gets lost on the way.

use crate::{
    host::HostAct,
    leader::{LeaderAct, Letter},
    sim::{Act, MS, SECOND, Sim, Us},
    trouble::Trouble,
};
use std::collections::BTreeMap;
use zectre_scheduler_core::Event;

/// The longest that a read or a notification of the database takes.
const READ_US: Us = 3_500 * MS;

/// An end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// PostgreSQL.
    Database,
    /// A scheduler.
    Scheduler(usize),
    /// A node.
    Host(usize),
    /// A proxy.
    Proxy(usize),
}

/// The connections that are cut, with how many cuts lie on each.
#[derive(Debug, Default)]
pub(crate) struct Network {
    cuts: BTreeMap<(Place, Place), u32>,
    /// Everything takes longer.
    pub(crate) slow: bool,
}

fn pair(one: Place, other: Place) -> (Place, Place) {
    (one.min(other), one.max(other))
}

impl Network {
    /// Whether a message gets through.
    pub(crate) fn reaches(&self, one: Place, other: Place) -> bool {
        !self.cuts.contains_key(&pair(one, other))
    }

    /// Nothing gets through any more.
    pub(crate) fn cut(&mut self, one: Place, other: Place) {
        *self.cuts.entry(pair(one, other)).or_default() += 1;
    }

    /// One cut less.
    pub(crate) fn mend(&mut self, one: Place, other: Place) {
        let key = pair(one, other);
        if let Some(count) = self.cuts.get_mut(&key) {
            *count -= 1;
            if *count == 0 {
                self.cuts.remove(&key);
            }
        }
    }

    /// All is mended.
    pub(crate) fn mend_all(&mut self) {
        self.cuts.clear();
        self.slow = false;
    }
}

/// When a caller gives up and closes the connection: nothing of its call arrives later than that.
const fn patience_us(act: &Act) -> Us {
    match act {
        // The scheduler's dispatcher.
        Act::Host(_, HostAct::Orders(..)) => 5 * SECOND,
        // An agent waits for an answer to its digest for two heartbeats, and for any other for ten seconds.
        Act::Host(_, HostAct::Answer(..)) => crate::host::DIGEST_TIMEOUT_US,
        Act::Host(..) => crate::host::CALL_TIMEOUT_US,
        Act::Leader(_, LeaderAct::Hear(_, letter)) => match **letter {
            Letter::Event(Event::Heartbeat { .. }, _) => crate::host::DIGEST_TIMEOUT_US,
            _ => crate::host::CALL_TIMEOUT_US,
        },
        _ => READ_US,
    }
}

impl Sim {
    /// How long the database's answer takes.
    pub(crate) fn latency_us(&mut self) -> Us {
        self.transit_us(READ_US)
    }

    fn transit_us(&mut self, longest_us: Us) -> Us {
        let storm = self.is_stormy();
        if storm && self.random.chance(if self.network.slow { 300 } else { 10 }) {
            self.trouble(Trouble::MessageLate);
            return self.random.between(100 * MS, longest_us);
        }
        self.random.between(200, 3 * MS)
    }

    /// Sends something; it may be lost, late, or (a repeated call) come twice.
    pub(crate) fn send(&mut self, from: Place, to: Place, act: Act) {
        let storm = self.is_stormy();
        if !self.network.reaches(from, to) {
            return;
        }
        if storm && self.random.chance(self.faults.loss_per_mille) {
            return self.trouble(Trouble::MessageLost);
        }
        let longest_us = patience_us(&act);
        let latency_us = self.transit_us(longest_us);
        if storm && self.random.chance(self.faults.twice_per_mille) {
            self.trouble(Trouble::MessageTwice);
            let again_us = self.transit_us(longest_us);
            self.after(again_us, act.clone());
        }
        self.after(latency_us, act);
    }
}
