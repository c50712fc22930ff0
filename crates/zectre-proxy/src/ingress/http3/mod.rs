//! HTTP/3: another door to the same ingress, over UDP. [`door`] lets connections in, [`connection`] serves their requests,
//! [`transport`] is QUIC as the library wants it, and [`frames`] what the library is not to see. Nothing is taken before the
//! end of a handshake: what comes earlier (0-RTT) could be sent again by anybody.

mod body;
mod connection;
pub(crate) mod door;
mod frames;
mod line;
pub mod transport;

pub use body::{Body, BodyError};
