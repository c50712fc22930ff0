//! All SQL of the build worker. It writes builds, their logs, and the artifacts that come out of them.

pub mod artifacts;
pub mod builds;
pub mod logs;
