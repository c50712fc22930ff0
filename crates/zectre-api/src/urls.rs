//! Where things answer: other services, and applications behind the proxy.

use std::sync::Arc;
use zectre_common::config::{Config, ProxyConfig};

/// Addresses taken from the configuration.
#[derive(Debug, Clone)]
pub(crate) struct Urls {
    /// The platform domain.
    pub(crate) domain: String,
    pub(crate) registry: String,
    pub(crate) build: String,
    pub(crate) proxy_admin: String,
    pub(crate) api: String,
    proxy: Arc<ProxyConfig>,
}

impl Urls {
    /// From the configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let clean = |url: &str| url.trim_end_matches('/').to_owned();
        // A wildcard address is for listening; the proxy of this machine is at its loopback.
        let proxy_host = match config.proxy.host.as_str() {
            "0.0.0.0" | "::" | "[::]" => "127.0.0.1",
            host => host,
        };
        Self {
            domain: config.proxy.domain.clone(),
            api: clean(&config.api.public_url),
            registry: clean(&config.registry.public_url),
            build: clean(&config.build.public_url),
            proxy_admin: format!("http://{proxy_host}:{}", config.proxy.admin_port),
            proxy: Arc::new(config.proxy.clone()),
        }
    }

    /// Whether a host is that of one of the platform's services: nobody's page may stand where people type their passwords.
    pub(crate) fn is_own_host(&self, host: &str) -> bool {
        let is_at = |url: &String| {
            let url = url.parse::<http::Uri>();
            url.is_ok_and(|url| url.host().is_some_and(|own| own.eq_ignore_ascii_case(host)))
        };
        [&self.api, &self.registry, &self.build].into_iter().any(is_at)
    }

    /// Where GitHub is to send its calls.
    pub(crate) fn github_webhook(&self) -> String {
        format!("{}/api/v1/webhooks/github", self.api)
    }

    /// The ports that environments are given for plain TCP: first and last.
    pub(crate) fn tcp_ports(&self) -> Option<(u16, u16)> {
        self.proxy.tcp_port_range.bounds()
    }

    /// Where an environment of the application with this host label takes plain TCP.
    pub(crate) fn tcp_address(&self, label: &str, port: i32) -> Option<String> {
        let port = u16::try_from(port).ok()?;
        Some(self.proxy.tcp_address(label, port))
    }

    /// The URL of a host label under the platform domain.
    pub(crate) fn of_label(&self, label: &str) -> String {
        self.of_host(&format!("{label}.{}", self.domain))
    }

    /// The URL of a host that the proxy answers for.
    pub(crate) fn of_host(&self, host: &str) -> String {
        self.proxy.url_of(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_of_the_platforms_services_are_its_own() {
        let mut config = Config::load(None).expect("the defaults");
        config.api.public_url = "https://Api.example.com:8443/".into();
        let urls = Urls::new(&config);
        assert!(urls.is_own_host("api.example.com"));
        assert!(!urls.is_own_host("shop.example.com"));
    }
}
