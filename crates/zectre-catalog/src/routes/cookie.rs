//! Cookies of a login under way: sealed, so that beginning one costs the catalog nothing, and bound to the browser that began
//! it, so that nobody can finish another's.

use crate::{
    error::Error,
    sealed::{self, Waiting},
};
use http::{HeaderMap, HeaderValue, header};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;
use zectre_service::key::MasterKey;

/// The `Set-Cookie` that remembers `what`.
pub(super) fn remember<T: Serialize>(
    master: &MasterKey,
    issuer: &str,
    waiting: Waiting,
    what: &T,
    ttl: Duration,
) -> Result<HeaderValue, Error> {
    set(issuer, waiting, &sealed::cookie(master, waiting, what)?, ttl)
}

/// The `Set-Cookie` that forgets it.
pub(super) fn forget(issuer: &str, waiting: Waiting) -> Result<HeaderValue, Error> {
    set(issuer, waiting, "", Duration::ZERO)
}

/// What this browser remembers.
pub(super) fn recall<T: DeserializeOwned>(
    headers: &HeaderMap,
    master: &MasterKey,
    issuer: &str,
    waiting: Waiting,
) -> Option<T> {
    let name = name(issuer, waiting);
    let values = headers.get_all(header::COOKIE).iter();
    let values = values.filter_map(|value| value.to_str().ok());
    let mut pairs = values
        .flat_map(|value| value.split("; "))
        .filter_map(|pair| pair.split_once('='));
    let (_, sealed) = pairs.find(|(key, _)| *key == name)?;
    sealed::open_cookie(master, waiting, sealed)
}

fn set(issuer: &str, waiting: Waiting, value: &str, ttl: Duration) -> Result<HeaderValue, Error> {
    let same_site = match waiting {
        // GitHub's redirect comes from another site.
        Waiting::Login => "Lax",
        // A page of another site gives nobody's word.
        Waiting::Consent => "Strict",
    };
    let secure = if issuer.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{}={value}; Max-Age={}; Path=/; HttpOnly; SameSite={same_site}{secure}",
        name(issuer, waiting),
        ttl.as_secs()
    );
    HeaderValue::from_str(&cookie)
        .map_err(|error| Error::Internal(format!("a cookie can't be sent: {error}")))
}

/// With https no other host of the domain can set it (`__Host-`).
fn name(issuer: &str, waiting: Waiting) -> &'static str {
    match (waiting, issuer.starts_with("https://")) {
        (Waiting::Login, true) => "__Host-zectre-login",
        (Waiting::Login, false) => "zectre-login",
        (Waiting::Consent, true) => "__Host-zectre-consent",
        (Waiting::Consent, false) => "zectre-consent",
    }
}
