//! API keys, of which only a hash is stored.

use super::{
    account::{Account, Held},
    rows::{Lists, page},
};
use crate::{error::Error, page::Window};
use sqlx::{PgConnection, PgPool, types::Json};
use zectre_common::{
    id::{ApiKeyId, UserId},
    state::Scope,
    time::Time,
    wire::auth::ApiKey,
};

/// The most keys one user may have.
pub(crate) const KEYS_MAX: i64 = 100;

/// A key that was found by its hash.
pub(crate) struct Found {
    pub(crate) id: ApiKeyId,
    pub(crate) hash: Vec<u8>,
    pub(crate) scopes: Vec<String>,
    pub(crate) expires_at: Option<Time>,
    /// Its last use was noted more than a minute ago.
    pub(crate) use_is_old: bool,
    pub(crate) account: Account,
}

/// The key with this hash, unless it has expired.
pub(crate) async fn by_hash(pool: &PgPool, hash: &[u8]) -> Result<Option<Found>, Error> {
    let row = sqlx::query!(
        r#"SELECT k.id AS "key_id: ApiKeyId", k.hash, k.scopes, k.expires_at AS "expires_at: Time",
                  (k.last_used_at IS NULL OR k.last_used_at < now() - interval '1 minute') AS "use_is_old!",
                  u.id AS "id: UserId", u.email, u.name, u.is_admin, u.disabled, u.login_epoch, u.created_at,
                  u.catalog_issued_at,
                  COALESCE((SELECT jsonb_agg(jsonb_build_object('organization_id', o.id, 'organization', o.slug,
                                                                'role', m.role,
                                                                'by_catalog', m.catalog_issuer IS NOT NULL)
                                             ORDER BY o.slug)
                            FROM memberships m JOIN organizations o ON o.id = m.organization_id
                            WHERE m.user_id = u.id), '[]') AS "memberships!: Json<Vec<Held>>"
           FROM api_keys k JOIN users u ON u.id = k.user_id
           WHERE k.hash = $1 AND (k.expires_at IS NULL OR k.expires_at > now())"#,
        hash
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Found {
        id: row.key_id,
        hash: row.hash,
        scopes: row.scopes,
        expires_at: row.expires_at,
        use_is_old: row.use_is_old,
        account: Account {
            id: row.id,
            email: row.email,
            name: row.name,
            is_admin: row.is_admin,
            disabled: row.disabled,
            login_epoch: row.login_epoch,
            created_at: row.created_at,
            catalog_issued_at: row.catalog_issued_at,
            memberships: row.memberships,
        },
    }))
}

/// Notes a use, at most once a minute.
pub(crate) async fn used(pool: &PgPool, id: ApiKeyId) -> Result<(), Error> {
    sqlx::query!(
        "UPDATE api_keys SET last_used_at = now()
         WHERE id = $1 AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')",
        id as _
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// A new key.
pub(crate) struct New<'a> {
    pub(crate) user_id: UserId,
    pub(crate) name: &'a str,
    pub(crate) prefix: &'a str,
    pub(crate) hash: &'a [u8],
    pub(crate) scopes: &'a [Scope],
    pub(crate) expires_at: Option<Time>,
}

/// A key as it is listed.
struct Row {
    id: ApiKeyId,
    name: String,
    prefix: String,
    scopes: Vec<String>,
    expires_at: Option<Time>,
    last_used_at: Option<Time>,
    created_at: Time,
}

impl From<Row> for ApiKey {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            scopes: row.scopes.iter().filter_map(|scope| scope.parse().ok()).collect(),
            expires_at: row.expires_at,
            last_used_at: row.last_used_at,
            created_at: row.created_at,
        }
    }
}

/// Whether it still is one of the user's that works.
pub(crate) async fn holds(
    connection: &mut PgConnection,
    user_id: UserId,
    id: ApiKeyId,
) -> Result<bool, Error> {
    let query = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT 1 FROM api_keys
                          WHERE id = $1 AND user_id = $2 AND (expires_at IS NULL OR expires_at > now())) AS "x!""#,
        id as _,
        user_id as _
    );
    Ok(query.fetch_one(connection).await?)
}

/// Stores a key's hash; `None` when the user, who is held, has as many as they may.
pub(crate) async fn insert(connection: &mut PgConnection, new: &New<'_>) -> Result<Option<ApiKey>, Error> {
    let scopes: Vec<String> = new.scopes.iter().map(ToString::to_string).collect();
    let row = sqlx::query_as!(
        Row,
        r#"INSERT INTO api_keys (id, user_id, name, prefix, hash, scopes, expires_at)
           SELECT $1, $2, $3, $4, $5, $6, $7
           WHERE (SELECT count(*) FROM api_keys WHERE user_id = $2) < $8
           RETURNING id AS "id: ApiKeyId", name, prefix, scopes, expires_at, last_used_at, created_at"#,
        ApiKeyId::new() as _,
        new.user_id as _,
        new.name,
        new.prefix,
        new.hash,
        &scopes,
        new.expires_at as _,
        KEYS_MAX
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(ApiKey::from))
}

/// The user's keys.
pub(crate) async fn list(
    lists: &Lists,
    user_id: UserId,
    window: &Window,
) -> Result<(Vec<ApiKey>, i64), Error> {
    let (rows, total) = page!(
        Row,
        r#"id AS "id: ApiKeyId", name, prefix, scopes, expires_at, last_used_at, created_at"#,
        "api_keys WHERE ",
        "user_id = $1",
        [user_id as _],
        order "CASE WHEN $2 = 'name' AND NOT $3 THEN name END, CASE WHEN $2 = 'name' AND $3 THEN name END DESC,
                    CASE WHEN NOT $3 THEN created_at END, CASE WHEN $3 THEN created_at END DESC, id
           LIMIT $4 OFFSET $5",
        [window.sort, window.descending],
        window,
        lists
    );
    Ok((rows.into_iter().map(ApiKey::from).collect(), total))
}

/// Deletes one of the user's keys; its name, or `None` when there is no such key.
pub(crate) async fn delete(
    connection: &mut PgConnection,
    user_id: UserId,
    id: ApiKeyId,
) -> Result<Option<String>, Error> {
    let query = sqlx::query_scalar!(
        "DELETE FROM api_keys WHERE id = $1 AND user_id = $2 RETURNING name",
        id as _,
        user_id as _
    );
    Ok(query.fetch_optional(connection).await?)
}

/// Deletes the user's keys of this name.
pub(crate) async fn delete_named(
    connection: &mut PgConnection,
    user_id: UserId,
    name: &str,
) -> Result<(), Error> {
    sqlx::query!(
        "DELETE FROM api_keys WHERE user_id = $1 AND name = $2",
        user_id as _,
        name
    )
    .execute(connection)
    .await?;
    Ok(())
}
