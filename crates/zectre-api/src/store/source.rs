//! Where applications' sources come from, and which calls of forges have had their effect.

use crate::{
    error::Error,
    forge::order::{Moment, Seen},
};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::collections::BTreeMap;
use zectre_common::{
    id::{ApplicationId, EnvironmentId, RouteId},
    time::Time,
};

/// As stored.
pub(crate) struct Row {
    pub(crate) application_id: ApplicationId,
    pub(crate) repository: String,
    pub(crate) branches: Json<BTreeMap<String, String>>,
    pub(crate) root_dir: String,
    pub(crate) auto_deploy: bool,
    pub(crate) previews: bool,
    /// Sealed.
    pub(crate) credential: Option<Vec<u8>>,
    /// Sealed.
    pub(crate) webhook_secret: Vec<u8>,
    pub(crate) created_at: Time,
    pub(crate) updated_at: Time,
}

/// An application's.
pub(crate) async fn get(executor: impl PgExecutor<'_>, app: ApplicationId) -> Result<Option<Row>, Error> {
    let query = sqlx::query_as!(
        Row,
        r#"SELECT application_id AS "application_id: ApplicationId", repository, branches AS "branches: Json<BTreeMap<String, String>>",
                  root_dir, auto_deploy, previews, credential, webhook_secret, created_at, updated_at
           FROM sources WHERE application_id = $1"#,
        app as _
    );
    Ok(query.fetch_optional(executor).await?)
}

/// Those of applications that come from a repository: up to `most_of_one` of an organization and `most` of all.
///
/// Anyone may name anyone's repository. So each organization has its first one looked at before any has its second: whoever names
/// another's ever so often takes no place from them.
pub(crate) async fn of_repository(
    pool: &PgPool,
    key: &str,
    most_of_one: i64,
    most: i64,
) -> Result<Vec<Row>, Error> {
    let query = sqlx::query_as!(
        Row,
        r#"SELECT s.application_id AS "application_id: ApplicationId", s.repository,
                  s.branches AS "branches: Json<BTreeMap<String, String>>", s.root_dir, s.auto_deploy, s.previews,
                  s.credential, s.webhook_secret, s.created_at, s.updated_at
           FROM sources s
           JOIN (SELECT s.application_id, row_number() OVER (PARTITION BY n.organization_id ORDER BY s.application_id) AS place
                 FROM sources s JOIN applications a ON a.id = s.application_id JOIN namespaces n ON n.id = a.namespace_id
                 WHERE s.repository_key = $1 AND a.deleted_at IS NULL) ranked ON ranked.application_id = s.application_id
           WHERE ranked.place <= $2 ORDER BY ranked.place, s.application_id LIMIT $3"#,
        key,
        most_of_one,
        most
    );
    Ok(query.fetch_all(pool).await?)
}

/// What is set.
pub(crate) struct New<'a> {
    pub(crate) application: ApplicationId,
    pub(crate) repository: &'a str,
    pub(crate) repository_key: &'a str,
    pub(crate) branches: &'a BTreeMap<String, String>,
    pub(crate) root_dir: &'a str,
    pub(crate) auto_deploy: bool,
    pub(crate) previews: bool,
    pub(crate) credential: Option<&'a [u8]>,
    pub(crate) webhook_secret: &'a [u8],
}

/// Sets an application's.
pub(crate) async fn set(connection: &mut PgConnection, new: &New<'_>) -> Result<(), Error> {
    // What was seen of another repository says nothing about this one.
    sqlx::query!(
        "DELETE FROM source_heads h USING sources s
         WHERE s.application_id = $1 AND h.application_id = s.application_id AND s.repository_key <> $2",
        new.application as _,
        new.repository_key
    )
    .execute(&mut *connection)
    .await?;
    let query = sqlx::query!(
        "INSERT INTO sources (application_id, repository, repository_key, branches, root_dir, auto_deploy, previews,
                              credential, webhook_secret)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         ON CONFLICT (application_id) DO UPDATE
         SET repository = EXCLUDED.repository, repository_key = EXCLUDED.repository_key, branches = EXCLUDED.branches,
             root_dir = EXCLUDED.root_dir, auto_deploy = EXCLUDED.auto_deploy, previews = EXCLUDED.previews,
             credential = EXCLUDED.credential, webhook_secret = EXCLUDED.webhook_secret, updated_at = now()",
        new.application as _,
        new.repository,
        new.repository_key,
        Json(new.branches) as _,
        new.root_dir,
        new.auto_deploy,
        new.previews,
        new.credential,
        new.webhook_secret
    );
    query.execute(connection).await?;
    Ok(())
}

/// Forgets an application's; false when it has none.
pub(crate) async fn delete(connection: &mut PgConnection, app: ApplicationId) -> Result<bool, Error> {
    let query = sqlx::query!("DELETE FROM sources WHERE application_id = $1", app as _);
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

/// Writes down that a call has its effect on an application; false when it has had it before.
pub(crate) async fn receive(
    connection: &mut PgConnection,
    app: ApplicationId,
    delivery: &str,
    body_hash: &[u8],
) -> Result<bool, Error> {
    let query = sqlx::query!(
        "INSERT INTO inbound_webhooks (application_id, delivery_id, body_hash) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        app as _,
        delivery,
        body_hash
    );
    Ok(query.execute(connection).await?.rows_affected() > 0)
}

/// The newest that a call said of a branch or a pull request.
pub(crate) async fn head(
    connection: &mut PgConnection,
    app: ApplicationId,
    subject: &str,
) -> Result<Option<Seen>, Error> {
    let query = sqlx::query_as!(
        Seen,
        r#"SELECT at, before_commit AS before, after_commit AS after, closed
           FROM source_heads WHERE application_id = $1 AND subject = $2"#,
        app as _,
        subject
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Keeps what a call says as the newest.
pub(crate) async fn set_head(
    connection: &mut PgConnection,
    app: ApplicationId,
    moment: &Moment,
) -> Result<(), Error> {
    let seen = &moment.seen;
    let query = sqlx::query!(
        "INSERT INTO source_heads (application_id, subject, at, before_commit, after_commit, closed)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (application_id, subject) DO UPDATE
         SET at = EXCLUDED.at, before_commit = EXCLUDED.before_commit, after_commit = EXCLUDED.after_commit,
             closed = EXCLUDED.closed, seen_at = now()",
        app as _,
        moment.subject,
        seen.at as _,
        seen.before,
        seen.after,
        seen.closed
    );
    query.execute(connection).await?;
    Ok(())
}

/// Forgets calls from so long ago, and pull requests of which none came since; how many calls.
pub(crate) async fn forget(pool: &PgPool, keep_days: i32) -> Result<u64, Error> {
    sqlx::query!(
        "DELETE FROM source_heads WHERE subject LIKE 'pr-%' AND seen_at < now() - make_interval(days => $1)",
        keep_days
    )
    .execute(pool)
    .await?;
    let query = sqlx::query!(
        "DELETE FROM inbound_webhooks WHERE received_at < now() - make_interval(days => $1)",
        keep_days
    );
    Ok(query.execute(pool).await?.rows_affected())
}

/// Lets a host of the platform domain lead to an environment.
pub(crate) async fn route(
    connection: &mut PgConnection,
    app: ApplicationId,
    environment: EnvironmentId,
    host: &str,
) -> Result<(), Error> {
    let query = sqlx::query!(
        "INSERT INTO routes (id, domain, application_id, environment_id) VALUES ($1, $2, $3, $4)
         ON CONFLICT (domain, (deployment_id IS NULL)) DO NOTHING",
        RouteId::new() as _,
        host,
        app as _,
        environment as _
    );
    query.execute(connection).await?;
    Ok(())
}
