//! Who has a port: a listener, or an outgoing connection. The default ports lie in the range from which the system
//! gives connections theirs, so any program may have one by accident.

use super::process::Process;
use crate::shell::word;
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
};

/// The ports of config/default.toml lie between these.
const DEFAULT_PORTS: RangeInclusive<u16> = 47_000..=47_100;

/// A TCP socket of this machine that has a local port.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Socket {
    inode: u64,
    /// Where it leads; none for one that listens.
    peer: Option<SocketAddr>,
}

/// Who has a port, in words, and what makes it free.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: String,
    /// Without a full stop.
    pub(super) remedy: String,
    /// What keeps it from happening again: empty, or a sentence with a space before it.
    pub(super) prevention: String,
    /// It is a connection, or what the kernel keeps of one: the port is free again by itself.
    pub(super) passes: bool,
}

/// Whoever has `port`, as far as we may see it.
pub(super) fn of_port(port: u16) -> Holder {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let text: String = tables
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .collect();
    let Some(socket) = socket(&text, port) else {
        if let Some(peer) = ended(&text, port) {
            return Holder {
                name: format!("an outgoing connection to {peer} that has just ended"),
                remedy: "The kernel keeps its port for up to a minute: try again then".into(),
                prevention: prevention(port),
                passes: true,
            };
        }
        return Holder {
            // Whoever listens is in the table: it has ended a moment ago, or is bound and deaf.
            name: "something that does not listen on it".into(),
            remedy: "It is a program that has just taken it, or what is left of one that had it: try again in a moment".into(),
            prevention: prevention(port),
            passes: true,
        };
    };
    let process = process_with(socket.inode);
    let name = process.map_or_else(
        || "a program of another user".into(),
        |process| format!("{} (pid {})", name_of(process), process.pid),
    );
    match (socket.peer, process) {
        (Some(peer), _) => Holder {
            name: format!("an outgoing connection of {name} to {peer}"),
            remedy: "It is free again when that connection ends: try again in a moment".into(),
            prevention: prevention(port),
            passes: true,
        },
        (None, Some(process)) if is_up(process) => {
            let place = data_dir_of(process)
                .map(|path| format!(" --data-dir {}", word(&path)))
                .unwrap_or_default();
            Holder {
                name: format!("an earlier `zectre up` (pid {})", process.pid),
                remedy: format!("Stop it with `zectre down{place}`"),
                prevention: String::new(),
                passes: false,
            }
        }
        (None, _) => Holder {
            name,
            remedy: "Stop what holds it".into(),
            prevention: String::new(),
            passes: false,
        },
    }
}

fn prevention(port: u16) -> String {
    let ports = if DEFAULT_PORTS.contains(&port) {
        format!("{}-{}", DEFAULT_PORTS.start(), DEFAULT_PORTS.end())
    } else {
        port.to_string()
    };
    format!(
        " `sysctl -w net.ipv4.ip_local_reserved_ports={ports}` keeps the system from giving it to connections."
    )
}

/// Nobody's any more: the inode of such a socket is 0.
const TIME_WAIT: &str = "06";

/// Where the connection led that had `port` and has ended, in the same text.
fn ended(table: &str, port: u16) -> Option<SocketAddr> {
    table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, TIME_WAIT, ..] = fields[..] else {
            return None;
        };
        address(local).filter(|local| local.port() == port)?;
        address(remote)
    })
}

/// The socket that has `port`, in the text of `/proc/net/tcp` (proc(5): local address, remote address, state, field
/// 10 is the inode); one that listens before one that is connected.
fn socket(table: &str, port: u16) -> Option<Socket> {
    const LISTEN: &str = "0A";
    let mut connected = None;
    for line in table.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields[..] else {
            continue;
        };
        if state == TIME_WAIT || address(local).is_none_or(|local| local.port() != port) {
            continue;
        }
        let Ok(inode) = inode.parse() else { continue };
        if state == LISTEN {
            return Some(Socket { inode, peer: None });
        }
        connected = connected.or(Some(Socket {
            inode,
            peer: address(remote),
        }));
    }
    connected
}

/// `0100007F:1F90`: the address in words of the machine's byte order, the port in plain hexadecimal digits.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let words: Option<Vec<[u8; 4]>> = (0..ip.len() / 8)
        .map(|word| {
            let digits = ip.get(word * 8..word * 8 + 8)?;
            u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
        })
        .collect();
    let ip = match words?.as_slice() {
        [word] => IpAddr::V4(Ipv4Addr::from(*word)),
        words => {
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
        }
    };
    Some(SocketAddr::new(ip, port))
}

/// The process that has a socket open, where we may see it.
fn process_with(inode: u64) -> Option<Process> {
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let processes = fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(Process::of)
        .find(|process| process.open_files().contains(&socket))
}

fn name_of(process: Process) -> String {
    let name = fs::read_to_string(format!("/proc/{}/comm", process.pid)).unwrap_or_default();
    name.trim().to_owned()
}

/// Whether it is a platform of ours.
fn is_up(process: Process) -> bool {
    let words = process.command_line();
    let is_zectre = words.first().is_some_and(|program| program.ends_with("zectre"));
    is_zectre && words.iter().any(|word| word == "up")
}

/// The directory whose lock it holds.
fn data_dir_of(process: Process) -> Option<PathBuf> {
    let files = process.open_files();
    let lock = files.iter().find(|path| path.ends_with("lock"))?;
    let directory = lock.parent()?;
    directory.join("zectre.json").is_file().then(|| directory.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:B7E8 0100007F:01BB 06 00000000:00000000 03:00000f2e 00000000     0        0 0 3 0000000000000000
   1: 0100007F:B7E8 08080808:01BB 01 00000000:00000000 02:000009f4 00000000     0        0 4711 2 0000000000000000 20 4 30 10 -1
   2: 00000000:B7E9 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1 0000000000000000 100 0 0 10 0
   3: 0100007F:B7E9 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 4713 1 0000000000000000 20 0 0 10 -1
";

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_goes_before_a_connection_and_a_connection_is_told_with_its_end() {
        let connection = socket(TABLE, 47080).expect("connected");
        assert_eq!(
            (connection.inode, connection.peer),
            (4711, "8.8.8.8:443".parse().ok())
        );
        let listener = socket(TABLE, 47081).expect("listening");
        assert_eq!((listener.inode, listener.peer), (4712, None));
        assert_eq!(socket(TABLE, 47082), None);
        assert_eq!(ended(TABLE, 47080), "127.0.0.1:443".parse().ok());
        assert_eq!(ended(TABLE, 47081), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn addresses_of_both_families_are_read() {
        let parsed = |text: &str| address(text).map(|address| address.to_string());
        assert_eq!(parsed("0100007F:1F90").as_deref(), Some("127.0.0.1:8080"));
        let mapped = "0000000000000000FFFF00000100007F:1F90";
        assert_eq!(parsed(mapped).as_deref(), Some("127.0.0.1:8080"));
        let local = "00000000000000000000000001000000:0050";
        assert_eq!(parsed(local).as_deref(), Some("[::1]:80"));
        assert_eq!(parsed("no address"), None);
    }
}
