//! Opening the port of a daemon, and keeping it.

use crate::{given_ports, listeners};
use std::{io, time::Duration};
use tokio::{net::TcpListener, time::Instant};

/// How long a port is waited for that an outgoing connection has: the kernel keeps it for a minute after its end.
pub const PASSING_TIMEOUT: Duration = Duration::from_secs(75);
/// The same where somebody listens on it, who may have been killed a moment ago.
pub const LISTENER_TIMEOUT: Duration = Duration::from_secs(1);
/// How often it is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How often, and how many times at most, a list is tried that somebody else changes.
const KEEP_POLL_INTERVAL: Duration = Duration::from_millis(10);
const KEEP_TRIES_MAX: usize = 50;

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody listens on it.
    #[error("{service} can't listen on {address}: the port is taken. Stop what holds it, or set {key}")]
    Taken {
        /// Which daemon.
        service: &'static str,
        /// Where.
        address: String,
        /// What to set, as an environment variable.
        key: String,
    },
    /// Nobody listens on it, but a connection that goes out from this machine has it, and does not end.
    #[error(
        "{service} can't listen on {address}: the kernel has given the port to an outgoing connection \
         (`ss -tanp 'sport = :{port}'` tells whose). End it, or set {key}; \
         `sysctl -w net.ipv4.ip_local_reserved_ports={port}` keeps it from happening again"
    )]
    Given {
        /// Which daemon.
        service: &'static str,
        /// Where.
        address: String,
        /// Its port.
        port: u16,
        /// What to set, as an environment variable.
        key: String,
    },
    /// Any other reason.
    #[error("{service} can't listen on {address}: {source}")]
    Other {
        /// Which daemon.
        service: &'static str,
        /// Where.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// Opens the listener of `service`; `section` is its part of the configuration (`api`, `proxy`, …). A port that an
/// outgoing connection has is waited for ([`PASSING_TIMEOUT`]), and reserved, so that no connection gets it then, or
/// while the daemon is away.
///
/// # Errors
/// [`BindError`]: after [`LISTENER_TIMEOUT`] where somebody listens on it.
pub async fn bind(
    service: &'static str,
    section: &str,
    host: &str,
    port: u16,
) -> Result<TcpListener, BindError> {
    let key = format!("ZECTRE__{}__PORT", section.to_uppercase());
    bind_with_key(service, &key, host, port).await
}

/// The same for a daemon whose variables are its own: `key` is the one that sets its port.
///
/// # Errors
/// As [`bind`].
pub async fn bind_with_key(
    service: &'static str,
    key: &str,
    host: &str,
    port: u16,
) -> Result<TcpListener, BindError> {
    keep(port).await;
    bind_within(PASSING_TIMEOUT, service, key, host, port).await
}

async fn bind_within(
    passing_timeout: Duration,
    service: &'static str,
    key: &str,
    host: &str,
    port: u16,
) -> Result<TcpListener, BindError> {
    let address = format!("{host}:{port}");
    let (began, mut is_told) = (Instant::now(), false);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let source = match TcpListener::bind(&address).await {
            Ok(listener) => return Ok(listener),
            Err(source) => source,
        };
        if source.kind() != io::ErrorKind::AddrInUse {
            return Err(BindError::Other {
                service,
                address,
                source,
            });
        }
        // Who can't ask tries for as long as it could be a connection.
        let is_listened_on = listeners::on(port).is_ok_and(|sockets| !sockets.is_empty());
        if is_listened_on && began.elapsed() >= LISTENER_TIMEOUT {
            let key = key.to_owned();
            return Err(BindError::Taken {
                service,
                address,
                key,
            });
        }
        if began.elapsed() >= passing_timeout {
            let key = key.to_owned();
            return Err(BindError::Given {
                service,
                address,
                port,
                key,
            });
        }
        if !is_listened_on && !is_told {
            let timeout_secs = passing_timeout.as_secs();
            tracing::warn!(
                address,
                timeout_secs,
                "waits for its port, which an outgoing connection has"
            );
            is_told = true;
        }
    }
}

/// Keeps a port from connections, also of those that come while it is waited for. Best effort: whoever may not waits the longer.
pub async fn keep(port: u16) {
    // A port that the system chose is not asked for again.
    if port == 0 {
        return;
    }
    let mut tries = tokio::time::interval(KEEP_POLL_INTERVAL);
    for _ in 1..KEEP_TRIES_MAX {
        tries.tick().await;
        match given_ports::reserve(port) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return tell(port, done),
        }
    }
    tell(port, given_ports::reserve(port));
}

fn tell(port: u16, done: io::Result<bool>) {
    use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    match done {
        Ok(true) => tracing::info!(
            port,
            "reserved: the system gives this port to no connection any more"
        ),
        Ok(false) => {}
        Err(error) if matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem) => {
            tracing::debug!(port, %error, "may not be reserved: a connection may get this port");
        }
        Err(error) => tracing::warn!(port, %error, "could not be reserved: a connection may get this port"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;
    use tokio::{
        io::AsyncReadExt,
        net::{TcpSocket, TcpStream},
    };

    const KEY: &str = "ZECTRE__AGENT__PORT";
    /// One that nobody else on this machine has connections from: what they leave would be waited for, too.
    const OWN: &str = "127.86.0.1";

    /// A port from which a connection goes out, and both its ends.
    async fn connected() -> (u16, TcpStream, TcpStream) {
        let far = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let near = TcpSocket::new_v4().expect("a socket");
        let own: SocketAddr = format!("{OWN}:0").parse().expect("an address");
        near.bind(own).expect("a free port");
        let near = near.connect(far.local_addr().expect("bound"));
        let (near, accepted) = tokio::join!(near, far.accept());
        let (near, (accepted, _)) = (near.expect("it listens"), accepted.expect("it came"));
        (near.local_addr().expect("connected").port(), near, accepted)
    }

    #[tokio::test]
    async fn a_port_that_an_outgoing_connection_has_is_waited_for() {
        let (port, mut near, accepted) = connected().await;
        let waits = bind_within(PASSING_TIMEOUT, "zectre-agent", KEY, OWN, port);
        tokio::pin!(waits);
        // Longer than a listener would be waited for.
        let early = tokio::time::timeout(2 * LISTENER_TIMEOUT, waits.as_mut()).await;
        assert!(early.is_err(), "{early:?}");
        drop(accepted);
        // Once it has heard that the other side closed first, nothing of it stays with this one.
        assert_eq!(near.read(&mut [0]).await.expect("it was closed"), 0);
        drop(near);
        let listener = waits.await.expect("it has become free");
        assert_eq!(listener.local_addr().expect("bound").port(), port);
    }

    #[tokio::test]
    async fn a_taken_port_is_told_with_what_to_set() {
        let holder = bind("zectre-test", "test", OWN, 0).await.expect("port 0 is free");
        let port = holder.local_addr().expect("bound").port();
        let refused = bind_within(PASSING_TIMEOUT, "zectre-agent", KEY, OWN, port).await;
        let error = refused.expect_err("it is taken").to_string();
        assert!(
            error.contains(&format!("{OWN}:{port}: the port is taken")),
            "{error}"
        );
        assert!(error.contains(KEY), "{error}");
    }

    #[tokio::test]
    async fn a_connection_that_does_not_end_is_told_as_one() {
        let (port, _near, _accepted) = connected().await;
        let refused = bind_within(Duration::from_millis(200), "zectre-agent", KEY, OWN, port).await;
        let error = refused.expect_err("taken").to_string();
        for part in [
            "outgoing connection",
            KEY,
            &format!("ip_local_reserved_ports={port}"),
        ] {
            assert!(error.contains(part), "{part} in: {error}");
        }
    }
}
