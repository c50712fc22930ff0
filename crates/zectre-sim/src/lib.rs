//! Runs the decisions of the scheduler (`zectre_scheduler_core::step`, the same code) in a world of faults: agents,
//! proxies, a database, a network, clocks and people, all from one seed. After every step the promises of the
//! platform are checked; when the faults stop, everything has to come to rest.
//!
//! A seed that breaks a promise is replayed with `cargo xtask sim --seeds 1 --seed N --trace`. What is modelled, and
//! what is not, stands in docs/SIMULATOR.md.

mod checks;
pub mod command;
mod commit;
mod database;
mod faults;
mod host;
mod leader;
mod life;
mod listen;
mod mishap;
mod network;
mod operator;
mod plant;
mod proxy;
mod random;
mod removal;
mod sim;
mod trace;
mod trouble;

pub use sim::Violation;
use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};
pub use trouble::Trouble;
use zectre_common::state::{OperationKind, Reason};
use zectre_scheduler_core::Settings;

/// Whether a bug was planted: see `zectre_scheduler_core::planted`.
macro_rules! is_planted {
    ($bug:ident) => {
        zectre_scheduler_core::planted::is(zectre_scheduler_core::planted::Planted::$bug)
    };
}
pub(crate) use is_planted;

/// The numbers of `[scheduler]`: the defaults, but for pauses that would only make runs longer.
fn settings() -> Settings {
    Settings {
        heartbeat: Duration::from_secs(2),
        node_lease: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(20),
        backoff_initial: Duration::from_millis(500),
        backoff_max: Duration::from_secs(10),
        backoff_reset: Duration::from_secs(30),
        rollout_failures_max: 3,
        max_runtime_secs_cap: 0,
    }
}

/// How a run went.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// The promise that it broke, if it did.
    pub violation: Option<Violation>,
    /// The same for the same run.
    pub hash: u64,
    /// Lines of its trace.
    pub lines: u64,
    /// The last of them.
    pub tail: Vec<String>,
    /// How long it took, in seconds of virtual time.
    pub virtual_secs: u64,
    /// The reason codes that the scheduler gave to anything.
    pub reasons: BTreeSet<Reason>,
    /// The kinds of trouble that it had.
    pub troubles: BTreeSet<Trouble>,
    /// What people asked for.
    pub asked: BTreeSet<OperationKind>,
}

/// Runs a seed to its end; with `echo` every line of its trace is printed.
pub fn run(seed: u64, echo: bool) -> Outcome {
    let mut sim = sim::Sim::new(seed, echo);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| sim.run())) {
        let said = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or(panic.downcast_ref::<&str>().copied());
        sim.fail(
            "nothing panics",
            said.unwrap_or("a panic without words").to_owned(),
        );
    }
    Outcome {
        seed,
        hash: sim.trace.hash(),
        lines: sim.trace.lines(),
        tail: sim.trace.tail(),
        virtual_secs: sim.now_us / sim::SECOND,
        reasons: sim.checks.reasons,
        troubles: sim.faults.seen,
        asked: sim.operator.asked,
        violation: sim.violation,
    }
}
