//! The configuration: `config/default.toml` (compiled in), then a file, then `ZECTRE__SECTION__KEY`.
//!
//! It is parsed and checked before a port is bound; an error names the key and where its value came from.

mod auth;
mod port_range;
mod proxy;
mod tls;

pub use port_range::PortRange;
pub use proxy::{AccessLogConfig, ProxyLimits, ProxyMetrics, TrustedHeader};
pub use tls::{AcmeConfig, CertificateFiles, Challenge, TlsConfig};

use crate::{cidr::Cidr, spec::Labels};
use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// The defaults, comments and all.
pub const DEFAULT_TOML: &str = include_str!("../../../config/default.toml");
/// Read when no file is named and it exists.
pub const SYSTEM_FILE: &str = "/etc/zectre/config.toml";

/// The configuration can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The named file isn't there.
    #[error("there is no configuration file {0}: check --config")]
    Missing(PathBuf),
    /// A value is wrong.
    #[error("{0}")]
    Invalid(String),
}

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "config/default.toml has a comment a key")]
        pub struct $name { $($(#[$fdoc])* pub $field: $type,)* }
    )*};
}

sections! {
    /// `[database]`
    DatabaseConfig { url: SecretString, connections_max: u32, }
    /// `[api]`
    ApiConfig {
        host: String, port: u16, public_url: String, body_bytes_max: usize, request_timeout_ms: u64,
        concurrency_max: usize, stream_recheck_ms: u64, trusted_peers: Vec<Cidr>, trusted_header: TrustedHeader,
    }
    /// `[scheduler]`
    SchedulerConfig {
        host: String, port: u16, public_url: String, heartbeat_ms: u64, node_lease_ms: u64, drain_timeout_ms: u64,
        backoff_initial_ms: u64, backoff_max_ms: u64, backoff_reset_ms: u64, rollout_failures_max: u32,
        max_runtime_secs_cap: u32,
    }
    /// `[agent]`
    AgentConfig {
        host: String, port: u16, name: String, scheduler_address: String, address_override: String,
        join_token: SecretString, data_dir: PathBuf, shim: PathBuf, port_min: u16, port_max: u16, cpu_millis: u32,
        memory_bytes: u64, task_slots: u32, labels: Labels, container_enabled: bool, container_socket: String,
        allowed_volume_paths: Vec<PathBuf>, task_uid_min: u32, artifact_cache_bytes_max: u64,
        log_spool_bytes_max: u64, log_lines_per_sec_max: u32, registries: Vec<RegistryLogin>,
        image_cache_bytes_max: u64, disk_free_bytes_min: u64, collect_interval_ms: u64, stop_timeout_ms: u64,
    }
    /// `[proxy]`
    ProxyConfig {
        host: String, port: u16, admin_port: u16, http3_listen: String, domain: String, name: String, snapshot_path: PathBuf,
        handover_path: PathBuf,
        connections_max: usize, header_timeout_ms: u64, header_bytes_max: usize, response_timeout_ms: u64, repeat_lost_requests: bool,
        reuse_for_unrepeatable: bool,
        connect_timeout_ms: u64, wake_timeout_ms: u64, waiting_page_after_ms: u64, held_requests_max: usize, drain_timeout_ms: u64,
        tls: TlsConfig, trusted_peers: Vec<Cidr>, trusted_header: TrustedHeader, proxy_protocol: bool, limits: ProxyLimits,
        trace_sample_rate: f64, tcp_port_range: PortRange, tcp_idle_timeout_ms: u64, tcp_proxy_protocol: bool, metrics: ProxyMetrics, access_log: AccessLogConfig,
    }
    /// `[registry]`
    RegistryConfig {
        host: String, port: u16, public_url: String, store: PathBuf, artifact_bytes_max: u64, url_ttl_secs: u64,
    }
    /// `[build]`
    BuildConfig {
        host: String, port: u16, public_url: String, compiler: PathBuf, sandbox: Sandbox, cache_dir: PathBuf,
        work_dir: PathBuf, slots: u32, timeout_secs: u64, lease_ms: u64, worker_timeout_secs: u64, source_bytes_max: u64,
        unpacked_bytes_max: u64, files_max: u32, memory_bytes_max: u64, git_sources: Vec<String>,
    }
    /// `[auth]`
    AuthConfig {
        signup: Signup, token_ttl_secs: u64, catalog_jwks_url: String, jwt_expected_iss: String,
        jwt_expected_aud: String, catalog_ca_file: PathBuf, catalog_organizations: Vec<String>,
        catalog_roles_ttl_secs: u64,
    }
    /// `[quotas]`
    QuotasConfig {
        applications_max: u64, tasks_max: u64, cpu_millis_max: u64, memory_bytes_max: u64, artifact_bytes_max: u64,
        orgs_per_user_max: u32, namespaces_per_org_max: u32,
    }
    /// `[domains]`
    DomainsConfig {
        verification: DomainVerification, dns_server: String, http_port: u16, private_addresses: bool, pending_ttl_secs: u64,
    }
    /// `[webhooks]`
    WebhooksConfig { allow_private: bool, timeout_ms: u64, ca_file: PathBuf, }
    /// `[secrets]`
    SecretsConfig { service_key_file: PathBuf, token_key_file: PathBuf, master_key_file: PathBuf, metrics_token_file: PathBuf, }
    /// `[logs]`
    LogsConfig { filter: String, format: LogFormat, task_retention_days: u32, task_bytes_max: u64, }
    /// `[metrics]`
    MetricsConfig { step_10s_keep_hours: u32, step_60s_keep_days: u32, step_1h_keep_days: u32, }
    /// All of it.
    Config {
        database: DatabaseConfig, api: ApiConfig, scheduler: SchedulerConfig, agent: AgentConfig,
        proxy: ProxyConfig, registry: RegistryConfig, build: BuildConfig, auth: AuthConfig,
        quotas: QuotasConfig, domains: DomainsConfig, webhooks: WebhooksConfig,
        secrets: SecretsConfig, logs: LogsConfig, metrics: MetricsConfig,
    }
}

/// A registry of images that wants a login; an element of `[agent].registries`.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryLogin {
    /// As it stands before the first slash of an image's name; `docker.io` for names without a host.
    pub host: String,
    /// The user.
    pub username: String,
    /// The password, or an access token.
    #[serde(default)]
    pub password: SecretString,
    /// A file that holds it instead.
    #[serde(default)]
    pub password_file: PathBuf,
}

/// How builds are kept from the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// No network, an unprivileged user, a read-only system.
    Bubblewrap,
    /// Nothing: only for sources that are trusted.
    None,
}

/// Who may make an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Signup {
    /// Anyone.
    Open,
    /// Whoever has an invitation.
    Invite,
    /// Nobody.
    Closed,
}

/// What a custom domain takes before it leads anywhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DomainVerification {
    /// A TXT record, or a page under the name.
    Required,
    /// A TXT record.
    Dns,
    /// Nothing.
    Off,
}

/// How the daemons' own logs are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Text.
    Text,
    /// JSON, an object a line.
    Json,
}

impl Config {
    /// Reads the defaults, `file` (or the system's file, when it exists) and the environment, and checks the result.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(file, "")
    }

    /// Like [`Config::load`], with `overrides` (TOML) between the file and the environment.
    pub fn load_with(file: Option<&Path>, overrides: &str) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
        match file {
            Some(path) if !path.is_file() => return Err(ConfigError::Missing(path.into())),
            Some(path) => figment = figment.merge(Toml::file_exact(path)),
            None if Path::new(SYSTEM_FILE).is_file() => {
                figment = figment.merge(Toml::file_exact(SYSTEM_FILE));
            }
            None => {}
        }
        figment = figment.merge(Toml::string(overrides));
        // ZECTRE_API_URL and its like belong to the command line; only the double underscore is ours.
        figment = figment.merge(Env::prefixed("ZECTRE__").split("__"));
        let config: Self = figment
            .extract()
            .map_err(|error| ConfigError::Invalid(explain(error)))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let refuse = |message: String| Err(ConfigError::Invalid(message));
        self.auth.check().map_err(ConfigError::Invalid)?;
        if self.agent.port_min == 0 || self.agent.port_min > self.agent.port_max {
            return refuse("agent.port_min must be above 0 and not above agent.port_max".into());
        }
        for login in &self.agent.registries {
            if login.host.is_empty() || login.host.contains('/') || login.username.is_empty() {
                return refuse(format!(
                    "agent.registries: `{}` needs a host (no path) and a username",
                    login.host
                ));
            }
            let has_file = !login.password_file.as_os_str().is_empty();
            if has_file != login.password.expose_secret().is_empty() {
                return refuse(format!(
                    "agent.registries: `{}` needs either password or password_file",
                    login.host
                ));
            }
        }
        if !(10..=600_000).contains(&self.api.stream_recheck_ms) {
            return refuse("api.stream_recheck_ms must be from 10 to 600000".into());
        }
        if self.scheduler.node_lease_ms < 2 * self.scheduler.heartbeat_ms {
            return refuse("scheduler.node_lease_ms must be at least twice scheduler.heartbeat_ms".into());
        }
        if crate::routing::normalize_host(&self.proxy.domain).as_deref() != Some(self.proxy.domain.as_str()) {
            return refuse(format!(
                "proxy.domain `{}` is not a lower-case host name",
                self.proxy.domain
            ));
        }
        self.proxy
            .tls
            .check(!self.secrets.master_key_file.as_os_str().is_empty())?;
        self.proxy.check().map_err(ConfigError::Invalid)?;
        let dns_server = &self.domains.dns_server;
        if !dns_server.is_empty() && dns_server.parse::<std::net::SocketAddr>().is_err() {
            return refuse(format!(
                "domains.dns_server `{dns_server}` is not an address and a port, such as 192.0.2.53:53"
            ));
        }
        if self.domains.http_port == 0 {
            return refuse("domains.http_port must be above 0".into());
        }
        if !(60..=365 * 86_400).contains(&self.domains.pending_ttl_secs) {
            return refuse("domains.pending_ttl_secs must be from 60 to 31536000".into());
        }
        self.webhooks.check().map_err(ConfigError::Invalid)?;
        self.build.check().map_err(ConfigError::Invalid)?;
        self.metrics.check().map_err(ConfigError::Invalid)?;
        if self.logs.task_bytes_max < 16 << 20 {
            return refuse("logs.task_bytes_max must be at least 16777216".into());
        }
        Ok(())
    }
}

impl BuildConfig {
    fn check(&self) -> Result<(), String> {
        if self.memory_bytes_max < 256 << 20 {
            return Err("build.memory_bytes_max must be at least 268435456: the linker needs as much".into());
        }
        if self.slots == 0 {
            return Err("build.slots must be at least 1".into());
        }
        let below = |prefix: &&String| {
            let known = ["https://", "http://", "git://"];
            let rest = known.iter().find_map(|scheme| prefix.strip_prefix(scheme));
            rest.is_none_or(|rest| rest.len() < 2 || rest.starts_with('/') || !rest.ends_with('/'))
        };
        match self.git_sources.iter().find(below) {
            None => Ok(()),
            Some(wrong) => Err(format!(
                "build.git_sources: `{wrong}` is not what URLs of repositories begin with, such as https://github.com/"
            )),
        }
    }
}

impl MetricsConfig {
    /// Longer than what may come late, and no longer than one would wait for the answer.
    fn check(&self) -> Result<(), String> {
        let bounds = [
            ("step_10s_keep_hours", self.step_10s_keep_hours, 48),
            ("step_60s_keep_days", self.step_60s_keep_days, 60),
            ("step_1h_keep_days", self.step_1h_keep_days, 730),
        ];
        match bounds
            .into_iter()
            .find(|(_, keep, most)| !(1..=*most).contains(keep))
        {
            None => Ok(()),
            Some((name, _, most)) => Err(format!("metrics.{name} must be from 1 to {most}")),
        }
    }
}

impl WebhooksConfig {
    fn check(&self) -> Result<(), String> {
        if (100..=30_000).contains(&self.timeout_ms) {
            return Ok(());
        }
        Err("webhooks.timeout_ms must be from 100 to 30000".into())
    }
}

/// Every problem on its own line: what, at which key, from which source.
fn explain(error: figment::Error) -> String {
    let explain_one = |one: figment::Error| {
        let key = one.path.join(".");
        let source = one.metadata.as_ref().map_or_else(String::new, |metadata| {
            let place = metadata
                .source
                .as_ref()
                .map_or_else(|| metadata.name.to_string(), ToString::to_string);
            format!(" (from {place})")
        });
        let what = in_words(&one.kind);
        if key.is_empty() {
            format!("{what}{source}")
        } else {
            format!("{key}: {what}{source}")
        }
    };
    error.into_iter().map(explain_one).collect::<Vec<_>>().join("\n")
}

/// What is wrong, in our words: the library quotes what is quoted already, and knows no nearest key.
fn in_words(kind: &figment::error::Kind) -> String {
    use figment::error::Kind;
    let plain = |text: &str| text.replace('`', "");
    match kind {
        Kind::UnknownField(given, known) | Kind::UnknownVariant(given, known) => {
            let what = if matches!(kind, Kind::UnknownField(..)) {
                "key"
            } else {
                "value"
            };
            let given = plain(given);
            let known: Vec<String> = known.iter().map(|one| plain(one)).collect();
            match crate::manifest::nearest(&given, known.iter().map(String::as_str)) {
                Some(nearest) => format!("unknown {what} `{given}`; did you mean `{nearest}`?"),
                None => format!("unknown {what} `{given}`; known here: {}", known.join(", ")),
            }
        }
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            let found = match found {
                figment::error::Actual::Str(text) => format!("the text `{text}`"),
                found => plain(&found.to_string()),
            };
            format!("{found} stands where {} belongs", wanted(expected))
        }
        other => other.to_string(),
    }
}

/// Rust's name of a type as its user would say it.
fn wanted(expected: &str) -> String {
    match expected {
        "u8" => "a whole number from 0 to 255".into(),
        "u16" => "a whole number from 0 to 65535".into(),
        "u32" => "a whole number from 0 to 4294967295".into(),
        "u64" | "usize" => "a whole number, 0 or more".into(),
        "a boolean" | "bool" => "`true` or `false`".into(),
        "a string" | "string" | "path string" => "a text".into(),
        "a sequence" => "a list (`[…]`)".into(),
        other if other.starts_with("struct ") || other == "a map" => "a section with keys".into(),
        other => other.replace('`', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_valid_and_complete() {
        let config = Config::load(None).expect("the compiled-in file is valid");
        // Those of the contract (api.md), which scripts and firewalls go by.
        let ports = [
            ("api", config.api.port, 47080),
            ("scheduler", config.scheduler.port, 47091),
            ("agent", config.agent.port, 47092),
            ("registry", config.registry.port, 47082),
            ("build", config.build.port, 47083),
            ("proxy", config.proxy.port, 47000),
            ("proxy, admin", config.proxy.admin_port, 47001),
            ("proxy, TLS", config.proxy.tls.port, 8443),
        ];
        for (of, port, promised) in ports {
            assert_eq!(port, promised, "{of}");
        }
    }

    #[test]
    fn a_wake_is_waited_for_no_longer_than_the_scheduler_does() {
        let read = |ms: u64| Config::load_with(None, &format!("[proxy]\nwake_timeout_ms = {ms}"));
        assert!(read(50_000).is_ok());
        let refused = read(50_001).expect_err("too long").to_string();
        assert!(
            refused.contains("proxy.wake_timeout_ms") && refused.contains("at most 50000"),
            "{refused}"
        );
    }

    #[test]
    fn urls_lead_to_the_port_that_clients_use() {
        for (keys, url) in [
            ("", "http://a.test:47000"),
            (
                "[proxy]\nport = 80\n[proxy.tls]\npublic_port = 443",
                "http://a.test",
            ),
            ("[proxy.tls]\nenabled = true", "https://a.test:8443"),
            (
                "[proxy]\nport = 80\n[proxy.tls]\nenabled = true\npublic_port = 443",
                "https://a.test",
            ),
        ] {
            let config = Config::load_with(None, keys).expect("valid");
            assert_eq!(config.proxy.url_of("a.test"), url);
        }
    }

    #[test]
    fn an_unknown_key_and_a_wrong_type_are_named() {
        let unknown = Config::load_with(None, "[api]\nprot = 1")
            .expect_err("no such key")
            .to_string();
        assert!(
            unknown.contains("api.prot: unknown key `prot`; did you mean `port`?"),
            "{unknown}"
        );
        let value = Config::load_with(None, "[logs]\nformat = \"xml\"")
            .expect_err("no such value")
            .to_string();
        assert!(
            value.contains("unknown value `xml`; known here: auto, text, json"),
            "{value}"
        );
        let wrong = Config::load_with(None, "[api]\nport = \"many\"")
            .expect_err("not a number")
            .to_string();
        assert!(
            wrong.contains("api.port: the text `many` stands where a whole number from 0 to 65535 belongs"),
            "{wrong}"
        );
    }
}
