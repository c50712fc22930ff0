//! The rows that routes are made of: all of them, or those that changed since they were read last.

use crate::table::{
    ApplicationRow, Changes, ClaimRow, DeploymentRow, EnvironmentRow, RouteRow, Rows, TaskRow,
};
use sqlx::{PgConnection, PgPool, Postgres, Transaction};
use uuid::Uuid;
use zectre_common::id::{ApplicationId, DeploymentId, NodeId, TaskId};

/// More applications and domains are not read one by one: everything is.
const CHANGED_MAX: i64 = 4_096;

/// Which transactions a read has seen, as PostgreSQL writes it (`pg_snapshot`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen(String);

/// A transaction that sees the database as it is now, the epoch, and what it sees.
async fn look(pool: &PgPool) -> Result<(Transaction<'static, Postgres>, u64, Seen), sqlx::Error> {
    let mut transaction = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    // The same statements read all and little: which it is this time must be known to whoever plans them.
    sqlx::query("SET LOCAL plan_cache_mode = force_custom_plan")
        .execute(&mut *transaction)
        .await?;
    let now = sqlx::query!(r#"SELECT epoch, pg_current_snapshot()::text AS "seen!" FROM routing_epoch"#)
        .fetch_one(&mut *transaction)
        .await?;
    Ok((transaction, now.epoch as u64, Seen(now.seen)))
}

/// All rows at one epoch.
pub async fn load(pool: &PgPool) -> Result<(Rows, Seen), sqlx::Error> {
    let (mut transaction, epoch, seen) = look(pool).await?;
    let rows = read(&mut transaction, epoch, None, None).await?;
    transaction.commit().await?;
    Ok((rows, seen))
}

/// What changed after what was `seen`; `None` when that is so much that everything may as well be read.
pub async fn changes(pool: &PgPool, seen: &Seen) -> Result<Option<(Changes, Seen)>, sqlx::Error> {
    let (mut transaction, epoch, now) = look(pool).await?;
    let changed = sqlx::query!(
        "SELECT DISTINCT application_id, domain FROM routing_changes
         WHERE txid >= pg_snapshot_xmin($1::text::pg_snapshot) AND NOT pg_visible_in_snapshot(txid, $1::text::pg_snapshot)
         LIMIT $2",
        seen.0,
        CHANGED_MAX + 1
    )
    .fetch_all(&mut *transaction)
    .await?;
    if changed.len() as i64 > CHANGED_MAX {
        return Ok(None);
    }
    let mut applications = Vec::new();
    let mut domains = Vec::new();
    for row in changed {
        if row.domain.is_empty() {
            applications.push(row.application_id);
        } else {
            domains.push(row.domain);
        }
    }
    let rows = read(&mut transaction, epoch, Some(&applications), Some(&domains)).await?;
    transaction.commit().await?;
    let changes = Changes {
        applications: applications.into_iter().map(ApplicationId::from_uuid).collect(),
        domains,
        rows,
    };
    Ok(Some((changes, now)))
}

/// The rows of these applications and domains; of all where there is no choice.
async fn read(
    connection: &mut PgConnection,
    epoch: u64,
    applications: Option<&[Uuid]>,
    domains: Option<&[String]>,
) -> Result<Rows, sqlx::Error> {
    let mut rows = Rows {
        epoch,
        ..Rows::default()
    };
    if applications.is_none_or(|some| !some.is_empty()) {
        rows.applications = load_applications(connection, applications).await?;
        rows.environments = load_environments(connection, applications).await?;
        rows.deployments = load_deployments(connection, applications).await?;
        rows.tasks = match applications {
            None => tasks(load_all_tasks(connection).await?),
            Some(some) => tasks(load_tasks(connection, some).await?),
        };
    }
    if domains.is_none_or(|some| !some.is_empty()) {
        rows.routes = load_routes(connection, domains).await?;
        rows.claims = load_claims(connection, domains).await?;
    }
    Ok(rows)
}

async fn load_applications(
    connection: &mut PgConnection,
    only: Option<&[Uuid]>,
) -> Result<Vec<ApplicationRow>, sqlx::Error> {
    sqlx::query_as!(
        ApplicationRow,
        "SELECT id, subdomain FROM applications WHERE deleted_at IS NULL AND ($1::uuid[] IS NULL OR id = ANY($1))",
        only as _
    )
    .fetch_all(connection)
    .await
}

async fn load_environments(
    connection: &mut PgConnection,
    only: Option<&[Uuid]>,
) -> Result<Vec<EnvironmentRow>, sqlx::Error> {
    sqlx::query_as!(
        EnvironmentRow,
        "SELECT e.id, e.application_id, e.slug, e.current_deployment_id, e.target_deployment_id, e.target_weight,
                e.public_port
         FROM environments e JOIN applications a ON a.id = e.application_id
         WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL AND ($1::uuid[] IS NULL OR a.id = ANY($1))",
        only as _
    )
    .fetch_all(connection)
    .await
}

/// What was deleted answers nowhere from then on, though its tasks may still run.
async fn load_deployments(
    connection: &mut PgConnection,
    only: Option<&[Uuid]>,
) -> Result<Vec<DeploymentRow>, sqlx::Error> {
    sqlx::query_as!(
        DeploymentRow,
        r#"SELECT d.id, d.environment_id, d.version, d.preview_label, d.status, d.reason AS "reason: String",
                  d.replicas, d.cold_start_enabled, d.asleep,
                  COALESCE(d.spec->'networking'->>'protocol' = 'grpc', false) AS "http2!",
                  COALESCE(d.spec->'networking'->>'affinity' = 'cookie', false) AS "affinity!",
                  COALESCE(d.spec->>'restart' = 'never', false) AS "job!",
                  COALESCE(d.spec->'networking'->>'protocol' = 'tcp', false) AS "raw!"
           FROM deployments d
           JOIN environments e ON e.id = d.environment_id
           JOIN applications a ON a.id = d.application_id
           WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL AND ($1::uuid[] IS NULL OR d.application_id = ANY($1))"#,
        only as _
    )
    .fetch_all(connection)
    .await
}

/// As it is stored.
struct StoredTask {
    id: TaskId,
    deployment_id: DeploymentId,
    address: String,
    port: i32,
    node_id: Option<NodeId>,
}

async fn load_all_tasks(connection: &mut PgConnection) -> Result<Vec<StoredTask>, sqlx::Error> {
    sqlx::query_as!(
        StoredTask,
        r#"SELECT id, deployment_id, address AS "address!", port AS "port!", node_id AS "node_id: NodeId"
           FROM tasks WHERE routed AND address IS NOT NULL AND port IS NOT NULL"#
    )
    .fetch_all(connection)
    .await
}

/// A statement of its own: an index leads to these, and the whole table is read for all.
async fn load_tasks(connection: &mut PgConnection, of: &[Uuid]) -> Result<Vec<StoredTask>, sqlx::Error> {
    sqlx::query_as!(
        StoredTask,
        r#"SELECT t.id, t.deployment_id, t.address AS "address!", t.port AS "port!", t.node_id AS "node_id: NodeId"
           FROM deployments d JOIN tasks t ON t.deployment_id = d.id
           WHERE d.application_id = ANY($1) AND t.routed AND t.address IS NOT NULL AND t.port IS NOT NULL"#,
        of
    )
    .fetch_all(connection)
    .await
}

fn tasks(stored: Vec<StoredTask>) -> Vec<TaskRow> {
    let mut tasks = Vec::with_capacity(stored.len());
    for row in stored {
        match u16::try_from(row.port) {
            Ok(port) => tasks.push(TaskRow {
                id: row.id,
                deployment_id: row.deployment_id,
                address: row.address,
                port,
                node_id: row.node_id,
            }),
            Err(_) => {
                tracing::error!(task = %row.id, row.port, "a routed task has no usable port; it gets no requests");
            }
        }
    }
    tasks
}

async fn load_routes(
    connection: &mut PgConnection,
    only: Option<&[String]>,
) -> Result<Vec<RouteRow>, sqlx::Error> {
    sqlx::query_as!(
        RouteRow,
        "SELECT r.domain, r.environment_id, r.deployment_id
         FROM routes r JOIN environments e ON e.id = r.environment_id JOIN applications a ON a.id = r.application_id
         WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL AND ($1::text[] IS NULL OR r.domain = ANY($1))",
        only as _
    )
    .fetch_all(connection)
    .await
}

/// A name that is someone's already, or that several claim, is not shown to be anyone's by pointing here.
async fn load_claims(
    connection: &mut PgConnection,
    only: Option<&[String]>,
) -> Result<Vec<ClaimRow>, sqlx::Error> {
    sqlx::query_as!(
        ClaimRow,
        r#"SELECT domain, min(token) AS "token!" FROM custom_domains
           WHERE (verified_at IS NOT NULL OR expires_at > now()) AND ($1::text[] IS NULL OR domain = ANY($1))
           GROUP BY domain HAVING count(*) = 1 AND bool_and(verified_at IS NULL)"#,
        only as _
    )
    .fetch_all(connection)
    .await
}

#[cfg(test)]
mod tests;
