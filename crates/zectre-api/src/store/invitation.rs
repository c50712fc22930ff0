//! Invitations to organizations, of whose tokens only a hash is stored.

use super::{
    change::{About, Change},
    rows::{Lists, page},
};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgPool};
use std::time::Duration;
use zectre_common::{
    id::{InvitationId, OrganizationId, UserId},
    state::Role,
    time::Time,
    wire::member::Invitation,
};

/// The most open invitations of one organization.
pub(crate) const INVITATIONS_MAX: i64 = 100;

/// A page of those that still hold.
pub(crate) async fn list(
    lists: &Lists,
    organization: OrganizationId,
    window: &Window,
) -> Result<(Vec<Invitation>, i64), Error> {
    let (rows, total) = page!(
        Invitation,
        r#"i.id AS "id: InvitationId", o.slug AS organization, i.email, i.role AS "role: Role", i.expires_at, i.created_at"#,
        "invitations i JOIN organizations o ON o.id = i.organization_id WHERE ",
        "i.organization_id = $1 AND i.expires_at > now()",
        [organization as _],
        order "CASE WHEN $2 = 'email' AND NOT $3 THEN i.email END, CASE WHEN $2 = 'email' AND $3 THEN i.email END DESC,
                    CASE WHEN NOT $3 THEN i.created_at END, CASE WHEN $3 THEN i.created_at END DESC, i.id
           LIMIT $4 OFFSET $5",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// A new one.
pub(crate) struct New<'a> {
    pub(crate) organization: OrganizationId,
    pub(crate) email: &'a str,
    pub(crate) role: Role,
    pub(crate) token_hash: &'a [u8],
    pub(crate) created_by: UserId,
    pub(crate) expires_at: Time,
}

/// Ends those that nobody accepted in time, of one organization or of all, `grace` after their end; each is told. How many there were: at
/// most so many as one round takes, and none that someone withdraws or accepts at this moment.
pub(crate) async fn end(
    change: &mut Change<'_>,
    organization: Option<OrganizationId>,
    grace: Duration,
) -> Result<u64, Error> {
    let ended = sqlx::query!(
        r#"DELETE FROM invitations WHERE id IN (
               SELECT id FROM invitations
               WHERE ($1::uuid IS NULL OR organization_id = $1) AND expires_at <= now() - make_interval(secs => $2)
               ORDER BY id LIMIT $3 FOR UPDATE SKIP LOCKED)
           RETURNING organization_id AS "organization_id: OrganizationId", email"#,
        organization as _,
        grace.as_secs_f64(),
        INVITATIONS_MAX
    )
    .fetch_all(change.connection())
    .await?;
    for one in &ended {
        let message = format!("the invitation of {} ended: nobody had accepted it", one.email);
        let about = About::organization(one.organization_id);
        change
            .event_by_platform("invitation.expired", about, &message)
            .await?;
    }
    Ok(ended.len() as u64)
}

/// Makes one, in place of an earlier one for the same address; `None` when the organization has as many as it may.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    new: &New<'_>,
) -> Result<Option<Invitation>, Error> {
    sqlx::query!(
        "DELETE FROM invitations WHERE organization_id = $1 AND lower(email) = lower($2)",
        new.organization as _,
        new.email
    )
    .execute(&mut *connection)
    .await?;
    let query = sqlx::query_as!(
        Invitation,
        r#"WITH made AS (
               INSERT INTO invitations (id, organization_id, email, role, token_hash, created_by, expires_at)
               SELECT $1, $2, $3, $4, $5, $6, $7
               WHERE (SELECT count(*) FROM invitations WHERE organization_id = $2) < $8
               RETURNING *)
           SELECT made.id AS "id: InvitationId", o.slug AS organization, made.email, made.role AS "role: Role",
                  made.expires_at, made.created_at
           FROM made JOIN organizations o ON o.id = made.organization_id"#,
        InvitationId::new() as _,
        new.organization as _,
        new.email,
        new.role.as_str(),
        new.token_hash,
        new.created_by as _,
        new.expires_at as _,
        INVITATIONS_MAX
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Withdraws one; its address, or `None` when there is no such invitation.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    organization: OrganizationId,
    id: InvitationId,
) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar!(
        "DELETE FROM invitations WHERE id = $1 AND organization_id = $2 RETURNING email",
        id as _,
        organization as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Which organization a token invites the account of this address to.
pub(crate) async fn organization_of(
    connection: &mut PgConnection,
    token_hash: &[u8],
    email: &str,
) -> Result<Option<OrganizationId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT organization_id AS "id: OrganizationId" FROM invitations
           WHERE token_hash = $1 AND lower(email) = lower($2) AND expires_at > now()"#,
        token_hash,
        email
    );
    Ok(query.fetch_optional(connection).await?)
}

/// What a token offers.
pub(crate) struct Offer {
    pub(crate) organization_id: OrganizationId,
    pub(crate) organization: String,
    pub(crate) role: Role,
}

/// Takes the offer of a token for the account of this address: it is gone then, so no second one has it.
pub(crate) async fn take(
    connection: &mut PgConnection,
    token_hash: &[u8],
    email: &str,
) -> Result<Option<Offer>, Error> {
    let query = sqlx::query_as!(
        Offer,
        r#"WITH taken AS (DELETE FROM invitations
                          WHERE token_hash = $1 AND lower(email) = lower($2) AND expires_at > now()
                          RETURNING organization_id, role)
           SELECT taken.organization_id AS "organization_id: OrganizationId", o.slug AS organization,
                  taken.role AS "role: Role"
           FROM taken JOIN organizations o ON o.id = taken.organization_id"#,
        token_hash,
        email
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Whether the token offers something to the account of this address.
pub(crate) async fn holds(pool: &PgPool, token_hash: &[u8], email: &str) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM invitations
                          WHERE token_hash = $1 AND lower(email) = lower($2) AND expires_at > now()) AS "holds!""#,
        token_hash,
        email
    );
    Ok(query.fetch_one(pool).await?)
}
