//! The first identity of a cluster, for `zectre up`: an admin, its API key, and join tokens for nodes.

use crate::{
    error::Error,
    identity::{API_KEY_PREFIX, Actor, fingerprint},
    store::{
        account, api_key,
        change::{About, Change},
        node,
    },
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;
use std::time::Duration;
use zectre_common::{id::UserId, time::Time};
use zectre_service::key::{random_bytes, to_hex};

/// The local admin's address.
pub const ADMIN_EMAIL: &str = "admin@zectre.localhost";
/// The name of the key that `zectre up` keeps for the command line.
const ADMIN_KEY_NAME: &str = "local cli";
/// Characters of a key that are kept to tell keys apart.
const PREFIX_CHARS: usize = 10;

/// The admin of a fresh cluster.
#[derive(Debug)]
pub struct BootstrapAdmin {
    /// Its id.
    pub user_id: UserId,
    /// Its address.
    pub email: String,
    /// A key of its own, for `X-API-Key`; the one made before it is gone.
    pub api_key: SecretString,
}

/// A new key and the part of it that is kept readable: 256 bits, so a plain hash guards it.
pub(crate) fn new_api_key() -> (SecretString, String) {
    let key = format!("{API_KEY_PREFIX}{}", to_hex(&random_bytes::<32>()));
    let prefix = key.chars().take(PREFIX_CHARS).collect();
    (key.into(), prefix)
}

/// Makes sure that `admin@zectre.localhost` exists, may manage the cluster and owns `default`, and gives it a
/// fresh API key in place of the one made here before. The database must be migrated.
pub async fn ensure_admin(pool: &PgPool) -> Result<BootstrapAdmin, Error> {
    let actor = Actor::platform();
    let mut change = Change::begin(pool, &actor).await?;
    let user_id = account::ensure_admin(change.connection(), ADMIN_EMAIL, "Admin").await?;
    api_key::delete_named(change.connection(), user_id, ADMIN_KEY_NAME).await?;
    let (key, prefix) = new_api_key();
    let hash = fingerprint(key.expose_secret());
    let new = api_key::New {
        user_id,
        name: ADMIN_KEY_NAME,
        prefix: &prefix,
        hash: &hash,
        scopes: &[],
        expires_at: None,
    };
    api_key::insert(change.connection(), &new)
        .await?
        .ok_or_else(|| Error::Internal("the local admin has too many API keys; delete some".into()))?;
    change
        .event(
            "user.bootstrapped",
            About::default(),
            "the local admin got a fresh API key",
        )
        .await?;
    change.commit().await?;
    Ok(BootstrapAdmin {
        user_id,
        email: ADMIN_EMAIL.into(),
        api_key: key,
    })
}

/// The local admin, when `key` is a key of its own that still works: it can go on being used.
pub async fn admin_of_key(pool: &PgPool, key: &SecretString) -> Result<Option<BootstrapAdmin>, Error> {
    let found = api_key::by_hash(pool, &fingerprint(key.expose_secret())).await?;
    let admin = found
        .map(|found| found.account)
        .filter(|account| account.email == ADMIN_EMAIL && account.is_admin && !account.disabled);
    Ok(admin.map(|account| BootstrapAdmin {
        user_id: account.id,
        email: account.email,
        api_key: key.clone(),
    }))
}

/// A token that admits one node once, within `ttl`.
pub async fn join_token(pool: &PgPool, ttl: Duration) -> Result<SecretString, Error> {
    let actor = Actor::platform();
    let mut change = Change::begin(pool, &actor).await?;
    let token = make_join_token(&mut change, None, Time::now().plus(ttl)).await?;
    change.commit().await?;
    Ok(token)
}

/// The same inside a change.
pub(crate) async fn make_join_token(
    change: &mut Change<'_>,
    created_by: Option<UserId>,
    expires_at: Time,
) -> Result<SecretString, Error> {
    let token = SecretString::from(format!("zj_{}", to_hex(&random_bytes::<32>())));
    let hash = fingerprint(token.expose_secret());
    node::insert_join_token(change.connection(), &hash, created_by, expires_at).await?;
    change
        .event(
            "node.join_token_created",
            About::default(),
            "a join token was made",
        )
        .await?;
    Ok(token)
}
