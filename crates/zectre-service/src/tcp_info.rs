//! What the kernel tells of a TCP connection (`TCP_INFO`).

use nix::{
    libc,
    sys::socket::{GetSockOpt, sockopt::GetStruct},
};
use std::os::fd::AsFd;

/// As much of `struct tcp_info` (linux/tcp.h) as is read, which Linux has since 4.1: it only ever grows at its end, and a shorter
/// buffer is filled with its beginning.
const BYTES: usize = BYTES_ACKED + size_of::<u64>();
/// Where `tcpi_state` is,
const STATE: usize = 0;
/// and `tcpi_bytes_acked`.
const BYTES_ACKED: usize = 120;
/// `TCP_CLOSE`.
const CLOSED: u8 = 7;

#[derive(Debug, Clone, Copy)]
struct TcpInfo;

nix::getsockopt_impl!(
    TcpInfo,
    libc::IPPROTO_TCP,
    libc::TCP_INFO,
    [u8; BYTES],
    GetStruct<[u8; BYTES]>
);

/// A connection at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Info {
    /// Nothing comes or goes any more: it was reset.
    pub is_closed: bool,
    /// What the other host has acknowledged of our bytes. (The kernel counts the opening of a connection, too.)
    pub acked: u64,
}

/// Looks at `socket`; `None` where there is nothing to see.
pub fn read(socket: &impl AsFd) -> Option<Info> {
    let info = TcpInfo.get(socket).ok()?;
    let (_, acked) = info.split_last_chunk().expect("it ends with the number");
    Some(Info {
        is_closed: info[STATE] == CLOSED,
        acked: u64::from_ne_bytes(*acked),
    })
}
