//! A whole platform for one test: real processes on ports of their own, driven from outside by HTTP and the CLI.
//!
//! [`Daemons`] runs every service as its own program over a database of its own; [`Single`] runs `zectre up` over a
//! data directory of its own; [`Hosts`] spreads the daemons over hosts of a network of its own. All end with the test,
//! and take their tasks with them.

mod aftermath;
mod app;
mod catalog;
mod cli;
mod daemons;
mod gate;
mod hosts;
mod http;
mod ledger;
mod load;
mod needles;
mod network;
mod postgres;
mod process;
mod programs;
mod server_program;
mod settings;
mod single;
mod store;

pub use app::{App, Outcome, archive};
pub use catalog::Catalog;
pub use cli::{Cli, CliOutput};
pub use daemons::{Daemons, SERVICES, tasks_of};
pub use gate::{Gate, Held};
pub use hosts::{CONTROL, DAEMONS, DATABASE, Daemon, Hosts, NODE_LEASE, NODES, STANDBY};
pub use http::{Answer, Http};
pub use ledger::Ledger;
pub use load::{ANSWER_DEADLINE, Failure, Kind, Load, Tally};
pub use needles::{Needles, ProcessWatch, Seen};
pub use network::Network;
pub use postgres::Postgres;
pub use process::{Process, is_alive, processes_with};
pub use programs::{native_program, program, tish_cache};
pub use server_program::server_program;
pub use settings::Settings;
pub use single::{Detached, Single};
