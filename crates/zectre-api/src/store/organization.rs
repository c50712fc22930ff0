//! Organizations and namespaces.

use super::{
    is_duplicate,
    rows::{Lists, page},
};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{NamespaceId, OrganizationId, UserId},
    wire::auth::{Namespace, Organization},
};

/// Those among `reach` (all for `None`).
pub(crate) async fn list(
    lists: &Lists,
    reach: Option<&[OrganizationId]>,
    window: &Window,
) -> Result<(Vec<Organization>, i64), Error> {
    let (rows, total) = page!(
        Organization,
        r#"id AS "id: OrganizationId", slug, name, created_at"#,
        "organizations WHERE ",
        "$1::uuid[] IS NULL OR id = ANY($1)",
        [reach as _],
        order "CASE WHEN NOT $3 THEN CASE $2 WHEN 'slug' THEN slug WHEN 'name' THEN name END END,
                    CASE WHEN $3 THEN CASE $2 WHEN 'slug' THEN slug WHEN 'name' THEN name END END DESC,
                    CASE WHEN NOT $3 THEN created_at END, CASE WHEN $3 THEN created_at END DESC, id
           LIMIT $4 OFFSET $5",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// Makes one, with its first owner; `None` when the slug is taken.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    slug: &str,
    name: &str,
    owner: UserId,
) -> Result<Option<Organization>, Error> {
    let inserted = sqlx::query_as!(
        Organization,
        r#"INSERT INTO organizations (id, slug, name, created_by) VALUES ($1, $2, $3, $4) ON CONFLICT (slug) DO NOTHING
           RETURNING id AS "id: OrganizationId", slug, name, created_at"#,
        OrganizationId::new() as _,
        slug,
        name,
        owner as _
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(organization) = &inserted {
        sqlx::query!(
            "INSERT INTO memberships (user_id, organization_id, role) VALUES ($1, $2, 'owner')",
            owner as _,
            organization.id as _
        )
        .execute(connection)
        .await?;
    }
    Ok(inserted)
}

/// How many the user has made, who is held until the transaction ends: of two made at once each sees the other.
pub(crate) async fn count_made(connection: &mut PgConnection, user: UserId) -> Result<u64, Error> {
    sqlx::query!("SELECT id FROM users WHERE id = $1 FOR NO KEY UPDATE", user as _)
        .fetch_optional(&mut *connection)
        .await?;
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM organizations WHERE created_by = $1"#,
        user as _
    );
    Ok(count.fetch_one(connection).await?.unsigned_abs())
}

/// How many namespaces the organization has, which is held until the transaction ends.
pub(crate) async fn count_namespaces(
    connection: &mut PgConnection,
    organization: OrganizationId,
) -> Result<u64, Error> {
    super::quota::hold(connection, organization).await?;
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "n!" FROM namespaces WHERE organization_id = $1"#,
        organization as _
    );
    Ok(count.fetch_one(connection).await?.unsigned_abs())
}

/// The organization with this slug.
pub(crate) async fn by_slug(pool: &PgPool, slug: &str) -> Result<Option<OrganizationId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id: OrganizationId" FROM organizations WHERE slug = $1"#,
        slug
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Namespaces of the organizations in `reach`.
pub(crate) async fn list_namespaces(
    lists: &Lists,
    reach: Option<&[OrganizationId]>,
    window: &Window,
) -> Result<(Vec<Namespace>, i64), Error> {
    let (rows, total) = page!(
        Namespace,
        r#"n.id AS "id: NamespaceId", n.name, o.slug AS organization, n.created_at"#,
        "namespaces n JOIN organizations o ON o.id = n.organization_id WHERE ",
        "$1::uuid[] IS NULL OR o.id = ANY($1)",
        [reach as _],
        order "CASE WHEN $2 = 'name' AND NOT $3 THEN n.name END, CASE WHEN $2 = 'name' AND $3 THEN n.name END DESC,
                    CASE WHEN NOT $3 THEN n.created_at END, CASE WHEN $3 THEN n.created_at END DESC, n.id
           LIMIT $4 OFFSET $5",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// A namespace's id and owner, by its name.
pub(crate) async fn namespace(
    pool: &PgPool,
    name: &str,
) -> Result<Option<(NamespaceId, OrganizationId)>, Error> {
    let row = sqlx::query!(
        r#"SELECT id AS "id: NamespaceId", organization_id AS "organization_id: OrganizationId"
           FROM namespaces WHERE name = $1"#,
        name
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (row.id, row.organization_id)))
}

/// Makes a namespace; `None` when the name is taken.
pub(crate) async fn insert_namespace(
    connection: &mut PgConnection,
    organization_id: OrganizationId,
    name: &str,
) -> Result<Option<Namespace>, Error> {
    let inserted = sqlx::query_as!(
        Namespace,
        r#"WITH made AS (INSERT INTO namespaces (id, organization_id, name) VALUES ($1, $2, $3)
                         RETURNING id, name, organization_id, created_at)
           SELECT made.id AS "id: NamespaceId", made.name, o.slug AS organization, made.created_at
           FROM made JOIN organizations o ON o.id = made.organization_id"#,
        NamespaceId::new() as _,
        organization_id as _,
        name
    )
    .fetch_one(connection)
    .await;
    match inserted {
        Ok(namespace) => Ok(Some(namespace)),
        Err(error) if is_duplicate(&error) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
