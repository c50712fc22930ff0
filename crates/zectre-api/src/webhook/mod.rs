//! Webhooks: programs outside are told what happens.
//!
//! Events become rows of deliveries by a cursor over the feed, in order of commit, so none is lost or doubled across a
//! restart; rows are then sent until they are answered well or given up. What decides is pure: [`filter`], [`retry`] and
//! [`signature`]. [`deliver`] is the task around them.

pub(crate) mod deliver;
pub(crate) mod filter;
mod retry;
pub(crate) mod signature;
