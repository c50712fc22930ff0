//! The trust in a catalog: people whom it knows are people here.
//!
//! [`verify()`] decides about a token, [`keys`] is what it decides by, and this is the shell around them: keys are read when
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
use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, timeout},
};
pub(crate) use verify::Claims;
use verify::{Expected, Refused, verify};
use zectre_common::{config::AuthConfig, time::Time};
use zectre_service::tasks::Shutdown;

/// How often the keys are read although nobody asked: a key that the catalog withdrew is not trusted for longer, as long
/// as the catalog answers. While it doesn't, the keys known stay, over restarts too: it may be away, people may not.
const READ_EVERY: Duration = Duration::from_secs(300);
/// The same while it does not answer.
const RETRY_AFTER: Duration = Duration::from_secs(15);
/// How long a reading may take, and the least from its end to the next one, however many tokens name unknown keys.
const READ_PACE: Duration = Duration::from_secs(5);
/// How long a request waits for a reading that is under way: no longer than one takes, and what keeps it takes.
const WAIT_MAX: Duration = Duration::from_secs(6);
/// How many requests wait for it at once; others are told to come again. Anyone can name a key that nobody knows, so while the
/// catalog hangs those who do must not take up all the requests that are handled at once (`api.concurrency_max`).
const WAITING_MAX: usize = 32;

/// The catalog that this cluster trusts.
pub(crate) struct Catalog {
    expected: Expected,
    /// Organizations of this cluster in which it gives roles although it did not make them.
    shared: Vec<String>,
    url: Url,
    tls: Tls,
    keys: RwLock<Arc<KeySet>>,
    reading: Mutex<Reading>,
    /// [`WAITING_MAX`] places.
    waiting: Semaphore,
    /// [`READ_PACE`].
    pace: Duration,
}

/// The last attempt to read the keys; held while one is under way, so that all who need it share it.
#[derive(Default)]
struct Reading {
    /// When it ended, or began where it was broken off.
    at: Option<Instant>,
    failed: bool,
}

/// Whether the keys may be read (again). It counts from the end of the last reading: those who waited for it are all
/// answered by it, also where it took as long as it may.
fn may_read(last: Option<Instant>, now: Instant, pace: Duration) -> bool {
    last.is_none_or(|last| now.duration_since(last) >= pace)
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
            waiting: Semaphore::new(WAITING_MAX),
            pace: READ_PACE,
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
        (reading.at, reading.failed) = (Some(Instant::now()), true);
        let answer = get(&self.url, &self.tls, JWKS_BYTES_MAX, self.pace).await;
        reading.at = Some(Instant::now());
        let text = answer?;
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

    /// What `token` says, if it is to be believed at `as_of`. A key that isn't known is looked for once more.
    pub(crate) async fn claims(&self, pool: &PgPool, token: &str, as_of: Time) -> Result<Claims, Error> {
        let first = verify(&self.keys(), &self.expected, token, as_of);
        let refused = match first {
            Ok(claims) => return Ok(claims),
            Err(Refused::UnknownKey) => {
                let Ok(_place) = self.waiting.try_acquire() else {
                    return Err(away());
                };
                let Ok(mut reading) = timeout(WAIT_MAX, self.reading.lock()).await else {
                    return Err(away());
                };
                if may_read(reading.at, Instant::now(), self.pace)
                    && let Err(error) = self.read(&mut reading, pool).await
                {
                    tracing::warn!(url = %self.url, error, "a key of the catalog can't be looked for");
                }
                let failed = reading.failed;
                drop(reading);
                match verify(&self.keys(), &self.expected, token, as_of) {
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
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    use tokio::net::TcpListener;

    #[test]
    fn between_two_readings_there_is_a_while() {
        let now = Instant::now();
        assert!(may_read(None, now, READ_PACE));
        assert!(!may_read(Some(now), now, READ_PACE));
        assert!(may_read(Some(now), now + READ_PACE, READ_PACE));
    }

    #[tokio::test]
    async fn a_catalog_that_hangs_is_waited_for_once_by_few() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let catalog = Catalog {
            expected: Expected {
                issuer: "https://catalog.test".into(),
                audience: "cluster-1".into(),
            },
            shared: Vec::new(),
            url: Url::parse(&format!("http://{address}/jwks.json")).expect("a URL"),
            tls: Tls::new(std::path::Path::new(""), "auth.catalog_ca_file"),
            keys: RwLock::default(),
            reading: Mutex::default(),
            waiting: Semaphore::new(2),
            pace: Duration::from_secs(1),
        };
        // Nothing is read, so nothing is kept there.
        let pool = PgPool::connect_lazy("postgres://127.0.0.1:1/none").expect("a URL");
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!(
            "{}.{}.AAAA",
            part(r#"{"alg":"RS256","typ":"at+jwt","kid":"nobody's"}"#),
            part("{}")
        );
        let (first, second) = (
            catalog.claims(&pool, &token, Time::now()),
            catalog.claims(&pool, &token, Time::now()),
        );
        tokio::pin!(first, second);
        let turned_away = tokio::select! {
            biased;
            _ = &mut first => panic!("it waits for the reading"),
            _ = &mut second => panic!("it waits for the reading"),
            answer = catalog.claims(&pool, &token, Time::now()) => answer,
        };
        for answer in [turned_away, first.await, second.await] {
            let Err(error) = answer else {
                panic!("nobody signed it")
            };
            assert!(format!("{error:?}").contains("CATALOG_UNAVAILABLE"), "{error:?}");
        }
        let mut readings = 0;
        while timeout(Duration::from_millis(200), listener.accept())
            .await
            .is_ok()
        {
            readings += 1;
        }
        assert_eq!(readings, 1);
    }
}
