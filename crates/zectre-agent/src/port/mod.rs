//! Whether a port is free, and whose it is once something listens on it.
//!
//! A Tish server listens with `SO_REUSEPORT`: two tasks given one port would share its traffic without any
//! error. So a port is checked before the start, and its listeners are looked up after it.

mod diag;
mod range;

pub(crate) use range::overlap;

use std::{
    collections::HashSet,
    fs, io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
};

/// The state of a listening socket in `/proc/net/tcp`.
const LISTEN: &str = "0A";

/// Whether nothing listens on the port, on any address. The probe listens without `SO_REUSEPORT`, so it fails
/// also where another sharer would get in.
pub(crate) fn is_free(port: u16) -> bool {
    let taken = |address: SocketAddr| match TcpListener::bind(address) {
        Ok(_) => false,
        Err(error) => matches!(
            error.kind(),
            io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
        ),
    };
    !taken((Ipv4Addr::UNSPECIFIED, port).into()) && !taken((Ipv6Addr::UNSPECIFIED, port).into())
}

/// Who holds a port, for people: a process and what it is called. `None` when nobody listens any more, or it is
/// somebody in another network's or container's process space.
pub(crate) fn holder(port: u16) -> Option<String> {
    let sockets: HashSet<u64> = diag::listening(port).ok()?.into_iter().collect();
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let pid = pids.find(|pid| sockets_of(*pid).iter().any(|socket| sockets.contains(socket)))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("process {pid}, `{}`", name.trim()))
}

/// Who listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    /// The processes asked about, and nobody else.
    Ours,
    /// Also, or only, somebody else.
    Foreign,
    /// Nobody.
    Nobody,
}

/// Who listens on `port`, given the task's processes.
pub(crate) fn listener(port: u16, pids: impl FnOnce() -> Vec<i32>) -> Listener {
    let mut sockets: HashSet<u64> = match diag::listening(port) {
        Ok(inodes) => inodes.into_iter().collect(),
        // A kernel built without it still has the slow way.
        Err(_) => from_proc(port),
    };
    if sockets.is_empty() {
        return Listener::Nobody;
    }
    // Asked after the sockets: a worker that was forked meanwhile has its socket from before.
    for pid in pids() {
        for socket in sockets_of(pid) {
            sockets.remove(&socket);
        }
    }
    if sockets.is_empty() {
        Listener::Ours
    } else {
        Listener::Foreign
    }
}

fn from_proc(port: u16) -> HashSet<u64> {
    // A kernel without IPv6 has no second table.
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|table| fs::read_to_string(table).unwrap_or_default());
    tables.iter().flat_map(|table| listening(table, port)).collect()
}

/// The inodes of the sockets in a table of `/proc` that listen on `port`.
fn listening(table: &str, port: u16) -> Vec<u64> {
    let inode = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == LISTEN && u16::from_str_radix(local_port, 16).ok()? == port;
        if listens {
            fields.get(9)?.parse().ok()
        } else {
            None
        }
    };
    table.lines().skip(1).filter_map(inode).collect()
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

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:4E20 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 111 1 0 100 0\n\
            1: 0100007F:4E20 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 222 1 0 100 0\n\
            2: 00000000:4E21 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 333 1 0 100 0\n";
        assert_eq!(listening(table, 20_000), [111]);
        assert_eq!(listening(table, 20_001), [333]);
        assert!(listening(table, 1).is_empty());
    }

    #[test]
    fn a_listener_is_found_with_its_owner() {
        let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = held.local_addr().expect("bound").port();
        let me = i32::try_from(std::process::id()).expect("a pid");
        assert!(!is_free(port));
        let holder = holder(port).expect("it is us");
        assert!(holder.starts_with(&format!("process {me}, `")), "{holder}");
        assert_eq!(listener(port, || vec![me]), Listener::Ours);
        assert_eq!(listener(port, Vec::new), Listener::Foreign);
        assert_eq!(
            from_proc(port).into_iter().collect::<Vec<_>>(),
            diag::listening(port).expect("answered")
        );
        drop(held);
        assert_eq!(listener(port, || vec![me]), Listener::Nobody);
    }
}
