//! The output of tasks: from files that outlive the agent to the API, each line once and in order.
//!
//! A task writes to two raw files, and there its text stays. [`spool`] numbers the lines (what is numbered once
//! keeps its number and time across a crash), [`follow`] drives it by file events, [`ship`] delivers batches,
//! and [`live`] shows lines to whoever watches right now.

mod batch;
mod follow;
mod journal;
mod line;
mod live;
mod rate;
mod ship;
mod spool;
mod watch;

pub(crate) use follow::{Follower, Source};
pub(crate) use live::Live;
pub(crate) use ship::Shipping;
pub(crate) use spool::{Bounds, Spool};
pub(crate) use watch::Watcher;

/// The most lines kept at hand for a report.
pub(crate) const TAIL_LINES_MAX: usize = 20;
