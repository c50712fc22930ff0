//! The core against a small model of agents, proxies and the database; the rules of rollout, sleep and loss.

mod agents;
mod bounds;
mod canary;
mod chaos;
mod evidence;
mod faults;
mod invariants;
mod loss;
mod named;
mod pairs;
mod placement;
mod ports;
mod room;
mod rows;
mod rules;
mod shortage;
mod takeover;
mod world;
