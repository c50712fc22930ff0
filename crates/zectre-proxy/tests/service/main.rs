//! The proxy against a real PostgreSQL, real sockets and origins that answer what a test tells them to.

mod balance;
mod client;
mod errors;
mod hostile;
mod lifecycle;
mod origin;
mod pacing;
mod routing;
mod secure;
mod streaming;
mod tls;
mod upstream;
mod wake;
mod world;
