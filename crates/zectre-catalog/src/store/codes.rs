//! Codes that a client exchanges for tokens, each once.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use zectre_common::{id::UserId, time::Time};

/// How long a code holds: a redirect and a call.
const TTL: Duration = Duration::from_secs(60);

/// What a code stands for.
#[derive(Debug)]
pub struct Code {
    /// Who signed in.
    pub user_id: UserId,
    /// With which client.
    pub client_id: String,
    /// Where the code was sent.
    pub redirect_uri: String,
    /// Who may exchange it (RFC 7636, S256).
    pub code_challenge: String,
    /// For whom tokens are.
    pub audience: String,
}

/// Stores one that holds from now on.
pub async fn insert(pool: &PgPool, code_hash: &[u8], code: &Code) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO authorization_codes (code_hash, user_id, client_id, redirect_uri, code_challenge, audience, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        code_hash,
        code.user_id as _,
        code.client_id,
        code.redirect_uri,
        code.code_challenge,
        code.audience,
        Time::now().plus(TTL) as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Spends it, whatever comes of it; `None` when it doesn't hold (any more). Whoever comes at the same time waits for the end
/// of this transaction, and is told that it is spent.
pub async fn spend(connection: &mut PgConnection, code_hash: &[u8]) -> Result<Option<Code>, Error> {
    let query = sqlx::query_as!(
        Code,
        r#"UPDATE authorization_codes SET used_at = now() WHERE code_hash = $1 AND used_at IS NULL AND expires_at > now()
           RETURNING user_id AS "user_id: UserId", client_id, redirect_uri, code_challenge, audience"#,
        code_hash
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Whether it was exchanged before.
pub async fn is_spent(connection: &mut PgConnection, code_hash: &[u8]) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM authorization_codes WHERE code_hash = $1 AND used_at IS NOT NULL) AS "spent!""#,
        code_hash
    );
    Ok(query.fetch_one(connection).await?)
}
