//! Answers kept under the `Idempotency-Key` of their request.

use crate::error::Error;
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::time::Duration;
use uuid::Uuid;
use zectre_common::id::UserId;

/// What is kept under a key.
pub(crate) struct Kept {
    pub(crate) request_hash: Vec<u8>,
    pub(crate) status: Option<i32>,
    /// The sealed answer.
    pub(crate) body: Option<serde_json::Value>,
    pub(crate) location: Option<String>,
    /// Until the claim runs out.
    pub(crate) claimed_secs: Option<f64>,
}

/// Takes the key for this request, also from a claim on the same request that ran out; false when it is taken.
pub(crate) async fn claim(
    executor: impl PgExecutor<'_>,
    (user, key): (UserId, &str),
    claim: Uuid,
    request_hash: &[u8],
    lease: Duration,
) -> Result<bool, Error> {
    let claimed = sqlx::query!(
        "INSERT INTO idempotency_keys AS held (user_id, key, request_hash, claim, claim_expires_at)
         VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))
         ON CONFLICT (user_id, key) DO UPDATE
         SET claim = excluded.claim, claim_expires_at = excluded.claim_expires_at, created_at = now()
         WHERE held.status IS NULL AND held.claim_expires_at < now() AND held.request_hash = excluded.request_hash",
        user as _,
        key,
        request_hash,
        claim,
        lease.as_secs_f64()
    );
    Ok(claimed.execute(executor).await?.rows_affected() == 1)
}

/// What is kept.
pub(crate) async fn get(pool: &PgPool, user: UserId, key: &str) -> Result<Option<Kept>, Error> {
    let query = sqlx::query_as!(
        Kept,
        "SELECT request_hash, status, body, location,
                EXTRACT(epoch FROM claim_expires_at - now())::float8 AS claimed_secs
         FROM idempotency_keys WHERE user_id = $1 AND key = $2",
        user as _,
        key
    );
    Ok(query.fetch_optional(pool).await?)
}

/// An answer to keep.
pub(crate) struct Answer<'a> {
    pub(crate) status: i32,
    /// Sealed.
    pub(crate) body: &'a serde_json::Value,
    pub(crate) location: &'a str,
}

/// Keeps the answer in the transaction that has the effect; false when the claim was taken over, and then nothing may
/// be done.
pub(crate) async fn keep(
    connection: &mut PgConnection,
    (user, key): (UserId, &str),
    claim: Uuid,
    answer: &Answer<'_>,
) -> Result<bool, Error> {
    let kept = sqlx::query!(
        "UPDATE idempotency_keys SET status = $4, body = $5, location = $6
         WHERE user_id = $1 AND key = $2 AND claim = $3 AND status IS NULL",
        user as _,
        key,
        claim,
        answer.status,
        answer.body,
        answer.location
    );
    Ok(kept.execute(connection).await?.rows_affected() == 1)
}

/// Gives the key back: the request had no effect.
pub(crate) async fn release(pool: &PgPool, (user, key): (UserId, &str), claim: Uuid) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM idempotency_keys WHERE user_id = $1 AND key = $2 AND claim = $3 AND status IS NULL",
        user as _,
        key,
        claim
    )
    .execute(pool)
    .await?;
    Ok(())
}
