//! Sign-ins of clients. A refresh token is a family, which says which session, and a secret, which changes each time.

use super::{
    clusters,
    events::{self, By, Done},
};
use crate::error::Error;
use sqlx::{Connection as _, PgConnection, PgPool};
use std::net::IpAddr;
use zectre_common::{id::UserId, time::Time};

/// A session to be stored.
pub struct NewSession<'s> {
    /// Its id, in access tokens.
    pub id: uuid::Uuid,
    /// Whose, and from where.
    pub by: By,
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
        session.by.user as _,
        session.client,
        session.audience,
        session.code_hash,
        session.family_hash,
        session.refresh_hash,
        session.expires_at as _
    )
    .execute(&mut *connection)
    .await?;
    let ended = sqlx::query!(
        r#"DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE user_id = $1 ORDER BY refreshed_at DESC, id DESC OFFSET $2)
           RETURNING client_id, coalesce(audience, '') AS "audience!", revoked_at IS NULL AND expires_at > now() AS "held!""#,
        session.by.user as _,
        most
    )
    .fetch_all(&mut *connection)
    .await?;
    let login = &session.by.login;
    let message = format!("`{login}` signed in with `{}`", session.client);
    let whose = (session.by.user, login.as_str());
    let mut done = vec![of_session(connection, "session.begun", whose, session.audience, message).await?];
    for old in ended.into_iter().filter(|old| old.held) {
        let message = format!(
            "a sign-in of `{login}` with `{}` ended for a newer one",
            old.client_id
        );
        done.push(of_session(connection, "session.ended", whose, &old.audience, message).await?);
    }
    events::write(connection, &session.by, &done).await
}

/// What happened to a sign-in: in the organization that has the cluster which it is for, if it is for one.
async fn of_session(
    connection: &mut PgConnection,
    action: &'static str,
    (user, login): (UserId, &str),
    audience: &str,
    message: String,
) -> Result<Done, Error> {
    let cluster = clusters::of_audience(connection, audience).await?;
    let to = cluster
        .as_ref()
        .map_or(String::new(), |(_, name)| format!(", for the cluster `{name}`"));
    Ok(Done {
        organization: cluster.map(|(organization, _)| organization),
        action,
        subject_id: Some(user.get()),
        subject: login.into(),
        message: message + &to,
    })
}

/// A sign-in that has ended.
struct Ended {
    user_id: UserId,
    login: String,
    client_id: String,
    audience: String,
}

impl Ended {
    async fn done(&self, connection: &mut PgConnection, why: &str) -> Result<Done, Error> {
        let message = format!(
            "a sign-in of `{}` with `{}` ended: {why}",
            self.login, self.client_id
        );
        let whose = (self.user_id, self.login.as_str());
        of_session(connection, "session.ended", whose, &self.audience, message).await
    }
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
    address: Option<IpAddr>,
) -> Result<bool, Error> {
    let mut transaction = connection.begin().await?;
    let ended = sqlx::query_as!(
        Ended,
        r#"UPDATE sessions s SET revoked_at = now(), revoked_because = 'a refresh token was used twice' FROM users u
           WHERE u.id = s.user_id AND family_hash = $1 AND refresh_hash <> $2 AND revoked_at IS NULL
           RETURNING s.user_id, u.login, s.client_id, coalesce(s.audience, '') AS "audience!""#,
        family_hash,
        refresh_hash
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(ended) = &ended {
        let done = ended
            .done(&mut transaction, "a refresh token was used twice")
            .await?;
        events::write_own(&mut transaction, address, &[done]).await?;
    }
    transaction.commit().await?;
    Ok(ended.is_some())
}

/// Ends what came of a code; true when it was alive.
pub async fn revoke_of_code(
    connection: &mut PgConnection,
    code_hash: &[u8],
    address: Option<IpAddr>,
) -> Result<bool, Error> {
    let ended = sqlx::query_as!(
        Ended,
        r#"UPDATE sessions s SET revoked_at = now(), revoked_because = 'its code was used twice' FROM users u
           WHERE u.id = s.user_id AND code_hash = $1 AND revoked_at IS NULL
           RETURNING s.user_id, u.login, s.client_id, coalesce(s.audience, '') AS "audience!""#,
        code_hash
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(ended) = &ended {
        let done = ended.done(connection, "its code was used twice").await?;
        events::write_own(connection, address, &[done]).await?;
    }
    Ok(ended.is_some())
}

/// Signs out: whoever has seen a refresh token of the family may.
pub async fn revoke(pool: &PgPool, family_hash: &[u8], address: Option<IpAddr>) -> Result<(), Error> {
    let mut transaction = pool.begin().await?;
    let ended = sqlx::query_as!(
        Ended,
        r#"UPDATE sessions s SET revoked_at = now(), revoked_because = 'signed out' FROM users u
           WHERE u.id = s.user_id AND family_hash = $1 AND revoked_at IS NULL
           RETURNING s.user_id, u.login, s.client_id, coalesce(s.audience, '') AS "audience!""#,
        family_hash
    )
    .fetch_optional(&mut *transaction)
    .await?;
    if let Some(ended) = ended {
        let done = ended.done(&mut transaction, "signed out").await?;
        let by = By {
            user: ended.user_id,
            login: ended.login,
            address,
        };
        events::write(&mut transaction, &by, &[done]).await?;
    }
    transaction.commit().await?;
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
