//! Ports are looked at before anything starts: a taken one is found at once, with who has it.

use super::error::UpError;
use std::{fs, io::ErrorKind, net::TcpListener};
use zectre_common::config::Config;

/// Whose port, where, and what changes it.
fn wanted(config: &Config) -> Vec<(&'static str, &str, u16, &'static str)> {
    vec![
        (
            "api",
            config.api.host.as_str(),
            config.api.port,
            "ZECTRE__API__PORT",
        ),
        (
            "scheduler",
            &config.scheduler.host,
            config.scheduler.port,
            "ZECTRE__SCHEDULER__PORT",
        ),
        (
            "agent",
            &config.agent.host,
            config.agent.port,
            "ZECTRE__AGENT__PORT",
        ),
        (
            "proxy",
            &config.proxy.host,
            config.proxy.port,
            "ZECTRE__PROXY__PORT",
        ),
        (
            "proxy admin",
            &config.proxy.host,
            config.proxy.admin_port,
            "ZECTRE__PROXY__ADMIN_PORT",
        ),
        (
            "registry",
            &config.registry.host,
            config.registry.port,
            "ZECTRE__REGISTRY__PORT",
        ),
        (
            "build",
            &config.build.host,
            config.build.port,
            "ZECTRE__BUILD__PORT",
        ),
    ]
}

/// Refuses when a port is taken. Other trouble (a host name that doesn't resolve) is the service's to tell.
pub(super) fn check(config: &Config) -> Result<(), UpError> {
    for (service, host, port, variable) in wanted(config) {
        if let Err(error) = TcpListener::bind((host, port))
            && error.kind() == ErrorKind::AddrInUse
        {
            let holder = holder(port).map_or_else(String::new, |holder| format!(" by {holder}"));
            return Err(UpError::PortTaken {
                service,
                port,
                holder,
                variable,
            });
        }
    }
    Ok(())
}

/// `name (pid 7)` of the process that listens on `port`, where we may see it.
fn holder(port: u16) -> Option<String> {
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .find_map(|table| listening_inode(table, port))?;
    let socket = format!("socket:[{inode}]");
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = |link: fs::DirEntry| {
            fs::read_link(link.path()).is_ok_and(|target| target.as_os_str() == socket.as_str())
        };
        if descriptors.flatten().any(holds) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            return Some(format!("{} (pid {pid})", name.trim()));
        }
    }
    None
}

/// The inode of the socket that listens on `port` (proc(5): local address, state 0A, field 10).
fn listening_inode(table: &str, port: u16) -> Option<u64> {
    let text = fs::read_to_string(table).ok()?;
    text.lines().skip(1).find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (_, hex_port) = fields.get(1)?.rsplit_once(':')?;
        let matches = u16::from_str_radix(hex_port, 16) == Ok(port) && *fields.get(3)? == "0A";
        matches.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_told_with_its_holder_and_the_way_around() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = taken.local_addr().expect("bound").port();
        let text = format!(
            "[build]\nport = {port}\n[api]\nport = 0\n[scheduler]\nport = 0\n[agent]\nport = 0\n[registry]\nport = 0\n[proxy]\nport = 0\nadmin_port = 0"
        );
        let config = Config::load_with(None, &text).expect("valid");
        let error = check(&config).expect_err("taken").to_string();
        assert!(
            error.contains(&format!("port {port} (build) is taken by")),
            "{error}"
        );
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("ZECTRE__BUILD__PORT"), "{error}");
        drop(taken);
        check(&config).expect("free again");
    }
}
