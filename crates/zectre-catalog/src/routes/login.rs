//! A login under way: sealed in a cookie of the browser that began it, so that nobody can finish another's, and so that
//! beginning one costs the catalog nothing.

use crate::{error::Error, sealed};
use http::{HeaderMap, HeaderValue, header};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use subtle::ConstantTimeEq;
use zectre_common::time::Time;
use zectre_service::key::MasterKey;

/// How long someone may take at GitHub.
pub(super) const TTL: Duration = Duration::from_secs(600);

/// What is remembered until GitHub sends the browser back.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Login {
    /// What GitHub sends back.
    pub(super) state: String,
    /// Our proof towards GitHub.
    pub(super) verifier: String,
    /// Who asked.
    pub(super) client_id: String,
    /// Where the answer goes.
    pub(super) redirect_uri: String,
    /// What the client wants back.
    pub(super) client_state: Option<String>,
    /// The client's proof towards us.
    pub(super) code_challenge: String,
    /// For whom tokens are to be.
    pub(super) audience: String,
    /// When it ends.
    pub(super) expires_at: Time,
}

impl Login {
    /// The `Set-Cookie` that remembers it.
    pub(super) fn cookie(&self, master: &MasterKey, issuer: &str) -> Result<HeaderValue, Error> {
        set_cookie(issuer, &sealed::login(master, self)?, TTL.as_secs())
    }

    /// The one of this browser that GitHub speaks of with `state`, while it holds.
    pub(super) fn of(headers: &HeaderMap, master: &MasterKey, issuer: &str, state: &str) -> Option<Self> {
        let name = cookie_name(issuer);
        let values = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let mut cookies = values
            .flat_map(|value| value.split("; "))
            .filter_map(|pair| pair.split_once('='));
        let (_, sealed) = cookies.find(|(key, _)| *key == name)?;
        let login: Self = sealed::open_login(master, sealed)?;
        let same = bool::from(login.state.as_bytes().ct_eq(state.as_bytes()));
        (same && login.expires_at > Time::now()).then_some(login)
    }
}

/// The `Set-Cookie` that forgets it.
pub(super) fn forget(issuer: &str) -> Result<HeaderValue, Error> {
    set_cookie(issuer, "", 0)
}

/// Lax, because GitHub's redirect comes from another site.
fn set_cookie(issuer: &str, value: &str, max_age_secs: u64) -> Result<HeaderValue, Error> {
    let secure = if issuer.starts_with("https://") {
        "; Secure"
    } else {
        ""
    };
    let cookie = format!(
        "{}={value}; Max-Age={max_age_secs}; Path=/; HttpOnly; SameSite=Lax{secure}",
        cookie_name(issuer)
    );
    HeaderValue::from_str(&cookie)
        .map_err(|error| Error::Internal(format!("a cookie can't be sent: {error}")))
}

/// With https no other host of the domain can set it (`__Host-`).
fn cookie_name(issuer: &str) -> &'static str {
    if issuer.starts_with("https://") {
        "__Host-zectre-login"
    } else {
        "zectre-login"
    }
}
