//! Keys: 32 random bytes each, kept as hex in files that only their owner may read.
//!
//! The service key signs what services say to each other; each node's key is derived from it, so an agent
//! holds nothing that reaches beyond its own node, and nothing about it has to be stored. The token key signs
//! logins; the ring of master keys seals what the database holds.

use crate::ring::KeyRing;
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretBox};
use sha2::Sha256;
use std::{
    fmt::Write as _,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};
use subtle::ConstantTimeEq;
use zectre_common::{
    config::SecretsConfig,
    id::{NodeId, TaskId},
};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// A key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The configuration names no file.
    #[error("secrets.{0} is not set: name the file that holds the key (`zectre up` makes all keys)")]
    NotSet(&'static str),
    /// The file can't be read.
    #[error("the key file {path} (secrets.{name}) can't be read: {source}")]
    Read {
        /// Which key.
        name: &'static str,
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others may read it.
    #[error("the key file {0} can be read by others: run `chmod 600 {0}`")]
    Exposed(PathBuf),
    /// Its content is no key.
    #[error(
        "the key file {0} must hold 64 hexadecimal digits (the master key's a line of them for each key, the first of which seals)"
    )]
    Malformed(PathBuf),
    /// Someone else is changing it.
    #[error("another `zectre keys` is changing the key file {0}; wait for it")]
    Busy(PathBuf),
    /// It changed under who wanted to change it.
    #[error("the key file {0} was changed meanwhile; run the command again")]
    Changed(PathBuf),
    /// It could not be written.
    #[error("the key file {path} can't be written: {source}")]
    Write {
        /// Where.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The bytes of a key; shared, never shown.
#[derive(Clone)]
pub(crate) struct Secret(Arc<SecretBox<[u8; KEY_BYTES]>>);

impl Secret {
    pub(crate) fn expose(&self) -> &[u8; KEY_BYTES] {
        self.0.expose_secret()
    }

    pub(crate) fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self(Arc::new(SecretBox::new(Box::new(bytes))))
    }
}

macro_rules! keys {
    ($($(#[$doc:meta])* $name:ident;)*) => {$(
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Secret);

        impl $name {
            /// From raw bytes.
            pub fn from_bytes(bytes: [u8; KEY_BYTES]) -> Self {
                Self(Secret::new(bytes))
            }

            /// The raw bytes, for the primitive that uses them.
            pub fn expose(&self) -> &[u8; KEY_BYTES] {
                self.0.expose()
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}

keys! {
    /// Signs what services say to each other.
    ServiceKey;
    /// Signs what one node's agent says, and what the scheduler says to it.
    NodeKey;
    /// Signs login tokens.
    TokenKey;
    /// Lets its bearer read the metrics.
    MetricsKey;
}

/// What the catalog, which keeps one, calls its ring.
pub type MasterKey = KeyRing;

impl MetricsKey {
    /// From the file that the configuration names, if it names one.
    pub fn load(config: &SecretsConfig) -> Result<Option<Self>, KeyError> {
        let key = read("metrics_token_file", &config.metrics_token_file)?;
        Ok(key.map(Self::from_bytes))
    }

    /// Whether `token`, in hex, is this key.
    pub fn is(&self, token: &str) -> bool {
        from_hex::<KEY_BYTES>(token).is_some_and(|bytes| bool::from(bytes.ct_eq(self.expose())))
    }
}

impl NodeKey {
    /// Hex, for the registration answer and the agent's credential file.
    pub fn to_hex(&self) -> String {
        to_hex(self.expose())
    }

    /// From hex; `None` when it isn't a key.
    pub fn from_hex(hex: &str) -> Option<Self> {
        from_hex(hex).map(Self::from_bytes)
    }
}

/// The key of one node, derived from the service key.
pub fn node_key(service: &ServiceKey, node: NodeId) -> NodeKey {
    NodeKey::from_bytes(authenticate(
        service.expose(),
        &[b"zectre node key v1", node.get().as_bytes()],
    ))
}

/// What stands for a task in a visitor's cookie: the same at every proxy, and nothing without the service key.
pub fn affinity_mark(service: &ServiceKey, task: TaskId) -> String {
    let mark = authenticate(service.expose(), &[b"zectre affinity v1", task.get().as_bytes()]);
    to_hex(&mark[..16])
}

/// HMAC-SHA-256 over length-prefixed parts, so that no two lists of parts give the same message.
pub(crate) fn authenticate(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// The keys a service was given; each is asked for by the service that needs it.
#[derive(Debug, Clone, Default)]
pub struct Keys {
    service: Option<ServiceKey>,
    token: Option<TokenKey>,
    master: Option<KeyRing>,
    metrics: Option<MetricsKey>,
}

impl Keys {
    /// Reads the files that the configuration names.
    pub fn load(config: &SecretsConfig) -> Result<Self, KeyError> {
        Ok(Self {
            service: read("service_key_file", &config.service_key_file)?.map(ServiceKey::from_bytes),
            token: read("token_key_file", &config.token_key_file)?.map(TokenKey::from_bytes),
            master: KeyRing::find(&config.master_key_file)?,
            metrics: MetricsKey::load(config)?,
        })
    }

    /// Signs what services say to each other.
    pub fn service(&self) -> Result<ServiceKey, KeyError> {
        self.service.clone().ok_or(KeyError::NotSet("service_key_file"))
    }

    /// Signs logins.
    pub fn token(&self) -> Result<TokenKey, KeyError> {
        self.token.clone().ok_or(KeyError::NotSet("token_key_file"))
    }

    /// Seals what the database holds.
    pub fn master(&self) -> Result<KeyRing, KeyError> {
        self.master.clone().ok_or(KeyError::NotSet("master_key_file"))
    }

    /// Lets its bearer read the metrics; without one nobody reads them.
    pub fn metrics(&self) -> Option<MetricsKey> {
        self.metrics.clone()
    }
}

/// Fills a buffer from the operating system's random source.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system's random source works once it is seeded");
    bytes
}

/// Makes a key file (mode 0600) unless it is there already; two makers at once agree on one key.
pub fn ensure_key_file(path: &Path) -> Result<(), KeyError> {
    let failed = |source| KeyError::Write {
        path: path.into(),
        source,
    };
    let mut file = match fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
    {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    writeln!(file, "{}", to_hex(&random_bytes::<KEY_BYTES>())).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// The key in a file that only its owner may read; `None` when `path` is empty. `name` is its key below `secrets`.
pub fn read(name: &'static str, path: &Path) -> Result<Option<[u8; KEY_BYTES]>, KeyError> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let text = read_private(name, path)?;
    let key = from_hex(text.trim()).ok_or_else(|| KeyError::Malformed(path.into()))?;
    Ok(Some(key))
}

/// The text of a file that nobody else may read.
pub(crate) fn read_private(name: &'static str, path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Read {
        name,
        path: path.into(),
        source,
    };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(path.into()));
    }
    fs::read_to_string(path).map_err(failed)
}

/// Lower-case hex.
pub fn to_hex(bytes: &[u8]) -> String {
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// Exactly `N` bytes of hex; `None` for anything else.
pub fn from_hex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digits = hex.as_bytes();
    if digits.len() != 2 * N || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_have_different_keys_and_none_shows_itself() {
        let service = ServiceKey::from_bytes([7; KEY_BYTES]);
        let (a, b) = (NodeId::new(), NodeId::new());
        assert_ne!(node_key(&service, a).expose(), node_key(&service, b).expose());
        assert_eq!(node_key(&service, a).expose(), node_key(&service, a).expose());
        assert_eq!(format!("{service:?}"), "ServiceKey(…)");
    }

    #[test]
    fn hex_round_trips_and_refuses_everything_else() {
        let bytes = random_bytes::<KEY_BYTES>();
        assert_eq!(from_hex::<KEY_BYTES>(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex::<2>("0g00"), None);
        assert_eq!(from_hex::<2>("+100"), None);
        assert_eq!(from_hex::<2>("000"), None);
    }
}
