//! Attacks: on the framing of requests and answers, on HTTP/2, on patience and on memory.

mod answers;
mod big;
mod downgrade;
mod floods;
pub(crate) mod frames;
mod http2;
mod http2_cases;
mod malformed;
mod mutations;
mod reading;
mod rig;
mod servers;
mod smuggling;
mod tap;
mod tish;
