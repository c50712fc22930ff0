//! The sockets that listen on one port, asked from the kernel over netlink (`sock_diag`).
//!
//! `/proc/net/tcp` tells the same, but makes the kernel walk a table sized after the machine's memory: 5 ms on one
//! of 24 GiB, most of a wake. This takes some 20 µs.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// The kernel answers within the call that asks; this only bounds a surprise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Room for one part of an answer; the kernel sends parts of at most this size.
const PART_BYTES: usize = 32 << 10;

// From linux/netlink.h, linux/sock_diag.h and linux/inet_diag.h.
const HEADER_BYTES: usize = 16;
const REQUEST_BYTES: usize = HEADER_BYTES + 56;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const REQUEST_DUMP: u16 = 0x301;
const MESSAGE_ERROR: u16 = 2;
const MESSAGE_DONE: u16 = 3;
const TCP: u8 = 6;
const STATE_LISTEN: u8 = 10;
/// Where `inet_diag_msg` has its own address and its inode, counted from its header's start.
const ADDRESS_AT: usize = HEADER_BYTES + 8;
const INODE_AT: usize = HEADER_BYTES + 68;

/// The inodes and addresses of all sockets that listen on `port`.
///
/// # Errors
/// A kernel that was built without `inet_diag`, or that does not answer within a second.
pub fn on(port: u16) -> io::Result<Vec<(u64, IpAddr)>> {
    let mut sockets = Vec::new();
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        dump(family, port, &mut sockets)?;
    }
    Ok(sockets)
}

fn dump(family: AddressFamily, port: u16, sockets: &mut Vec<(u64, IpAddr)>) -> io::Result<()> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        Some(netlink::SOCK_DIAG),
    )?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    send(&kernel, &request(family, port), SendFlags::empty())?;
    let mut part = vec![0; PART_BYTES];
    loop {
        let (_, length) = recv(&kernel, &mut part[..], RecvFlags::empty())?;
        if length == 0 || read_part(&part[..length], sockets)? {
            return Ok(());
        }
    }
}

fn request(family: AddressFamily, port: u16) -> [u8; REQUEST_BYTES] {
    let mut request = [0; REQUEST_BYTES];
    request[0..4].copy_from_slice(&(REQUEST_BYTES as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request[6..8].copy_from_slice(&REQUEST_DUMP.to_ne_bytes());
    request[16] = family.as_raw() as u8;
    request[17] = TCP;
    request[20..24].copy_from_slice(&(1_u32 << STATE_LISTEN).to_ne_bytes());
    // The port is in network order, as everything in a socket's identity.
    request[24..26].copy_from_slice(&port.to_be_bytes());
    request
}

/// Whether the answer is complete.
fn read_part(mut part: &[u8], sockets: &mut Vec<(u64, IpAddr)>) -> io::Result<bool> {
    while part.len() >= HEADER_BYTES {
        let length = u32_at(part, 0) as usize;
        if length < HEADER_BYTES || length > part.len() {
            return Err(io::Error::other("netlink: a torn message"));
        }
        match u16::from_ne_bytes([part[4], part[5]]) {
            MESSAGE_DONE => return Ok(true),
            MESSAGE_ERROR if length >= HEADER_BYTES + 4 => {
                let code = i32::from_ne_bytes(u32_at(part, HEADER_BYTES).to_ne_bytes());
                return Err(io::Error::from_raw_os_error(-code));
            }
            SOCK_DIAG_BY_FAMILY if length >= INODE_AT + 4 => {
                sockets.push((u32_at(part, INODE_AT).into(), address(part)));
            }
            _ => {}
        }
        // Messages are padded to four bytes.
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// The own address of a whole `inet_diag_msg`, which begins with its family.
fn address(message: &[u8]) -> IpAddr {
    let mut octets = [0; 16];
    octets.copy_from_slice(&message[ADDRESS_AT..ADDRESS_AT + 16]);
    if u16::from(message[HEADER_BYTES]) == AddressFamily::INET6.as_raw() {
        Ipv6Addr::from(octets).into()
    } else {
        Ipv4Addr::new(octets[0], octets[1], octets[2], octets[3]).into()
    }
}

/// The caller has checked that it is there.
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::fstat;
    use std::net::TcpListener;

    #[test]
    fn sockets_are_found_by_port() {
        for own in ["127.0.0.1", "::1"] {
            let held = TcpListener::bind((own, 0)).expect("a free port");
            let address = held.local_addr().expect("bound");
            let inode = fstat(&held).expect("it is open").st_ino;
            let found = on(address.port()).expect("the kernel answers");
            assert!(found.contains(&(inode, address.ip())), "{inode} in {found:?}");
            drop(held);
            // Another test may have the port by now, with a socket of its own.
            let left = on(address.port()).expect("the kernel answers");
            assert!(left.iter().all(|(left, _)| *left != inode), "{inode} in {left:?}");
        }
    }

    #[test]
    fn torn_messages_are_refused() {
        let mut part = [0; 24];
        part[0..4].copy_from_slice(&99_u32.to_ne_bytes());
        assert!(read_part(&part, &mut Vec::new()).is_err());
        part[0..4].copy_from_slice(&3_u32.to_ne_bytes());
        assert!(read_part(&part, &mut Vec::new()).is_err());
    }
}
