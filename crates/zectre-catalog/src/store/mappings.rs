//! Which organizations of GitHub lead to which role.

use super::{
    events::{self, By, Done},
    members,
};
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

/// Sets the role that members of `github_org_id` get: those who are here by it at once, others at their next sign-in. Only who administers it there may: all its
/// members come with it, and with them their addresses.
pub async fn set(
    pool: &PgPool,
    organization: OrganizationId,
    by: &By,
    issuer: &str,
    (github_org_id, role): (i64, Role),
    most: i64,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by.user).await?;
    members::may_change(mine, Role::Owner)?;
    if !administers(&mut transaction, by.user, issuer, github_org_id).await? {
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
    let what = format!("members of GitHub's organization {github_org_id} are `{role}` now");
    let mut done = vec![to_mapping(
        organization,
        "github_mapping.set",
        github_org_id,
        what,
    )];
    if before.is_some_and(|before| before != role) {
        done.extend(settle(&mut transaction, organization).await?);
    }
    events::write(&mut transaction, by, &done).await?;
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
    by: &By,
    issuer: &str,
    github_org_id: i64,
) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by.user).await?;
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
        let what = format!("GitHub's organization {github_org_id} leads here no more");
        let mut done = vec![to_mapping(
            organization,
            "github_mapping.removed",
            github_org_id,
            what,
        )];
        done.extend(settle(&mut transaction, organization).await?);
        events::write(&mut transaction, by, &done).await?;
    }
    transaction.commit().await?;
    Ok(was_there)
}

fn to_mapping(
    organization: OrganizationId,
    action: &'static str,
    github_org_id: i64,
    message: String,
) -> Done {
    Done {
        organization: Some(organization),
        action,
        subject_id: None,
        subject: github_org_id.to_string(),
        message,
    }
}

/// After a mapping changed or went: who came by it has the role that their mappings give now, and leaves where none is left. Who came
/// otherwise stays as they are; of whom nobody knows how they came (a version without `github_memberships` took them in), they leave,
/// and are back at their next sign-in. Tells of whom it changed.
async fn settle(connection: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Done>, Error> {
    let gone = sqlx::query!(
        "DELETE FROM memberships m USING users u WHERE u.id = m.user_id AND organization_id = $1 AND from_github AND NOT EXISTS
             (SELECT 1 FROM github_memberships g WHERE g.organization_id = m.organization_id AND g.user_id = m.user_id)
         RETURNING u.id, u.login",
        organization as _
    )
    .fetch_all(&mut *connection)
    .await?;
    let changed = sqlx::query!(
        r#"UPDATE memberships m SET role = best.role FROM users u,
             (SELECT DISTINCT ON (user_id) user_id, role FROM github_memberships
                  JOIN github_mappings USING (organization_id, issuer, github_org_id) WHERE organization_id = $1
              ORDER BY user_id, array_position(ARRAY['admin', 'developer', 'viewer'], role)) AS best
         WHERE m.organization_id = $1 AND m.user_id = best.user_id AND m.from_github AND m.role <> best.role AND u.id = m.user_id
         RETURNING u.id, u.login, m.role AS "role: Role""#,
        organization as _
    )
    .fetch_all(connection)
    .await?;
    let gone = gone
        .into_iter()
        .map(|row| followed_out(organization, row.id, &row.login));
    let changed = changed
        .into_iter()
        .map(|row| followed_to(organization, row.id, &row.login, row.role));
    Ok(gone.chain(changed).collect())
}

/// Someone is a member no more, because nothing at GitHub leads them here.
pub(super) fn followed_out(organization: OrganizationId, user: UserId, login: &str) -> Done {
    let message = format!("`{login}` is no member any more: no organization of theirs at GitHub leads here");
    Done::within(organization, "member.removed", (user.get(), login), message)
}

/// Someone has another role, because of what leads them here from GitHub.
pub(super) fn followed_to(organization: OrganizationId, user: UserId, login: &str, role: Role) -> Done {
    let message = format!("`{login}` is `{role}` now, by an organization at GitHub");
    Done::within(organization, "member.role_changed", (user.get(), login), message)
}
