//! Whether a token is one of the trusted catalog, for this cluster, now. Pure: the keys and the time are given.

use super::keys::{KEY_ID_BYTES_MAX, KeySet};
use crate::email::is_plausible;
use jsonwebtoken::{Validation, decode, decode_header, errors::ErrorKind};
use serde::{Deserialize, Serialize};
use zectre_common::{plain, spec::valid_slug, state::Role, time::Time};

/// What an access token's header must say it is (RFC 9068), so that no other kind of token passes for one.
const TYPE: &str = "at+jwt";
/// How far the catalog's clock and this one may differ.
const LEEWAY_SECS: i64 = 60;
/// The most organizations that are taken from one token.
const ORGS_MAX: usize = 100;
/// The longest subject and name, and the longest id of a token.
const TEXT_BYTES_MAX: usize = 255;

/// Whose tokens are taken, and for whom they must be.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) issuer: String,
    pub(crate) audience: String,
}

/// Why a token is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("is not a signed token")]
    Malformed,
    #[error("is not an access token: its `typ` must be `at+jwt`")]
    Type,
    #[error("names no key (`kid`)")]
    NoKeyId,
    #[error("is signed with a key that the catalog does not list")]
    UnknownKey,
    #[error("is signed by another algorithm than its key is for")]
    Algorithm,
    #[error("is not signed by the catalog, or was changed")]
    Signature,
    #[error("is of another issuer")]
    Issuer,
    #[error("is for another cluster (`aud`)")]
    Audience,
    #[error("has expired; log in again")]
    Expired,
    #[error("is not valid yet: this cluster's clock and the catalog's differ")]
    NotYetValid,
    #[error("says {0} in a way that is not understood")]
    Claim(&'static str),
}

/// One membership that the catalog tells of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Org {
    pub(crate) slug: String,
    pub(crate) name: String,
    pub(crate) role: Role,
}

/// What a good token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claims {
    pub(crate) subject: String,
    pub(crate) token_id: String,
    pub(crate) issued_at: i64,
    pub(crate) expires_at: Time,
    pub(crate) email: String,
    pub(crate) email_verified: bool,
    pub(crate) name: String,
    pub(crate) orgs: Vec<Org>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

#[derive(Deserialize)]
struct Raw {
    iss: String,
    sub: String,
    aud: Audience,
    exp: i64,
    iat: i64,
    #[serde(default)]
    nbf: Option<i64>,
    jti: String,
    email: String,
    #[serde(default)]
    email_verified: bool,
    #[serde(default)]
    name: String,
    #[serde(default)]
    orgs: Vec<Org>,
}

/// Whether `token` says of itself that it is an access token, true or not.
pub(crate) fn is_access_token(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Typed {
        typ: Option<String>,
    }
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let header = token.split('.').next().unwrap_or_default();
    URL_SAFE_NO_PAD
        .decode(header)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Typed>(&bytes).ok())
        .and_then(|header| header.typ)
        .is_some_and(|typ| is_type(&typ))
}

/// `application/` may be left out (RFC 7515, section 4.1.9), and case says nothing.
fn is_type(typ: &str) -> bool {
    let typ = typ.to_ascii_lowercase();
    typ.strip_prefix("application/").unwrap_or(&typ) == TYPE
}

/// What `token` says, if it is to be believed.
///
/// # Errors
/// The first rule that it breaks; its signature is looked at before anything that it says.
pub(crate) fn verify(keys: &KeySet, expected: &Expected, token: &str, now: Time) -> Result<Claims, Refused> {
    // `none` and everything else that is no algorithm ends here.
    let header = decode_header(token).map_err(|_| Refused::Malformed)?;
    if !header.typ.as_deref().is_some_and(is_type) {
        return Err(Refused::Type);
    }
    // An extension that must be understood, and isn't.
    if header.crit.is_some() {
        return Err(Refused::Malformed);
    }
    let id = header
        .kid
        .as_deref()
        .filter(|id| (1..=KEY_ID_BYTES_MAX).contains(&id.len()));
    let key = keys.get(id.ok_or(Refused::NoKeyId)?).ok_or(Refused::UnknownKey)?;
    // The key says which algorithm it is for: a public key is never taken for a shared secret.
    if header.alg != key.algorithm {
        return Err(Refused::Algorithm);
    }
    let mut signature_only = Validation::new(key.algorithm);
    signature_only.required_spec_claims.clear();
    (signature_only.validate_exp, signature_only.validate_aud) = (false, false);
    let raw = decode::<Raw>(token, &key.decoding, &signature_only).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => Refused::Signature,
        ErrorKind::Json(_) => Refused::Claim("a claim"),
        _ => Refused::Malformed,
    })?;
    check(raw.claims, expected, now.unix_ms() / 1_000)
}

fn check(raw: Raw, expected: &Expected, now_secs: i64) -> Result<Claims, Refused> {
    if raw.iss != expected.issuer {
        return Err(Refused::Issuer);
    }
    let is_for_us = match &raw.aud {
        Audience::One(one) => *one == expected.audience,
        Audience::Several(all) => all.contains(&expected.audience),
    };
    if !is_for_us {
        return Err(Refused::Audience);
    }
    if raw.exp <= now_secs {
        return Err(Refused::Expired);
    }
    let begins = raw.nbf.map_or(raw.iat, |nbf| nbf.max(raw.iat));
    if begins > now_secs.saturating_add(LEEWAY_SECS) {
        return Err(Refused::NotYetValid);
    }
    let is_id = |text: &str| (1..=TEXT_BYTES_MAX).contains(&text.len()) && plain::is_plain(text);
    for (claim, text) in [("sub", &raw.sub), ("jti", &raw.jti)] {
        if !is_id(text) {
            return Err(Refused::Claim(claim));
        }
    }
    if !is_plausible(&raw.email) {
        return Err(Refused::Claim("email"));
    }
    if raw.orgs.len() > ORGS_MAX || !raw.orgs.iter().all(|org| valid_slug(&org.slug)) {
        return Err(Refused::Claim("orgs"));
    }
    let mut orgs = raw.orgs;
    for org in &mut orgs {
        org.name = shown(&org.name);
    }
    let expires_at = raw.exp.checked_mul(1_000).ok_or(Refused::Claim("exp"))?;
    Ok(Claims {
        subject: raw.sub,
        token_id: raw.jti,
        issued_at: raw.iat,
        expires_at: Time::from_unix_ms(expires_at),
        email: raw.email,
        email_verified: raw.email_verified,
        name: shown(&raw.name),
        orgs,
    })
}

/// A name for people, without what would play tricks on who reads it; one that is too long is left out.
fn shown(name: &str) -> String {
    if name.len() > TEXT_BYTES_MAX {
        return String::new();
    }
    plain::seen(name).trim().to_owned()
}

#[cfg(test)]
mod tests;
