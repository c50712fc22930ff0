//! `[proxy.tls]`: what is checked before anything is opened.

use super::ConfigError;
use crate::routing::normalize_host;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::path::PathBuf;

/// `[proxy.tls]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml has a comment a key")]
pub struct TlsConfig {
    pub enabled: bool,
    pub port: u16,
    pub public_port: u16,
    pub certificates: Vec<CertificateFiles>,
    pub redirect: bool,
    pub hsts_max_age_secs: u64,
    pub handshake_timeout_ms: u64,
    pub proxy_protocol: bool,
    pub acme: AcmeConfig,
}

/// A certificate in files; an element of `[proxy.tls].certificates`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// PEM: the certificate, then what links it to a root.
    pub cert: PathBuf,
    /// PEM: its private key.
    pub key: PathBuf,
}

/// `[proxy.tls.acme]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config/default.toml has a comment a key")]
pub struct AcmeConfig {
    pub directory_url: String,
    pub contact: String,
    pub challenge: Challenge,
    pub names: Vec<String>,
    pub eab_kid: String,
    pub eab_hmac: SecretString,
    pub renew_ahead_secs: u64,
    pub backoff_initial_secs: u64,
    pub backoff_max_secs: u64,
    pub root_ca_file: PathBuf,
}

/// How an ACME server is shown that a name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Challenge {
    /// A page under the name, on port 80 as clients see it.
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate of its own kind, on port 443 as clients see it.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl TlsConfig {
    /// The port in addresses that clients are given.
    pub fn public_port(&self) -> u16 {
        if self.public_port == 0 {
            self.port
        } else {
            self.public_port
        }
    }

    /// Whether certificates are ordered.
    pub fn orders(&self) -> bool {
        self.enabled && !self.acme.directory_url.is_empty()
    }

    pub(super) fn check(&self, has_master_key: bool) -> Result<(), ConfigError> {
        let refuse = |message: String| Err(ConfigError::Invalid(message));
        if self.handshake_timeout_ms == 0 {
            return refuse("proxy.tls.handshake_timeout_ms must be above 0".into());
        }
        for files in &self.certificates {
            if files.cert.as_os_str().is_empty() || files.key.as_os_str().is_empty() {
                return refuse("proxy.tls.certificates: each element needs both cert and key".into());
            }
        }
        if !self.enabled {
            let set = [
                (self.redirect, "redirect"),
                (self.hsts_max_age_secs > 0, "hsts_max_age_secs"),
                (!self.certificates.is_empty(), "certificates"),
                (!self.acme.directory_url.is_empty(), "acme.directory_url"),
            ];
            if let Some((_, key)) = set.into_iter().find(|(set, _)| *set) {
                return refuse(format!(
                    "proxy.tls.{key} needs proxy.tls.enabled = true: without it nobody speaks TLS"
                ));
            }
        }
        self.acme.check()?;
        if self.orders() && !has_master_key {
            return refuse(
                "proxy.tls.acme.directory_url needs secrets.master_key_file: private keys are sealed with it in the database"
                    .into(),
            );
        }
        Ok(())
    }
}

impl AcmeConfig {
    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |message: String| Err(ConfigError::Invalid(message));
        if !self.directory_url.is_empty() && !self.directory_url.starts_with("https://") {
            return refuse(format!(
                "proxy.tls.acme.directory_url `{}` is not an https:// URL",
                self.directory_url
            ));
        }
        if self.contact.contains(':') || (!self.contact.is_empty() && !self.contact.contains('@')) {
            return refuse(format!(
                "proxy.tls.acme.contact `{}` is not a mail address (without mailto:)",
                self.contact
            ));
        }
        for name in &self.names {
            let usable = normalize_host(name).as_deref() == Some(name.as_str())
                && name.contains('.')
                && !name.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            if !usable {
                return refuse(format!(
                    "proxy.tls.acme.names: `{name}` is not a lower-case host name (http-01 and tls-alpn-01 know no wildcards)"
                ));
            }
        }
        if self.eab_kid.is_empty() != self.eab_hmac.expose_secret().is_empty() {
            return refuse(
                "proxy.tls.acme.eab_kid and proxy.tls.acme.eab_hmac go together: set both or none".into(),
            );
        }
        if self.backoff_initial_secs == 0 || self.backoff_max_secs < self.backoff_initial_secs {
            return refuse(
                "proxy.tls.acme.backoff_initial_secs must be above 0 and not above proxy.tls.acme.backoff_max_secs"
                    .into(),
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use crate::config::Config;

    #[test]
    fn what_is_wrong_is_named() {
        for (toml, key) in [
            ("[proxy.tls]\nredirect = true", "proxy.tls.redirect"),
            (
                "[proxy.tls]\nenabled = true\ncertificates = [{ cert = \"/a\", key = \"\" }]",
                "proxy.tls.certificates",
            ),
            (
                "[proxy.tls]\nenabled = true\n[proxy.tls.acme]\ndirectory_url = \"http://ca\"",
                "proxy.tls.acme.directory_url",
            ),
            (
                "[proxy.tls]\nenabled = true\n[proxy.tls.acme]\ndirectory_url = \"https://ca\"",
                "secrets.master_key_file",
            ),
            (
                "[proxy.tls.acme]\nnames = [\"*.example.com\"]",
                "proxy.tls.acme.names",
            ),
            ("[proxy.tls.acme]\neab_kid = \"k\"", "proxy.tls.acme.eab_hmac"),
            (
                "[proxy.tls.acme]\nchallenge = \"dns-01\"",
                "proxy.tls.acme.challenge",
            ),
            (
                "[proxy.tls.acme]\ncontact = \"mailto:a@b.c\"",
                "proxy.tls.acme.contact",
            ),
            (
                "[proxy.tls.acme]\nbackoff_initial_secs = 0",
                "proxy.tls.acme.backoff_initial_secs",
            ),
        ] {
            let error = Config::load_with(None, toml).expect_err(toml).to_string();
            assert!(error.contains(key), "{key}: {error}");
        }
    }
}
