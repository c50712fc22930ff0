//! Who belongs to an organization. Whoever changes that holds the organization's row, so that an owner stays.

use super::events::{self, By, Done};
use crate::{
    code::{LAST_OWNER, LIMIT_REACHED, MEMBER_NOT_FOUND},
    error::{Error, refuse},
    page::Window,
};
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{OrganizationId, UserId},
    state::Role,
    wire::{catalog::Member, page::Page},
};

/// One page of them.
pub async fn list(
    pool: &PgPool,
    organization: OrganizationId,
    window: Window,
) -> Result<Page<Member>, Error> {
    let rows = sqlx::query_as!(
        Member,
        r#"SELECT u.id AS "user_id: UserId", u.login, u.email, u.name, m.role AS "role: Role", m.from_github, m.created_at
           FROM memberships m JOIN users u ON u.id = m.user_id WHERE m.organization_id = $1
           ORDER BY u.login, u.id LIMIT $2 OFFSET $3"#,
        organization as _,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM memberships WHERE organization_id = $1"#,
        organization as _
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}

/// The role of `user`, read under the organization's lock: what was true when the request came may not be any more.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
) -> Result<Option<Role>, Error> {
    sqlx::query!(
        "SELECT id FROM organizations WHERE id = $1 FOR UPDATE",
        organization as _
    )
    .fetch_optional(&mut *connection)
    .await?;
    let role = sqlx::query_scalar!(
        r#"SELECT role AS "role: Role" FROM memberships WHERE organization_id = $1 AND user_id = $2"#,
        organization as _,
        user as _
    );
    Ok(role.fetch_optional(connection).await?)
}

/// Refuses when nobody would own the organization.
async fn keep_an_owner(connection: &mut PgConnection, organization: OrganizationId) -> Result<(), Error> {
    let owners = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM memberships WHERE organization_id = $1 AND role = 'owner'"#,
        organization as _
    )
    .fetch_one(connection)
    .await?;
    if owners == 0 {
        return Err(refuse(
            &LAST_OWNER,
            "an organization keeps an owner: name another one first",
        ));
    }
    Ok(())
}

/// Refuses when the organization is as large as it may be.
pub(crate) async fn room_for_one(
    connection: &mut PgConnection,
    organization: OrganizationId,
    most: i64,
) -> Result<(), Error> {
    let members = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM memberships WHERE organization_id = $1"#,
        organization as _
    )
    .fetch_one(connection)
    .await?;
    if members < most {
        return Ok(());
    }
    let detail = format!("an organization has at most {most} members here (limits.per_organization_max)");
    Err(refuse(&LIMIT_REACHED, detail))
}

/// Adds one, or gives one more than it has.
pub(crate) async fn add(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
    role: Role,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO memberships (organization_id, user_id, role) VALUES ($1, $2, $3)
         ON CONFLICT (organization_id, user_id) DO UPDATE SET role = EXCLUDED.role, from_github = false",
        organization as _,
        user as _,
        role as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets a member's role, as `by` says.
pub async fn set_role(
    pool: &PgPool,
    organization: OrganizationId,
    by: &By,
    user: UserId,
    role: Role,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = hold(&mut transaction, organization, by.user).await?;
    let theirs = hold(&mut transaction, organization, user)
        .await?
        .ok_or_else(|| gone(user))?;
    may_change(mine, theirs.max(role))?;
    add(&mut transaction, organization, user, role).await?;
    keep_an_owner(&mut transaction, organization).await?;
    let login = login(&mut transaction, user).await?;
    let message = format!("`{login}` is `{role}` now");
    let done = Done::within(organization, "member.role_changed", (user.get(), &login), message);
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(())
}

/// The name of a person's account.
async fn login(connection: &mut PgConnection, user: UserId) -> Result<String, Error> {
    let query = sqlx::query_scalar!("SELECT login FROM users WHERE id = $1", user as _);
    Ok(query.fetch_one(connection).await?)
}

/// Removes a member, as `by` says; everyone may leave.
pub async fn remove(pool: &PgPool, organization: OrganizationId, by: &By, user: UserId) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = hold(&mut transaction, organization, by.user).await?;
    let theirs = hold(&mut transaction, organization, user)
        .await?
        .ok_or_else(|| gone(user))?;
    if by.user != user {
        may_change(mine, theirs)?;
    }
    sqlx::query!(
        "DELETE FROM memberships WHERE organization_id = $1 AND user_id = $2",
        organization as _,
        user as _
    )
    .execute(&mut *transaction)
    .await?;
    keep_an_owner(&mut transaction, organization).await?;
    let login = login(&mut transaction, user).await?;
    let message = if by.user == user {
        format!("`{login}` left")
    } else {
        format!("`{login}` is no member any more")
    };
    let done = Done::within(organization, "member.removed", (user.get(), &login), message);
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Admins manage everybody below an owner; owners everybody.
pub(crate) fn may_change(mine: Option<Role>, touched: Role) -> Result<(), Error> {
    let least = if touched == Role::Owner {
        Role::Owner
    } else {
        Role::Admin
    };
    crate::policy::allow(mine, least)
}

fn gone(user: UserId) -> Error {
    refuse(
        &MEMBER_NOT_FOUND,
        format!("the organization has no member {user}"),
    )
}
