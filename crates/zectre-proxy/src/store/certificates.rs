//! Certificates that all proxies share, and how this one follows them: a notification makes it fast, a timed look
//! makes it sure.

use crate::{
    store::{STATEMENT_TIMEOUT, feed::too_slow},
    tls::{Certificate, Origin, Resolver},
};
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use std::{
    collections::{HashMap, HashSet},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;
use zectre_common::db::{self, channel};
use zectre_service::{
    ring::{KeyId, KeyRing, RingKey},
    seal::{self, OpenError},
    tasks::Shutdown,
};

/// A notification that got lost delays a certificate by at most so much.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Between attempts while PostgreSQL is away.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Read at once.
const BATCH: usize = 1_000;

/// A certificate on its way into the database; nothing prints it, because of its key.
pub struct Issued<'c> {
    /// The name it was ordered for.
    pub name: &'c str,
    /// PEM.
    pub chain: &'c str,
    /// PEM.
    pub key: &'c str,
    /// The same, read.
    pub certificate: &'c Certificate,
}

/// A certificate as it lies in the database.
#[derive(Serialize, Deserialize)]
pub struct Stored {
    /// New with each certificate.
    pub id: Uuid,
    /// The name it was ordered for.
    pub name: String,
    /// PEM.
    pub chain: String,
    /// The private key, sealed for this row.
    pub sealed_key: Vec<u8>,
}

/// Those of them that are there.
pub async fn read(pool: &PgPool, ids: &[Uuid]) -> Result<Vec<Stored>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Stored,
        "SELECT id, name, chain, sealed_key FROM certificates WHERE id = ANY($1)",
        ids
    )
    .fetch_all(pool);
    timeout(STATEMENT_TIMEOUT, rows).await.map_err(too_slow)?
}

/// Stores it in place of the one before, and tells every proxy. The notification goes out when `connection` commits.
pub async fn put(
    connection: &mut sqlx::PgConnection,
    key: &KeyRing,
    issued: &Issued<'_>,
) -> Result<(), sqlx::Error> {
    let id = Uuid::now_v7();
    let sealed = seal::seal(key, &seal::place::certificate(issued.name, id), issued.key);
    sqlx::query!(
        "INSERT INTO certificates (name, id, chain, sealed_key, not_before, not_after)
         VALUES ($1, $2, $3, $4, to_timestamp($5), to_timestamp($6))
         ON CONFLICT (name) DO UPDATE SET id = excluded.id, chain = excluded.chain, sealed_key = excluded.sealed_key,
             not_before = excluded.not_before, not_after = excluded.not_after, created_at = now()",
        issued.name,
        id,
        issued.chain,
        sealed,
        issued.certificate.not_before.as_secs_f64(),
        issued.certificate.not_after.as_secs_f64(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!("SELECT pg_notify($1, $2)", channel::CERTIFICATES, issued.name)
        .fetch_one(connection)
        .await
        .map(drop)
}

/// The certificates of the database, as they were read last.
#[derive(Debug)]
pub struct Shelf {
    key: KeyRing,
    resolver: Arc<Resolver>,
    known: Mutex<Known>,
}

/// What is known of them.
#[derive(Debug, Default)]
struct Known {
    /// `None` is one that can't be served.
    certificates: HashMap<Uuid, Option<Arc<Certificate>>>,
    /// The master keys that they were tried with.
    keys: Vec<KeyId>,
}

impl Known {
    /// What could not be opened may be with other keys.
    fn try_with(&mut self, keys: Vec<KeyId>) {
        if self.keys != keys {
            self.certificates.retain(|_, certificate| certificate.is_some());
            self.keys = keys;
        }
    }
}

impl Shelf {
    /// Empty; `key` opens private keys.
    pub fn new(key: KeyRing, resolver: Arc<Resolver>) -> Self {
        Self {
            key,
            resolver,
            known: Mutex::default(),
        }
    }

    /// Takes what was known of the database before this process, as long as it can't be read.
    pub fn restore(&self, before: &[Stored]) {
        let mut known = self.lock();
        // One that does not open now may do so as the database has it.
        let opened = before.iter().filter_map(|stored| {
            let certificate = self.open(stored)?;
            Some((stored.id, Some(certificate)))
        });
        known.certificates.extend(opened);
        self.serve(&known);
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the database until `shutdown`.
    pub async fn run(self: Arc<Self>, pool: PgPool, shutdown: Shutdown) {
        let mut told = false;
        while let Some(result) = shutdown.or_requested(self.follow(&pool, &mut told)).await {
            let Err(error) = result;
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(%error, "certificates can't be read from PostgreSQL; serving the last known ones");
            }
            shutdown.or_requested(tokio::time::sleep(RETRY_AFTER)).await;
        }
    }

    /// `told` is that it failed before.
    async fn follow(&self, pool: &PgPool, told: &mut bool) -> Result<Infallible, sqlx::Error> {
        // Listen first, read second: what changes in between is told.
        let mut listener = db::listen(pool, &[channel::CERTIFICATES]).await?;
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.sync(pool).await?;
            if std::mem::take(told) {
                tracing::info!("certificates are read from PostgreSQL again");
            }
            tokio::select! {
                news = listener.try_recv() => { news?; }
                _ = look.tick() => {}
            }
        }
    }

    /// Reads what is new, and forgets what is gone.
    pub async fn sync(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let ids = sqlx::query_scalar!("SELECT id FROM certificates").fetch_all(pool);
        let ids = timeout(STATEMENT_TIMEOUT, ids).await.map_err(too_slow)??;
        let keys = self.key.keys().iter().map(RingKey::id).collect();
        let (unknown, gone) = {
            let mut known = self.lock();
            known.try_with(keys);
            let known = &known.certificates;
            let unknown: Vec<_> = ids.iter().copied().filter(|id| !known.contains_key(id)).collect();
            let kept = ids.len() - unknown.len();
            (unknown, known.len() - kept)
        };
        if unknown.is_empty() && gone == 0 {
            return Ok(());
        }
        let mut read = Vec::with_capacity(unknown.len());
        for batch in unknown.chunks(BATCH) {
            for stored in self::read(pool, batch).await? {
                read.push((stored.id, self.open(&stored)));
            }
        }
        let ids: HashSet<_> = ids.into_iter().collect();
        let mut known = self.lock();
        known.certificates.extend(read);
        known.certificates.retain(|id, _| ids.contains(id));
        self.serve(&known);
        Ok(())
    }

    fn serve(&self, known: &Known) {
        let served = known.certificates.values().flatten().cloned().collect();
        self.resolver.replace(Origin::Stored, served);
    }

    fn open(&self, stored: &Stored) -> Option<Arc<Certificate>> {
        let Stored {
            id,
            name,
            chain,
            sealed_key,
        } = stored;
        let opened = seal::open(&self.key, &seal::place::certificate(name, id), sealed_key)
            .map_err(|error: OpenError| error.to_string());
        let certificate = opened.and_then(|key| {
            Certificate::from_pem(chain.as_bytes(), key.expose_secret().as_bytes())
                .map_err(|error| error.to_string())
        });
        match certificate {
            Ok(certificate) => Some(Arc::new(certificate)),
            Err(error) => {
                tracing::error!(name, error, "a stored certificate can't be served");
                None
            }
        }
    }
}
