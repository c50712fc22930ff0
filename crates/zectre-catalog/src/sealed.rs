//! What is sealed under the master key, each with a context of its own, so that nothing opens as something else.

use crate::error::Error;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{Serialize, de::DeserializeOwned};
use zectre_service::{
    key::MasterKey,
    seal::{self, OpenError},
};

/// A login under way, in the browser that began it.
const LOGIN: &str = "catalog:login";

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

/// A login under way, as a cookie's value.
pub fn login<T: Serialize>(master: &MasterKey, login: &T) -> Result<String, Error> {
    let text = serde_json::to_string(login)
        .map_err(|error| Error::Internal(format!("a login can't be written: {error}")))?;
    Ok(URL_SAFE_NO_PAD.encode(seal::seal(master, LOGIN, &text)))
}

/// What [`login`] sealed; `None` for anything else.
pub fn open_login<T: DeserializeOwned>(master: &MasterKey, cookie: &str) -> Option<T> {
    let sealed = URL_SAFE_NO_PAD.decode(cookie).ok()?;
    let text = seal::open(master, LOGIN, &sealed).ok()?;
    serde_json::from_str(text.expose_secret()).ok()
}
