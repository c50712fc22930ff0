//! What organizations may use, and what they do.

use crate::{
    error::Error,
    quota::{Reserved, Resource, sum},
};
use sqlx::{PgConnection, types::Json};
use zectre_common::{
    id::OrganizationId,
    spec::DeploymentSpec,
    wire::quota::{Amounts, SetQuotaRequest},
};

/// What the organization may use: its own limits over those of the cluster.
pub(crate) async fn allowed(
    connection: &mut PgConnection,
    organization: OrganizationId,
    defaults: &Amounts,
) -> Result<Amounts, Error> {
    let own = sqlx::query!(
        "SELECT applications, tasks, cpu_millis, memory_bytes, artifact_bytes FROM organization_quotas
         WHERE organization_id = $1",
        organization as _
    );
    let Some(own) = own.fetch_optional(connection).await? else {
        return Ok(*defaults);
    };
    let over = |own: Option<i64>, default: u64| own.map_or(default, i64::unsigned_abs);
    Ok(Amounts {
        applications: over(own.applications, defaults.applications),
        tasks: over(own.tasks, defaults.tasks),
        cpu_millis: over(own.cpu_millis, defaults.cpu_millis),
        memory_bytes: over(own.memory_bytes, defaults.memory_bytes),
        artifact_bytes: over(own.artifact_bytes, defaults.artifact_bytes),
    })
}

/// Sets the organization's own limits.
pub(crate) async fn set(
    connection: &mut PgConnection,
    organization: OrganizationId,
    own: &SetQuotaRequest,
) -> Result<(), Error> {
    let amount = |amount: Option<u64>| amount.map(|amount| i64::try_from(amount).unwrap_or(i64::MAX));
    sqlx::query!(
        "INSERT INTO organization_quotas (organization_id, applications, tasks, cpu_millis, memory_bytes, artifact_bytes)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (organization_id) DO UPDATE
         SET applications = $2, tasks = $3, cpu_millis = $4, memory_bytes = $5, artifact_bytes = $6, updated_at = now()",
        organization as _,
        amount(own.applications),
        amount(own.tasks),
        amount(own.cpu_millis),
        amount(own.memory_bytes),
        amount(own.artifact_bytes)
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Holds the organization until the transaction ends; what refers to it can still be written meanwhile.
pub(crate) async fn hold(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), Error> {
    sqlx::query!(
        "SELECT id FROM organizations WHERE id = $1 FOR NO KEY UPDATE",
        organization as _
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// What the organization uses of a resource; `None`: of all.
pub(crate) async fn used(
    connection: &mut PgConnection,
    organization: OrganizationId,
    resource: Option<Resource>,
) -> Result<Amounts, Error> {
    let wanted = |one| resource.is_none_or(|resource| resource == one);
    let mut used = if wanted(Resource::Work) {
        work(connection, organization).await?
    } else {
        Amounts::default()
    };
    if wanted(Resource::Applications) {
        let count = sqlx::query_scalar!(
            r#"SELECT count(*) AS "n!" FROM applications a JOIN namespaces n ON n.id = a.namespace_id
               WHERE n.organization_id = $1 AND a.deleted_at IS NULL"#,
            organization as _
        );
        used.applications = count.fetch_one(&mut *connection).await?.unsigned_abs();
    }
    if wanted(Resource::ArtifactBytes) {
        let bytes = sqlx::query_scalar!(r#"SELECT artifact_bytes_used($1) AS "n!""#, organization as _);
        used.artifact_bytes = bytes.fetch_one(connection).await?.unsigned_abs();
    }
    Ok(used)
}

async fn work(connection: &mut PgConnection, organization: OrganizationId) -> Result<Amounts, Error> {
    // What was asked for and is not done yet counts as if it were: a version that is to serve, and one that is to be woken. A
    // superseded one sleeps unless someone woke it; one that failed and is kept for inspection has the tasks that it has.
    let rows = sqlx::query!(
        r#"WITH asked AS (
               SELECT CASE o.kind WHEN 'rollback' THEN d.previous_deployment_id ELSE d.id END AS id, o.kind <> 'wake' AS serves
               FROM operations o JOIN deployments d ON d.id = o.deployment_id
               WHERE o.applied_at IS NULL AND o.kind IN ('promote', 'rollback', 'wake'))
           SELECT d.environment_id, d.replicas, d.spec AS "spec: Json<DeploymentSpec>",
                  (d.status IN ('pending', 'running')
                   OR COALESCE(d.id IN (e.current_deployment_id, e.target_deployment_id), false)
                   OR EXISTS (SELECT 1 FROM asked WHERE asked.id = d.id AND asked.serves)) AS "in_place!",
                  (SELECT count(*) FROM tasks t WHERE t.deployment_id = d.id AND t.wanted = 'run'
                                                  AND t.state NOT IN ('stopped', 'failed')) AS "tasks!"
           FROM deployments d JOIN environments e ON e.id = d.environment_id
           JOIN applications a ON a.id = d.application_id JOIN namespaces n ON n.id = a.namespace_id
           WHERE n.organization_id = $1 AND a.deleted_at IS NULL AND e.deleted_at IS NULL
             AND (d.status IN ('pending', 'running')
                  OR COALESCE(d.spec->>'restart', '') <> 'never'
                     AND (d.id IN (e.current_deployment_id, e.target_deployment_id)
                          OR d.status = 'succeeded' AND NOT d.asleep
                          OR d.status = 'failed' AND NOT d.asleep AND d.spec->>'auto_rollback' = 'false'
                             AND EXISTS (SELECT 1 FROM tasks t WHERE t.deployment_id = d.id AND t.wanted = 'run'
                                                                 AND t.state NOT IN ('stopped', 'failed'))
                          OR d.id IN (SELECT id FROM asked)))"#,
        organization as _
    );
    let rows = rows.fetch_all(connection).await?;
    let versions: Vec<Reserved> = rows
        .iter()
        .map(|row| Reserved {
            environment: row.environment_id,
            beside: !row.in_place,
            // One of none is woken by a request, and has a task then. What was superseded is woken with one.
            replicas: if row.in_place {
                u64::from(row.replicas.unsigned_abs())
            } else {
                row.tasks.unsigned_abs()
            }
            .max(1),
            cpu_millis: u64::from(row.spec.resources.cpu.0),
            memory_bytes: row.spec.resources.memory.0,
        })
        .collect();
    Ok(sum(&versions))
}
