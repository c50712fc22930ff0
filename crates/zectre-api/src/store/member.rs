//! Members of organizations. Whoever changes them holds the organization's row, so that two changes at once can't
//! leave it without an owner.

use super::rows::{Lists, page};
use crate::{error::Error, page::Window};
use sqlx::PgConnection;
use zectre_common::{
    id::{OrganizationId, UserId},
    state::Role,
    wire::member::Member,
};

/// A page of the members.
pub(crate) async fn list(
    lists: &Lists,
    organization: OrganizationId,
    window: &Window,
) -> Result<(Vec<Member>, i64), Error> {
    let (rows, total) = page!(
        Member,
        r#"u.id AS "user_id: UserId", u.email, u.name, m.role AS "role: Role", m.created_at"#,
        "memberships m JOIN users u ON u.id = m.user_id WHERE ",
        "m.organization_id = $1",
        [organization as _],
        order "CASE WHEN NOT $3 THEN CASE $2 WHEN 'email' THEN lower(u.email) WHEN 'name' THEN u.name WHEN 'role' THEN m.role END END,
                    CASE WHEN $3 THEN CASE $2 WHEN 'email' THEN lower(u.email) WHEN 'name' THEN u.name WHEN 'role' THEN m.role END END DESC,
                    CASE WHEN NOT $3 THEN m.created_at END, CASE WHEN $3 THEN m.created_at END DESC, u.id
           LIMIT $4 OFFSET $5",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// Holds the organization until the transaction ends.
pub(crate) async fn hold(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), Error> {
    sqlx::query!(
        "SELECT id FROM organizations WHERE id = $1 FOR UPDATE",
        organization as _
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// A member.
pub(crate) async fn get(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
) -> Result<Option<Member>, Error> {
    let query = sqlx::query_as!(
        Member,
        r#"SELECT u.id AS "user_id: UserId", u.email, u.name, m.role AS "role: Role", m.created_at
           FROM memberships m JOIN users u ON u.id = m.user_id
           WHERE m.organization_id = $1 AND m.user_id = $2"#,
        organization as _,
        user as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Whether someone else owns it, too, whose account is not disabled. An owner whom a catalog gave counts in what that catalog made only: it
/// takes its owners back as it likes, and nobody here is asked.
pub(crate) async fn has_other_owner(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM memberships m JOIN users u ON u.id = m.user_id
                                                  JOIN organizations o ON o.id = m.organization_id
                          WHERE m.organization_id = $1 AND m.user_id <> $2 AND m.role = 'owner' AND NOT u.disabled
                            AND (m.catalog_issuer IS NULL OR m.catalog_issuer = o.catalog_issuer)) AS "x!""#,
        organization as _,
        user as _
    );
    Ok(query.fetch_one(connection).await?)
}

/// Makes the user a member with this role, or gives it this role; what a catalog said of it doesn't count from then on.
pub(crate) async fn set(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
    role: Role,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO memberships (user_id, organization_id, role) VALUES ($1, $2, $3)
         ON CONFLICT (user_id, organization_id) DO UPDATE SET role = $3, catalog_issuer = NULL",
        user as _,
        organization as _,
        role.as_str()
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Ends a membership.
pub(crate) async fn remove(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2",
        organization as _,
        user as _
    )
    .execute(connection)
    .await?;
    Ok(())
}
