//! What every daemon does the same way: listen, shut down, log, measure, authenticate, answer errors.
//!
//! A service is `Service::new(&config)` (connects, loads keys, binds) and `service.run(shutdown)`;
//! [`daemon::main`] makes a program of it. Background work goes through [`tasks::Tasks`], outgoing calls
//! through [`call::Caller`], error answers through [`problem::Failure`].

pub mod auth;
pub mod call;
pub mod daemon;
mod database;
pub mod dice;
pub mod extract;
pub mod forwarded;
pub mod given_ports;
pub mod health;
pub mod key;
pub mod listen;
pub mod listeners;
pub mod log;
pub mod metrics;
pub mod named;
pub mod open_files;
pub mod path;
mod patience;
pub mod problem;
pub mod request_id;
pub mod ring;
pub mod rotation;
pub mod scrap;
pub mod seal;
pub mod server;
pub mod signed_url;
mod store;
pub mod tasks;
pub mod tcp_info;
pub mod token;
