//! The agent's decisions: pure functions of what it holds and what it was told. No clock, no process, no HTTP.

pub mod adopt;
pub mod collect;
pub mod exit;
pub mod order;
pub mod probe;
pub mod tail;
