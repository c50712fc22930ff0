//! Invitations: shown once, kept as a hash, taken by a DELETE, so that one of two who come at once has it.

use super::{
    events::{self, By, Done},
    members,
};
use crate::{
    code::{INVITATION_NOT_FOUND, LIMIT_REACHED},
    error::{Error, refuse},
    page::Window,
};
use sqlx::PgPool;
use zectre_common::{
    id::{InvitationId, OrganizationId},
    state::Role,
    time::Time,
    wire::{catalog::Invitation, page::Page},
};

/// Makes one, as `by` says.
pub async fn create(
    pool: &PgPool,
    organization: OrganizationId,
    by: &By,
    invitation: &Invitation,
    token_hash: &[u8],
    most: i64,
) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by.user).await?;
    members::may_change(mine, invitation.role)?;
    let open = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM invitations WHERE organization_id = $1"#,
        organization as _
    )
    .fetch_one(&mut *transaction)
    .await?;
    if open >= most {
        let detail =
            format!("an organization has at most {most} invitations here (limits.per_organization_max)");
        return Err(refuse(&LIMIT_REACHED, detail));
    }
    sqlx::query!(
        "INSERT INTO invitations (id, organization_id, email, role, token_hash, created_at, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        invitation.id as _,
        organization as _,
        invitation.email,
        invitation.role as _,
        token_hash,
        invitation.created_at as _,
        invitation.expires_at as _
    )
    .execute(&mut *transaction)
    .await?;
    let (email, role) = (&invitation.email, invitation.role);
    let message = format!("invited {email} as `{role}`");
    let done = Done::within(
        organization,
        "invitation.created",
        (invitation.id.get(), email),
        message,
    );
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(())
}

/// Those that hold.
pub async fn list(
    pool: &PgPool,
    organization: OrganizationId,
    window: Window,
) -> Result<Page<Invitation>, Error> {
    let rows = sqlx::query_as!(
        Invitation,
        r#"SELECT i.id AS "id: InvitationId", o.slug AS organization, i.email, i.role AS "role: Role", i.created_at, i.expires_at
           FROM invitations i JOIN organizations o ON o.id = i.organization_id
           WHERE i.organization_id = $1 AND i.expires_at > now() ORDER BY i.id LIMIT $2 OFFSET $3"#,
        organization as _,
        window.limit(),
        window.offset()
    )
    .fetch_all(pool)
    .await?;
    let total = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!" FROM invitations WHERE organization_id = $1 AND expires_at > now()"#,
        organization as _
    )
    .fetch_one(pool)
    .await?;
    Ok(window.page(rows, total))
}

/// Withdraws one, as `by` says; false when it is not there.
pub async fn delete(
    pool: &PgPool,
    organization: OrganizationId,
    by: &By,
    id: InvitationId,
) -> Result<bool, Error> {
    let mut transaction = pool.begin().await?;
    let mine = members::hold(&mut transaction, organization, by.user).await?;
    crate::policy::allow(mine, Role::Admin)?;
    let email = sqlx::query_scalar!(
        "DELETE FROM invitations WHERE organization_id = $1 AND id = $2 RETURNING email",
        organization as _,
        id as _
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let done = email.map(|email| {
        let message = format!("withdrew the invitation of {email}");
        Done::within(organization, "invitation.withdrawn", (id.get(), &email), message)
    });
    events::write(&mut transaction, by, done.as_slice()).await?;
    transaction.commit().await?;
    Ok(done.is_some())
}

/// Makes `by` a member, if the invitation is for their address and holds; tells of what. A member who has more keeps it.
pub async fn accept(pool: &PgPool, by: &By, token_hash: &[u8], most: i64) -> Result<OrganizationId, Error> {
    let mut transaction = pool.begin().await?;
    let not_there = || {
        refuse(
            &INVITATION_NOT_FOUND,
            "there is no such invitation for your address: it was used, withdrawn or has ended",
        )
    };
    // First the organization's row, then the invitation's: as whoever withdraws it, or deletes both, so that two never wait for each
    // other.
    let organization = sqlx::query_scalar!(
        r#"SELECT organization_id AS "id: OrganizationId" FROM invitations WHERE token_hash = $1"#,
        token_hash
    )
    .fetch_optional(&mut *transaction)
    .await?
    .ok_or_else(not_there)?;
    let has = members::hold(&mut transaction, organization, by.user).await?;
    let taken = sqlx::query!(
        "DELETE FROM invitations i USING users u WHERE i.token_hash = $1 AND i.expires_at > now() AND u.id = $2
             AND lower(i.email) = lower(u.email)
         RETURNING i.role",
        token_hash,
        by.user as _
    )
    .fetch_optional(&mut *transaction)
    .await?;
    let invitation = taken.ok_or_else(not_there)?;
    if has.is_none() {
        members::room_for_one(&mut transaction, organization, most).await?;
    }
    let role = has.map_or(invitation.role, |has| has.max(invitation.role));
    members::add(&mut transaction, organization, by.user, role).await?;
    let login = &by.login;
    let message = format!("`{login}` accepted an invitation, and is `{role}` now");
    let done = Done::within(
        organization,
        "invitation.accepted",
        (by.user.get(), login),
        message,
    );
    events::write(&mut transaction, by, &[done]).await?;
    transaction.commit().await?;
    Ok(organization)
}

/// When one made at `now` ends.
pub fn end(now: Time) -> Time {
    now.plus(std::time::Duration::from_secs(7 * 86_400))
}
