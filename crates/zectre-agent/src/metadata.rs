//! Keeps tasks from the addresses at which clouds hand out a machine's credentials.
//!
//! Routing rules: for native tasks by the users they run as, for containers by the bridge their packets come from. The
//! node itself, its agent, and containers in networks of their own go on as before. The rules stay when the agent ends,
//! as its tasks do; they are the same at every start, so none is ever there twice. Where a cloud's resolver has such an
//! address too, tasks may still ask it for names.

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
    sockopt::{Timeout, set_socket_timeout},
};
use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::RangeInclusive,
    time::Duration,
};

/// The kernel answers within the call that asks; this only bounds a surprise.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
const ANSWER_BYTES: usize = 4 << 10;

/// The network that the engines put a container into when nobody says otherwise, and ours are always in it. A rule for
/// an interface that isn't there (yet) waits for it.
const BRIDGES: [&str; 2] = ["docker0", "podman0"];

/// Network, prefix length, whose.
const NETWORKS: [(IpAddr, u8); 7] = [
    // Link-local: AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack and most others.
    (IpAddr::V4(Ipv4Addr::new(169, 254, 0, 0)), 16),
    // Azure's platform server.
    (IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
    // Alibaba.
    (IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)), 32),
    // AWS.
    (
        IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
        128,
    ),
    // OpenStack's address of version 6, link-local too.
    (
        IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe)),
        128,
    ),
    // Scaleway.
    (IpAddr::V6(Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42)), 128),
    // Google.
    (IpAddr::V6(Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)), 128),
];

/// Right behind the machine's own addresses (0), before whatever an operator or a VPN adds.
const REFUSE_PRIORITY: u32 = 60;
/// Before those that refuse.
const RESOLVE_PRIORITY: u32 = 59;
const NAME_PORT: u16 = 53;

// From linux/netlink.h, linux/rtnetlink.h and linux/fib_rules.h.
const HEADER_BYTES: usize = 16;
const NEW_RULE: u16 = 32;
/// A request, to be acknowledged, that makes a new rule.
const MAKE: u16 = 0x1 | 0x4 | 0x200 | 0x400;
const MESSAGE_ERROR: u16 = 2;
const ACTION_LOOKUP: u8 = 1;
const ACTION_PROHIBIT: u8 = 8;
const TABLE_MAIN: u8 = 254;
const DESTINATION: u16 = 1;
const PRIORITY: u16 = 6;
const INPUT_INTERFACE: u16 = 3;
const UID_RANGE: u16 = 20;
const PORT_RANGE: u16 = 24;

/// Whose packets a rule is about.
#[derive(Debug, Clone, Copy)]
enum Whose<'a> {
    /// Those that these users send.
    Users(&'a RangeInclusive<u32>),
    /// Those that come from this interface.
    Bridge(&'a str),
}

/// A routing rule, for whomever it is made.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    network: (IpAddr, u8),
    /// Asking for names stays allowed; everything else is refused.
    resolves: bool,
}

/// Makes the rules for native tasks, which run as these users. `resolver` is the text of `resolv.conf`.
pub(crate) fn refuse_users(uids: &RangeInclusive<u32>, resolver: &str) -> io::Result<()> {
    refuse(&[Whose::Users(uids)], resolver)
}

/// Makes the rules for containers. `resolver` is the text of `resolv.conf`.
pub(crate) fn refuse_containers(resolver: &str) -> io::Result<()> {
    refuse(&BRIDGES.map(Whose::Bridge), resolver)
}

fn refuse(whose: &[Whose<'_>], resolver: &str) -> io::Result<()> {
    let kernel = socket_with(
        AddressFamily::NETLINK,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        // Routing is protocol 0, the default.
        None,
    )?;
    set_socket_timeout(&kernel, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    let rules = rules(resolver);
    for (whose, rule) in whose
        .iter()
        .flat_map(|whose| rules.iter().map(move |rule| (*whose, rule)))
    {
        send(&kernel, &request(rule, whose), SendFlags::empty())?;
        let mut answer = [0; ANSWER_BYTES];
        let (_, length) = recv(&kernel, &mut answer[..], RecvFlags::empty())?;
        match read(&answer[..length]) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            // A kernel without IPv6 reaches none of its addresses either.
            Err(_) if rule.network.0.is_ipv6() && !has_ipv6() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn has_ipv6() -> bool {
    std::path::Path::new("/proc/net/if_inet6").exists()
}

fn rules(resolver: &str) -> Vec<Rule> {
    let refused = NETWORKS.map(|network| Rule {
        network,
        resolves: false,
    });
    let servers = resolver.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let server: IpAddr = (words.next()? == "nameserver")
            .then(|| words.next())??
            .parse()
            .ok()?;
        Some(server)
    });
    let is_refused = |server: &IpAddr| NETWORKS.iter().any(|network| contains(*network, *server));
    let asked = servers.filter(is_refused).map(|server| Rule {
        network: (server, if server.is_ipv4() { 32 } else { 128 }),
        resolves: true,
    });
    asked.chain(refused).collect()
}

fn contains((network, prefix): (IpAddr, u8), address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            let shift = 32 - u32::from(prefix);
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            let shift = 128 - u32::from(prefix);
            (network.to_bits() ^ address.to_bits())
                .checked_shr(shift)
                .unwrap_or(0)
                == 0
        }
        _ => false,
    }
}

fn request(rule: &Rule, whose: Whose<'_>) -> Vec<u8> {
    let (network, prefix) = rule.network;
    let (family, destination) = match network {
        IpAddr::V4(address) => (AddressFamily::INET, address.octets().to_vec()),
        IpAddr::V6(address) => (AddressFamily::INET6, address.octets().to_vec()),
    };
    let (table, action, priority) = if rule.resolves {
        (TABLE_MAIN, ACTION_LOOKUP, RESOLVE_PRIORITY)
    } else {
        (0, ACTION_PROHIBIT, REFUSE_PRIORITY)
    };
    let mut request = vec![0; HEADER_BYTES];
    request[4..6].copy_from_slice(&NEW_RULE.to_ne_bytes());
    request[6..8].copy_from_slice(&MAKE.to_ne_bytes());
    request.extend([
        family.as_raw() as u8,
        prefix,
        0,
        0,
        table,
        0,
        0,
        action,
        0,
        0,
        0,
        0,
    ]);
    attribute(&mut request, DESTINATION, &destination);
    attribute(&mut request, PRIORITY, &priority.to_ne_bytes());
    match whose {
        Whose::Users(uids) => {
            let range = [uids.start().to_ne_bytes(), uids.end().to_ne_bytes()].concat();
            attribute(&mut request, UID_RANGE, &range);
        }
        Whose::Bridge(name) => attribute(&mut request, INPUT_INTERFACE, &[name.as_bytes(), &[0]].concat()),
    }
    if rule.resolves {
        let port = NAME_PORT.to_ne_bytes();
        attribute(&mut request, PORT_RANGE, &[port, port].concat());
    }
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request
}

fn attribute(request: &mut Vec<u8>, kind: u16, value: &[u8]) {
    request.extend((value.len() as u16 + 4).to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(value);
    request.resize(request.len().next_multiple_of(4), 0);
}

fn read(answer: &[u8]) -> io::Result<()> {
    let (Some(kind), Some(code)) = (answer.get(4..6), answer.get(HEADER_BYTES..HEADER_BYTES + 4)) else {
        return Err(io::Error::other("netlink: a torn message"));
    };
    let code = i32::from_ne_bytes([code[0], code[1], code[2], code[3]]);
    match (u16::from_ne_bytes([kind[0], kind[1]]), code) {
        (MESSAGE_ERROR, 0) => Ok(()),
        (MESSAGE_ERROR, code) => Err(io::Error::from_raw_os_error(-code)),
        _ => Err(io::Error::other("netlink: not an answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resolver_among_them_may_still_be_asked_for_names() {
        let refused = rules("nameserver 10.0.0.2\nsearch here\n");
        assert_eq!(refused.len(), NETWORKS.len());
        assert!(refused.iter().all(|rule| !rule.resolves));
        let with = rules("# comment\nnameserver 169.254.169.254\nnameserver fe80::1%eth0\nnameserver\n");
        assert_eq!(
            with[0],
            Rule {
                network: (IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)), 32),
                resolves: true
            }
        );
        assert_eq!(with.len(), NETWORKS.len() + 1);
    }

    #[test]
    fn networks_contain_their_addresses_only() {
        let is_in = |address: &str| {
            let address = address.parse().expect("an address");
            NETWORKS.iter().any(|network| contains(*network, address))
        };
        for address in [
            "169.254.0.1",
            "169.254.255.255",
            "168.63.129.16",
            "fd00:ec2::254",
            "fd00:42::42",
            "fe80::a9fe:a9fe",
        ] {
            assert!(is_in(address), "{address}");
        }
        for address in [
            "169.253.255.255",
            "168.63.129.17",
            "10.0.0.1",
            "fd00:ec2::253",
            "::1",
        ] {
            assert!(!is_in(address), "{address}");
        }
    }

    #[test]
    fn answers_are_read() {
        let mut answer = [0; 20];
        answer[4..6].copy_from_slice(&MESSAGE_ERROR.to_ne_bytes());
        assert!(read(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-17_i32).to_ne_bytes());
        let error = read(&answer).expect_err("an error");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert!(read(&answer[..10]).is_err());
    }
}
