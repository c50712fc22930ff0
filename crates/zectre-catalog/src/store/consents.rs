//! Pages on which a person was asked: each is answered once.

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::time::Time;

/// Spends the page with this nonce, which nobody could answer after `expires_at` anyway; false when it was spent before.
pub async fn spend(pool: &PgPool, nonce_hash: &[u8], expires_at: Time) -> Result<bool, Error> {
    let done = sqlx::query!(
        "INSERT INTO spent_consents (nonce_hash, expires_at) VALUES ($1, $2) ON CONFLICT (nonce_hash) DO NOTHING",
        nonce_hash,
        expires_at as _
    )
    .execute(pool)
    .await?;
    Ok(done.rows_affected() == 1)
}
