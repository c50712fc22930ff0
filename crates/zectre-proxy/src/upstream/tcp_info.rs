//! What the kernel tells of a TCP connection.

pub(super) use zectre_service::tcp_info::read;
