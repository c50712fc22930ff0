//! Deployments that speak plain TCP: each of their environments has a port of its own, the same on every proxy.
//!
//! 1. `plan` (pure): which listeners the table wants, and which of those that are open it does not.
//! 2. [`ports`]: opens and closes them as the table changes, and tells where that can't be done.
//! 3. `connection`: from an accepted connection to a task, waking it where it sleeps, by the same choice as for a request.
//! 4. `copy`: bytes both ways; each side may say that it is done and still listen.
//!
//! A connection counts as a request of its deployment all its life: it keeps it awake, and a task that leaves has
//! drained when the last one has ended.

mod connection;
mod copy;
mod plan;
pub mod ports;

pub(crate) use connection::serve;
pub use plan::LISTENERS_MAX;
pub(crate) use plan::listeners_max;
