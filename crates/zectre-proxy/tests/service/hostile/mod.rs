//! Attacks: on the framing of requests and answers, on HTTP/2, on patience and on memory.

mod malformed;
mod mutations;
mod reading;
mod rig;
mod servers;
mod smuggling;
mod tap;
