//! Calls to places outside that someone else names: only to public addresses, to the very address that was checked,
//! following nothing, within a deadline and a bound on what is read.

pub(crate) mod address;
pub(crate) mod exchange;
pub(crate) mod get;
pub(crate) mod post;
pub(crate) mod resolve;
pub(crate) mod tls;
