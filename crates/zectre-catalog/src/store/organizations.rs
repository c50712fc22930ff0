//! Organizations.

use super::{
    duplicate,
    events::{self, By, Done},
    members,
};
use crate::{
    code::{LIMIT_REACHED, SLUG_TAKEN},
    error::{Error, refuse},
    page::Window,
};
use sqlx::PgPool;
use zectre_common::{
    id::{OrganizationId, UserId},
    state::Role,
    wire::{catalog::Organization, page::Page},
};

/// Makes one, with its first owner; at most `per_user_max` a person.
pub async fn create(
    pool: &PgPool,
    slug: &str,
    name: &str,
    by: &By,
    per_user_max: i64,
) -> Result<Organization, Error> {
    let owner = by.user;
    let mut transaction = pool.begin().await?;
    // Two at once would both be the last that is allowed.
    sqlx::query_scalar!(r#"SELECT id FROM users WHERE id = $1 FOR UPDATE"#, owner as _)
        .fetch_one(&mut *transaction)
        .await?;
    let made = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM organizations WHERE created_by = $1"#,
        owner as _
    )
    .fetch_one(&mut *transaction)
    .await?;
    if made >= per_user_max {
        return Err(refuse(
            &LIMIT_REACHED,
            format!(
                "a person can make {per_user_max} organizations here (limits.organizations_per_user_max)"
            ),
        ));
    }
    let row = sqlx::query!(
        "INSERT INTO organizations (id, slug, name, created_by) VALUES ($1, $2, $3, $4) RETURNING id, slug, name, created_at",
        OrganizationId::new() as _,
        slug,
        name,
        owner as _
    )
    .fetch_one(&mut *transaction)
    .await
    .map_err(|error| match duplicate(&error) {
        Some(_) => refuse(&SLUG_TAKEN, format!("the slug `{slug}` is taken: choose another one")),
        None => error.into(),
    })?;
    sqlx::query!(
        "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, 'owner')",
        row.id as _,
        owner as _
    )
    .execute(&mut *transaction)
    .await?;
    let done = Done::within(
        row.id,
        "organization.created",
        (row.id.get(), slug),
        format!("made `{slug}`"),
    );
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(Organization {
        id: row.id,
        slug: row.slug,
        name: row.name,
        role: Role::Owner,
        created_at: row.created_at,
    })
}

/// Those of `user`.
pub async fn list(pool: &PgPool, user: UserId, window: Window) -> Result<Page<Organization>, Error> {
    let rows = sqlx::query_as!(
        Organization,
        r#"SELECT o.id AS "id: OrganizationId", o.slug, o.name, m.role AS "role: Role", o.created_at
           FROM memberships m JOIN organizations o ON o.id = m.organization_id WHERE m.user_id = $1
           ORDER BY o.slug LIMIT $2 OFFSET $3"#,
        user as _,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM memberships WHERE user_id = $1"#,
        user as _
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}

/// The one that `user` knows as `slug`, with their role in it.
pub async fn of_member(pool: &PgPool, slug: &str, user: UserId) -> Result<Option<Organization>, Error> {
    let query = sqlx::query_as!(
        Organization,
        r#"SELECT o.id AS "id: OrganizationId", o.slug, o.name, m.role AS "role: Role", o.created_at
           FROM memberships m JOIN organizations o ON o.id = m.organization_id WHERE o.slug = $1 AND m.user_id = $2"#,
        slug,
        user as _
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Deletes one, with everything in it, as `by` says.
pub async fn delete(pool: &PgPool, id: OrganizationId, by: &By) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, id, by.user).await?;
    crate::policy::allow(mine, Role::Owner)?;
    let slug = sqlx::query_scalar!("DELETE FROM organizations WHERE id = $1 RETURNING slug", id as _)
        .fetch_optional(&mut *transaction)
        .await?;
    let done = slug.map(|slug| {
        let message = format!("deleted `{slug}`");
        Done::within(id, "organization.deleted", (id.get(), &slug), message)
    });
    events::write(&mut transaction, by, done.as_slice()).await?;
    transaction.commit().await?;
    Ok(())
}

/// The one with this id, if `user` is a member.
pub async fn by_id(pool: &PgPool, id: OrganizationId, user: UserId) -> Result<Option<Organization>, Error> {
    let query = sqlx::query_as!(
        Organization,
        r#"SELECT o.id AS "id: OrganizationId", o.slug, o.name, m.role AS "role: Role", o.created_at
           FROM memberships m JOIN organizations o ON o.id = m.organization_id WHERE o.id = $1 AND m.user_id = $2"#,
        id as _,
        user as _
    );
    Ok(query.fetch_optional(pool).await?)
}
