//! What has ended goes.

use crate::error::Error;
use sqlx::PgPool;

/// Deletes it; tells how many rows. Spent codes stay a day, so that a second try is noticed.
pub async fn round(pool: &PgPool) -> Result<u64, Error> {
    let codes = sqlx::query!("DELETE FROM authorization_codes WHERE expires_at < now() - interval '1 day'")
        .execute(pool)
        .await?;
    let sessions = sqlx::query!(
        "DELETE FROM sessions WHERE expires_at < now() OR revoked_at < now() - interval '1 day'"
    )
    .execute(pool)
    .await?;
    let invitations = sqlx::query!("DELETE FROM invitations WHERE expires_at < now()")
        .execute(pool)
        .await?;
    let consents = sqlx::query!("DELETE FROM spent_consents WHERE expires_at < now()")
        .execute(pool)
        .await?;
    // As long as the database keeps them (migration 0005).
    let events = sqlx::query!("DELETE FROM events WHERE time < now() - interval '90 days'")
        .execute(pool)
        .await?;
    let all = [events, codes, sessions, invitations, consents].map(|gone| gone.rows_affected());
    Ok(all.iter().sum())
}
