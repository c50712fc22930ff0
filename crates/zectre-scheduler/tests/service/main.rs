//! The scheduler against a real PostgreSQL, with agents that speak the protocol over real HTTP.

mod batches;
mod cluster;
mod leadership;
mod resync;
mod support;
mod wakes;
