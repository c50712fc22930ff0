//! Decisions of the worker, without SQL, HTTP or clocks.

pub mod lease;
pub mod verdict;
