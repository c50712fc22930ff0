//! What services say to each other and to people, as JSON.
//!
//! Requests refuse unknown fields (a typo must not pass in silence); answers may grow.

pub mod account;
pub mod agent;
pub mod app;
pub mod artifact;
pub mod auth;
pub mod build;
pub mod catalog;
pub mod cli_login;
pub mod cluster;
pub mod deployment;
pub mod domain;
pub mod event;
pub mod log;
pub mod member;
pub mod metrics;
pub mod node;
pub mod page;
pub mod problem;
pub mod quota;
pub mod scheduler;
pub mod source;
pub mod task;
pub mod webhook;
