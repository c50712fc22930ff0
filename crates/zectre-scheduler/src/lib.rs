//! Decides what runs where. [`core`] holds the decisions, pure; [`engine`] makes them in batches, [`commit`]
//! saves a batch while the next one is decided, and [`dispatch`] carries out what is saved. [`store`] is all SQL;
//! [`leader`] sees to it that one scheduler at a time decides.

pub mod commit;
pub mod dispatch;
pub mod engine;
pub mod error;
pub mod handle;
pub mod leader;
pub mod metrics;
pub mod order;
pub mod routes;
pub mod service;
pub mod store;
pub mod sync;
pub mod usage;
pub mod wake;

pub use error::Error;
pub use service::Service;
pub use zectre_scheduler_core as core;
