//! The catalog's own configuration: `config/catalog.toml` (compiled in), then a file, then `ZECTRE_CATALOG_SECTION__KEY`.
//!
//! It is apart from the platform's, because a catalog stands above clusters and shares nothing with any of them.

use crate::core::redirect;
use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};
use url::Url;
use zectre_common::config::{ConfigError, DatabaseConfig, LogFormat};
use zectre_service::daemon::Home;

/// The defaults, comments and all.
pub const DEFAULT_TOML: &str = include_str!("../../../config/catalog.toml");
/// Read when no file is named and it exists.
pub const SYSTEM_FILE: &str = "/etc/zectre/catalog.toml";
/// The command line's client id; it needs no entry in `clients`.
pub const CLI_CLIENT: &str = "zectre-cli";
/// The longest life of an access token. Keys are kept for it, whatever the configuration says: it may have said something
/// else when a token was made.
pub const ACCESS_TTL_SECS_MAX: u64 = 3_600;

/// For [`zectre_service::daemon::main_with`].
pub const HOME: Home<Config> = Home {
    file: SYSTEM_FILE,
    load: Config::load,
    logs: |config| (&config.logs.filter, config.logs.format),
};

macro_rules! sections {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty,)* })*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(missing_docs, reason = "config/catalog.toml has a comment a key")]
        pub struct $name { $(pub $field: $type,)* }
    )*};
}

sections! {
    /// `[server]`
    ServerConfig { host: String, port: u16, public_url: String, request_timeout_ms: u64, concurrency_max: usize, }
    /// `[github]`
    GithubConfig { url: String, api_url: String, client_id: String, client_secret_file: PathBuf, timeout_ms: u64, }
    /// `[tokens]`
    TokensConfig {
        algorithm: Algorithm, rsa_bits: usize, access_ttl_secs: u64, session_ttl_secs: u64, key_rotate_secs: u64,
        key_publish_ahead_secs: u64,
    }
    /// `[limits]`
    LimitsConfig { organizations_per_user_max: i64, per_organization_max: i64, sessions_per_user_max: i64, }
    /// `[secrets]`
    SecretsConfig { master_key_file: PathBuf, metrics_token_file: PathBuf, }
    /// `[logs]`
    LogsConfig { filter: String, format: LogFormat, }
    /// An element of `clients`.
    ClientConfig { id: String, redirect_uris: Vec<String>, }
    /// All of it.
    Config {
        clients: Vec<ClientConfig>, server: ServerConfig, database: DatabaseConfig, github: GithubConfig,
        tokens: TokensConfig, limits: LimitsConfig, secrets: SecretsConfig, logs: LogsConfig,
    }
}

/// What tokens are signed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    /// RSA with PKCS#1 v1.5 and SHA-256: everything that checks tokens knows it.
    #[serde(rename = "RS256")]
    Rs256,
    /// Ed25519.
    #[serde(rename = "EdDSA")]
    EdDsa,
}

impl Algorithm {
    /// As in a token's header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rs256 => "RS256",
            Self::EdDsa => "EdDSA",
        }
    }

    /// From a token's header; `None` for every other algorithm.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Rs256, Self::EdDsa]
            .into_iter()
            .find(|one| one.as_str() == text)
    }
}

impl Config {
    /// Reads the defaults, `file` (or the system's file, when it exists) and the environment, and checks the result.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let mut figment = Figment::from(Toml::string(DEFAULT_TOML));
        match file {
            Some(path) if !path.is_file() => return Err(ConfigError::Missing(path.into())),
            Some(path) => figment = figment.merge(Toml::file_exact(path)),
            None if Path::new(SYSTEM_FILE).is_file() => {
                figment = figment.merge(Toml::file_exact(SYSTEM_FILE));
            }
            None => {}
        }
        // ZECTRE_CATALOG_URL belongs to the command line; only what has a double underscore is a key of ours.
        let ours = Env::prefixed("ZECTRE_CATALOG_").filter(|key| key.as_str().contains("__"));
        Self::extract(&figment.merge(ours.split("__")))
    }

    /// The defaults with `overrides` (TOML) over them.
    pub fn from_toml(overrides: &str) -> Result<Self, ConfigError> {
        Self::extract(&Figment::from(Toml::string(DEFAULT_TOML)).merge(Toml::string(overrides)))
    }

    fn extract(figment: &Figment) -> Result<Self, ConfigError> {
        let explained = |error: figment::Error| {
            let lines: Vec<String> = error.into_iter().map(|one| one.to_string()).collect();
            ConfigError::Invalid(lines.join("\n"))
        };
        let config: Self = figment.extract().map_err(explained)?;
        config.check().map_err(ConfigError::Invalid)?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        if self.database.url.expose_secret().is_empty() {
            return Err("database.url is not set: name the catalog's own database".into());
        }
        base_url("server.public_url", &self.server.public_url)?;
        base_url("github.url", &self.github.url)?;
        base_url("github.api_url", &self.github.api_url)?;
        if !is_client_id(&self.github.client_id) {
            return Err(
                "github.client_id is not set: make an OAuth app on GitHub and name its client id".into(),
            );
        }
        self.tokens.check()?;
        within(
            "server.request_timeout_ms",
            self.server.request_timeout_ms,
            100,
            600_000,
        )?;
        within("github.timeout_ms", self.github.timeout_ms, 100, 60_000)?;
        for (key, value) in [
            (
                "limits.organizations_per_user_max",
                self.limits.organizations_per_user_max,
            ),
            ("limits.per_organization_max", self.limits.per_organization_max),
            ("limits.sessions_per_user_max", self.limits.sessions_per_user_max),
        ] {
            within(key, u64::try_from(value).unwrap_or(0), 1, 100_000)?;
        }
        self.check_clients()
    }

    fn check_clients(&self) -> Result<(), String> {
        let mut seen = BTreeSet::from([CLI_CLIENT]);
        for client in &self.clients {
            if !is_client_id(&client.id) || !seen.insert(&client.id) {
                return Err(format!(
                    "clients: `{}` is taken, or not an id of 1 to 64 letters, digits, `.`, `-` and `_`",
                    client.id
                ));
            }
            if let Some(wrong) = client
                .redirect_uris
                .iter()
                .find(|uri| !redirect::may_be_registered(uri))
            {
                return Err(format!(
                    "clients: `{wrong}` of `{}` is not an https:// URL without a fragment (http:// for loopback addresses only)",
                    client.id
                ));
            }
        }
        Ok(())
    }

    /// The GitHub app's secret.
    pub fn client_secret(&self) -> Result<SecretString, ConfigError> {
        let path = &self.github.client_secret_file;
        if path.as_os_str().is_empty() {
            return Err(ConfigError::Invalid(
                "github.client_secret_file is not set: name the file that holds the OAuth app's secret"
                    .into(),
            ));
        }
        let failed = |why: String| {
            ConfigError::Invalid(format!("github.client_secret_file {}: {why}", path.display()))
        };
        let meta = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?;
        if std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0 {
            return Err(failed("can be read by others: run `chmod 600` on it".into()));
        }
        let text = std::fs::read_to_string(path).map_err(|error| failed(error.to_string()))?;
        match text.trim() {
            "" => Err(failed("is empty".into())),
            secret => Ok(SecretString::from(secret)),
        }
    }
}

impl TokensConfig {
    fn check(&self) -> Result<(), String> {
        within("tokens.rsa_bits", self.rsa_bits as u64, 2_048, 4_096)?;
        within(
            "tokens.access_ttl_secs",
            self.access_ttl_secs,
            60,
            ACCESS_TTL_SECS_MAX,
        )?;
        within(
            "tokens.session_ttl_secs",
            self.session_ttl_secs,
            3_600,
            365 * 86_400,
        )?;
        // Clusters keep keys for minutes, and every catalog process reads them once a minute.
        within(
            "tokens.key_publish_ahead_secs",
            self.key_publish_ahead_secs,
            3_600,
            30 * 86_400,
        )?;
        if self.key_rotate_secs < 2 * self.key_publish_ahead_secs || self.key_rotate_secs > 365 * 86_400 {
            return Err("tokens.key_rotate_secs must be at least twice tokens.key_publish_ahead_secs and at most a year".into());
        }
        Ok(())
    }
}

fn within(key: &str, value: u64, least: u64, most: u64) -> Result<(), String> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(format!("{key} must be from {least} to {most}"))
}

fn is_client_id(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
}

/// A URL that others are appended to.
fn base_url(key: &str, text: &str) -> Result<(), String> {
    let plain = Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "http" | "https")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none()
    });
    if plain && !text.ends_with('/') {
        return Ok(());
    }
    Err(format!(
        "{key} `{text}` is not a URL such as https://catalog.example.com, without a slash at its end"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEAST: &str = "[database]\nurl = 'postgres://x'\n[github]\nclient_id = 'app'\n";

    #[test]
    fn the_defaults_need_a_database_and_an_app_and_nothing_else() {
        assert_eq!(Config::from_toml(LEAST).expect("valid").server.port, 47100);
        assert!(Config::from_toml("").is_err());
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (keys, named) in [
            ("[server]\npublic_url = 'http://a/'", "server.public_url"),
            ("[server]\nprot = 1", "prot"),
            ("[tokens]\nrsa_bits = 1024", "tokens.rsa_bits"),
            ("[tokens]\nalgorithm = 'HS256'", "HS256"),
            ("[tokens]\naccess_ttl_secs = 86400", "tokens.access_ttl_secs"),
            ("[tokens]\nkey_rotate_secs = 86400", "tokens.key_rotate_secs"),
        ] {
            let error = Config::from_toml(&format!("{LEAST}{keys}"))
                .expect_err(keys)
                .to_string();
            assert!(error.contains(named), "{keys}: {error}");
        }
        for clients in [
            "[{ id = 'zectre-cli', redirect_uris = [] }]",
            "[{ id = 'a', redirect_uris = ['http://example.com/'] }]",
            "[{ id = 'a', redirect_uris = ['https://example.com/#x'] }]",
        ] {
            assert!(
                Config::from_toml(&format!("clients = {clients}\n{LEAST}")).is_err(),
                "{clients}"
            );
        }
    }
}
