//! The registry as its callers see it: a real service over a real PostgreSQL.

mod downloads;
mod harness;
mod refusals;
mod uploads;
