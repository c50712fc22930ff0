//! Builds. The row is the worker's, but for what is asked of it.

use super::rows::{Lists, page, some};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use zectre_common::{
    id::{ApplicationId, ArtifactId, BuildId, DeploymentId, EventId, OrganizationId, UserId},
    state::{BuildStatus, Reason},
    time::Time,
    wire::{
        build::{Build, Diagnostic, GitCommit},
        log::{LogLine, Stream},
    },
};
use zectre_service::token::name;

struct Row {
    id: BuildId,
    application_id: ApplicationId,
    status: BuildStatus,
    reason: Option<Reason>,
    message: Option<String>,
    diagnostics: Json<Vec<Diagnostic>>,
    source_artifact_id: Option<ArtifactId>,
    git_repository: Option<String>,
    git_ref: Option<String>,
    git_commit: Option<String>,
    artifact_id: Option<ArtifactId>,
    created_at: Time,
    started_at: Option<Time>,
    finished_at: Option<Time>,
}

impl From<Row> for Build {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            application_id: row.application_id,
            status: row.status,
            reason: row.reason,
            message: row.message,
            diagnostics: row.diagnostics.0,
            source_artifact_id: row.source_artifact_id,
            git: GitCommit::of(row.git_repository, row.git_ref, row.git_commit),
            artifact_id: row.artifact_id,
            created_at: row.created_at,
            started_at: row.started_at,
            finished_at: row.finished_at,
        }
    }
}

macro_rules! builds {
    ($form:ident, $($rest:tt)*) => {
        $form!(
            Row,
            r#"b.id AS "id: BuildId", b.application_id AS "application_id: ApplicationId",
                  b.status AS "status: BuildStatus", b.reason AS "reason: Reason", b.message,
                  b.diagnostics AS "diagnostics: Json<Vec<Diagnostic>>",
                  b.source_artifact_id AS "source_artifact_id: ArtifactId", b.git_repository, b.git_ref, b.git_commit,
                  b.artifact_id AS "artifact_id: ArtifactId", b.created_at, b.started_at, b.finished_at"#,
            r#"builds b JOIN applications a ON a.id = b.application_id JOIN namespaces n ON n.id = a.namespace_id
               WHERE a.deleted_at IS NULL AND "#,
            $($rest)*
        )
    };
}

/// Those of the organizations in `reach`.
pub(crate) async fn list(
    lists: &Lists,
    reach: Option<&[OrganizationId]>,
    app: Option<ApplicationId>,
    status: Option<BuildStatus>,
    window: &Window,
) -> Result<(Vec<Build>, i64), Error> {
    let status = status.map(BuildStatus::as_str);
    let (rows, total) = builds!(
        page,
        "($1::uuid[] IS NULL OR n.organization_id = ANY($1)) AND ($2::uuid IS NULL OR b.application_id = $2)
             AND ($3::text IS NULL OR b.status = $3)",
        [reach as _, app as _, status],
        order "CASE WHEN NOT $4 THEN b.created_at END, CASE WHEN $4 THEN b.created_at END DESC, b.id
           LIMIT $5 OFFSET $6",
        [window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(Build::from).collect(), total))
}

/// By id.
pub(crate) async fn get(executor: impl PgExecutor<'_>, id: BuildId) -> Result<Option<Build>, Error> {
    Ok(builds!(some, "b.id = $1", id as _)
        .fetch_optional(executor)
        .await?
        .map(Build::from))
}

/// By id, when it belongs to the application.
pub(crate) async fn get_of_app(
    connection: &mut PgConnection,
    app: ApplicationId,
    id: BuildId,
) -> Result<Option<Build>, Error> {
    let query = builds!(some, "b.application_id = $1 AND b.id = $2", app as _, id as _);
    Ok(query.fetch_optional(connection).await?.map(Build::from))
}

/// The application's newest build that has not ended.
pub(crate) async fn newest_open(
    connection: &mut PgConnection,
    app: ApplicationId,
) -> Result<Option<Build>, Error> {
    let query = builds!(
        some,
        "b.application_id = $1 AND b.status IN ('queued', 'running') ORDER BY b.created_at DESC, b.id DESC LIMIT 1",
        app as _
    );
    Ok(query.fetch_optional(connection).await?.map(Build::from))
}

/// The most builds of one application that may wait or be under way.
pub(crate) const OPEN_MAX: i64 = 20;

/// How many builds of the application wait or are under way.
pub(crate) async fn open(connection: &mut PgConnection, app: ApplicationId) -> Result<i64, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM builds WHERE application_id = $1 AND status IN ('queued', 'running')"#,
        app as _
    );
    Ok(query.fetch_one(connection).await?)
}

/// Queues one, and tells the workers when the change is committed.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: BuildId,
    app: ApplicationId,
    source: ArtifactId,
    created_by: Option<UserId>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO builds (id, application_id, source_artifact_id, created_by) VALUES ($1, $2, $3, $4)",
        id as _,
        app as _,
        source as _,
        created_by as _
    )
    .execute(&mut *connection)
    .await?;
    notify(connection, id).await
}

/// What is built of a repository.
pub(crate) struct Git<'a> {
    pub(crate) repository: &'a str,
    /// A branch, a tag or a commit.
    pub(crate) reference: &'a str,
    pub(crate) root_dir: &'a str,
}

/// Queues one from a repository, and tells the workers when the change is committed.
pub(crate) async fn insert_git(
    connection: &mut PgConnection,
    id: BuildId,
    app: ApplicationId,
    git: &Git<'_>,
    created_by: Option<UserId>,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO builds (id, application_id, git_repository, git_ref, git_root_dir, created_by)
         VALUES ($1, $2, $3, $4, $5, $6)",
        id as _,
        app as _,
        git.repository,
        git.reference,
        git.root_dir,
        created_by as _
    )
    .execute(&mut *connection)
    .await?;
    notify(connection, id).await
}

async fn notify(connection: &mut PgConnection, id: BuildId) -> Result<(), Error> {
    sqlx::query!("SELECT pg_notify('zectre_builds', $1)", id.to_string())
        .execute(connection)
        .await?;
    Ok(())
}

/// Asks for its end: a queued one ends at once, a running one when its worker sees the wish. False when it
/// has ended already. `why` says who asked; the worker leaves it as it is.
pub(crate) async fn cancel(connection: &mut PgConnection, id: BuildId, why: &str) -> Result<bool, Error> {
    let cancelled = sqlx::query!(
        "UPDATE builds SET cancel_requested = true, message = CASE WHEN cancel_requested THEN message ELSE $2 END,
                reason = CASE WHEN status = 'queued' THEN 'cancelled' ELSE reason END,
                finished_at = CASE WHEN status = 'queued' THEN now() ELSE finished_at END,
                status = CASE WHEN status = 'queued' THEN 'cancelled' ELSE status END
         WHERE id = $1 AND status IN ('queued', 'running')",
        id as _,
        why
    );
    if cancelled.execute(&mut *connection).await?.rows_affected() == 0 {
        return Ok(false);
    }
    notify(connection, id).await?;
    Ok(true)
}

/// The most builds that one look ends.
const UNCLAIMED_MAX: i64 = 1_000;

/// Ends the builds for which no worker lives: for `patience_secs` none has held a lease, given a build back, begun or ended
/// anything. They fail, but for those that someone wanted cancelled. How many.
pub(crate) async fn fail_unclaimed(pool: &PgPool, patience_secs: f64) -> Result<usize, Error> {
    let mut transaction = pool.begin().await?;
    let failed = sqlx::query!(
        r#"UPDATE builds SET status = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'failed' END,
               reason = CASE WHEN cancel_requested THEN $5 ELSE $2 END,
               message = CASE WHEN cancel_requested THEN $6 ELSE $3 END,
               finished_at = now(), lease_owner = NULL, lease_expires_at = NULL
           WHERE id IN (SELECT id FROM builds
                        WHERE status = 'queued' AND COALESCE(started_at, created_at) < now() - make_interval(secs => $1)
                           OR status = 'running' AND lease_expires_at < now() - make_interval(secs => $1)
                        ORDER BY created_at LIMIT $4 FOR UPDATE SKIP LOCKED)
             AND NOT EXISTS (SELECT 1 FROM builds w
                             WHERE w.lease_expires_at > now() - make_interval(secs => $1)
                                OR w.finished_at > now() - make_interval(secs => $1) AND w.started_at IS NOT NULL
                                   AND w.reason IS DISTINCT FROM $2 AND w.status <> 'cancelled')
           RETURNING id AS "id: BuildId", application_id AS "application_id: ApplicationId",
               status AS "status: BuildStatus", reason AS "reason!", message AS "message!""#,
        patience_secs,
        Reason::BuildWorkerFailed.as_str(),
        "no build worker answers: is zectre-build running?",
        UNCLAIMED_MAX,
        Reason::Cancelled.as_str(),
        "cancelled; its worker no longer answered"
    )
    .fetch_all(&mut *transaction)
    .await?;
    for build in &failed {
        sqlx::query!(
            "INSERT INTO events (id, actor, action, application_id, message, reason) VALUES ($1, $2, $3, $4, $5, $6)",
            EventId::new() as _,
            name::API,
            format!("build.{}", build.status),
            build.application_id as _,
            format!("build {} {}: {}", build.id, build.status, build.message),
            build.reason.as_str()
        )
        .execute(&mut *transaction)
        .await?;
        notify(&mut transaction, build.id).await?;
    }
    transaction.commit().await?;
    Ok(failed.len())
}

/// Deployments that wait for it.
pub(crate) async fn waiting_deployments(
    connection: &mut PgConnection,
    id: BuildId,
) -> Result<Vec<DeploymentId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id: DeploymentId" FROM deployments WHERE build_id = $1 AND status = 'pending'"#,
        id as _
    );
    Ok(query.fetch_all(connection).await?)
}

/// Lines of its log after `after`, in order.
pub(crate) async fn log(pool: &PgPool, id: BuildId, after: i64, limit: i64) -> Result<Vec<LogLine>, Error> {
    let rows = sqlx::query!(
        "SELECT seq, time, stream, message FROM build_logs WHERE build_id = $1 AND seq > $2 ORDER BY seq LIMIT $3",
        id as _,
        after,
        limit
    )
    .fetch_all(pool)
    .await?;
    let line = |seq: i64, time, stream: &str, message| LogLine {
        seq: seq as u64,
        time,
        stream: Stream::from_stored(stream),
        message,
    };
    Ok(rows
        .into_iter()
        .map(|row| line(row.seq, row.time, &row.stream, row.message))
        .collect())
}
