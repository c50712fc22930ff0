//! Ports are taken before anything starts, and kept until the services listen on them: one that somebody else has is found
//! at once, with who has it.

use super::{error::UpError, holder};
use std::{
    io::{self, ErrorKind},
    net::{SocketAddr, ToSocketAddrs},
    time::Duration,
};
use tokio::{net::TcpSocket, time::Instant};
use zectre_common::config::Config;
use zectre_service::listen::{self, LISTENER_TIMEOUT, PASSING_TIMEOUT};

/// How often it is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

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

/// Ports that are kept for the services until they listen on them. Bound and deaf, they are given neither to another
/// program nor, by the system, to a connection: to a client that goes on asking for a platform that is away, say, which gets its
/// own question for an answer once the system gives it the very port that it asks at.
#[derive(Debug)]
pub(super) struct Reserved(#[expect(dead_code, reason = "held for its drop")] Vec<TcpSocket>);

/// Takes all ports. One that a connection has is waited for; one on which somebody listens is refused. `say` is told what is
/// waited for.
pub(super) async fn reserve(config: &Config, say: impl FnMut(String)) -> Result<Reserved, UpError> {
    for (_, _, port, _) in wanted(config) {
        listen::keep(port).await;
    }
    reserve_within(PASSING_TIMEOUT, config, say).await
}

async fn reserve_within(
    passing_timeout: Duration,
    config: &Config,
    mut say: impl FnMut(String),
) -> Result<Reserved, UpError> {
    let began = Instant::now();
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    let (mut missing, mut held) = (wanted(config), Vec::new());
    loop {
        ticks.tick().await;
        missing.retain(|(_, host, port, _)| match hold(host, *port) {
            Ok(socket) => {
                held.extend(socket);
                false
            }
            Err(_in_use) => true,
        });
        if missing.is_empty() {
            return Ok(Reserved(held));
        }
        for &(service, _, port, variable) in &missing {
            let holder = holder::of_port(port);
            let patience = if holder.passes {
                let secs = passing_timeout.as_secs();
                say(format!(
                    "Waiting up to {secs} s for port {port} ({service}), which is still that of {}",
                    holder.name
                ));
                passing_timeout
            } else {
                LISTENER_TIMEOUT
            };
            if began.elapsed() >= patience {
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
    }
}

/// The port, or that it is in use. Other trouble (a host name that doesn't resolve) is the service's to tell.
fn hold(host: &str, port: u16) -> io::Result<Option<TcpSocket>> {
    let Ok(addresses) = (host, port).to_socket_addrs() else {
        return Ok(None);
    };
    let mut in_use = None;
    // The system chooses one when the service asks.
    for address in addresses.filter(|address| address.port() != 0) {
        match bind(address) {
            Ok(socket) => return Ok(Some(socket)),
            Err(error) if error.kind() == ErrorKind::AddrInUse => in_use = Some(error),
            Err(_) => {}
        }
    }
    in_use.map_or(Ok(None), Err)
}

fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    // The service's own socket is bound beside it.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use tokio::io::AsyncReadExt as _;

    const LOCALHOST: &str = "127.0.0.1";
    /// One that nobody else on this machine has connections from: what they leave would be waited for, too.
    const OWN: &str = "127.86.0.2";

    /// A configuration whose build port is the only fixed one.
    fn with_build_port(host: &str, port: u16) -> Config {
        let text = format!(
            "[build]\nhost = \"{host}\"\nport = {port}\n[api]\nport = 0\n[scheduler]\nport = 0\n[agent]\nport = 0\n[registry]\nport = 0\n[proxy]\nport = 0\nadmin_port = 0"
        );
        Config::load_with(None, &text).expect("valid")
    }

    #[tokio::test]
    async fn a_taken_port_is_told_with_its_holder_and_the_way_around() {
        // None of those that the kernel gives to whoever connects somewhere meanwhile.
        let port = zectre_testkit::free_port();
        let taken = TcpListener::bind(("127.0.0.1", port)).expect("a free port");
        let config = with_build_port(LOCALHOST, port);
        let error = reserve(&config, |_| ()).await.expect_err("taken").to_string();
        assert!(
            error.contains(&format!("port {port} (build) is taken by")),
            "{error}"
        );
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        assert!(error.contains("ZECTRE__BUILD__PORT"), "{error}");
        drop(taken);
        reserve(&config, |_| ()).await.expect("free again");
    }

    #[tokio::test]
    async fn a_port_that_an_outgoing_connection_has_is_waited_for_and_told_as_one() {
        let server = TcpListener::bind((LOCALHOST, 0)).expect("a free port");
        let far = server.local_addr().expect("bound");
        let socket = TcpSocket::new_v4().expect("a socket");
        let own: SocketAddr = format!("{OWN}:0").parse().expect("an address");
        socket.bind(own).expect("a free port");
        let mut connection = socket.connect(far).await.expect("it listens");
        let port = connection.local_addr().expect("connected").port();
        let config = with_build_port(OWN, port);
        let mut said = Vec::new();
        let patience = Duration::from_millis(200);
        let refused = reserve_within(patience, &config, |word| said.push(word)).await;
        let error = refused.expect_err("taken").to_string();
        for part in [
            "an outgoing connection of",
            format!("(pid {}) to {far}", std::process::id()).as_str(),
            format!("ip_local_reserved_ports={port}").as_str(),
            "try again",
        ] {
            assert!(error.contains(part), "{part} in: {error}");
        }
        assert!(said[0].contains(&format!("for port {port} (build)")), "{said:?}");

        let (say, mut said) = tokio::sync::mpsc::unbounded_channel();
        let waited = reserve_within(PASSING_TIMEOUT, &config, |word| {
            say.send(word).expect("it is heard");
        });
        let accepted = server.accept().expect("it came");
        let ends = async {
            said.recv().await.expect("it is waited for");
            drop(accepted);
            // Once it has heard that the other side closed first, nothing of it stays with this one.
            assert_eq!(connection.read(&mut [0]).await.expect("it was closed"), 0);
            drop(connection);
        };
        let (waited, ()) = tokio::join!(waited, ends);
        waited.expect("it has become free");
    }

    #[tokio::test]
    async fn what_is_reserved_is_the_services_and_nobody_elses() {
        let port = zectre_testkit::free_port();
        let reserved = reserve(&with_build_port(LOCALHOST, port), |_| ())
            .await
            .expect("free");
        let other = TcpSocket::new_v4().expect("a socket");
        other.set_reuseaddr(false).expect("an option");
        let refused = other.bind(SocketAddr::from(([127, 0, 0, 1], port)));
        assert_eq!(refused.map_err(|error| error.kind()), Err(ErrorKind::AddrInUse));
        let service = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
        let service = service.expect("it is kept for it");
        drop(reserved);
        let (client, served) = tokio::join!(
            tokio::net::TcpStream::connect(("127.0.0.1", port)),
            service.accept()
        );
        assert!(client.is_ok() && served.is_ok());
    }
}
