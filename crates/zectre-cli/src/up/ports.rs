//! Ports are looked at before anything starts: a taken one is found at once, with who has it.

use super::{error::UpError, holder};
use std::{io::ErrorKind, net::TcpListener};
use zectre_common::config::Config;

/// Whose port, where, and what changes it.
fn wanted(config: &Config) -> Vec<(&'static str, &str, u16, &'static str)> {
    let mut wanted = vec![
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
    ];
    if config.proxy.tls.enabled {
        wanted.push((
            "proxy TLS",
            &config.proxy.host,
            config.proxy.tls.port,
            "ZECTRE__PROXY__TLS__PORT",
        ));
    }
    wanted
}

/// Refuses when a port is taken. Other trouble (a host name that doesn't resolve) is the service's to tell.
pub(super) fn check(config: &Config) -> Result<(), UpError> {
    for (service, host, port, variable) in wanted(config) {
        if let Err(error) = TcpListener::bind((host, port))
            && error.kind() == ErrorKind::AddrInUse
        {
            let holder = holder::of_port(port);
            return Err(UpError::PortTaken {
                service,
                port,
                holder: holder.name,
                remedy: holder.remedy,
                variable,
                prevention: holder.prevention,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A configuration whose build port is the only fixed one.
    fn with_build_port(port: u16) -> Config {
        let text = format!(
            "[build]\nport = {port}\n[api]\nport = 0\n[scheduler]\nport = 0\n[agent]\nport = 0\n[registry]\nport = 0\n[proxy]\nport = 0\nadmin_port = 0"
        );
        Config::load_with(None, &text).expect("valid")
    }

    #[test]
    fn a_taken_port_is_told_with_its_holder_and_the_way_around() {
        // None of those that the kernel gives to whoever connects somewhere meanwhile.
        let port = zectre_testkit::free_port();
        let taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let config = with_build_port(port);
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

    #[test]
    fn a_port_that_an_outgoing_connection_has_is_told_as_one() {
        let server = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let far = server.local_addr().expect("bound");
        let connection = std::net::TcpStream::connect(far).expect("it listens");
        let port = connection.local_addr().expect("connected").port();
        let error = check(&with_build_port(port)).expect_err("taken").to_string();
        for part in [
            "an outgoing connection of",
            format!("(pid {}) to {far}", std::process::id()).as_str(),
            format!("ip_local_reserved_ports={port}").as_str(),
            "try again",
        ] {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}
