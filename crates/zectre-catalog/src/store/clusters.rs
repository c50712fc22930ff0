//! Clusters: where they are, whose, and for which audience tokens for them are.

use super::{
    duplicate,
    events::{self, By, Done},
    members,
};
use crate::{
    code::{AUDIENCE_TAKEN, CLUSTER_NOT_FOUND, LIMIT_REACHED, NAME_TAKEN},
    error::{Error, refuse},
    page::Window,
};
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{ClusterId, OrganizationId, UserId},
    state::Role,
    wire::{catalog::Cluster, page::Page},
};

/// Adds one to `organization`, as `by` says.
pub async fn create(
    pool: &PgPool,
    organization: OrganizationId,
    by: &By,
    cluster: &Cluster,
    most: i64,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by.user).await?;
    crate::policy::allow(mine, Role::Admin)?;
    let there = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM clusters WHERE organization_id = $1"#,
        organization as _
    )
    .fetch_one(&mut *transaction)
    .await?;
    if there >= most {
        let detail =
            format!("an organization has at most {most} clusters here (limits.per_organization_max)");
        return Err(refuse(&LIMIT_REACHED, detail));
    }
    let fresh = sqlx::query!(
        "INSERT INTO audiences (audience) VALUES ($1) ON CONFLICT DO NOTHING",
        cluster.audience
    )
    .execute(&mut *transaction)
    .await?;
    if fresh.rows_affected() == 0 {
        let detail = format!(
            "a cluster has, or had, the audience `{}`: choose another one",
            cluster.audience
        );
        return Err(refuse(&AUDIENCE_TAKEN, detail));
    }
    let inserted = sqlx::query!(
        "INSERT INTO clusters (id, organization_id, name, api_base_url, audience, created_at) VALUES ($1, $2, $3, $4, $5, $6)",
        cluster.id as _,
        organization as _,
        cluster.name,
        cluster.api_base_url,
        cluster.audience,
        cluster.created_at as _
    )
    .execute(&mut *transaction)
    .await;
    inserted.map_err(|error| match duplicate(&error) {
        Some(_) => refuse(
            &NAME_TAKEN,
            format!(
                "`{}` has a cluster `{}`: choose another name",
                cluster.organization, cluster.name
            ),
        ),
        None => error.into(),
    })?;
    let (name, url) = (&cluster.name, &cluster.api_base_url);
    let message = format!("added the cluster `{name}` at {url}");
    let done = Done::within(organization, "cluster.added", (cluster.id.get(), name), message);
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Those of the organizations of `user`, or of one of them.
pub async fn list(
    pool: &PgPool,
    user: UserId,
    organization: Option<&str>,
    window: Window,
) -> Result<Page<Cluster>, Error> {
    let rows = sqlx::query_as!(
        Cluster,
        r#"SELECT c.id AS "id: ClusterId", o.slug AS organization, c.name, c.api_base_url, c.audience, c.created_at
           FROM memberships m JOIN organizations o ON o.id = m.organization_id JOIN clusters c ON c.organization_id = o.id
           WHERE m.user_id = $1 AND ($2::text IS NULL OR o.slug = $2) ORDER BY o.slug, c.name LIMIT $3 OFFSET $4"#,
        user as _,
        organization,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM memberships m JOIN organizations o ON o.id = m.organization_id
           JOIN clusters c ON c.organization_id = o.id
           WHERE m.user_id = $1 AND ($2::text IS NULL OR o.slug = $2)"#,
        user as _,
        organization
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}

/// The one that `user` knows by this id, with their role in its organization.
pub async fn of_member(pool: &PgPool, id: ClusterId, user: UserId) -> Result<Option<(Cluster, Role)>, Error> {
    let row = sqlx::query!(
        r#"SELECT c.id, o.slug, c.name, c.api_base_url, c.audience, c.created_at, m.role AS "role: Role"
           FROM clusters c JOIN organizations o ON o.id = c.organization_id
           JOIN memberships m ON m.organization_id = o.id AND m.user_id = $2 WHERE c.id = $1"#,
        id as _,
        user as _
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| {
        let cluster = Cluster {
            id: row.id,
            organization: row.slug,
            name: row.name,
            api_base_url: row.api_base_url,
            audience: row.audience,
            created_at: row.created_at,
        };
        (cluster, row.role)
    }))
}

/// Moves one elsewhere, or renames it, as `by` says. Its audience stays: tokens for it are under way. Whoever moves it gets
/// everybody's tokens for it, those of owners too, so only an owner does.
pub async fn update(
    pool: &PgPool,
    id: ClusterId,
    by: &By,
    name: &str,
    api_base_url: &str,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let (organization, mine) = hold_owner(&mut transaction, id, by.user).await?;
    let before = sqlx::query!(
        "SELECT name, api_base_url FROM clusters WHERE id = $1 FOR UPDATE",
        id as _
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(|| gone(id))?;
    let least = if before.api_base_url == api_base_url {
        Role::Admin
    } else {
        Role::Owner
    };
    crate::policy::allow(mine, least)?;
    sqlx::query!(
        "UPDATE clusters SET name = $2, api_base_url = $3 WHERE id = $1",
        id as _,
        name,
        api_base_url
    )
    .execute(&mut *transaction)
    .await
    .map_err(|error| match duplicate(&error) {
        Some(_) => refuse(
            &NAME_TAKEN,
            format!("there is a cluster `{name}` already: choose another name"),
        ),
        None => error.into(),
    })?;
    let message = format!(
        "the cluster `{}` at {} is `{name}` at {api_base_url} now",
        before.name, before.api_base_url
    );
    let done = Done::within(organization, "cluster.changed", (id.get(), name), message);
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Removes one, as `by` says: no more tokens are given for it, and nobody gets its audience.
pub async fn delete(pool: &PgPool, id: ClusterId, by: &By) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let (organization, mine) = hold_owner(&mut transaction, id, by.user).await?;
    crate::policy::allow(mine, Role::Admin)?;
    let name = sqlx::query_scalar!("DELETE FROM clusters WHERE id = $1 RETURNING name", id as _)
        .fetch_optional(&mut *transaction)
        .await?;
    let done = name.map(|name| {
        let message = format!("removed the cluster `{name}`");
        Done::within(organization, "cluster.removed", (id.get(), &name), message)
    });
    events::write(&mut transaction, by, done.as_slice()).await?;
    transaction.commit().await?;
    Ok(())
}

/// The organization that has the cluster, whose row stays locked, and the role of `by` in it.
async fn hold_owner(
    connection: &mut PgConnection,
    id: ClusterId,
    by: UserId,
) -> Result<(OrganizationId, Option<Role>), Error> {
    let organization = sqlx::query_scalar!(
        r#"SELECT organization_id AS "id: OrganizationId" FROM clusters WHERE id = $1"#,
        id as _
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or_else(|| gone(id))?;
    Ok((organization, members::hold(connection, organization, by).await?))
}

/// Whose cluster has this audience, and its name.
pub(super) async fn of_audience(
    connection: &mut PgConnection,
    audience: &str,
) -> Result<Option<(OrganizationId, String)>, Error> {
    let row = sqlx::query!(
        "SELECT organization_id, name FROM clusters WHERE audience = $1",
        audience
    );
    let row = row.fetch_optional(connection).await?;
    Ok(row.map(|row| (row.organization_id, row.name)))
}

fn gone(id: ClusterId) -> Error {
    refuse(&CLUSTER_NOT_FOUND, format!("there is no cluster {id}"))
}
