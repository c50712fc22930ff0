//! What was taken up of a catalog: its keys, its people, its organizations, and the roles that it gave.

use crate::{catalog::Claims, error::Error};
use sqlx::{PgConnection, PgPool};
use zectre_common::{
    id::{NamespaceId, OrganizationId, UserId},
    state::Role,
};

/// A user whom a catalog knows.
pub(crate) struct Standing {
    pub(crate) user_id: UserId,
    /// When the token was issued that was taken up last, in Unix seconds.
    pub(crate) issued_at: Option<i64>,
    /// The SHA-256 of what it says.
    pub(crate) claims: Option<Vec<u8>>,
    pub(crate) disabled: bool,
    /// When all logins of the user were ended, in Unix seconds: tokens issued until then have ended.
    pub(crate) logins_ended_at: Option<i64>,
}

/// An organization that a token names.
pub(crate) struct Place {
    pub(crate) id: OrganizationId,
    /// The catalog that made it.
    pub(crate) issuer: Option<String>,
    pub(crate) is_new: bool,
}

/// The text of the keys that were read last.
pub(crate) async fn keys(pool: &PgPool, issuer: &str) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar!("SELECT jwks FROM catalog_keys WHERE issuer = $1", issuer);
    Ok(query.fetch_optional(pool).await?)
}

/// Keeps them.
pub(crate) async fn keep_keys(pool: &PgPool, issuer: &str, jwks: &str) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO catalog_keys (issuer, jwks) VALUES ($1, $2)
         ON CONFLICT (issuer) DO UPDATE SET jwks = excluded.jwks, read_at = now()",
        issuer,
        jwks
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// The user of this subject.
pub(crate) async fn standing(pool: &PgPool, issuer: &str, subject: &str) -> Result<Option<Standing>, Error> {
    let query = sqlx::query_as!(
        Standing,
        r#"SELECT id AS "user_id: UserId", catalog_issued_at AS issued_at, catalog_claims AS claims, disabled,
                  floor(extract(epoch FROM logins_ended_at))::bigint AS logins_ended_at
           FROM users WHERE external_issuer = $1 AND external_subject = $2"#,
        issuer,
        subject
    );
    Ok(query.fetch_optional(pool).await?)
}

/// The same, held until the transaction ends; what refers to the user can still be written meanwhile: who changes members holds the
/// organization, and writes a membership.
pub(crate) async fn hold(
    connection: &mut PgConnection,
    issuer: &str,
    subject: &str,
) -> Result<Option<Standing>, Error> {
    let query = sqlx::query_as!(
        Standing,
        r#"SELECT id AS "user_id: UserId", catalog_issued_at AS issued_at, catalog_claims AS claims, disabled,
                  floor(extract(epoch FROM logins_ended_at))::bigint AS logins_ended_at
           FROM users WHERE external_issuer = $1 AND external_subject = $2 FOR NO KEY UPDATE"#,
        issuer,
        subject
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Makes the user; false when it is there, or another one has the address.
pub(crate) async fn insert_user(
    connection: &mut PgConnection,
    id: UserId,
    claims: &Claims,
    issuer: &str,
) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO users (id, email, name, external_issuer, external_subject) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT DO NOTHING",
        id as _,
        claims.email,
        claims.name,
        issuer,
        claims.subject
    );
    Ok(inserted.execute(connection).await?.rows_affected() > 0)
}

/// Takes up the name, the address where it is verified and nobody else's, and which token said so.
pub(crate) async fn update_user(
    connection: &mut PgConnection,
    id: UserId,
    claims: &Claims,
    hash: &[u8],
) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE users SET name = $2, catalog_issued_at = $3, catalog_claims = $4,
                email = CASE WHEN $6 AND NOT EXISTS (SELECT 1 FROM users other
                                                     WHERE lower(other.email) = lower($5) AND other.id <> $1)
                             THEN $5 ELSE email END
         WHERE id = $1",
        id as _,
        claims.name,
        claims.issued_at,
        hash,
        claims.email,
        claims.email_verified
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The organization with this slug; made, with a namespace of its name where that is free, when there is none.
pub(crate) async fn organization(
    connection: &mut PgConnection,
    slug: &str,
    name: &str,
    issuer: &str,
) -> Result<Place, Error> {
    let made = sqlx::query_scalar!(
        r#"INSERT INTO organizations (id, slug, name, catalog_issuer) VALUES ($1, $2, $3, $4)
           ON CONFLICT (slug) DO NOTHING RETURNING id AS "id: OrganizationId""#,
        OrganizationId::new() as _,
        slug,
        if name.is_empty() { slug } else { name },
        issuer
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(id) = made {
        sqlx::query!(
            "INSERT INTO namespaces (id, organization_id, name) VALUES ($1, $2, $3) ON CONFLICT (name) DO NOTHING",
            NamespaceId::new() as _,
            id as _,
            slug
        )
        .execute(connection)
        .await?;
        return Ok(Place {
            id,
            issuer: Some(issuer.to_owned()),
            is_new: true,
        });
    }
    let found = sqlx::query!(
        r#"SELECT id AS "id: OrganizationId", catalog_issuer FROM organizations WHERE slug = $1"#,
        slug
    )
    .fetch_one(connection)
    .await?;
    Ok(Place {
        id: found.id,
        issuer: found.catalog_issuer,
        is_new: false,
    })
}

/// Whether there is nothing to give: it is so already, or someone here gave a role, which stays.
pub(crate) async fn is_settled(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
    role: Role,
    issuer: &str,
) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM memberships WHERE user_id = $1 AND organization_id = $2
                          AND (catalog_issuer IS DISTINCT FROM $4 OR role = $3)) AS "x!""#,
        user as _,
        organization as _,
        role.as_str(),
        issuer
    );
    Ok(query.fetch_one(connection).await?)
}

/// Gives the role; false when it is so already, or someone here gave another one, which stays.
pub(crate) async fn grant(
    connection: &mut PgConnection,
    organization: OrganizationId,
    user: UserId,
    role: Role,
    issuer: &str,
) -> Result<bool, Error> {
    let granted = sqlx::query!(
        "INSERT INTO memberships (user_id, organization_id, role, catalog_issuer) VALUES ($1, $2, $3, $4)
         ON CONFLICT (user_id, organization_id) DO UPDATE SET role = excluded.role
            WHERE memberships.catalog_issuer = excluded.catalog_issuer AND memberships.role <> excluded.role",
        user as _,
        organization as _,
        role.as_str(),
        issuer
    );
    Ok(granted.execute(connection).await?.rows_affected() > 0)
}

/// Ends what this catalog gave and gives no more; in which organizations.
pub(crate) async fn withdraw(
    connection: &mut PgConnection,
    user: UserId,
    issuer: &str,
    given: &[OrganizationId],
) -> Result<Vec<OrganizationId>, Error> {
    let query = sqlx::query_scalar!(
        r#"DELETE FROM memberships WHERE user_id = $1 AND catalog_issuer = $2 AND organization_id <> ALL($3)
           RETURNING organization_id AS "id: OrganizationId""#,
        user as _,
        issuer,
        given as _
    );
    Ok(query.fetch_all(connection).await?)
}
