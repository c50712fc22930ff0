//! All SQL of the API, one file a resource. A write is one [`change::Change`]: wanted columns, the operation
//! for the scheduler and the event, in one transaction.

pub(crate) mod account;
pub(crate) mod api_key;
pub(crate) mod app;
pub(crate) mod artifact;
pub(crate) mod build;
pub(crate) mod catalog;
pub(crate) mod change;
pub(crate) mod cli_login;
pub(crate) mod custom_domain;
pub(crate) mod delivery;
pub(crate) mod deployment;
pub(crate) mod environment;
pub(crate) mod event;
pub(crate) mod idempotency;
pub(crate) mod invitation;
pub(crate) mod leader;
pub(crate) mod maintenance;
pub(crate) mod member;
pub(crate) mod metric;
pub(crate) mod node;
pub(crate) mod organization;
pub(crate) mod ownership;
pub(crate) mod password_reset;
pub(crate) mod proxy;
pub(crate) mod quota;
pub(crate) mod rows;
pub(crate) mod source;
pub(crate) mod task;
pub(crate) mod task_log;
pub(crate) mod upload;
pub(crate) mod variable;
pub(crate) mod webhook;

/// Whether the error says that a unique index already holds the value.
pub(crate) fn is_duplicate(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(database) if database.is_unique_violation())
}
