//! What this machine is and has: its name, its size, and the address others reach it at.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, ToSocketAddrs, UdpSocket},
};
use zectre_common::{
    config::AgentConfig,
    quantity::{CpuMillis, MemoryBytes},
    wire::node::Capacity,
};

/// The name of the node: configured, else the host's.
pub(crate) fn name(config: &AgentConfig) -> String {
    if !config.name.is_empty() {
        return config.name.clone();
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if host.trim().is_empty() {
        "node".into()
    } else {
        host.trim().into()
    }
}

/// What the node offers: configured, else all the machine has.
pub(crate) fn capacity(config: &AgentConfig) -> Capacity {
    let cpu = match config.cpu_millis {
        0 => std::thread::available_parallelism().map_or(1_000, |cores| cores.get() as u32 * 1_000),
        millis => millis,
    };
    let memory = match config.memory_bytes {
        0 => memory_total(&fs::read_to_string("/proc/meminfo").unwrap_or_default()).unwrap_or(1 << 30),
        bytes => bytes,
    };
    Capacity {
        cpu: CpuMillis(cpu),
        memory: MemoryBytes(memory),
        task_slots: config.task_slots,
    }
}

fn memory_total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim()
        .strip_suffix("kB")?
        .trim()
        .parse::<u64>()
        .ok()
        .map(|kib| kib * 1_024)
}

/// The address at which this machine talks to the scheduler: what the kernel would send from. Loopback when the
/// scheduler is on this machine. Nothing is sent.
pub(crate) fn address(scheduler_url: &str) -> io::Result<IpAddr> {
    let url = reqwest::Url::parse(scheduler_url)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
    let host = url
        .host_str()
        .unwrap_or("127.0.0.1")
        .trim_matches(['[', ']'])
        .to_owned();
    let port = url.port_or_known_default().unwrap_or(80);
    let mut targets = (host.as_str(), port).to_socket_addrs()?;
    let target = targets
        .next()
        .ok_or_else(|| io::Error::other("the name of the scheduler has no address"))?;
    if target.ip().is_loopback() {
        return Ok(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    let any: IpAddr = if target.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        std::net::Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_is_read() {
        assert_eq!(
            memory_total("MemTotal:       24684000 kB\nMemFree: 1 kB\n"),
            Some(24_684_000 * 1_024)
        );
        assert_eq!(memory_total("nonsense"), None);
    }

    #[test]
    fn a_local_scheduler_is_reached_over_loopback() {
        for url in ["http://127.0.0.1:47091", "http://localhost:1", "http://[::1]:1"] {
            assert_eq!(
                address(url).expect("an address"),
                IpAddr::V4(Ipv4Addr::LOCALHOST),
                "{url}"
            );
        }
        assert!(address("not a url").is_err());
    }
}
