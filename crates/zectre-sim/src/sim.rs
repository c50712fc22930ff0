//! The world of one seed: what is in it, what is due when, and the loop that lets it happen.

use crate::{
    checks::Checks,
    database::Database,
    faults::Faults,
    host::{Host, HostAct},
    leader::{LeaderAct, Scheduler},
    network::Network,
    operator::Operator,
    proxy::{Proxy, ProxyAct},
    random::Random,
    trace::Trace,
};
use std::{collections::BTreeMap, time::Duration};
use zectre_common::time::Time;

/// Microseconds of virtual time.
pub(crate) type Us = u64;
/// A millisecond of them.
pub(crate) const MS: Us = 1_000;
/// A second of them.
pub(crate) const SECOND: Us = 1_000_000;

/// When virtual time begins.
const EPOCH_UNIX_MS: i64 = 1_000_000_000_000;
/// The most things that may happen in one run; a run that needs more runs in circles.
const ACTS_MAX: u64 = 2_000_000;
/// How long faults and operators go on.
const STORM_US: Us = 150 * SECOND;
/// After the storm, how long those who were cut off need to hear of each other.
const SETTLING_US: Us = 20 * SECOND;
/// So long after the storm every server that may not run for ever was due to be replaced.
const LONG_CALM_US: Us = SETTLING_US + 100 * SECOND;
/// How long after the storm everything must have come to rest.
const REST_US: Us = 600 * SECOND;

/// Something that is due.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// In a scheduler.
    Leader(usize, LeaderAct),
    /// On a node.
    Host(usize, HostAct),
    /// In a proxy.
    Proxy(usize, ProxyAct),
    /// The next fault.
    Fault,
    /// The next wish of an operator.
    Operate,
    /// The network between two places works again, and similar ends of faults.
    Heal(crate::faults::Healing),
    /// Rows of what was deleted are cleared away.
    Purge,
    /// Has everything come to rest?
    Look,
}

/// What must never happen has happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which promise is broken.
    pub promise: &'static str,
    /// How.
    pub detail: String,
    /// When, in seconds of virtual time.
    pub at_secs: u64,
}

/// The world.
pub(crate) struct Sim {
    pub(crate) now_us: Us,
    pub(crate) random: Random,
    pub(crate) trace: Trace,
    pub(crate) database: Database,
    pub(crate) schedulers: Vec<Scheduler>,
    pub(crate) hosts: Vec<Host>,
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) network: Network,
    pub(crate) faults: Faults,
    pub(crate) operator: Operator,
    pub(crate) checks: Checks,
    pub(crate) violation: Option<Violation>,
    agenda: BTreeMap<(Us, u64), Act>,
    serial: u64,
    acts: u64,
}

impl Sim {
    /// The world of `seed`, before anything happened.
    pub(crate) fn new(seed: u64, echo: bool) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults::new(&mut random);
        let mut sim = Self {
            now_us: 0,
            trace: Trace::new(echo),
            database: Database::default(),
            schedulers: Vec::new(),
            hosts: Vec::new(),
            proxies: Vec::new(),
            network: Network::default(),
            faults,
            operator: Operator::default(),
            checks: Checks::default(),
            violation: None,
            agenda: BTreeMap::new(),
            serial: 0,
            acts: 0,
            random,
        };
        sim.people();
        sim
    }

    /// Starts every process, the storm and the operators.
    fn people(&mut self) {
        for _ in 0..2 {
            self.add_scheduler();
        }
        let (hosts, proxies) = (self.random.between(2, 4), self.random.between(1, 3));
        for _ in 0..hosts {
            self.add_host();
        }
        for _ in 0..proxies {
            self.add_proxy();
        }
        self.found_applications();
        self.after(3 * SECOND, Act::Fault);
        self.after(SECOND, Act::Operate);
        self.after(60 * SECOND, Act::Purge);
        self.after(STORM_US, Act::Look);
    }

    /// Runs to the end: rest, or a broken promise.
    pub(crate) fn run(&mut self) {
        while self.violation.is_none() && !self.checks.at_rest {
            self.advance();
        }
    }

    /// Does what is due next.
    pub(crate) fn advance(&mut self) {
        let Some(((at_us, _), act)) = self.agenda.pop_first() else {
            return self.fail("liveness", "nothing is due any more".into());
        };
        self.now_us = at_us;
        self.acts += 1;
        if self.acts > ACTS_MAX {
            return self.fail("liveness", format!("more than {ACTS_MAX} things happened"));
        }
        self.perform(act);
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Leader(index, act) => self.perform_leader(index, act),
            Act::Host(index, act) => self.perform_host(index, act),
            Act::Proxy(index, act) => self.perform_proxy(index, act),
            Act::Fault => self.next_fault(),
            Act::Operate => self.next_operation(),
            Act::Heal(healing) => self.heal(healing),
            Act::Purge => self.purge_deleted(),
            Act::Look => self.look_for_rest(),
        }
    }

    /// Puts something on the agenda, `delay_us` from now.
    pub(crate) fn after(&mut self, delay_us: Us, act: Act) {
        self.serial += 1;
        self.agenda.insert((self.now_us + delay_us, self.serial), act);
    }

    /// A number that was never given before.
    pub(crate) fn fresh(&mut self) -> u64 {
        self.serial += 1;
        self.serial
    }

    /// Faults and wishes still come.
    pub(crate) fn is_stormy(&self) -> bool {
        self.now_us < STORM_US
    }

    /// Nothing has gone wrong since then, and everybody had time to notice.
    pub(crate) const fn is_calm_since(at_us: Us) -> bool {
        at_us > STORM_US + SETTLING_US
    }

    /// Servers that may not run for ever have been replaced in a calm world.
    pub(crate) fn is_long_calm(&self) -> bool {
        self.now_us > STORM_US + LONG_CALM_US
    }

    /// The last moment for everything to be at rest.
    pub(crate) fn is_overdue(&self) -> bool {
        self.now_us > STORM_US + REST_US
    }

    /// The wall clock of a machine that is ahead by `skew_us`.
    pub(crate) fn clock(&self, skew_us: i64) -> Time {
        let us = (self.now_us as i64 + 10 * SECOND as i64 + skew_us).max(0) as u64;
        Time::from_unix_ms(EPOCH_UNIX_MS).plus(Duration::from_micros(us))
    }

    /// Breaks off: a promise is broken.
    pub(crate) fn fail(&mut self, promise: &'static str, detail: String) {
        if self.violation.is_none() {
            self.trace
                .note(self.now_us, format_args!("BROKEN {promise}: {detail}"));
            let at_secs = self.now_us / SECOND;
            self.violation = Some(Violation {
                promise,
                detail,
                at_secs,
            });
        }
    }
}

/// Adds a line to the trace.
macro_rules! note {
    ($sim:expr, $($what:tt)*) => {
        $sim.trace.note($sim.now_us, format_args!($($what)*))
    };
}
pub(crate) use note;
