//! A login under way, as the browser that began it remembers it.

use serde::{Deserialize, Serialize};
use std::time::Duration;
use subtle::ConstantTimeEq;
use zectre_common::{id::UserId, time::Time};

/// How long someone may take at GitHub, and how long on the page that asks for their word.
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
    /// Whether it is the one that GitHub speaks of with `state`, and holds.
    pub(super) fn answers(&self, state: &str) -> bool {
        same(&self.state, state) && self.expires_at > Time::now()
    }

    /// Whether its person is asked before the code goes out. A redirect to this machine reaches whatever program listens
    /// there, and any page can begin such a login (RFC 8252, section 8.6).
    pub(super) fn asks(&self) -> bool {
        !self.redirect_uri.starts_with("https://")
    }
}

/// A login whose person is known and asked.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Consent {
    /// Who it is.
    pub(super) user: UserId,
    /// What the page sends back.
    pub(super) nonce: String,
    /// The login.
    pub(super) login: Login,
    /// When it ends.
    pub(super) expires_at: Time,
}

impl Consent {
    /// Whether it is what the page with `nonce` asks for, and holds.
    pub(super) fn answers(&self, nonce: &str) -> bool {
        same(&self.nonce, nonce) && self.expires_at > Time::now()
    }
}

fn same(a: &str, b: &str) -> bool {
    bool::from(a.as_bytes().ct_eq(b.as_bytes()))
}
