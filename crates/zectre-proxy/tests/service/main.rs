//! The proxy against a real PostgreSQL, real sockets and origins that answer what a test tells them to.

mod access_log;
mod acme;
mod affinity;
mod balance;
mod certificates;
mod client;
mod dead;
mod down;
mod errors;
mod grpc;
mod h2c;
mod handover;
mod heads;
mod hostile;
#[cfg(feature = "http3")]
mod http3;
#[cfg(feature = "http3")]
mod http3_crowds;
#[cfg(feature = "http3")]
mod http3_ends;
#[cfg(feature = "http3")]
mod http3_refused;
mod identity;
mod introduced;
mod leader;
mod lifecycle;
mod limits;
mod metrics;
mod once;
mod origin;
mod pacing;
mod patience;
mod pebble;
mod process;
mod program;
mod refused;
mod routing;
mod secure;
mod shares;
mod sockets;
mod stale;
mod streaming;
mod tcp;
mod tls;
mod tls_offered;
mod trace;
mod unsent;
mod untaken;
mod uploads;
mod upstream;
mod wake;
mod world;
