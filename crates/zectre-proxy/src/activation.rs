//! Listening sockets that a service manager opened for this process (`LISTEN_FDS`, as systemd's socket activation does it): ports
//! below 1024 without a right to open them, and connections that wait through a restart instead of being refused.
//!
//! What is given must be used: a socket that is none of ours is a mistake in somebody's unit, and nobody would accept at it.

use crate::{Error, handover::Role, raw::LISTENERS_MAX};
use listenfd::ListenFd;
use rustix::net::sockopt;
use std::{collections::BTreeMap, net::SocketAddr};
use tokio::net::TcpListener;
use zectre_common::config::ProxyConfig;

/// The first descriptor that is given.
const FIRST: usize = 3;

/// The sockets that this process was given, and not yet put to use.
#[derive(Debug, Default)]
pub struct Activated(Vec<Given>);

#[derive(Debug)]
struct Given {
    /// By `LISTEN_FDNAMES`; by default the unit's name.
    name: String,
    listener: std::net::TcpListener,
    address: SocketAddr,
}

impl Activated {
    /// Takes them, and the words about them out of the environment; none where they are another process's. To be called before there are
    /// threads.
    pub fn from_env() -> Result<Self, Error> {
        let told = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(count) = told("LISTEN_FDS") else {
            return Ok(Self::default());
        };
        // What is inherited from a parent that was meant is not ours.
        if told("LISTEN_PID") != Some(std::process::id().to_string()) {
            return Ok(Self::default());
        }
        let count = count.parse().ok().filter(|count| *count <= LISTENERS_MAX);
        let count: usize = count.ok_or_else(|| wrong("LISTEN_FDS is not a number of sockets".into()))?;
        let names = told("LISTEN_FDNAMES");
        let names: Vec<String> =
            names.map_or_else(Vec::new, |all| all.split(':').map(str::to_owned).collect());
        if !names.is_empty() && names.len() != count {
            return Err(wrong(format!(
                "LISTEN_FDNAMES has {} names, and LISTEN_FDS says {count}",
                names.len()
            )));
        }
        let mut fds = ListenFd::from_env();
        let given = (0..count).map(|index| {
            let name = names.get(index).cloned().unwrap_or_default();
            Given::take(&mut fds, index, name)
        });
        Ok(Self(given.collect::<Result<_, _>>()?))
    }

    /// The one for `role`, which must be where `host` and `port` say; any port will do where none in particular is wanted.
    pub(crate) fn take(&mut self, role: Role, host: &str, port: u16) -> Result<Option<TcpListener>, Error> {
        let Some(index) = self.0.iter().position(|given| given.is_for(role, host, port)) else {
            return Ok(None);
        };
        self.0.swap_remove(index).listen().map(Some)
    }

    /// Those for plain TCP; anything else that is left is an error.
    pub(crate) fn rest(self, config: &ProxyConfig) -> Result<BTreeMap<u16, TcpListener>, Error> {
        let mut raw = BTreeMap::new();
        for given in self.0 {
            let port = given.address.port();
            let is_raw = config.tcp_port_range.contains(port)
                && given.is_for(Role::Raw(port), &config.host, port)
                && !raw.contains_key(&port);
            if !is_raw {
                return Err(given.is_none_of(config));
            }
            raw.insert(port, given.listen()?);
        }
        Ok(raw)
    }
}

impl Given {
    fn take(fds: &mut ListenFd, index: usize, name: String) -> Result<Self, Error> {
        let wrong = |why: String| wrong(format!("descriptor {} (`{name}`): {why}", FIRST + index));
        let listener = fds.take_tcp_listener(index);
        let listener = listener
            .map_err(|error| wrong(error.to_string()))?
            .ok_or_else(|| wrong("it is missing".into()))?;
        if !sockopt::socket_acceptconn(&listener).is_ok_and(|listens| listens) {
            return Err(wrong(
                "it does not listen (Accept=no and ListenStream= are needed)".into(),
            ));
        }
        let address = listener.local_addr().map_err(|error| wrong(error.to_string()))?;
        Ok(Self {
            name,
            listener,
            address,
        })
    }

    /// A name that says what it is for is believed; by others the address decides.
    fn is_for(&self, role: Role, host: &str, port: u16) -> bool {
        let named = match self.name.as_str() {
            "plain" => role == Role::Plain,
            "tls" => role == Role::Tls,
            "admin" => role == Role::Admin,
            "tcp" => matches!(role, Role::Raw(_)),
            _ => true,
        };
        let wanted: Option<SocketAddr> = format!("{host}:{port}").parse().ok();
        named
            && wanted.is_some_and(|wanted| {
                wanted.ip() == self.address.ip() && (port == 0 || port == self.address.port())
            })
    }

    fn listen(self) -> Result<TcpListener, Error> {
        let Self {
            listener, address, ..
        } = self;
        tracing::info!(%address, "listens at a socket that the process was given");
        let listener = listener
            .set_nonblocking(true)
            .and_then(|()| TcpListener::from_std(listener));
        listener.map_err(|error| wrong(format!("{address}: {error}")))
    }

    fn is_none_of(&self, config: &ProxyConfig) -> Error {
        let Self { name, address, .. } = self;
        let host = &config.host;
        let tls = if config.tls.enabled {
            format!("{host}:{} (tls), ", config.tls.port)
        } else {
            String::new()
        };
        wrong(format!(
            "the socket `{name}` at {address} is none that the configuration asks for: {host}:{} (plain), {tls}{host}:{} (admin), \
             or {host} with a port of proxy.tcp_port_range (tcp). Let ListenStream= and FileDescriptorName= say the same",
            config.port, config.admin_port
        ))
    }
}

fn wrong(why: String) -> Error {
    Error::Activation(why)
}
