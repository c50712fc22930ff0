//! The proxy against a real PostgreSQL, real sockets and origins that answer what a test tells them to.

mod acme;
mod balance;
mod client;
mod errors;
mod grpc;
mod h2c;
mod handover;
mod hostile;
mod identity;
mod introduced;
mod lifecycle;
mod limits;
mod origin;
mod pacing;
mod patience;
mod pebble;
mod process;
mod routing;
mod secure;
mod sockets;
mod streaming;
mod tls;
mod uploads;
mod upstream;
mod wake;
mod world;
