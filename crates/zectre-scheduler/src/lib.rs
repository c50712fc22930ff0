//! Decides what runs where. [`core`] holds the decisions, pure; [`engine`] commits them in batches and then
//! has them carried out by way of [`dispatch`]; [`store`] is all SQL; [`leader`] sees to it that one scheduler
//! at a time decides.

pub mod core;
pub mod dispatch;
pub mod engine;
pub mod error;
pub mod leader;
pub mod metrics;
pub mod order;
pub mod routes;
pub mod service;
pub mod store;
pub mod sync;
pub mod wake;

pub use error::Error;
pub use service::Service;
