//! The keys of the moment, in memory: read from the database once a minute, replaced in time.

use super::{KeyFailure, PublicKey, SigningKey, generate};
use crate::{
    claims::{self, AccessClaims},
    config::{Algorithm, TokensConfig},
    core::key_schedule::{Rhythm, Slot, plan, signer},
    error::Error,
    sealed,
    store::signing_keys::{self, NewKey, StoredKey},
};
use arc_swap::ArcSwap;
use jsonwebtoken::{DecodingKey, Validation};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use zectre_common::time::Time;
use zectre_service::{key::MasterKey, tasks::Shutdown};

/// How often it is looked whether a key is to be made or dropped; keys that another process made are seen by then.
const EVERY: Duration = Duration::from_secs(60);

/// Signs and checks tokens.
pub struct Keyring {
    pool: PgPool,
    master: MasterKey,
    tokens: TokensConfig,
    keys: ArcSwap<Vec<SigningKey>>,
}

impl Keyring {
    /// Reads the keys; makes the first.
    pub async fn open(pool: PgPool, master: MasterKey, tokens: TokensConfig) -> Result<Self, Error> {
        let ring = Self {
            pool,
            master,
            tokens,
            keys: ArcSwap::default(),
        };
        ring.renew(Time::now()).await?;
        Ok(ring)
    }

    /// Does what is to be done at `now` and reads the keys anew. Of several processes one makes a key.
    pub async fn renew(&self, now: Time) -> Result<(), Error> {
        let mut transaction = signing_keys::begin(&self.pool).await?;
        let mut stored = signing_keys::all(&mut transaction).await?;
        let slots = stored.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        let plan = plan(&slots, self.rhythm(), now);
        if let Some(signs_from) = plan.make {
            let key = self.make(signs_from).await?;
            tracing::info!(kid = key.kid, %signs_from, "made a signing key");
            signing_keys::insert(&mut transaction, &key).await?;
        }
        if !plan.drop.is_empty() {
            tracing::info!(kids = ?plan.drop, "dropped signing keys: no token of theirs is left");
            signing_keys::delete(&mut transaction, &plan.drop).await?;
        }
        if plan.make.is_some() || !plan.drop.is_empty() {
            stored = signing_keys::all(&mut transaction).await?;
        }
        transaction.commit().await?;
        let keys = stored
            .iter()
            .map(|key| self.open_one(key))
            .collect::<Result<Vec<_>, _>>()?;
        self.keys.store(Arc::new(keys));
        Ok(())
    }

    fn rhythm(&self) -> Rhythm {
        Rhythm {
            algorithm: self.tokens.algorithm,
            rotate: Duration::from_secs(self.tokens.key_rotate_secs),
            ahead: Duration::from_secs(self.tokens.key_publish_ahead_secs),
        }
    }

    async fn make(&self, signs_from: Time) -> Result<NewKey, Error> {
        let tokens = self.tokens.clone();
        let fresh = tokio::task::spawn_blocking(move || generate(&tokens))
            .await
            .map_err(|_| Error::Internal("the making of a key panicked".into()))??;
        let kid = fresh.public.thumbprint();
        Ok(NewKey {
            private_sealed: sealed::signing_key(&self.master, &kid, &fresh.private),
            public_jwk: serde_json::to_value(&fresh.public).expect("strings are valid JSON"),
            algorithm: self.tokens.algorithm.as_str(),
            kid,
            signs_from,
        })
    }

    fn open_one(&self, key: &StoredKey) -> Result<SigningKey, Error> {
        let public: PublicKey = serde_json::from_value(key.public_jwk.clone())
            .map_err(|error| Error::Internal(format!("the stored key {} is damaged: {error}", key.kid)))?;
        let private = sealed::open_signing_key(&self.master, &key.kid, &key.private_sealed)?;
        Ok(SigningKey::open(slot(key)?, public, &private)?)
    }

    /// Whether the key whose time it is can sign, as it is stored: one that can't be opened is noticed before the next start.
    pub async fn check(&self) -> Result<(), Error> {
        let mut connection = self.pool.acquire().await?;
        let stored = signing_keys::all(&mut connection).await?;
        let slots = stored.iter().map(slot).collect::<Result<Vec<_>, _>>()?;
        let signs = signer(&slots, Time::now()).ok_or(KeyFailure("found"))?;
        self.open_one(&stored[signs])?.sign(&())?;
        Ok(())
    }

    /// A token with these claims, by the key whose time it is.
    pub fn sign(&self, claims: &AccessClaims) -> Result<String, Error> {
        let keys = self.keys.load();
        let slots: Vec<Slot> = keys.iter().map(|key| key.slot.clone()).collect();
        let signs = signer(&slots, Time::now()).ok_or(KeyFailure("found"))?;
        Ok(keys[signs].sign(claims)?)
    }

    /// What a token that this catalog signed for `audience` says; `None` for any other token. The algorithm is the key's,
    /// whatever the token's header says.
    pub fn verify(&self, token: &str, issuer: &str, audience: &str) -> Option<AccessClaims> {
        let header = jsonwebtoken::decode_header(token).ok()?;
        if header.typ.as_deref() != Some(claims::TYPE) {
            return None;
        }
        let keys = self.keys.load();
        let key = keys
            .iter()
            .find(|key| header.kid.as_deref() == Some(&key.slot.kid))?;
        let (algorithm, public) = match &key.public {
            PublicKey::Rsa { e, n } => (
                jsonwebtoken::Algorithm::RS256,
                DecodingKey::from_rsa_components(n, e).ok()?,
            ),
            PublicKey::Okp { x, .. } => (
                jsonwebtoken::Algorithm::EdDSA,
                DecodingKey::from_ed_components(x).ok()?,
            ),
        };
        let mut validation = Validation::new(algorithm);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        validation.leeway = 0;
        let data = jsonwebtoken::decode::<AccessClaims>(token, &public, &validation).ok()?;
        Some(data.claims)
    }

    /// What is published: every key that signs, will sign, or has signed a token that still holds.
    pub fn jwks(&self) -> serde_json::Value {
        let keys: Vec<_> = self.keys.load().iter().map(SigningKey::jwk).collect();
        serde_json::json!({ "keys": keys })
    }

    /// What the published keys sign with, each once.
    pub fn algorithms(&self) -> Vec<&'static str> {
        let keys = self.keys.load();
        let mut known: Vec<_> = keys.iter().map(|key| key.slot.algorithm.as_str()).collect();
        known.dedup();
        known
    }
}

fn slot(key: &StoredKey) -> Result<Slot, Error> {
    let algorithm = Algorithm::parse(&key.algorithm)
        .ok_or_else(|| Error::Internal(format!("the stored key {} has no known algorithm", key.kid)))?;
    Ok(Slot {
        kid: key.kid.clone(),
        algorithm,
        signs_from: key.signs_from,
    })
}

/// Keeps the ring fresh until shutdown; an error is logged, and the keys that are there go on.
pub async fn maintain(ring: &Keyring, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        if let Some(Err(error)) = shutdown.or_requested(ring.renew(Time::now())).await {
            tracing::warn!(%error, "the signing keys could not be renewed; it is tried again in a minute");
        }
    }
}
