//! What is sealed under the master key, each with a context of its own, so that nothing opens as something else.

use crate::error::Error;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use zectre_service::{
    key::MasterKey,
    seal::{
        self, OpenError,
        place::{Column, Form},
    },
};

/// Every sealed value of the catalog's database, for a rotation of its master keys.
pub const COLUMNS: &[Column] = &[Column {
    table: "signing_keys",
    column: "private_sealed",
    row: &["kid"],
    context: |row| key_context(&row[0]),
    form: Form::Bytes,
}];

/// Columns of bytes that are not sealed, because they hold hashes.
pub const HASHES: &[(&str, &str)] = &[
    ("authorization_codes", "code_hash"),
    ("invitations", "token_hash"),
    ("sessions", "code_hash"),
    ("sessions", "family_hash"),
    ("sessions", "refresh_hash"),
    ("spent_consents", "nonce_hash"),
];

/// What waits in a browser's cookie.
#[derive(Debug, Clone, Copy)]
pub enum Waiting {
    /// A login, for GitHub's answer.
    Login,
    /// A login, for its person's word.
    Consent,
}

impl Waiting {
    const fn context(self) -> &'static str {
        match self {
            Self::Login => "catalog:login",
            Self::Consent => "catalog:consent",
        }
    }
}

/// The private half of the key `kid`, for the database.
pub fn signing_key(master: &MasterKey, kid: &str, private: &SecretString) -> Vec<u8> {
    seal::seal(master, &key_context(kid), private.expose_secret())
}

/// What [`signing_key`] sealed.
pub fn open_signing_key(master: &MasterKey, kid: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
    seal::open(master, &key_context(kid), sealed)
}

fn key_context(kid: &str) -> String {
    format!("catalog:signing-key:{kid}")
}

/// It, as a cookie's value.
pub fn cookie<T: Serialize>(master: &MasterKey, waiting: Waiting, what: &T) -> Result<String, Error> {
    let text = serde_json::to_string(what)
        .map_err(|error| Error::Internal(format!("a login can't be written: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(seal::seal(master, waiting.context(), &text)))
}

/// What [`cookie`] sealed as the same; `None` for anything else.
pub fn open_cookie<T: DeserializeOwned>(master: &MasterKey, waiting: Waiting, value: &str) -> Option<T> {
    let sealed = URL_SAFE_NO_PAD.decode(value).ok()?;
    let text = seal::open_foreign(master, waiting.context(), &sealed).ok()?;
    serde_json::from_str(text.expose_secret()).ok()
}
