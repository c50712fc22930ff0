//! Which organizations of GitHub lead to which role.

use super::members;
use crate::{
    code::{LIMIT_REACHED, MAPPING_REFUSED},
    error::{Error, refuse},
};
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{OrganizationId, UserId},
    state::Role,
    wire::catalog::GithubMapping,
};

/// Those of an organization; there are few.
pub async fn list(
    pool: &PgPool,
    organization: OrganizationId,
    issuer: &str,
) -> Result<Vec<GithubMapping>, Error> {
    let query = sqlx::query_as!(
        GithubMapping,
        r#"SELECT github_org_id, role AS "role: Role", created_at FROM github_mappings
           WHERE organization_id = $1 AND issuer = $2 ORDER BY github_org_id"#,
        organization as _,
        issuer
    );
    Ok(query.fetch_all(pool).await?)
}

/// Sets the role that members of `github_org_id` get from their next sign-in on. Only who administers it there may: all its
/// members come with it, and with them their addresses.
pub async fn set(
    pool: &PgPool,
    organization: OrganizationId,
    by: UserId,
    issuer: &str,
    (github_org_id, role): (i64, Role),
    most: i64,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by).await?;
    members::may_change(mine, Role::Owner)?;
    if !administers(&mut transaction, by, issuer, github_org_id).await? {
        let detail = format!(
            "GitHub did not name you as an administrator of its organization {github_org_id} when you signed in: have one of its \
             administrators, as an owner here, map it, or sign in again if you have become one"
        );
        return Err(refuse(&MAPPING_REFUSED, detail));
    }
    let there = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM github_mappings WHERE organization_id = $1 AND github_org_id <> $2"#,
        organization as _,
        github_org_id
    )
    .fetch_one(&mut *transaction)
    .await?;
    if there >= most {
        let detail =
            format!("an organization has at most {most} mappings here (limits.per_organization_max)");
        return Err(refuse(&LIMIT_REACHED, detail));
    }
    let before = sqlx::query_scalar!(
        r#"SELECT role AS "role: Role" FROM github_mappings WHERE organization_id = $1 AND issuer = $2 AND github_org_id = $3"#,
        organization as _,
        issuer,
        github_org_id
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if before.is_some_and(|before| before != role) {
        forget_members(&mut transaction, organization).await?;
    }
    sqlx::query!(
        "INSERT INTO github_mappings (organization_id, issuer, github_org_id, role) VALUES ($1, $2, $3, $4)
         ON CONFLICT (organization_id, issuer, github_org_id) DO UPDATE SET role = EXCLUDED.role",
        organization as _,
        issuer,
        github_org_id,
        role as _
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(())
}

/// Whether GitHub named `user` as an administrator of this organization when they signed in.
async fn administers(
    connection: &mut PgConnection,
    user: UserId,
    issuer: &str,
    github_org_id: i64,
) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM users WHERE id = $1 AND issuer = $2 AND $3 = ANY(administers)) AS "is_admin!""#,
        user as _,
        issuer,
        github_org_id
    );
    Ok(query.fetch_one(connection).await?)
}

/// Removes one, as `by` says; false when it is not there.
pub async fn delete(
    pool: &PgPool,
    organization: OrganizationId,
    by: UserId,
    issuer: &str,
    github_org_id: i64,
) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by).await?;
    members::may_change(mine, Role::Owner)?;
    let done = sqlx::query!(
        "DELETE FROM github_mappings WHERE organization_id = $1 AND issuer = $2 AND github_org_id = $3",
        organization as _,
        issuer,
        github_org_id
    )
    .execute(&mut *transaction)
    .await?;
    let was_there = done.rows_affected() == 1;
    if was_there {
        forget_members(&mut transaction, organization).await?;
    }
    transaction.commit().await?;
    Ok(was_there)
}

/// Nobody keeps a role that no mapping gives any more; whom another one covers is back at the next sign-in.
async fn forget_members(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM memberships WHERE organization_id = $1 AND from_github",
        organization as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
