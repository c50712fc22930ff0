//! What changes with every request, kept across swaps of the routing table: requests under way per
//! task, activity per deployment, and what a wake answered before the table knew.

mod budget;
mod ledger;
mod lull;
mod node;
mod pace;
pub mod red;
mod replica;
mod route;
mod suspicion;
mod traffic;

pub use budget::Budget;
pub use ledger::{Acknowledgement, Backend, Backends, Bounds, Kept, Ledger, Shift, Tally};
pub use lull::Lull;
pub use node::Node;
pub use pace::{Opening, Pace, Turn};
pub use replica::{EJECT_MS, Lease, Replica, SLOW_START_STEPS};
pub use route::{Route, RouteName};
pub use traffic::{Activity, Held, Traffic, Visit, Woken};
pub use zectre_service::dice::roll;
