//! Who calls: a login token, an API key, a service or a node.

use crate::{
    catalog, code,
    context::Context,
    error::{Error, refuse},
    idempotency::Claim,
    login_token,
    scope::Cap,
    store::{
        account::{self, Account},
        api_key,
    },
};
use http::{HeaderMap, request::Parts};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use subtle::ConstantTimeEq;
use uuid::Uuid;
use zectre_common::{
    id::{ApiKeyId, NodeId, UserId},
    state::Role,
    time::Time,
    wire::auth::Membership,
};
use zectre_service::{auth::bearer, request_id, server::Peer};

/// The header of API keys.
pub(crate) const API_KEY_HEADER: &str = "x-api-key";
/// The headers that say who calls, in lower case.
pub(crate) const CREDENTIAL_HEADERS: [&str; 2] = [API_KEY_HEADER, "authorization"];
/// What every API key begins with.
pub(crate) const API_KEY_PREFIX: &str = "zk_";
/// A credential longer than this is not one; a catalog's token names a person's organizations.
const CREDENTIAL_BYTES_MAX: usize = 16_384;

/// Who calls.
#[derive(Debug, Clone)]
pub(crate) enum Identity {
    /// Nobody known.
    Anonymous,
    /// A user.
    Person(Box<Person>),
    /// A service of the platform.
    Service(String),
    /// An agent.
    Node(NodeId),
}

/// With what a user proved to be one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Credential {
    /// A login token, which can be revoked by its id.
    Login { token_id: Uuid, expires_at: Time },
    /// An API key, with the most that its scopes allow (`None` for one without any), and when it ends.
    ApiKey {
        id: ApiKeyId,
        cap: Option<Cap>,
        expires_at: Option<Time>,
    },
}

impl Credential {
    /// The most that it may do, where that is less than its owner may.
    pub(crate) fn cap(&self) -> Option<Cap> {
        match self {
            Self::Login { .. } => None,
            Self::ApiKey { cap, .. } => *cap,
        }
    }

    /// When keys that it makes end at the latest: a key makes none that outlives it.
    pub(crate) fn keys_until(&self) -> Option<Time> {
        match self {
            Self::Login { .. } => None,
            Self::ApiKey { expires_at, .. } => *expires_at,
        }
    }

    /// The role it acts with, of one that its owner has.
    pub(crate) fn lower(&self, role: Role) -> Option<Role> {
        self.cap().map_or(Some(role), |cap| cap.lower(role))
    }
}

/// A signed-in user.
#[derive(Debug, Clone)]
pub(crate) struct Person {
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) is_admin: bool,
    pub(crate) created_at: Time,
    pub(crate) memberships: Vec<Membership>,
    /// The epoch of their logins when they were let in.
    pub(crate) login_epoch: i64,
    pub(crate) credential: Credential,
}

/// Who is written into events and operations.
#[derive(Debug, Clone)]
pub(crate) struct Actor {
    /// `user:…`, `node:…` or a service's name.
    pub(crate) name: String,
    pub(crate) user_id: Option<UserId>,
    pub(crate) address: Option<IpAddr>,
    pub(crate) request_id: Option<String>,
    /// The `Idempotency-Key` that the request holds.
    pub(crate) claim: Option<Claim>,
}

impl Actor {
    /// From the request and who sent it.
    pub(crate) fn new(identity: &Identity, parts: &Parts) -> Self {
        let (name, user_id) = match identity {
            Identity::Anonymous => ("anonymous".into(), None),
            Identity::Person(person) => (format!("user:{}", person.email), Some(person.id)),
            Identity::Service(name) => (name.clone(), None),
            Identity::Node(node) => (format!("node:{node}"), None),
        };
        let address = parts.extensions.get::<Peer>().map(|peer| peer.0.ip());
        Self {
            name,
            user_id,
            address,
            request_id: request_id::current(),
            claim: None,
        }
    }

    /// The API itself, for what it does on nobody's behalf.
    pub(crate) fn platform() -> Self {
        Self {
            name: "zectre-api".into(),
            user_id: None,
            address: None,
            request_id: None,
            claim: None,
        }
    }

    /// The same request, by someone who has just become known.
    pub(crate) fn known_as(&self, id: UserId, email: &str) -> Self {
        Self {
            name: format!("user:{email}"),
            user_id: Some(id),
            ..self.clone()
        }
    }
}

/// The SHA-256 under which a key or token is stored.
pub(crate) fn fingerprint(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// Whether the request says who sends it, rightly or not.
pub(crate) fn has_credential(headers: &HeaderMap) -> bool {
    CREDENTIAL_HEADERS.iter().any(|name| headers.contains_key(*name))
}

/// The user whose credential the request carries; a catalog's token must hold at `as_of`.
pub(crate) async fn authenticate(
    context: &Context,
    headers: &HeaderMap,
    as_of: Time,
) -> Result<Person, Error> {
    if let Some(value) = headers.get(API_KEY_HEADER) {
        let key = value
            .to_str()
            .ok()
            .filter(|key| key.starts_with(API_KEY_PREFIX) && key.len() <= CREDENTIAL_BYTES_MAX);
        let key = key.ok_or_else(|| {
            refuse(
                &code::UNAUTHENTICATED,
                "this is no API key: they begin with `zk_`",
            )
        })?;
        return by_api_key(context, key).await;
    }
    match bearer(headers) {
        Some(token) if token.len() <= CREDENTIAL_BYTES_MAX => match &context.catalog {
            Some(trusted) if catalog::is_access_token(token) => {
                catalog::sign_in(context, trusted, token, as_of).await
            }
            _ => by_login(context, token).await,
        },
        Some(_) => Err(refuse(
            &code::UNAUTHENTICATED,
            "the bearer token is too long to be one",
        )),
        None => Err(refuse(
            &code::UNAUTHENTICATED,
            "who are you? Log in and send the token as `Authorization: Bearer`, or send an API key as `X-API-Key`",
        )),
    }
}

async fn by_api_key(context: &Context, key: &str) -> Result<Person, Error> {
    let hash = fingerprint(key);
    let unknown = || {
        refuse(
            &code::UNAUTHENTICATED,
            "the API key is unknown, expired or deleted",
        )
    };
    let found = api_key::by_hash(&context.pool, &hash)
        .await?
        .ok_or_else(unknown)?;
    if !bool::from(found.hash.as_slice().ct_eq(&hash)) {
        return Err(unknown());
    }
    enabled(found.account.disabled)?;
    if found.use_is_old {
        api_key::used(&context.pool, found.id).await?;
    }
    let cap = Cap::of(&found.scopes);
    let (id, expires_at) = (found.id, found.expires_at);
    let account = heard_of(context, found.account)?;
    let mut person = account.into_person(Credential::ApiKey { id, cap, expires_at });
    person.is_admin &= cap.is_none_or(|cap| cap.cluster);
    Ok(person)
}

async fn by_login(context: &Context, token: &str) -> Result<Person, Error> {
    let unknown = || {
        refuse(
            &code::UNAUTHENTICATED,
            "the login is not valid here, or has ended; log in again",
        )
    };
    let login = login_token::verify(&context.token_key, token).ok_or_else(unknown)?;
    let account = account::by_login(&context.pool, login.user_id, login.token_id)
        .await?
        .ok_or_else(unknown)?;
    enabled(account.disabled)?;
    if login.epoch != account.login_epoch {
        return Err(unknown());
    }
    let account = heard_of(context, account)?;
    Ok(account.into_person(Credential::Login {
        token_id: login.token_id,
        expires_at: login.expires_at,
    }))
}

/// The account with the roles that count: what a catalog gave does only for so long, unless its own token says so.
fn heard_of(context: &Context, account: Account) -> Result<Account, Error> {
    let account = account.with_roles_within(context.settings.catalog_roles_ttl, Time::now());
    account.ok_or_else(|| {
        refuse(
            &code::CATALOG_ROLES_LAPSED,
            "the catalog has not told of your roles for too long, so they don't count here; sign in by it again with `zectre login`",
        )
    })
}

/// Refuses a disabled account; said only to whoever has a credential of it.
pub(crate) fn enabled(disabled: bool) -> Result<(), Error> {
    if disabled {
        return Err(refuse(
            &code::ACCOUNT_DISABLED,
            "an admin has disabled this account",
        ));
    }
    Ok(())
}
