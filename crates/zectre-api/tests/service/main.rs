//! The API against a real PostgreSQL, over real sockets: every answer of the main flows is snapshotted, every
//! endpoint is walked with every role.

mod answers;
mod applications;
mod artifacts;
mod auth_walk;
mod bad_input;
mod bodies;
mod builds;
mod catalog;
mod cli_login;
mod cluster;
mod contract;
mod custom_domains;
mod deployments;
mod document;
mod expired_claims;
mod feed;
mod forge;
mod harness;
mod held;
mod idempotency;
mod lists;
mod login;
mod members;
mod metrics;
mod passwords;
mod quotas;
mod resume;
mod rotation;
mod rows;
mod scopes;
mod signup;
mod streams;
mod things;
mod upstream;
mod webhooks;
