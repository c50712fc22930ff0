//! The node's artifacts: fetched once, verified, kept for the next start.

mod bundle;
mod cache;
mod fetch;

pub(crate) use cache::{Cache, Cached};
