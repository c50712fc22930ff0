//! The API against a real PostgreSQL, over real sockets: every answer of the main flows is snapshotted, every
//! endpoint is walked with every role.

mod applications;
mod artifacts;
mod auth_walk;
mod bad_input;
mod bodies;
mod builds;
mod cluster;
mod custom_domains;
mod deployments;
mod document;
mod forge;
mod harness;
mod idempotency;
mod login;
mod resume;
mod rows;
mod streams;
mod upstream;
mod webhooks;
