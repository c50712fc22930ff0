//! Sign-ins of clients. A refresh token is a family, which says which session, and a secret, which changes each time.

use crate::error::Error;
use sqlx::{PgConnection, PgPool};
use zectre_common::{id::UserId, time::Time};

/// A session to be stored.
pub struct NewSession<'s> {
    /// Its id, in access tokens.
    pub id: uuid::Uuid,
    /// Whose.
    pub user: UserId,
    /// With which client.
    pub client: &'s str,
    /// What it was begun for.
    pub audience: &'s str,
    /// What it came of.
    pub code_hash: &'s [u8],
    /// What stays in its refresh tokens.
    pub family_hash: &'s [u8],
    /// The first refresh token.
    pub refresh_hash: &'s [u8],
    /// When it ends at the latest.
    pub expires_at: Time,
}

/// A session that holds.
pub struct Live {
    /// Its id.
    pub id: uuid::Uuid,
    /// Whose.
    pub user_id: UserId,
    /// What it was begun for.
    pub audience: String,
}

/// Stores one; of the person's others the oldest go when there are more than `most`.
pub async fn insert(connection: &mut PgConnection, session: &NewSession<'_>, most: i64) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO sessions (id, user_id, client_id, audience, code_hash, family_hash, refresh_hash, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        session.id,
        session.user as _,
        session.client,
        session.audience,
        session.code_hash,
        session.family_hash,
        session.refresh_hash,
        session.expires_at as _
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE user_id = $1 ORDER BY refreshed_at DESC, id DESC OFFSET $2)",
        session.user as _,
        most
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// The session that this refresh token may refresh for this client.
pub async fn find(
    connection: &mut PgConnection,
    family_hash: &[u8],
    refresh_hash: &[u8],
    client: &str,
) -> Result<Option<Live>, Error> {
    let query = sqlx::query_as!(
        Live,
        r#"SELECT id, user_id AS "user_id: UserId", audience AS "audience!" FROM sessions
           WHERE family_hash = $1 AND refresh_hash = $2 AND client_id = $3 AND revoked_at IS NULL AND expires_at > now()
             AND audience IS NOT NULL"#,
        family_hash,
        refresh_hash,
        client
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Replaces the refresh token; false when another was faster.
pub async fn rotate(
    connection: &mut PgConnection,
    family_hash: &[u8],
    old: &[u8],
    new: &[u8],
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE sessions SET refresh_hash = $3, refreshed_at = now()
         WHERE family_hash = $1 AND refresh_hash = $2 AND revoked_at IS NULL AND expires_at > now()",
        family_hash,
        old,
        new
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends the family of a refresh token that is not the current one; true when it was alive.
pub async fn revoke_reused(
    connection: &mut PgConnection,
    family_hash: &[u8],
    refresh_hash: &[u8],
) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE sessions SET revoked_at = now(), revoked_because = 'a refresh token was used twice'
         WHERE family_hash = $1 AND refresh_hash <> $2 AND revoked_at IS NULL",
        family_hash,
        refresh_hash
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Ends what came of a code; true when it was alive.
pub async fn revoke_of_code(connection: &mut PgConnection, code_hash: &[u8]) -> Result<bool, Error> {
    let done = sqlx::query!(
        "UPDATE sessions SET revoked_at = now(), revoked_because = 'its code was used twice'
         WHERE code_hash = $1 AND revoked_at IS NULL",
        code_hash
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Signs out: whoever has seen a refresh token of the family may.
pub async fn revoke(pool: &PgPool, family_hash: &[u8]) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE sessions SET revoked_at = now(), revoked_because = 'signed out' WHERE family_hash = $1 AND revoked_at IS NULL",
        family_hash
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Whether a session holds.
pub async fn is_live(pool: &PgPool, id: uuid::Uuid, user: UserId) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM sessions WHERE id = $1 AND user_id = $2 AND revoked_at IS NULL AND expires_at > now()) AS "live!""#,
        id,
        user as _
    );
    Ok(query.fetch_one(pool).await?)
}
