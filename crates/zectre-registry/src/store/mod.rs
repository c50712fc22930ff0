//! All SQL of the registry. It writes `state`, `size_bytes` and `sha256` of artifacts, once each.

pub mod artifacts;
