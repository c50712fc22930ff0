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

/// Where it takes plain TCP.
pub(crate) async fn public_port(
    connection: &mut PgConnection,
    id: EnvironmentId,
) -> Result<Option<i32>, Error> {
    let query = sqlx::query_scalar!("SELECT public_port FROM environments WHERE id = $1", id as _);
    Ok(query.fetch_one(connection).await?)
}

/// Gives it the lowest port from `first` to `last` that is free; false when none is.
pub(crate) async fn assign_port(
    connection: &mut PgConnection,
    id: EnvironmentId,
    first: u16,
    last: u16,
) -> Result<bool, Error> {
    // One at a time: two must not find the same one free.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('zectre public ports'))")
        .execute(&mut *connection)
        .await?;
    let assigned = sqlx::query!(
        "UPDATE environments SET public_port = free.port
         FROM (SELECT p.port FROM generate_series($2::int, $3::int) AS p (port)
               WHERE NOT EXISTS (SELECT 1 FROM environments e WHERE e.public_port = p.port)
               ORDER BY p.port LIMIT 1) AS free
         WHERE id = $1",
        id as _,
        i32::from(first),
        i32::from(last)
    );
    Ok(assigned.execute(connection).await?.rows_affected() == 1)
}

/// Hides it and frees its slug and its port; its id, or `None` when there is no such environment.
pub(crate) async fn hide(
    connection: &mut PgConnection,
    app: ApplicationId,
    slug: &str,
) -> Result<Option<EnvironmentId>, Error> {
    let hidden = sqlx::query_scalar!(
        r#"UPDATE environments SET deleted_at = now(), slug = 'deleted:' || id, public_port = NULL
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
