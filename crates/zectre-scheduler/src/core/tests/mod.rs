//! The core against a small model of agents, proxies and the database; the rules of rollout, sleep and loss.

mod agents;
mod chaos;
mod invariants;
mod placement;
mod rules;
mod takeover;
mod world;
