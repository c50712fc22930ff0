//! What is decided without I/O and without a clock.

pub mod key_schedule;
pub mod pkce;
pub mod redirect;
pub mod target;
