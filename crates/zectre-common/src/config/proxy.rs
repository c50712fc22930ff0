//! What `[proxy]` says about whom to believe, how much to take and what to write down.

use super::ProxyConfig;
use crate::wire::scheduler::WAKE_WAIT_MS_MAX;
use serde::Deserialize;
use std::net::SocketAddr;

/// The longest that a request may be held for a wake: the scheduler waits no longer, and its word has to come back in time.
const WAKE_TIMEOUT_MS_MAX: u64 = WAKE_WAIT_MS_MAX - 5_000;

/// `[proxy.limits]`; 0 is no limit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml has a comment a key")]
pub struct ProxyLimits {
    pub connections_per_client_max: u32,
    pub keepalive_timeout_ms: u64,
    pub write_timeout_ms: u64,
    pub write_bytes_min: u64,
    pub header_count_max: usize,
    pub body_bytes_max: u64,
    pub body_idle_timeout_ms: u64,
    pub body_bytes_per_sec_min: u64,
    pub in_flight_max: u32,
    pub in_flight_per_route_max: u32,
    pub requests_per_sec_per_client: u32,
    pub requests_burst_per_client: u32,
    pub requests_per_sec_per_route: u32,
    pub requests_burst_per_route: u32,
    pub clients_max: usize,
}

/// `[proxy.metrics]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml has a comment a key")]
pub struct ProxyMetrics {
    pub routes_max: usize,
    pub backends_max: usize,
}

/// `[proxy.access_log]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml has a comment a key")]
pub struct AccessLogConfig {
    pub enabled: bool,
    pub target: String,
    pub sample_rate: f64,
    pub slow_ms: u64,
    pub query: bool,
    pub queue_lines_max: usize,
}

impl AccessLogConfig {
    /// What is wrong with it, if anything.
    fn check(&self) -> Result<(), String> {
        if !(0.0..=1.0).contains(&self.sample_rate) {
            return Err("proxy.access_log.sample_rate must be between 0 and 1".into());
        }
        if !(1..=1 << 20).contains(&self.queue_lines_max) {
            return Err("proxy.access_log.queue_lines_max must be between 1 and 1048576".into());
        }
        if self.enabled && self.target.is_empty() {
            return Err("proxy.access_log.target must be \"stdout\" or the path of a file".into());
        }
        Ok(())
    }
}

/// Which of the two ways of telling about a client a load balancer uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedHeader {
    /// `X-Forwarded-For`, `-Proto` and `-Host`.
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl ProxyConfig {
    /// The URL of a host that this proxy answers for. Who turns TLS on wants to be reached by it.
    pub fn url_of(&self, host: &str) -> String {
        let (scheme, port, usual) = if self.tls.enabled {
            ("https", self.tls.public_port(), 443)
        } else {
            ("http", self.port, 80)
        };
        if port == usual {
            format!("{scheme}://{host}")
        } else {
            format!("{scheme}://{host}:{port}")
        }
    }

    /// Where HTTP/3 is served, if it is.
    pub fn http3_address(&self) -> Option<SocketAddr> {
        self.http3_listen.parse().ok()
    }

    /// Where an environment of the application with this host label takes plain TCP.
    pub fn tcp_address(&self, label: &str, port: u16) -> String {
        let domain = &self.domain;
        if domain == "localhost" || domain.ends_with(".localhost") {
            // Not every program knows that such names are this machine's.
            return format!("127.0.0.1:{port}");
        }
        format!("{label}.{domain}:{port}")
    }

    /// What is wrong with whom it believes, how much it takes and what it writes down, if anything.
    pub(super) fn check(&self) -> Result<(), String> {
        if (self.proxy_protocol || self.tls.proxy_protocol || self.tcp_proxy_protocol)
            && self.trusted_peers.is_empty()
        {
            return Err("proxy_protocol needs proxy.trusted_peers: nobody else is believed".into());
        }
        let own = [self.port, self.admin_port, self.tls.port];
        if let Some(taken) = own.into_iter().find(|port| self.tcp_port_range.contains(*port)) {
            return Err(format!(
                "proxy.tcp_port_range holds {taken}, which the proxy itself listens at"
            ));
        }
        if !self.http3_listen.is_empty() {
            if self.http3_address().is_none() {
                return Err(format!(
                    "proxy.http3_listen is `{}`: give an address and a port, as \"0.0.0.0:8443\" or \"[::]:8443\", or nothing",
                    self.http3_listen
                ));
            }
            if !self.tls.enabled {
                return Err("proxy.http3_listen needs proxy.tls.enabled: HTTP/3 is always encrypted".into());
            }
        }
        if self.wake_timeout_ms > WAKE_TIMEOUT_MS_MAX {
            return Err(format!(
                "proxy.wake_timeout_ms is {}, and may be at most {WAKE_TIMEOUT_MS_MAX}: the scheduler waits no longer for a start, so \
                 that a longer time would hold requests for nothing",
                self.wake_timeout_ms
            ));
        }
        if !(0.0..=1.0).contains(&self.trace_sample_rate) {
            return Err("proxy.trace_sample_rate must be between 0 and 1".into());
        }
        self.limits.check()?;
        self.access_log.check()
    }
}

impl ProxyLimits {
    /// What is wrong with them, if anything.
    fn check(&self) -> Result<(), String> {
        let rates = [
            (
                "client",
                self.requests_per_sec_per_client,
                self.requests_burst_per_client,
            ),
            (
                "route",
                self.requests_per_sec_per_route,
                self.requests_burst_per_route,
            ),
        ];
        for (of, per_sec, burst) in rates {
            if per_sec > 0 && burst == 0 {
                return Err(format!(
                    "proxy.limits.requests_burst_per_{of} must be at least 1 where requests_per_sec_per_{of} is set"
                ));
            }
        }
        // No more than the library's map of headers has room for, with those of the proxy's own.
        if !(1..=10_000).contains(&self.header_count_max) {
            return Err("proxy.limits.header_count_max must be between 1 and 10000".into());
        }
        if self.requests_per_sec_per_client > 0 && !(64..=1 << 24).contains(&self.clients_max) {
            return Err("proxy.limits.clients_max must be between 64 and 16777216".into());
        }
        Ok(())
    }
}
