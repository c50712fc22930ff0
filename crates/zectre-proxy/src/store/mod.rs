//! All SQL of the proxy: it reads the routing table and writes its own rows (its lease, its activity).

pub mod acme;
pub mod activity;
pub mod certificates;
pub mod feed;
pub mod history;
pub mod lease;
pub mod snapshot;
pub mod succession;

use crate::table::{ApplicationRow, ClaimRow, DeploymentRow, EnvironmentRow, RouteRow, Rows, TaskRow};
use sqlx::PgPool;
use std::time::Duration;
use zectre_common::id::NodeId;

/// No statement of the proxy may take longer: what can't be read now is read with the next change.
pub const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);

/// The epoch of the database now.
pub async fn epoch(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let epoch = sqlx::query_scalar!("SELECT epoch FROM routing_epoch")
        .fetch_one(pool)
        .await?;
    Ok(epoch as u64)
}

/// All rows at one epoch: the transaction sees the database as it was at its first statement.
pub async fn load(pool: &PgPool) -> Result<Rows, sqlx::Error> {
    let mut transaction = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let connection = &mut *transaction;
    let epoch = sqlx::query_scalar!("SELECT epoch FROM routing_epoch")
        .fetch_one(&mut *connection)
        .await?;
    let applications = sqlx::query_as!(
        ApplicationRow,
        "SELECT id, subdomain FROM applications WHERE deleted_at IS NULL"
    )
    .fetch_all(&mut *connection)
    .await?;
    let environments = sqlx::query_as!(
        EnvironmentRow,
        "SELECT e.id, e.application_id, e.slug, e.current_deployment_id, e.target_deployment_id, e.target_weight,
                e.public_port
         FROM environments e JOIN applications a ON a.id = e.application_id
         WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL"
    )
    .fetch_all(&mut *connection)
    .await?;
    let deployments = load_deployments(&mut *connection).await?;
    let tasks = load_tasks(&mut *connection).await?;
    let routes = sqlx::query_as!(
        RouteRow,
        "SELECT r.domain, r.environment_id, r.deployment_id
         FROM routes r JOIN environments e ON e.id = r.environment_id JOIN applications a ON a.id = r.application_id
         WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL"
    )
    .fetch_all(&mut *connection)
    .await?;
    let claims = load_claims(&mut *connection).await?;
    transaction.commit().await?;
    Ok(Rows {
        epoch: epoch as u64,
        applications,
        environments,
        deployments,
        tasks,
        routes,
        claims,
    })
}

/// A name that is someone's already, or that several claim, is not shown to be anyone's by pointing here.
async fn load_claims(connection: &mut sqlx::PgConnection) -> Result<Vec<ClaimRow>, sqlx::Error> {
    sqlx::query_as!(
        ClaimRow,
        r#"SELECT domain, min(token) AS "token!" FROM custom_domains GROUP BY domain
           HAVING count(*) = 1 AND bool_and(verified_at IS NULL AND expires_at > now())"#
    )
    .fetch_all(connection)
    .await
}

/// What was deleted answers nowhere from then on, though its tasks may still run.
async fn load_deployments(connection: &mut sqlx::PgConnection) -> Result<Vec<DeploymentRow>, sqlx::Error> {
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
           WHERE e.deleted_at IS NULL AND a.deleted_at IS NULL"#
    )
    .fetch_all(connection)
    .await
}

async fn load_tasks(connection: &mut sqlx::PgConnection) -> Result<Vec<TaskRow>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, deployment_id, address AS "address!", port AS "port!", node_id AS "node_id: NodeId"
           FROM tasks WHERE routed AND address IS NOT NULL AND port IS NOT NULL"#
    )
    .fetch_all(connection)
    .await?;
    let mut tasks = Vec::with_capacity(rows.len());
    for row in rows {
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
    Ok(tasks)
}
