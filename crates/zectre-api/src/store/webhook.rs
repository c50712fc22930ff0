//! Webhooks.

use super::{
    change::About,
    rows::{Lists, page, some},
};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgExecutor, PgPool};
use std::time::Duration;
use zectre_common::{
    id::{ApplicationId, OrganizationId, UserId, WebhookId},
    wire::webhook::Webhook,
};

macro_rules! webhooks {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Webhook,
            r#"w.id AS "id: WebhookId", o.slug AS organization, w.application_id AS "application_id: ApplicationId", w.url,
               w.events, w.failing_since, w.disabled_at, w.disabled_reason, w.created_at"#,
            r#"webhooks w JOIN organizations o ON o.id = w.organization_id WHERE "#,
            $($rest)*
        )
    };
}

/// Those of the organizations (`None`: all).
pub(crate) async fn list(
    lists: &Lists,
    organizations: Option<&[OrganizationId]>,
    application: Option<ApplicationId>,
    window: &Window,
) -> Result<(Vec<Webhook>, i64), Error> {
    let (rows, total) = webhooks!(
        page,
        "($1::uuid[] IS NULL OR w.organization_id = ANY($1)) AND ($2::uuid IS NULL OR w.application_id = $2)",
        [organizations as _, application as _],
        order "CASE WHEN NOT $4 AND $3 = 'url' THEN w.url END, CASE WHEN $4 AND $3 = 'url' THEN w.url END DESC,
               CASE WHEN NOT $4 THEN w.created_at END, CASE WHEN $4 THEN w.created_at END DESC, w.id
           LIMIT $5 OFFSET $6",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: WebhookId) -> Result<Option<Webhook>, Error> {
    let query = webhooks!(some, "w.id = $1", id as _);
    Ok(query.fetch_optional(executor).await?)
}

/// A webhook to be made.
pub(crate) struct New<'a> {
    pub(crate) id: WebhookId,
    pub(crate) organization: OrganizationId,
    pub(crate) application: Option<ApplicationId>,
    pub(crate) url: &'a str,
    pub(crate) events: &'a [String],
    /// Sealed.
    pub(crate) secret: &'a [u8],
    pub(crate) created_by: Option<UserId>,
}

/// Makes one; false when the organization has `most` already.
pub(crate) async fn insert(connection: &mut PgConnection, new: &New<'_>, most: i64) -> Result<bool, Error> {
    // The organization's row orders those that make one at the same time.
    let locked = sqlx::query_scalar!(
        r#"SELECT 1 AS "one!" FROM organizations WHERE id = $1 FOR UPDATE"#,
        new.organization as _
    );
    locked.fetch_optional(&mut *connection).await?;
    let inserted = sqlx::query!(
        "INSERT INTO webhooks (id, organization_id, application_id, url, events, secret, created_by)
         SELECT $1, $2, $3, $4, $5, $6, $7
         WHERE (SELECT count(*) FROM webhooks WHERE organization_id = $2) < $8",
        new.id as _,
        new.organization as _,
        new.application as _,
        new.url,
        new.events,
        new.secret,
        new.created_by as _,
        most
    );
    Ok(inserted.execute(connection).await?.rows_affected() > 0)
}

/// Calls it again, from now on; false when it is gone.
pub(crate) async fn enable(connection: &mut PgConnection, id: WebhookId) -> Result<bool, Error> {
    let query = sqlx::query!(
        "UPDATE webhooks SET disabled_at = NULL, disabled_reason = NULL, failures = 0, failing_since = NULL,
                             txid = CASE WHEN disabled_at IS NULL THEN txid ELSE pg_current_xact_id()::text::bigint END
         WHERE id = $1",
        id as _
    );
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

/// Deletes one, its deliveries with it; its URL and whose it was.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    id: WebhookId,
) -> Result<Option<(String, About)>, Error> {
    let row = sqlx::query!(
        r#"DELETE FROM webhooks WHERE id = $1 RETURNING url, application_id AS "application_id: ApplicationId",
                     organization_id AS "organization_id: OrganizationId""#,
        id as _
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| (row.url, About::thing_of(row.organization_id, row.application_id))))
}

/// An attempt was answered well.
pub(crate) async fn succeeded(pool: &PgPool, id: WebhookId) -> Result<(), Error> {
    let query = sqlx::query!(
        "UPDATE webhooks SET failures = 0, failing_since = NULL WHERE id = $1 AND failures > 0",
        id as _
    );
    query.execute(pool).await?;
    Ok(())
}

/// An attempt was not: how many in a row now, and for how long; `None` when the webhook is gone or disabled.
pub(crate) async fn failed(pool: &PgPool, id: WebhookId) -> Result<Option<(u32, Duration)>, Error> {
    let row = sqlx::query!(
        r#"UPDATE webhooks SET failures = failures + 1, failing_since = COALESCE(failing_since, now())
           WHERE id = $1 AND disabled_at IS NULL
           RETURNING failures, EXTRACT(epoch FROM now() - failing_since)::float8 AS "secs!""#,
        id as _
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| {
        (
            row.failures.unsigned_abs(),
            Duration::from_secs_f64(row.secs.max(0.0)),
        )
    }))
}

/// Calls it no longer, and gives up what waits for it; its URL and whose it is, unless it was so already.
pub(crate) async fn disable(
    connection: &mut PgConnection,
    id: WebhookId,
    reason: &str,
) -> Result<Option<(String, About)>, Error> {
    let row = sqlx::query!(
        r#"UPDATE webhooks SET disabled_at = now(), disabled_reason = $2 WHERE id = $1 AND disabled_at IS NULL
           RETURNING url, application_id AS "application_id: ApplicationId",
                     organization_id AS "organization_id: OrganizationId""#,
        id as _,
        reason
    );
    let row = row.fetch_optional(&mut *connection).await?;
    let given_up = sqlx::query!(
        "UPDATE webhook_deliveries SET state = 'failed', finished_at = now(),
                problem = COALESCE(problem, 'the webhook was disabled before the first attempt')
         WHERE webhook_id = $1 AND state = 'pending'",
        id as _
    );
    given_up.execute(connection).await?;
    Ok(row.map(|row| (row.url, About::thing_of(row.organization_id, row.application_id))))
}
