//! Which organization owns a thing: what every decision about rights begins with. What is deleted has no owner.

use crate::error::Error;
use sqlx::PgPool;
use zectre_common::id::{
    ApplicationId, ArtifactId, BuildId, DeploymentId, NodeId, OrganizationId, TaskId, WebhookId,
};

macro_rules! owner {
    ($pool:expr, $query:literal, $($argument:expr),*) => {
        Ok(sqlx::query_scalar!($query, $($argument),*).fetch_optional($pool).await?)
    };
}

/// Of an application.
pub(crate) async fn of_app(pool: &PgPool, id: ApplicationId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId" FROM applications a JOIN namespaces n ON n.id = a.namespace_id
           WHERE a.id = $1 AND a.deleted_at IS NULL"#,
        id as _
    )
}

/// Of an application by its names.
pub(crate) async fn of_app_by_name(
    pool: &PgPool,
    namespace: &str,
    name: &str,
) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId" FROM applications a JOIN namespaces n ON n.id = a.namespace_id
           WHERE n.name = $1 AND a.name = $2 AND a.deleted_at IS NULL"#,
        namespace,
        name
    )
}

/// Of an application by its host label.
pub(crate) async fn of_app_by_subdomain(
    pool: &PgPool,
    subdomain: &str,
) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId" FROM applications a JOIN namespaces n ON n.id = a.namespace_id
           WHERE a.subdomain = $1 AND a.deleted_at IS NULL"#,
        subdomain
    )
}

/// Of a deployment.
pub(crate) async fn of_deployment(pool: &PgPool, id: DeploymentId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId"
           FROM deployments d JOIN environments e ON e.id = d.environment_id
           JOIN applications a ON a.id = d.application_id JOIN namespaces n ON n.id = a.namespace_id
           WHERE d.id = $1 AND a.deleted_at IS NULL AND e.deleted_at IS NULL"#,
        id as _
    )
}

/// Of a task.
pub(crate) async fn of_task(pool: &PgPool, id: TaskId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId"
           FROM tasks t JOIN deployments d ON d.id = t.deployment_id JOIN environments e ON e.id = d.environment_id
           JOIN applications a ON a.id = d.application_id JOIN namespaces n ON n.id = a.namespace_id
           WHERE t.id = $1 AND a.deleted_at IS NULL AND e.deleted_at IS NULL"#,
        id as _
    )
}

/// The node that a task is on.
pub(crate) async fn node_of_task(pool: &PgPool, id: TaskId) -> Result<Option<NodeId>, Error> {
    let node = sqlx::query_scalar!(
        r#"SELECT node_id AS "node_id: NodeId" FROM tasks WHERE id = $1"#,
        id as _
    );
    Ok(node.fetch_optional(pool).await?.flatten())
}

/// Of an artifact.
pub(crate) async fn of_artifact(pool: &PgPool, id: ArtifactId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT organization_id AS "id: OrganizationId" FROM artifacts WHERE id = $1"#,
        id as _
    )
}

/// Of a build.
pub(crate) async fn of_build(pool: &PgPool, id: BuildId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT n.organization_id AS "id: OrganizationId"
           FROM builds b JOIN applications a ON a.id = b.application_id JOIN namespaces n ON n.id = a.namespace_id
           WHERE b.id = $1 AND a.deleted_at IS NULL"#,
        id as _
    )
}

/// Of a webhook; none once its application is deleted.
pub(crate) async fn of_webhook(pool: &PgPool, id: WebhookId) -> Result<Option<OrganizationId>, Error> {
    owner!(
        pool,
        r#"SELECT w.organization_id AS "id: OrganizationId"
           FROM webhooks w LEFT JOIN applications a ON a.id = w.application_id
           WHERE w.id = $1 AND a.deleted_at IS NULL"#,
        id as _
    )
}
