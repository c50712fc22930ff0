//! Command lines that wait for their approval. Of the device code only a hash is stored.

use super::is_duplicate;
use crate::{cli_login::Decision, error::Error};
use sqlx::{PgConnection, PgPool};
use std::net::IpAddr;
use uuid::Uuid;
use zectre_common::{id::UserId, time::Time, wire::cli_login::CliLogin};

/// The most that wait at once, cluster-wide.
const WAITING_MAX: i64 = 10_000;
/// Seconds by which a command line that asks too often is slowed down each time (RFC 8628, section 3.5), and the most.
const SLOWER_BY_SECS: i32 = 5;
const INTERVAL_SECS_MAX: i32 = 60;

/// A new one.
pub(crate) struct New<'a> {
    pub(crate) device_hash: &'a [u8],
    pub(crate) user_code: &'a str,
    pub(crate) device_name: &'a str,
    pub(crate) address: Option<IpAddr>,
    pub(crate) interval_secs: i32,
    pub(crate) expires_at: Time,
}

/// What came of beginning.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It waits.
    Waits,
    /// Another one has this user code.
    CodeTaken,
    /// Too many wait.
    Full,
}

/// Begins one.
pub(crate) async fn insert(pool: &PgPool, new: &New<'_>) -> Result<Begun, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO cli_logins (id, device_hash, user_code, device_name, address, interval_secs, expires_at)
         SELECT $1, $2, $3, $4, $5, $6, $7 WHERE (SELECT count(*) FROM cli_logins WHERE expires_at > now()) < $8",
        Uuid::now_v7(),
        new.device_hash,
        new.user_code,
        new.device_name,
        new.address.map(|address| address.to_string()),
        new.interval_secs,
        new.expires_at as _,
        WAITING_MAX
    );
    match inserted.execute(pool).await {
        Ok(done) if done.rows_affected() == 0 => Ok(Begun::Full),
        Ok(_) => Ok(Begun::Waits),
        Err(error) if is_duplicate(&error) => Ok(Begun::CodeTaken),
        Err(error) => Err(error.into()),
    }
}

/// The one that waits with this user code.
pub(crate) async fn waiting(pool: &PgPool, user_code: &str) -> Result<Option<CliLogin>, Error> {
    let query = sqlx::query_as!(
        CliLogin,
        "SELECT device_name, address, created_at FROM cli_logins
         WHERE user_code = $1 AND state = 'pending' AND expires_at > now()",
        user_code
    );
    Ok(query.fetch_optional(pool).await?)
}

/// Approves or denies the one that waits with this user code, on behalf of `user`; once.
pub(crate) async fn decide(
    connection: &mut PgConnection,
    user_code: &str,
    user: UserId,
    decision: Decision,
) -> Result<Option<CliLogin>, Error> {
    let (approved, until) = match decision {
        Decision::Approve { until } => (true, until),
        Decision::Deny => (false, None),
    };
    let query = sqlx::query_as!(
        CliLogin,
        "UPDATE cli_logins SET state = CASE WHEN $3 THEN 'approved' ELSE 'denied' END, user_id = $2, key_until = $4
         WHERE user_code = $1 AND state = 'pending' AND expires_at > now()
         RETURNING device_name, address, created_at",
        user_code,
        user as _,
        approved,
        until as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// One that asks for its key.
pub(crate) struct Asked {
    pub(crate) id: Uuid,
    pub(crate) state: String,
    pub(crate) user_id: Option<UserId>,
    pub(crate) device_name: String,
    pub(crate) interval_secs: i32,
    /// When its key ends at the latest.
    pub(crate) key_until: Option<Time>,
    pub(crate) has_ended: bool,
    /// It asked before its interval was over, which is longer from now on.
    pub(crate) too_soon: bool,
}

/// Notes that the one with this device code asks; held until the transaction ends.
pub(crate) async fn ask(connection: &mut PgConnection, device_hash: &[u8]) -> Result<Option<Asked>, Error> {
    let query = sqlx::query_as!(
        Asked,
        r#"WITH before AS (
               SELECT id, COALESCE(polled_at > now() - make_interval(secs => interval_secs), false) AS too_soon
               FROM cli_logins WHERE device_hash = $1 FOR UPDATE)
           UPDATE cli_logins l
           SET polled_at = now(),
               interval_secs = CASE WHEN before.too_soon THEN LEAST(l.interval_secs + $2, $3) ELSE l.interval_secs END
           FROM before WHERE l.id = before.id
           RETURNING l.id, l.state, l.user_id AS "user_id: UserId", l.device_name, l.interval_secs,
                     l.key_until AS "key_until: Time",
                     l.expires_at <= now() AS "has_ended!", before.too_soon AS "too_soon!""#,
        device_hash,
        SLOWER_BY_SECS,
        INTERVAL_SECS_MAX
    );
    Ok(query.fetch_optional(connection).await?)
}

/// It has its answer.
pub(crate) async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<(), Error> {
    sqlx::query!("DELETE FROM cli_logins WHERE id = $1", id)
        .execute(connection)
        .await?;
    Ok(())
}

/// What a user has approved and nobody has fetched is worth nothing any more.
pub(crate) async fn forget_of(connection: &mut PgConnection, user: UserId) -> Result<(), Error> {
    sqlx::query!("DELETE FROM cli_logins WHERE user_id = $1", user as _)
        .execute(connection)
        .await?;
    Ok(())
}

/// Takes an approved one: true for the first who does, who gets the key.
pub(crate) async fn take(connection: &mut PgConnection, id: Uuid) -> Result<bool, Error> {
    let taken = sqlx::query!(
        "DELETE FROM cli_logins WHERE id = $1 AND state = 'approved' AND expires_at > now()",
        id
    );
    Ok(taken.execute(connection).await?.rows_affected() > 0)
}
