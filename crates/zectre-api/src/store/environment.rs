//! Environments of an application.

use super::custom_domain;
use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId},
    wire::app::Environment,
};

/// The most environments an application may have.
pub(crate) const ENVIRONMENTS_MAX: i64 = 100;

/// All of an application's, oldest first.
pub(crate) async fn list(pool: &PgPool, app: ApplicationId) -> Result<Vec<Environment>, Error> {
    Ok(sqlx::query_as!(
        Environment,
        r#"SELECT id AS "id: EnvironmentId", slug, current_deployment_id AS "current_deployment_id: DeploymentId",
                  target_deployment_id AS "target_deployment_id: DeploymentId", created_at
           FROM environments WHERE application_id = $1 AND deleted_at IS NULL ORDER BY created_at, id"#,
        app as _
    )
    .fetch_all(pool)
    .await?)
}

/// Makes one; `None` when it exists (or there are too many).
pub(crate) async fn insert(
    connection: &mut PgConnection,
    app: ApplicationId,
    slug: &str,
) -> Result<Option<Environment>, Error> {
    Ok(sqlx::query_as!(
        Environment,
        r#"INSERT INTO environments (id, application_id, slug)
           SELECT $1, $2, $3 WHERE (SELECT count(*) FROM environments WHERE application_id = $2) < $4
           ON CONFLICT (application_id, slug) DO NOTHING
           RETURNING id AS "id: EnvironmentId", slug, current_deployment_id AS "current_deployment_id: DeploymentId",
                     target_deployment_id AS "target_deployment_id: DeploymentId", created_at"#,
        EnvironmentId::new() as _,
        app as _,
        slug,
        ENVIRONMENTS_MAX
    )
    .fetch_optional(connection)
    .await?)
}

/// The environment with this slug.
pub(crate) async fn id(
    connection: &mut PgConnection,
    app: ApplicationId,
    slug: &str,
) -> Result<Option<EnvironmentId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id: EnvironmentId" FROM environments
           WHERE application_id = $1 AND slug = $2 AND deleted_at IS NULL"#,
        app as _,
        slug
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Hides it and frees its slug; its id, or `None` when there is no such environment.
pub(crate) async fn hide(
    connection: &mut PgConnection,
    app: ApplicationId,
    slug: &str,
) -> Result<Option<EnvironmentId>, Error> {
    let hidden = sqlx::query_scalar!(
        r#"UPDATE environments SET deleted_at = now(), slug = 'deleted:' || id
           WHERE application_id = $1 AND slug = $2 AND deleted_at IS NULL RETURNING id AS "id: EnvironmentId""#,
        app as _,
        slug
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(id) = hidden {
        let previews = sqlx::query!(
            "UPDATE deployments SET preview_label = 'deleted:' || id WHERE environment_id = $1",
            id as _
        );
        previews.execute(&mut *connection).await?;
        custom_domain::delete_all(&mut *connection, app, Some(id)).await?;
        let variables = sqlx::query!(
            "DELETE FROM env_vars WHERE application_id = $1 AND environment = $2",
            app as _,
            slug
        );
        variables.execute(connection).await?;
    }
    Ok(hidden)
}
