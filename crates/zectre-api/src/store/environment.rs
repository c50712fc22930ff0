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

/// How long nobody is given a port that was freed: clients of whoever had it may still call.
pub(crate) const PORT_HELD_HOURS: i32 = 24;

/// What came of asking for a port.
#[derive(Debug)]
pub(crate) enum PortAssigned {
    /// It has one now.
    Given,
    /// All are others'.
    NoneLeft,
    /// Those that are nobody's were given up too short a time ago.
    Held {
        /// How many.
        count: i64,
        /// Until the first of them may be given, at least one.
        wait_minutes: i64,
    },
}

/// Gives it a port from `first` to `last`: one that nobody ever had, or else the one that is free for the longest time, if that
/// is longer than [`PORT_HELD_HOURS`].
pub(crate) async fn assign_port(
    connection: &mut PgConnection,
    id: EnvironmentId,
    first: u16,
    last: u16,
) -> Result<PortAssigned, Error> {
    let (first, last) = (i32::from(first), i32::from(last));
    // One at a time: two must not find the same one free.
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtext('zectre public ports'))")
        .execute(&mut *connection)
        .await?;
    let assigned = sqlx::query!(
        "UPDATE environments SET public_port = free.port
         FROM (SELECT p.port FROM generate_series($2::int, $3::int) AS p (port) LEFT JOIN freed_ports f ON f.port = p.port
               WHERE NOT EXISTS (SELECT 1 FROM environments e WHERE e.public_port = p.port)
                 AND (f.freed_at IS NULL OR f.freed_at <= now() - make_interval(hours => $4))
               ORDER BY f.freed_at NULLS FIRST, p.port LIMIT 1) AS free
         WHERE id = $1",
        id as _,
        first,
        last,
        PORT_HELD_HOURS
    );
    if assigned.execute(&mut *connection).await?.rows_affected() == 1 {
        return Ok(PortAssigned::Given);
    }
    let held = sqlx::query!(
        r#"SELECT count(*) AS "count!",
                  ceil(extract(epoch FROM min(freed_at) + make_interval(hours => $3) - now()) / 60)::bigint AS wait_minutes
           FROM freed_ports f WHERE f.port BETWEEN $1 AND $2
             AND NOT EXISTS (SELECT 1 FROM environments e WHERE e.public_port = f.port)"#,
        first,
        last,
        PORT_HELD_HOURS
    );
    let held = held.fetch_one(connection).await?;
    Ok(match held.wait_minutes {
        Some(minutes) => PortAssigned::Held {
            count: held.count,
            wait_minutes: minutes.max(1),
        },
        None => PortAssigned::NoneLeft,
    })
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
