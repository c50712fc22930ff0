//! The configuration of a platform under test: ports nobody else uses, time-outs short enough to be waited for.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};
use zectre_testkit::{free_port, free_port_range};

/// What a test may choose; everything else is the platform's own default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The API's port.
    pub api_port: u16,
    /// The proxy's port for clients.
    pub proxy_port: u16,
    /// The proxy's admin port.
    pub proxy_admin_port: u16,
    /// The scheduler's port.
    pub scheduler_port: u16,
    /// The agent's port.
    pub agent_port: u16,
    /// The registry's port.
    pub registry_port: u16,
    /// The build worker's port.
    pub build_port: u16,
    /// Ports for tasks.
    pub task_ports: (u16, u16),
    /// Ports for applications that speak plain TCP.
    pub tcp_ports: (u16, u16),
    /// The container engine's socket, if containers are to run.
    pub container_socket: Option<PathBuf>,
    /// The most tasks at once.
    pub task_slots: u32,
    /// How long all programs together may take to end when the platform stops.
    pub stop_timeout_ms: u64,
    /// A catalog that the platform trusts: its URL, and the platform's audience there.
    pub catalog: Option<(String, String)>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            api_port: free_port(),
            proxy_port: free_port(),
            proxy_admin_port: free_port(),
            scheduler_port: free_port(),
            agent_port: free_port(),
            registry_port: free_port(),
            build_port: free_port(),
            task_ports: free_port_range(),
            tcp_ports: free_port_range(),
            container_socket: None,
            task_slots: 512,
            stop_timeout_ms: 30_000,
            catalog: None,
        }
    }
}

impl Settings {
    /// The settings as (section, key, TOML value).
    fn entries(&self) -> Vec<(&'static str, &'static str, String)> {
        let local = |port: u16| format!("\"http://127.0.0.1:{port}\"");
        let mut entries = vec![
            ("api", "port", self.api_port.to_string()),
            ("api", "public_url", local(self.api_port)),
            ("scheduler", "port", self.scheduler_port.to_string()),
            ("scheduler", "public_url", local(self.scheduler_port)),
            // Less than the defaults, so that a test of backoff does not wait for them. No test here waits for a lost node:
            // on a busy machine an agent may have no turn for seconds.
            ("scheduler", "heartbeat_ms", "500".into()),
            ("scheduler", "node_lease_ms", "20000".into()),
            ("scheduler", "backoff_initial_ms", "200".into()),
            ("scheduler", "drain_timeout_ms", "15000".into()),
            ("agent", "port", self.agent_port.to_string()),
            ("agent", "port_min", self.task_ports.0.to_string()),
            ("agent", "port_max", self.task_ports.1.to_string()),
            ("agent", "task_slots", self.task_slots.to_string()),
            ("agent", "stop_timeout_ms", self.stop_timeout_ms.to_string()),
            ("proxy", "port", self.proxy_port.to_string()),
            ("proxy", "admin_port", self.proxy_admin_port.to_string()),
            ("proxy", "drain_timeout_ms", "5000".into()),
            (
                "proxy",
                "tcp_port_range",
                format!("\"{}-{}\"", self.tcp_ports.0, self.tcp_ports.1),
            ),
            ("registry", "port", self.registry_port.to_string()),
            ("registry", "public_url", local(self.registry_port)),
            ("build", "port", self.build_port.to_string()),
            ("build", "public_url", local(self.build_port)),
            ("build", "cache_dir", quoted(&crate::tish_cache())),
            ("build", "compiler", quoted(&crate::program("zectre-tishc"))),
        ];
        if let Some((url, audience)) = &self.catalog {
            let jwks_url = format!("\"{url}/.well-known/jwks.json\"");
            entries.push(("auth", "catalog_jwks_url", jwks_url));
            entries.push(("auth", "jwt_expected_iss", format!("\"{url}\"")));
            entries.push(("auth", "jwt_expected_aud", format!("\"{audience}\"")));
        }
        match &self.container_socket {
            Some(socket) => {
                entries.push(("agent", "container_enabled", "true".into()));
                entries.push(("agent", "container_socket", quoted(socket)));
            }
            None => entries.push(("agent", "container_enabled", "false".into())),
        }
        entries
    }

    /// As environment variables, for `zectre up`.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let variable = |(section, key, value): (&str, &str, String)| {
            (
                format!("ZECTRE__{}__{}", section.to_uppercase(), key.to_uppercase()),
                value.trim_matches('"').to_owned(),
            )
        };
        self.entries().into_iter().map(variable).collect()
    }

    /// As a configuration file, for separate daemons, with `extra` entries.
    pub(crate) fn write_file(&self, path: &Path, extra: &[(&'static str, &'static str, String)]) {
        let mut entries = self.entries();
        entries.extend_from_slice(extra);
        write_file(path, entries);
    }
}

/// Settings as (section, key, TOML value); of two for one key the later one counts.
pub(crate) type Entries = Vec<(&'static str, &'static str, String)>;

/// Writes a configuration file.
pub(crate) fn write_file(path: &Path, entries: Entries) {
    let mut sections: BTreeMap<&str, BTreeMap<&str, String>> = BTreeMap::new();
    for (section, key, value) in entries {
        sections.entry(section).or_default().insert(key, value);
    }
    let mut text = String::new();
    for (section, keys) in sections {
        let _ = writeln!(text, "\n[{section}]");
        for (key, value) in keys {
            let _ = writeln!(text, "{key} = {value}");
        }
    }
    fs::write(path, text).expect("the test's directory is writable");
}

/// A path as a TOML string.
pub(crate) fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
