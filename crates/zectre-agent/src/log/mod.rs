//! The output of tasks: from files that outlive the agent to the API, each line once and in order.
//!
//! A task writes to two raw files. [`spool`] numbers their lines into one journal (what is numbered once keeps
//! its number and time across a crash), [`follow`] drives it by file events and ships batches, and
//! [`live`] shows lines to whoever watches right now.

mod follow;
mod line;
mod live;
mod spool;
mod watch;

pub(crate) use follow::{Follower, Shipping};
pub(crate) use live::Live;
pub(crate) use spool::Spool;
pub(crate) use watch::Watcher;

/// The most lines kept at hand for a report.
pub(crate) const TAIL_LINES_MAX: usize = 20;
