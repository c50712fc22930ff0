//! What has ended goes.

use super::events::{self, Done};
use crate::error::Error;
use sqlx::PgPool;
use zectre_common::id::{InvitationId, OrganizationId};

/// So many invitations go in one transaction; the next round has the others.
const INVITATIONS_AT_ONCE: i64 = 1000;

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
    let invitations = invitations(pool).await?;
    let consents = sqlx::query!("DELETE FROM spent_consents WHERE expires_at < now()")
        .execute(pool)
        .await?;
    // As long as the database keeps them (migration 0005).
    let events = sqlx::query!("DELETE FROM events WHERE time < now() - interval '90 days'")
        .execute(pool)
        .await?;
    let all = [events, codes, sessions, consents].map(|gone| gone.rows_affected());
    Ok(all.iter().sum::<u64>() + invitations)
}

/// Those that nobody accepted in time, each with an event; tells how many. One that is just withdrawn, or goes with its organization,
/// is left to whoever does that.
async fn invitations(pool: &PgPool) -> Result<u64, Error> {
    let mut transaction = pool.begin().await?;
    let ended = sqlx::query!(
        r#"DELETE FROM invitations WHERE id IN (
               SELECT id FROM invitations WHERE expires_at < now() ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
           RETURNING id AS "id: InvitationId", organization_id AS "organization_id: OrganizationId", email"#,
        INVITATIONS_AT_ONCE
    )
    .fetch_all(&mut *transaction)
    .await?;
    let told: Vec<Done> = ended
        .iter()
        .map(|one| {
            let message = format!("the invitation of {} ended: nobody had accepted it", one.email);
            let subject = (one.id.get(), one.email.as_str());
            Done::within(one.organization_id, "invitation.expired", subject, message)
        })
        .collect();
    events::write_own(&mut transaction, None, &told).await?;
    transaction.commit().await?;
    Ok(ended.len() as u64)
}
