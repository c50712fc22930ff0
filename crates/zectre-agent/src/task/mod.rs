//! Tasks on this node: what is held of each ([`board`]), how one lives ([`life`]), and what runs it.

mod adopt;
mod board;
mod container;
mod custody;
mod env;
mod home;
mod life;
mod native;
mod order;
mod output;
mod place;
mod pool;
mod probe;
mod ready;
mod series;
mod spare;
mod stock;
mod supervision;
mod usage;
mod volume;
mod workload;

pub(crate) use adopt::adopt_all;
pub(crate) use board::Board;
pub use board::Killed;
pub(crate) use container::watch_engine;
pub(crate) use home::Home;
pub(crate) use order::{forget, hold_stopped, start};
pub(crate) use place::Places;
pub(crate) use pool::Pool;
pub(crate) use series::Series;
pub(crate) use spare::Spares;
