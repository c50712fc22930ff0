//! Login tokens: HS256 under the cluster's token key, revocable by their id.

use crate::error::Error;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use std::time::Duration;
use uuid::Uuid;
use zectre_common::{id::UserId, time::Time};
use zectre_service::key::TokenKey;

const ISSUER: &str = "zectre";
const AUDIENCE: &str = "zectre-api";

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: UserId,
    jti: Uuid,
    iat: u64,
    exp: u64,
    iss: String,
    aud: String,
    /// The account's login epoch when it was made; tokens of an earlier version have none and are of the first.
    #[serde(default)]
    epoch: i64,
}

/// What a valid token says.
pub(crate) struct Login {
    pub(crate) user_id: UserId,
    pub(crate) token_id: Uuid,
    pub(crate) expires_at: Time,
    pub(crate) epoch: i64,
}

/// A token for `user_id` in its login epoch, and when it ends (whole seconds, as in the token).
pub(crate) fn mint(
    key: &TokenKey,
    user_id: UserId,
    epoch: i64,
    ttl: Duration,
) -> Result<(String, Time), Error> {
    let now_secs = Time::now().unix_ms() / 1_000;
    let exp_secs = now_secs + ttl.as_secs() as i64;
    let claims = Claims {
        sub: user_id,
        jti: Uuid::now_v7(),
        iat: now_secs as u64,
        exp: exp_secs as u64,
        iss: ISSUER.into(),
        aud: AUDIENCE.into(),
        epoch,
    };
    let token = jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        &claims,
        &EncodingKey::from_secret(key.expose()),
    )
    .map_err(|error| Error::Internal(format!("could not sign a login token: {error}")))?;
    Ok((token, Time::from_unix_ms(exp_secs * 1_000)))
}

/// What the token says, when it is one of this cluster and has not expired.
pub(crate) fn verify(key: &TokenKey, token: &str) -> Option<Login> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    // Minted and checked by the same cluster: clocks hardly differ.
    validation.leeway = 5;
    let claims = jsonwebtoken::decode::<Claims>(token, &DecodingKey::from_secret(key.expose()), &validation)
        .ok()?
        .claims;
    let expires_at = Time::from_unix_ms(i64::try_from(claims.exp).ok()?.checked_mul(1_000)?);
    Some(Login {
        user_id: claims.sub,
        token_id: claims.jti,
        expires_at,
        epoch: claims.epoch,
    })
}
