//! Addresses of names outside: only public ones, unless the cluster says otherwise.

use super::address::is_public;
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolverConfig},
    net::{NetError, runtime::TokioRuntimeProvider},
};
use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};
use tokio::time::timeout;

/// For all questions to DNS about one name.
pub(crate) const DNS_TIMEOUT: Duration = Duration::from_secs(6);
/// For one answer of a DNS server; then it is asked once more.
const DNS_ATTEMPT: Duration = Duration::from_millis(2_500);
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

/// Which DNS is asked, and which of its answers are used.
pub(crate) struct Names {
    dns_server: Option<SocketAddr>,
    private_addresses: bool,
}

impl Names {
    /// Asks `dns_server` (`address:port`; empty: those of the machine).
    pub(crate) fn new(dns_server: &str, private_addresses: bool) -> Self {
        Self {
            dns_server: dns_server.parse().ok(),
            private_addresses,
        }
    }

    /// Made for each look: what the machine's configuration says now counts, and nothing is remembered.
    pub(crate) fn resolver(&self) -> Result<TokioResolver, String> {
        let mut builder = match self.dns_server {
            None => Resolver::builder_tokio()
                .map_err(|error| format!("the API's machine has no usable DNS configuration ({error})"))?,
            Some(server) => {
                let mut asked = NameServerConfig::udp_and_tcp(server.ip());
                for connection in &mut asked.connections {
                    connection.port = server.port();
                }
                let config = ResolverConfig::from_parts(None, Vec::new(), vec![asked]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = DNS_ATTEMPT;
        options.attempts = 1;
        options.cache_size = 0;
        builder
            .build()
            .map_err(|error| format!("the API can't ask DNS ({error})"))
    }

    /// The addresses of `name` that may be connected to; `key` is the configuration that would allow the others.
    pub(crate) async fn addresses(
        &self,
        resolver: &TokioResolver,
        name: &str,
        key: &str,
    ) -> Result<Vec<IpAddr>, String> {
        let found = timeout(DNS_TIMEOUT, resolver.lookup_ip(format!("{name}.")))
            .await
            .map_err(|_| format!("DNS did not tell the address of `{name}` in time"))?
            .map_err(|error| match error {
                error if error.is_no_records_found() => format!("`{name}` has no address"),
                error => format!(
                    "DNS does not tell the address of `{name}` ({})",
                    dns_problem(&error)
                ),
            })?;
        self.usable(name, found.iter().collect(), key)
    }

    /// Those of `all` that may be connected to. What the others are is for the log alone: whoever asks may be a stranger to the
    /// network that the API looks names up in.
    pub(crate) fn usable(&self, name: &str, all: Vec<IpAddr>, key: &str) -> Result<Vec<IpAddr>, String> {
        let first = all.first().copied();
        let usable: Vec<_> = all
            .into_iter()
            .filter(|address| self.private_addresses || is_public(*address))
            .take(ADDRESSES_MAX)
            .collect();
        if usable.is_empty() {
            tracing::info!(name, address = ?first, "a name from outside leads to no public address: it is not asked");
            return Err(format!(
                "`{name}` leads to no public address, and so is not asked ({key})"
            ));
        }
        Ok(usable)
    }
}

/// What went wrong with DNS, for people.
pub(crate) fn dns_problem(error: &NetError) -> String {
    match error {
        NetError::Timeout => "no server answered".into(),
        NetError::NoConnections => "no server can be reached".into(),
        error => error.to_string(),
    }
}
