//! Users and their logins.

use super::{
    is_duplicate,
    rows::{Lists, page},
};
use crate::{
    error::Error,
    identity::{Credential, Person},
    page::Window,
};
use serde::Deserialize;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use std::time::Duration;
use uuid::Uuid;
use zectre_common::{
    id::UserId,
    time::Time,
    wire::{
        account,
        auth::{Membership, User},
    },
};

/// A user as stored.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) is_admin: bool,
    pub(crate) disabled: bool,
    /// Tokens of another epoch have ended.
    pub(crate) login_epoch: i64,
    pub(crate) created_at: Time,
    /// When the catalog was last heard of this person, in Unix seconds.
    pub(crate) catalog_issued_at: Option<i64>,
    pub(crate) memberships: Json<Vec<Held>>,
}

/// A membership, and whose word it is.
#[derive(Debug, Deserialize)]
pub(crate) struct Held {
    #[serde(flatten)]
    membership: Membership,
    /// A catalog gave it.
    by_catalog: bool,
}

impl Account {
    /// Without the roles that a catalog gave and has not told of for longer than `ttl` (zero: it never needs to): it may have
    /// taken them back since, and nothing here would know. `None` when no others are left.
    pub(crate) fn with_roles_within(mut self, ttl: Duration, now: Time) -> Option<Self> {
        let heard_at = Time::from_unix_ms(self.catalog_issued_at.unwrap_or(0).saturating_mul(1_000));
        if ttl.is_zero() || heard_at.plus(ttl) > now {
            return Some(self);
        }
        let held = &mut self.memberships.0;
        let before = held.len();
        held.retain(|one| !one.by_catalog);
        (self.is_admin || !held.is_empty() || before == 0).then_some(self)
    }

    fn memberships(held: Vec<Held>) -> Vec<Membership> {
        held.into_iter().map(|one| one.membership).collect()
    }

    /// As its owner sees it, who has just proved to be one.
    pub(crate) fn into_user(self) -> User {
        User {
            id: self.id,
            email: self.email,
            name: self.name,
            is_admin: self.is_admin,
            memberships: Self::memberships(self.memberships.0),
            created_at: self.created_at,
        }
    }

    /// The signed-in user.
    pub(crate) fn into_person(self, credential: Credential) -> Person {
        Person {
            id: self.id,
            email: self.email,
            name: self.name,
            is_admin: self.is_admin,
            created_at: self.created_at,
            memberships: Self::memberships(self.memberships.0),
            login_epoch: self.login_epoch,
            credential,
        }
    }
}

macro_rules! account {
    ($condition:literal, $($argument:expr),*) => {
        sqlx::query_as!(
            Account,
            r#"SELECT u.id AS "id: UserId", u.email, u.name, u.is_admin, u.disabled, u.login_epoch, u.created_at,
                      u.catalog_issued_at,
                      COALESCE((SELECT jsonb_agg(jsonb_build_object('organization_id', o.id, 'organization', o.slug,
                                                                    'role', m.role,
                                                                    'by_catalog', m.catalog_issuer IS NOT NULL)
                                                 ORDER BY o.slug)
                                FROM memberships m JOIN organizations o ON o.id = m.organization_id
                                WHERE m.user_id = u.id), '[]') AS "memberships!: Json<Vec<Held>>"
               FROM users u WHERE "# + $condition,
            $($argument),*
        )
    };
}

/// The user of a login token that was not revoked.
pub(crate) async fn by_login(pool: &PgPool, id: UserId, token_id: Uuid) -> Result<Option<Account>, Error> {
    let query = account!(
        "u.id = $1 AND NOT EXISTS (SELECT 1 FROM revoked_tokens WHERE token_id = $2)",
        id as _,
        token_id
    );
    Ok(query.fetch_optional(pool).await?)
}

/// The user with this id.
pub(crate) async fn by_id(executor: impl PgExecutor<'_>, id: UserId) -> Result<Option<Account>, Error> {
    Ok(account!("u.id = $1", id as _).fetch_optional(executor).await?)
}

/// What a login needs to know; nothing prints it.
pub(crate) struct Login {
    pub(crate) id: UserId,
    pub(crate) password_hash: Option<String>,
    pub(crate) disabled: bool,
    pub(crate) epoch: i64,
}

/// The login of an e-mail address, compared without regard to case.
pub(crate) async fn login(pool: &PgPool, email: &str) -> Result<Option<Login>, Error> {
    Ok(sqlx::query_as!(
        Login,
        r#"SELECT id AS "id: UserId", password_hash, disabled, login_epoch AS epoch FROM users WHERE lower(email) = lower($1)"#,
        email
    )
    .fetch_optional(pool)
    .await?)
}

/// Makes a user; false when the address is taken.
pub(crate) async fn insert(
    connection: &mut PgConnection,
    id: UserId,
    email: &str,
    name: &str,
    password_hash: &str,
    is_admin: bool,
) -> Result<bool, Error> {
    let inserted = sqlx::query!(
        "INSERT INTO users (id, email, name, password_hash, is_admin) VALUES ($1, $2, $3, $4, $5)",
        id as _,
        email,
        name,
        password_hash,
        is_admin
    )
    .execute(connection)
    .await;
    match inserted {
        Ok(_) => Ok(true),
        Err(error) if is_duplicate(&error) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// What of an account decides whether anyone acts for it.
pub(crate) struct Standing {
    pub(crate) disabled: bool,
    pub(crate) login_epoch: i64,
}

/// How the account stands, which is held until the transaction ends: its logins don't end meanwhile, and of its keys that are made at
/// once each sees the others.
pub(crate) async fn hold(connection: &mut PgConnection, id: UserId) -> Result<Option<Standing>, Error> {
    let query = sqlx::query_as!(
        Standing,
        "SELECT disabled, login_epoch FROM users WHERE id = $1 FOR NO KEY UPDATE",
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Whether a login was ended before its time.
pub(crate) async fn is_revoked(connection: &mut PgConnection, token_id: Uuid) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM revoked_tokens WHERE token_id = $1) AS "x!""#,
        token_id
    );
    Ok(query.fetch_one(connection).await?)
}

/// Ends a login before its time.
pub(crate) async fn revoke(
    connection: &mut PgConnection,
    token_id: Uuid,
    expires_at: Time,
) -> Result<(), Error> {
    sqlx::query!(
        "INSERT INTO revoked_tokens (token_id, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
        token_id,
        expires_at as _
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the local admin, or makes it one again, and the owner of the organization `default`.
pub(crate) async fn ensure_admin(
    connection: &mut PgConnection,
    email: &str,
    name: &str,
) -> Result<UserId, Error> {
    let id = sqlx::query_scalar!(
        r#"INSERT INTO users (id, email, name, is_admin) VALUES ($1, $2, $3, true)
           ON CONFLICT (lower(email)) DO UPDATE SET is_admin = true, disabled = false
           RETURNING id AS "id: UserId""#,
        UserId::new() as _,
        email,
        name
    )
    .fetch_one(&mut *connection)
    .await?;
    sqlx::query!(
        "INSERT INTO memberships (user_id, organization_id, role)
         SELECT $1, id, 'owner' FROM organizations WHERE slug = 'default'
         ON CONFLICT (user_id, organization_id) DO UPDATE SET role = 'owner'",
        id as _
    )
    .execute(connection)
    .await?;
    Ok(id)
}

/// A page of all accounts.
pub(crate) async fn list(
    lists: &Lists,
    email: Option<&str>,
    disabled: Option<bool>,
    window: &Window,
) -> Result<(Vec<account::Account>, i64), Error> {
    let (rows, total) = page!(
        account::Account,
        r#"id AS "id: UserId", email, name, is_admin, disabled, created_at"#,
        "users WHERE ",
        "($1::text IS NULL OR lower(email) = lower($1)) AND ($2::boolean IS NULL OR disabled = $2)",
        [email, disabled],
        order "CASE WHEN NOT $4 THEN CASE $3 WHEN 'email' THEN lower(email) WHEN 'name' THEN name END END,
                    CASE WHEN $4 THEN CASE $3 WHEN 'email' THEN lower(email) WHEN 'name' THEN name END END DESC,
                    CASE WHEN NOT $4 THEN created_at END, CASE WHEN $4 THEN created_at END DESC, id
           LIMIT $5 OFFSET $6",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows, total))
}

/// An account as admins see it.
pub(crate) async fn shown(
    connection: &mut PgConnection,
    id: UserId,
) -> Result<Option<account::Account>, Error> {
    let query = sqlx::query_as!(
        account::Account,
        r#"SELECT id AS "id: UserId", email, name, is_admin, disabled, created_at FROM users WHERE id = $1"#,
        id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// The admins of the cluster that are not disabled, held until the transaction ends.
pub(crate) async fn hold_admins(connection: &mut PgConnection) -> Result<Vec<UserId>, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT id AS "id: UserId" FROM users WHERE is_admin AND NOT disabled ORDER BY id FOR UPDATE"#
    );
    Ok(query.fetch_all(connection).await?)
}

/// Disables or enables an account, and ends all its logins; false when it was so already (or is not there).
///
/// Those by a catalog end when it is disabled: nothing here knows of ones that are begun there meanwhile, and they are new.
pub(crate) async fn switch(connection: &mut PgConnection, id: UserId, disabled: bool) -> Result<bool, Error> {
    let switched = sqlx::query!(
        "UPDATE users SET disabled = $2, login_epoch = login_epoch + 1,
                logins_ended_at = CASE WHEN $2 THEN clock_timestamp() ELSE logins_ended_at END
         WHERE id = $1 AND disabled <> $2",
        id as _,
        disabled
    );
    Ok(switched.execute(connection).await?.rows_affected() > 0)
}

/// Stores a new password's hash and ends all logins; the epoch of new ones. `None` where their epoch is not `expected` any more:
/// what was known of the account is over.
pub(crate) async fn set_password(
    connection: &mut PgConnection,
    id: UserId,
    password_hash: &str,
    expected: Option<i64>,
) -> Result<Option<i64>, Error> {
    let query = sqlx::query_scalar!(
        "UPDATE users SET password_hash = $2, login_epoch = login_epoch + 1, logins_ended_at = clock_timestamp()
         WHERE id = $1 AND ($3::bigint IS NULL OR login_epoch = $3) RETURNING login_epoch",
        id as _,
        password_hash,
        expected
    );
    Ok(query.fetch_optional(connection).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::{id::OrganizationId, state::Role};

    fn account(heard_secs: Option<i64>, by_catalog: &[bool]) -> Account {
        let held = by_catalog.iter().map(|by_catalog| Held {
            membership: Membership {
                organization_id: OrganizationId::new(),
                organization: "acme".into(),
                role: Role::Owner,
            },
            by_catalog: *by_catalog,
        });
        Account {
            id: UserId::new(),
            email: "ann@example.org".into(),
            name: "Ann".into(),
            is_admin: false,
            disabled: false,
            login_epoch: 0,
            created_at: Time::from_unix_ms(0),
            catalog_issued_at: heard_secs,
            memberships: Json(held.collect()),
        }
    }

    #[test]
    fn what_a_catalog_gave_counts_for_so_long() {
        let (ttl, now) = (Duration::from_secs(100), Time::from_unix_ms(1_000_000));
        let left = |heard, by_catalog: &[bool], ttl| {
            let account = account(heard, by_catalog).with_roles_within(ttl, now)?;
            Some(account.memberships.0.len())
        };
        assert_eq!(left(Some(901), &[true, false], ttl), Some(2));
        assert_eq!(left(Some(900), &[true, false], ttl), Some(1));
        assert_eq!(left(Some(900), &[true], ttl), None);
        assert_eq!(left(None, &[true], ttl), None);
        assert_eq!(left(Some(900), &[true], Duration::ZERO), Some(1));
        assert_eq!(left(None, &[], ttl), Some(0), "who has no roles has lost none");
    }
}
