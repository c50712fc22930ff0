//! Whether a port is free, and whose it is once something listens on it.
//!
//! A Tish server listens with `SO_REUSEPORT`: two tasks given one port would share its traffic without any
//! error. So a port is checked before the start, and its listeners are looked up after it.

mod range;

pub(crate) use range::overlap;

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};
use zectre_service::listeners;

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Whether nothing listens on the port, on any address. Asked, not tried: a socket of ours on it would be shared for a
/// moment with whatever process the agent is just starting, and the task's own program would find its port taken.
pub(crate) fn is_free(port: u16) -> bool {
    sockets_on(port).is_empty()
}

/// The listening sockets of a port, by inode, with their addresses.
fn sockets_on(port: u16) -> HashMap<u64, IpAddr> {
    match listeners::on(port) {
        Ok(sockets) => sockets.into_iter().collect(),
        // A kernel built without it still has the slow way.
        Err(_) => from_proc(port),
    }
}

/// Who holds a port, for people: a process and what it is called. `None` when nobody listens any more, or it is
/// somebody in another network's or container's process space.
pub(crate) fn holder(port: u16) -> Option<String> {
    let sockets = sockets_on(port);
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| sockets_of(*pid).iter().any(|socket| sockets.contains_key(socket)))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid}, `{}`", name.trim()))
}

/// Who listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The processes asked about, and nobody else.
    Ours,
    /// The same, but only on addresses that other nodes can't reach.
    Unreachable,
    /// Also, or only, somebody else.
    Foreign,
    /// Nobody.
    Nobody,
}

/// Who listens on `port`, given the task's processes and the address that others know this node by.
pub(crate) fn listener(port: u16, node: &str, pids: impl FnOnce() -> Vec<i32>) -> Listener {
    let mut sockets = sockets_on(port);
    if sockets.is_empty() {
        return Listener::Nobody;
    }
    let is_reachable = sockets.values().any(|address| is_reached(*address, node));
    // Asked after the sockets: a worker that was forked meanwhile has its socket from before.
    for pid in pids() {
        for socket in sockets_of(pid) {
            sockets.remove(&socket);
        }
    }
    if !sockets.is_empty() {
        Listener::Foreign
    } else if is_reachable {
        Listener::Ours
    } else {
        Listener::Unreachable
    }
}

/// Whether a socket that listens on `address` hears those who connect to `node`.
fn is_reached(address: IpAddr, node: &str) -> bool {
    let address = address.to_canonical();
    match node.parse::<IpAddr>().map(|node| node.to_canonical()) {
        // Everybody who connects is on this very machine, and any of its own addresses will do.
        Ok(node) if node.is_loopback() => true,
        // A wildcard of version 6 hears version 4 too, unless its program asked for less.
        Ok(node) => address == node || address.is_unspecified() && (address.is_ipv6() || node.is_ipv4()),
        // A name can stand for any of the machine's addresses but these.
        Err(_) => !address.is_loopback(),
    }
}

fn from_proc(port: u16) -> HashMap<u64, IpAddr> {
    // A kernel without IPv6 has no second table.
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| listening(table, port)).collect()
}

/// The inodes and addresses of the sockets in a table of `/proc` that listen on `port`.
fn listening(table: &str, port: u16) -> Vec<(u64, IpAddr)> {
    let socket = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
        if listens {
            Some((fields.get(9)?.parse().ok()?, address_in(address)?))
        } else {
            None
        }
    };
    table.lines().skip(1).filter_map(socket).collect()
}

/// An address as the tables have it: words of four bytes, each as a number of this machine's.
fn address_in(text: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(text.get(at * 8..at * 8 + 8)?, 16).ok();
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?.to_ne_bytes()).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, part) in octets.chunks_exact_mut(4).enumerate() {
                part.copy_from_slice(&word(at)?.to_ne_bytes());
            }
            Some(Ipv6Addr::from(octets).into())
        }
        _ => None,
    }
}

/// The inodes of a process's sockets.
fn sockets_of(pid: i32) -> Vec<u64> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else {
        return Vec::new();
    };
    let inode = |link: std::path::PathBuf| -> Option<u64> {
        link.to_str()?
            .strip_prefix("socket:[")?
            .strip_suffix(']')?
            .parse()
            .ok()
    };
    entries
        .flatten()
        .filter_map(|entry| inode(fs::read_link(entry.path()).ok()?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        net::TcpListener,
        sync::atomic::{AtomicBool, AtomicU32, Ordering},
    };

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0\n\
            1: 0100007F:4E20 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0\n\
            2: 00000000:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0\n";
        assert_eq!(listening(table, 20_000), [(111, Ipv4Addr::LOCALHOST.into())]);
        assert_eq!(listening(table, 20_001), [(333, Ipv4Addr::UNSPECIFIED.into())]);
        assert!(listening(table, 1).is_empty());
    }

    #[test]
    fn a_listener_is_found_with_its_owner() {
        let port = zectre_testkit::free_port();
        let held = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(!is_free(port));
        let holder = holder(port).expect("it is us");
        assert!(holder.starts_with(&format!("process {me}, `")), "{holder}");
        assert_eq!(listener(port, "127.0.0.1", || vec![me]), Listener::Ours);
        assert_eq!(listener(port, "127.0.0.1", Vec::new), Listener::Foreign);
        assert_eq!(listener(port, "192.0.2.1", || vec![me]), Listener::Unreachable);
        assert_eq!(
            from_proc(port).into_iter().collect::<Vec<_>>(),
            listeners::on(port).expect("answered")
        );
        drop(held);
        assert_eq!(listener(port, "127.0.0.1", || vec![me]), Listener::Nobody);
        let six = TcpListener::bind("[::1]:0").expect("a free port");
        let port = six.local_addr().expect("bound").port();
        assert_eq!(
            from_proc(port).into_values().collect::<Vec<_>>(),
            [IpAddr::from(Ipv6Addr::LOCALHOST)]
        );
    }

    /// One more listener on a port that is shared.
    fn shared(port: u16) -> TcpListener {
        use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
        let kind = (AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC);
        let socket = socket_with(kind.0, kind.1, kind.2, None).expect("a socket");
        sockopt::set_socket_reuseport(&socket, true).expect("an option");
        bind(&socket, &std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).expect("the port is shared");
        listen(&socket, 1).expect("bound");
        socket.into()
    }

    #[test]
    fn a_port_that_is_shared_with_a_stranger_is_foreign() {
        let ours = shared(0);
        let port = ours.local_addr().expect("bound").port();
        let me = i32::try_from(std::process::id()).expect("a pid");
        // It has the socket as its input, and does nothing with it.
        let stranger = std::process::Command::new("sleep")
            .arg("600")
            .stdin(std::os::fd::OwnedFd::from(shared(port)))
            .spawn();
        let mut stranger = stranger.expect("every system has it");
        let its_pid = i32::try_from(stranger.id()).expect("a pid");
        assert_eq!(sockets_on(port).len(), 2);
        let judged =
            [vec![me], vec![its_pid], vec![me, its_pid]].map(|pids| listener(port, "127.0.0.1", || pids));
        stranger.kill().expect("it runs");
        stranger.wait().expect("it ends");
        assert_eq!(judged, [Listener::Foreign, Listener::Foreign, Listener::Ours]);
        assert_eq!(listener(port, "127.0.0.1", || vec![me]), Listener::Ours);
    }

    #[test]
    fn a_look_takes_a_port_from_nobody() {
        // None of those that the kernel gives to whoever connects somewhere meanwhile.
        let port = zectre_testkit::free_port();
        let (looks, stop) = (AtomicU32::new(0), AtomicBool::new(false));
        let (mut binds, mut taken) = (0, None);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    is_free(port);
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
            // Until both have been at it often enough to meet.
            while taken.is_none() && (binds < 2_000 || looks.load(Ordering::Relaxed) < 1_000) {
                taken = TcpListener::bind(("0.0.0.0", port)).err();
                binds += 1;
            }
            stop.store(true, Ordering::Relaxed);
        });
        assert!(taken.is_none(), "{taken:?}");
    }

    #[test]
    fn only_who_listens_for_others_is_reached_by_them() {
        let reached = |address: &str, node: &str| is_reached(address.parse().expect("an address"), node);
        for (address, node) in [
            ("0.0.0.0", "10.0.0.5"),
            ("::", "10.0.0.5"),
            ("::", "2001:db8::5"),
            ("10.0.0.5", "10.0.0.5"),
            ("::ffff:10.0.0.5", "10.0.0.5"),
            ("127.0.0.1", "127.0.0.1"),
            ("0.0.0.0", "node.example.com"),
        ] {
            assert!(reached(address, node), "{address} {node}");
        }
        for (address, node) in [
            ("127.0.0.1", "10.0.0.5"),
            ("::1", "10.0.0.5"),
            ("10.0.0.6", "10.0.0.5"),
            ("0.0.0.0", "2001:db8::5"),
            ("127.0.0.1", "node.example.com"),
        ] {
            assert!(!reached(address, node), "{address} {node}");
        }
    }
}
