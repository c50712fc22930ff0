//! Answers kept under the `Idempotency-Key` of their request.

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::id::UserId;

/// What is kept under a key.
pub(crate) struct Kept {
    pub(crate) request_hash: Vec<u8>,
    pub(crate) status: Option<i32>,
    /// The sealed answer.
    pub(crate) body: Option<serde_json::Value>,
}

/// Takes the key for this request; false when it is taken.
pub(crate) async fn claim(
    pool: &PgPool,
    user: UserId,
    key: &str,
    request_hash: &[u8],
) -> Result<bool, Error> {
    let claimed = sqlx::query!(
        "INSERT INTO idempotency_keys (user_id, key, request_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        user as _,
        key,
        request_hash
    );
    Ok(claimed.execute(pool).await?.rows_affected() == 1)
}

/// What is kept.
pub(crate) async fn get(pool: &PgPool, user: UserId, key: &str) -> Result<Option<Kept>, Error> {
    let query = sqlx::query_as!(
        Kept,
        "SELECT request_hash, status, body FROM idempotency_keys WHERE user_id = $1 AND key = $2",
        user as _,
        key
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Keeps the answer.
pub(crate) async fn keep(
    pool: &PgPool,
    user: UserId,
    key: &str,
    status: i32,
    body: &serde_json::Value,
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE idempotency_keys SET status = $3, body = $4 WHERE user_id = $1 AND key = $2",
        user as _,
        key,
        status,
        body
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Gives the key back: the request had no effect.
pub(crate) async fn release(pool: &PgPool, user: UserId, key: &str) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2 AND status IS NULL",
        user as _,
        key
    )
    .execute(pool)
    .await?;
    Ok(())
}
