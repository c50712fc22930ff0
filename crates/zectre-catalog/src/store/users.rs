//! People, as GitHub knows them, and what follows from their organizations there.

use super::{
    events::{self, By, Done},
    mappings::{followed_out, followed_to},
};
use crate::{claims::OrgClaim, error::Error};
use sqlx::{PgConnection, PgPool};
use std::net::IpAddr;
use zectre_common::{
    id::{OrganizationId, UserId},
    state::Role,
    time::Time,
};

/// What GitHub says about someone who has just signed in.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its number for the account.
    pub subject: i64,
    /// The account's name.
    pub login: String,
    /// The primary address, verified.
    pub email: String,
    /// What the person is called.
    pub name: String,
    /// The numbers of the organizations it is an active member of.
    pub org_ids: Vec<i64>,
    /// Those of them that it administers.
    pub administers: Vec<i64>,
}

/// A person.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// Its id.
    pub id: UserId,
    /// The name of the account at GitHub.
    pub login: String,
    /// Its address.
    pub email: String,
    /// Its name.
    pub name: String,
    /// Since when it is known.
    pub created_at: Time,
}

impl UserRow {
    /// This person, who does something from there.
    pub fn by(&self, address: Option<IpAddr>) -> By {
        By {
            user: self.id,
            login: self.login.clone(),
            address,
        }
    }
}

/// Someone signed in at `issuer`: makes or renews the account, and the memberships that follow from GitHub's.
/// An organization that has `most` members takes nobody else.
pub async fn sign_in(
    pool: &PgPool,
    issuer: &str,
    profile: &Profile,
    address: Option<IpAddr>,
    most: i64,
) -> Result<UserId, Error> {
    let mut transaction = pool.begin().await?;
    let account = sqlx::query!(
        r#"INSERT INTO users (id, issuer, subject, login, email, name, administers) VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (issuer, subject) DO UPDATE SET login = EXCLUDED.login, email = EXCLUDED.email, name = EXCLUDED.name,
             administers = EXCLUDED.administers, signed_in_at = now()
         RETURNING id, (xmax = 0) AS "is_new!""#,
        UserId::new() as _,
        issuer,
        profile.subject,
        profile.login,
        profile.email,
        profile.name,
        &profile.administers
    )
    .fetch_one(&mut *transaction)
    .await?;
    let (id, login) = (account.id, &profile.login);
    let first = if account.is_new { " for the first time" } else { "" };
    let mut done = vec![Done {
        organization: None,
        action: "user.signed_in",
        subject_id: Some(id.get()),
        subject: login.clone(),
        message: format!("`{login}` signed in with GitHub{first}"),
    }];
    done.extend(follow_github(&mut transaction, (id, login), issuer, &profile.org_ids, most).await?);
    let by = By {
        user: id,
        login: login.clone(),
        address,
    };
    events::write(&mut transaction, &by, &done).await?;
    transaction.commit().await?;
    Ok(id)
}

/// Memberships that follow from GitHub come and go with it; those that someone gave here stay as they are. Tells which came and went.
async fn follow_github(
    connection: &mut PgConnection,
    (user, login): (UserId, &str),
    issuer: &str,
    org_ids: &[i64],
    most: i64,
) -> Result<Vec<Done>, Error> {
    // In one order, so that two who sign in never wait for each other.
    let held = sqlx::query_scalar!(
        "SELECT id FROM organizations WHERE id IN
             (SELECT organization_id FROM github_mappings WHERE issuer = $2 AND github_org_id = ANY($3)
              UNION SELECT organization_id FROM memberships WHERE user_id = $1 AND from_github)
         ORDER BY id FOR UPDATE",
        user as _,
        issuer,
        org_ids
    )
    .fetch_all(&mut *connection)
    .await?;
    let gone = sqlx::query_scalar!(
        "DELETE FROM memberships WHERE user_id = $1 AND from_github AND organization_id NOT IN
             (SELECT organization_id FROM github_mappings WHERE issuer = $2 AND github_org_id = ANY($3))
         RETURNING organization_id",
        user as _,
        issuer,
        org_ids
    )
    .fetch_all(&mut *connection)
    .await?;
    let followed = sqlx::query!(
        r#"INSERT INTO memberships (organization_id, user_id, role, from_github)
         SELECT DISTINCT ON (organization_id) organization_id, $1::uuid, role, true FROM github_mappings g
         WHERE issuer = $2 AND github_org_id = ANY($3) AND organization_id = ANY($4)
             AND ($5 > (SELECT count(*) FROM memberships m WHERE m.organization_id = g.organization_id AND m.user_id <> $1::uuid)
                  OR EXISTS (SELECT 1 FROM memberships m WHERE m.organization_id = g.organization_id AND m.user_id = $1::uuid))
         ORDER BY organization_id, array_position(ARRAY['admin', 'developer', 'viewer'], role)
         ON CONFLICT (organization_id, user_id) DO UPDATE SET role = EXCLUDED.role
             WHERE memberships.from_github AND memberships.role <> EXCLUDED.role
         RETURNING organization_id, role AS "role: Role", (xmax = 0) AS "is_new!""#,
        user as _,
        issuer,
        org_ids,
        &held as _,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    remember_ways(connection, user, issuer, org_ids).await?;
    let gone = gone
        .into_iter()
        .map(|organization| followed_out(organization, user, login));
    let followed = followed.into_iter().map(|row| {
        if row.is_new {
            followed_in(row.organization_id, user, login, row.role)
        } else {
            followed_to(row.organization_id, user, login, row.role)
        }
    });
    Ok(gone.chain(followed).collect())
}

/// Someone has become a member, because of what leads them here from GitHub.
fn followed_in(organization: OrganizationId, user: UserId, login: &str, role: Role) -> Done {
    let message = format!("`{login}` is a member now, as `{role}`, by an organization at GitHub");
    Done::within(organization, "member.added", (user.get(), login), message)
}

/// Remembers which mappings the memberships follow from that follow from any.
async fn remember_ways(
    connection: &mut PgConnection,
    user: UserId,
    issuer: &str,
    org_ids: &[i64],
) -> Result<(), Error> {
    sqlx::query!("DELETE FROM github_memberships WHERE user_id = $1", user as _)
        .execute(&mut *connection)
        .await?;
    sqlx::query!(
        "INSERT INTO github_memberships (organization_id, user_id, issuer, github_org_id)
         SELECT m.organization_id, m.user_id, g.issuer, g.github_org_id FROM memberships m
         JOIN github_mappings g ON g.organization_id = m.organization_id
         WHERE m.user_id = $1 AND m.from_github AND g.issuer = $2 AND g.github_org_id = ANY($3)",
        user as _,
        issuer,
        org_ids
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Reads one.
pub async fn get(connection: &mut PgConnection, id: UserId) -> Result<Option<UserRow>, Error> {
    let query = sqlx::query_as!(
        UserRow,
        "SELECT id, login, email, name, created_at FROM users WHERE id = $1",
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Its memberships: all of them, or, for the audience of a cluster, that in the organization which has the cluster.
pub async fn orgs(
    connection: &mut PgConnection,
    id: UserId,
    audience: Option<&str>,
) -> Result<Vec<OrgClaim>, Error> {
    let query = sqlx::query_as!(
        OrgClaim,
        r#"SELECT o.slug, o.name, m.role AS "role: Role" FROM memberships m JOIN organizations o ON o.id = m.organization_id
           WHERE m.user_id = $1 AND ($2::text IS NULL
               OR EXISTS (SELECT 1 FROM clusters c WHERE c.organization_id = o.id AND c.audience = $2))
           ORDER BY o.slug"#,
        id as _,
        audience
    );
    Ok(query.fetch_all(connection).await?)
}
