//! The trust in a catalog: people whom it knows are people here.
//!
//! [`verify`] decides about a token, [`keys`] is what it decides by, and this is the shell around them: keys are read when
//! needed and now and then, kept in PostgreSQL, and outlive the catalog's absence. [`person`] makes accounts.

mod keys;
mod person;
mod verify;

pub(crate) use person::sign_in;
pub(crate) use verify::is_access_token;

use crate::{
    code,
    error::{Error, refuse},
    outside::{get::get, tls::Tls},
    store,
};
use keys::{JWKS_BYTES_MAX, KeySet};
use reqwest::Url;
use sqlx::PgPool;
use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Mutex, time::Instant};
pub(crate) use verify::Claims;
use verify::{Expected, Refused, verify};
use zectre_common::{config::AuthConfig, time::Time};
use zectre_service::tasks::Shutdown;

/// How often the keys are read although nobody asked: a key that the catalog withdrew is not trusted for longer.
const READ_EVERY: Duration = Duration::from_secs(300);
/// The same while it does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// The least between two readings, however many tokens name unknown keys.
const READ_FLOOR: Duration = Duration::from_secs(5);
/// How long one may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// The catalog that this cluster trusts.
pub(crate) struct Catalog {
    expected: Expected,
    /// Organizations of this cluster in which it gives roles although it did not make them.
    shared: Vec<String>,
    url: Url,
    tls: Tls,
    keys: RwLock<Arc<KeySet>>,
    reading: Mutex<Reading>,
}

/// The last attempt to read the keys; held while one is under way, so that all who need it share it.
#[derive(Default)]
struct Reading {
    began: Option<Instant>,
    failed: bool,
}

/// Whether the keys may be read (again).
fn may_read(began: Option<Instant>, now: Instant) -> bool {
    began.is_none_or(|began| now.duration_since(began) >= READ_FLOOR)
}

impl Catalog {
    /// As the configuration says, with the keys that were kept; `None` where no catalog is trusted.
    pub(crate) async fn new(config: &AuthConfig, pool: &PgPool) -> Result<Option<Self>, Error> {
        if config.catalog_jwks_url.is_empty() {
            return Ok(None);
        }
        let url = Url::parse(&config.catalog_jwks_url)
            .map_err(|error| Error::Internal(format!("auth.catalog_jwks_url is not a URL ({error})")))?;
        let kept = store::catalog::keys(pool, &config.jwt_expected_iss).await?;
        let keys = kept
            .and_then(|text| KeySet::parse(text.as_bytes()).ok())
            .unwrap_or_default();
        Ok(Some(Self {
            expected: Expected {
                issuer: config.jwt_expected_iss.clone(),
                audience: config.jwt_expected_aud.clone(),
            },
            shared: config.catalog_organizations.clone(),
            url,
            tls: Tls::new(&config.catalog_ca_file, "auth.catalog_ca_file"),
            keys: RwLock::new(Arc::new(keys)),
            reading: Mutex::default(),
        }))
    }

    fn keys(&self) -> Arc<KeySet> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the keys at the start and from then on now and then, until `stop`.
    pub(crate) async fn run(&self, pool: &PgPool, stop: Shutdown) {
        let mut told = false;
        loop {
            let mut reading = self.reading.lock().await;
            let Some(read) = stop.or_requested(self.read(&mut reading, pool)).await else {
                return;
            };
            drop(reading);
            let pause = match read {
                Ok(count) => {
                    if std::mem::take(&mut told) {
                        tracing::info!(count, "the catalog's keys are read again");
                    }
                    READ_EVERY
                }
                Err(error) => {
                    if !std::mem::replace(&mut told, true) {
                        tracing::warn!(url = %self.url, error, "the catalog's keys can't be read; those known stay");
                    }
                    RETRY_AFTER
                }
            };
            if stop.or_requested(tokio::time::sleep(pause)).await.is_none() {
                return;
            }
        }
    }

    /// Reads the keys, and keeps them; how many there are.
    async fn read(&self, reading: &mut Reading, pool: &PgPool) -> Result<usize, String> {
        (reading.began, reading.failed) = (Some(Instant::now()), true);
        let text = get(&self.url, &self.tls, JWKS_BYTES_MAX, READ_TIMEOUT).await?;
        let keys = KeySet::parse(&text)?;
        let count = keys.len();
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
        reading.failed = false;
        // What was parsed as JSON is text.
        let text = String::from_utf8_lossy(&text);
        if let Err(error) = store::catalog::keep_keys(pool, &self.expected.issuer, &text).await {
            tracing::warn!(%error, "the catalog's keys can't be kept");
        }
        Ok(count)
    }

    /// What `token` says, if it is to be believed. A key that isn't known is looked for once more.
    pub(crate) async fn claims(&self, pool: &PgPool, token: &str) -> Result<Claims, Error> {
        let first = verify(&self.keys(), &self.expected, token, Time::now());
        let refused = match first {
            Ok(claims) => return Ok(claims),
            Err(Refused::UnknownKey) => {
                let mut reading = self.reading.lock().await;
                if may_read(reading.began, Instant::now())
                    && let Err(error) = self.read(&mut reading, pool).await
                {
                    tracing::warn!(url = %self.url, error, "a key of the catalog can't be looked for");
                }
                let failed = reading.failed;
                drop(reading);
                match verify(&self.keys(), &self.expected, token, Time::now()) {
                    Ok(claims) => return Ok(claims),
                    Err(Refused::UnknownKey) if failed => return Err(away()),
                    Err(refused) => refused,
                }
            }
            Err(refused) => refused,
        };
        Err(refuse(
            &code::UNAUTHENTICATED,
            format!("the catalog's token {refused}"),
        ))
    }
}

fn away() -> Error {
    refuse(
        &code::CATALOG_UNAVAILABLE,
        "the catalog that this cluster trusts does not tell its keys now, and the token's is not among those known; try again in a moment",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn between_two_readings_there_is_a_while() {
        let now = Instant::now();
        assert!(may_read(None, now));
        assert!(!may_read(Some(now), now));
        assert!(may_read(Some(now), now + READ_FLOOR));
    }
}
