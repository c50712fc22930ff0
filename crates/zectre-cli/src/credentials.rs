//! Sign-ins, one an API, in the user's own configuration directory; nobody else may read the file.

use crate::{error::CliError, home};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zectre_client::Credential;
use zectre_common::id::ApiKeyId;

/// One sign-in. No `Debug`: it holds secrets.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct SignIn {
    /// An API key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key: Option<String>,
    /// The id of the key, where it was made for this sign-in alone and ends with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) api_key_id: Option<ApiKeyId>,
    /// A login token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
    /// Whose.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) email: Option<String>,
    /// Where the login token comes from, where a catalog gave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) catalog: Option<CatalogOrigin>,
    /// The data directory, where it is a platform that this user started with `zectre up`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data_dir: Option<PathBuf>,
}

impl SignIn {
    pub(crate) fn credential(&self) -> Credential {
        match (&self.api_key, &self.token) {
            (Some(key), _) => Credential::ApiKey(SecretString::from(key.clone())),
            (None, Some(token)) => Credential::Token(SecretString::from(token.clone())),
            (None, None) => Credential::None,
        }
    }
}

/// Where a token comes from, and the next one.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CatalogOrigin {
    /// The catalog's URL.
    pub(crate) url: String,
    /// What it is asked for: the cluster.
    pub(crate) audience: String,
    /// The cluster as the catalog calls it: `organization/name`.
    pub(crate) cluster: String,
    /// When there is to be another token, in milliseconds since the Unix epoch; well before this one ends.
    pub(crate) renew_at_ms: i64,
}

/// A sign-in at a catalog. No `Debug`: it holds a secret.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct CatalogSession {
    /// What gets tokens; it changes each time.
    pub(crate) refresh_token: String,
    /// Whose.
    pub(crate) email: String,
}

/// All sign-ins of this user.
#[derive(Clone, Default, Serialize, Deserialize)]
pub(crate) struct Credentials {
    /// The API that commands talk to unless told otherwise: the one signed in to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) default: Option<String>,
    /// By API URL.
    #[serde(default)]
    pub(crate) apis: BTreeMap<String, SignIn>,
    /// The catalog signed in to last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) catalog: Option<String>,
    /// By catalog URL.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) catalogs: BTreeMap<String, CatalogSession>,
}

impl Credentials {
    /// Those of this user; none when there is no file.
    pub(crate) fn load() -> Result<Self, CliError> {
        Self::load_from(&path()?)
    }

    fn load_from(path: &Path) -> Result<Self, CliError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(CliError::read(path)(error)),
        };
        serde_json::from_str(&text).map_err(|error| {
            CliError::Usage(format!(
                "{} is damaged ({error}). Delete it and run `zectre login`.",
                path.display()
            ))
        })
    }

    /// Remembers a sign-in and makes its API the default; where that runs stays known.
    pub(crate) fn remember(url: &str, mut sign_in: SignIn) -> Result<(), CliError> {
        Self::change(|all| {
            let known = all.apis.remove(url);
            sign_in.data_dir = sign_in.data_dir.or(known.and_then(|known| known.data_dir));
            all.apis.insert(url.into(), sign_in);
            all.default = Some(url.into());
        })
    }

    /// Replaces the login token of an API, where one is stored: the old one has ended.
    pub(crate) fn renew(url: &str, token: String) -> Result<(), CliError> {
        Self::change(|all| {
            if let Some(sign_in) = all.apis.get_mut(url).filter(|sign_in| sign_in.token.is_some()) {
                sign_in.token = Some(token);
            }
        })
    }

    /// Forgets the sign-in of an API; false when there was none.
    pub(crate) fn forget(url: &str) -> Result<bool, CliError> {
        let mut known = false;
        Self::change(|all| {
            known = all.apis.remove(url).is_some();
            if all.default.as_deref() == Some(url) {
                all.default = None;
            }
        })?;
        Ok(known)
    }

    /// Changes what is stored, in one step: of two commands that do so at once neither forgets what the other remembers.
    pub(crate) fn change(change: impl FnOnce(&mut Self)) -> Result<(), CliError> {
        let path = path()?;
        let _lock = lock(&path.with_file_name("credentials.lock"))?;
        let mut all = Self::load_from(&path)?;
        change(&mut all);
        all.save(&path)
    }

    /// Holds the sign-ins of catalogs until it is dropped: of two commands that refresh at once one would look like a thief.
    pub(crate) fn lock_catalogs() -> Result<fs::File, CliError> {
        lock(&path()?.with_file_name("catalogs.lock"))
    }

    /// Replaces the file in one step, so that a crash leaves the old or the new one.
    fn save(&self, path: &Path) -> Result<(), CliError> {
        let directory = make_directory_of(path)?;
        let fresh = directory.join(format!(".credentials.{}", std::process::id()));
        let text = serde_json::to_string_pretty(self).expect("strings are valid JSON");
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .and_then(|()| fs::rename(&fresh, path));
        if written.is_err() {
            let _ = fs::remove_file(&fresh);
        }
        written.map_err(CliError::write(path))
    }
}

fn make_directory_of(path: &Path) -> Result<&Path, CliError> {
    let directory = path.parent().expect("the file has a directory by construction");
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(CliError::write(directory))?;
    Ok(directory)
}

/// Waits until no other command holds `path`; the returned file holds it until it is dropped.
fn lock(path: &Path) -> Result<fs::File, CliError> {
    make_directory_of(path)?;
    let file = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(CliError::write(path))?;
    file.lock().map_err(CliError::write(path))?;
    Ok(file)
}

/// Where they are kept: `$XDG_CONFIG_HOME` or `~/.config`, then `zectre/credentials.json`.
fn path() -> Result<PathBuf, CliError> {
    let config = home::directory("XDG_CONFIG_HOME", ".config").ok_or_else(|| {
        CliError::Usage(
            "neither XDG_CONFIG_HOME nor HOME is set, and this user has no home: set HOME, or sign in with ZECTRE_API_KEY"
                .into(),
        )
    })?;
    Ok(config.join("zectre").join("credentials.json"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_the_owner_may_read_the_file_and_it_round_trips() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("zectre/credentials.json");
        let sign_in = SignIn {
            api_key: Some("zk_x".into()),
            ..SignIn::default()
        };
        let all = Credentials {
            default: None,
            apis: BTreeMap::from([("http://a".into(), sign_in)]),
            ..Credentials::default()
        };
        all.save(&path).expect("writable");
        all.save(&path).expect("writable again");
        assert_eq!(
            fs::metadata(&path).expect("there").permissions().mode() & 0o777,
            0o600
        );
        assert_eq!(
            fs::read_dir(path.parent().expect("a directory"))
                .expect("readable")
                .count(),
            1
        );
        let read = Credentials::load_from(&path).expect("valid");
        assert_eq!(read.apis["http://a"].api_key.as_deref(), Some("zk_x"));
    }

    #[test]
    fn a_damaged_file_says_what_to_do() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("credentials.json");
        fs::write(&path, "{").expect("writable");
        let error = Credentials::load_from(&path).err().expect("damaged").to_string();
        assert!(error.contains("zectre login"), "{error}");
    }
}
