//! TLS: which certificate a name gets, where certificates come from, and the handshake.
//!
//! [`resolver`] decides by name alone, in memory. Its certificates come from [`files`], from PostgreSQL (where
//! [`acme`] puts them) and from [`self_signed`]; each of them hands over all it has, whenever that changes.

pub mod acme;
pub mod certificate;
pub mod files;
pub mod listener;
pub mod metrics;
#[cfg(feature = "http3")]
mod quic;
pub mod redirect;
pub mod resolver;
pub mod self_signed;

pub use certificate::{Certificate, Unusable};
pub use listener::Terminator;
pub use resolver::{Origin, Resolver};

use crate::{
    Error,
    store::{acme::Orders, certificates::Shelf, copies},
};
use acme::{Acme, challenge::Challenges};
use files::Watched;
use http::HeaderValue;
use metrics::TlsMetrics;
use sqlx::PgPool;
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use zectre_common::{config::ProxyConfig, id::ProxyId};
use zectre_service::{
    metrics::Registry,
    ring::KeyRing,
    tasks::{Shutdown, Tasks},
};

/// How long the start waits for the certificates in PostgreSQL; they come later then.
const FIRST_READ: Duration = Duration::from_secs(2);

/// How long clients remember where HTTP/3 is served. They ask the other port again where it is not any more.
#[cfg(feature = "http3")]
const ALT_SVC_MAX_AGE_SECS: u32 = 86_400;

/// What requests need to know of TLS.
#[derive(Debug)]
pub struct Tls {
    /// Which names have certificates.
    pub resolver: Arc<Resolver>,
    /// What ACME servers look for; `None` when nothing is ordered.
    pub challenges: Option<Arc<Challenges>>,
    /// The port that plain requests are sent to, when they are.
    redirect_port: Option<u16>,
    /// `Strict-Transport-Security`, when it is said.
    hsts: Option<HeaderValue>,
    /// `Alt-Svc`, while HTTP/3 is served.
    #[cfg(feature = "http3")]
    alt_svc: arc_swap::ArcSwapOption<HeaderValue>,
}

impl Tls {
    /// As `config` says.
    pub fn new(config: &ProxyConfig, resolver: Arc<Resolver>, challenges: Option<Arc<Challenges>>) -> Self {
        let tls = &config.tls;
        let max_age = (tls.hsts_max_age_secs > 0).then(|| format!("max-age={}", tls.hsts_max_age_secs));
        Self {
            resolver,
            challenges,
            redirect_port: tls.redirect.then(|| tls.public_port()),
            hsts: max_age.map(|value| HeaderValue::try_from(value).expect("a word and a number")),
            #[cfg(feature = "http3")]
            alt_svc: arc_swap::ArcSwapOption::empty(),
        }
    }

    /// What answers over TLS say about later visits.
    pub fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref()
    }

    /// HTTP/3 is served, at this port as clients know it.
    #[cfg(feature = "http3")]
    pub fn advertise(&self, port: u16) {
        let value = HeaderValue::try_from(format!("h3=\":{port}\"; ma={ALT_SVC_MAX_AGE_SECS}"));
        self.alt_svc
            .store(Some(Arc::new(value.expect("words and numbers"))));
    }

    /// HTTP/3 is served no longer.
    #[cfg(feature = "http3")]
    pub fn withdraw(&self) {
        self.alt_svc.store(None);
    }

    /// What answers over TLS say about HTTP/3.
    #[cfg(feature = "http3")]
    pub fn alt_svc(&self) -> Option<Arc<HeaderValue>> {
        self.alt_svc.load_full()
    }
}

/// What certificates in PostgreSQL need.
#[derive(Debug)]
pub struct Sharing {
    /// The database.
    pub pool: PgPool,
    /// Opens private keys; without it there are no shared certificates.
    pub master: Option<KeyRing>,
    /// Who orders.
    pub proxy: ProxyId,
}

impl Sharing {
    /// From `pool`, for `proxy`.
    pub fn new(pool: &PgPool, master: Option<KeyRing>, proxy: ProxyId) -> Self {
        Self {
            pool: pool.clone(),
            master,
            proxy,
        }
    }
}

/// TLS, set up and not running yet.
pub struct Setup {
    /// For the accept loop.
    pub terminator: Arc<Terminator>,
    /// For requests.
    pub tls: Arc<Tls>,
    watched: Vec<Watched>,
    shelf: Option<Arc<Shelf>>,
    /// Where copies of what PostgreSQL has are kept.
    copies: Option<PathBuf>,
    acme: Option<Acme>,
    pool: PgPool,
    metrics: TlsMetrics,
}

impl Setup {
    /// Reads and makes the certificates that `config` asks for; `None` when it asks for no TLS.
    pub async fn load(
        config: &ProxyConfig,
        sharing: Sharing,
        registry: &Registry,
    ) -> Result<Option<Self>, Error> {
        if !config.tls.enabled {
            return Ok(None);
        }
        let Sharing { pool, master, proxy } = sharing;
        let metrics = TlsMetrics::new(registry);
        let acme = match &master {
            Some(key) if config.tls.orders() => {
                let orders = Orders {
                    pool: pool.clone(),
                    key: key.clone(),
                    me: proxy,
                };
                Some(Acme::new(&config.tls.acme, orders, metrics.clone()).ok_or(Error::Binding)?)
            }
            _ => None,
        };
        let resolver = Arc::new(Resolver::new(&config.domain));
        let watched = files::load(&config.tls.certificates, &resolver).await?;
        resolver.replace(Origin::SelfSigned, vec![self_signed::make(&config.domain)?]);
        let shelf = master.map(|key| Arc::new(Shelf::new(key, Arc::clone(&resolver))));
        let copies = copies::beside(&config.snapshot_path);
        if let Some(shelf) = &shelf
            && !matches!(timeout(FIRST_READ, shelf.sync(&pool)).await, Ok(Ok(())))
        {
            let before = copies.as_deref().map(copies::read).unwrap_or_default();
            tracing::warn!(
                copies = before.len(),
                "the certificates in PostgreSQL can't be read yet; serving their copies"
            );
            shelf.restore(&before);
        }
        let challenges = acme.is_some().then(|| Arc::new(Challenges::new(pool.clone())));
        let handshake_timeout = Duration::from_millis(config.tls.handshake_timeout_ms);
        let terminator = Terminator::new(
            Arc::clone(&resolver),
            challenges.clone(),
            handshake_timeout,
            metrics.clone(),
        )?;
        Ok(Some(Self {
            terminator: Arc::new(terminator),
            tls: Arc::new(Tls::new(config, resolver, challenges)),
            watched,
            shelf,
            copies,
            acme,
            pool,
            metrics,
        }))
    }

    /// Starts what keeps certificates up to date. Orders are begun until `shutdown`, and `wires` waits for the steps under way.
    pub fn spawn(self, tasks: &Tasks, wires: &TaskTracker, shutdown: &Shutdown) {
        let resolver = Arc::clone(&self.tls.resolver);
        tasks.spawn("certificate files", |stop| {
            files::run(self.watched, resolver, self.metrics, stop)
        });
        if let Some(shelf) = self.shelf {
            if let Some(directory) = self.copies {
                let pool = self.pool.clone();
                tasks.spawn("copies of certificates", |stop| {
                    copies::run(directory, pool, stop)
                });
            }
            tasks.spawn("stored certificates", |stop| shelf.run(self.pool, stop));
        }
        if let Some(acme) = self.acme {
            let (step, shutdown) = (wires.token(), shutdown.clone());
            tasks.spawn("certificate orders", |stop| async move {
                acme.run(shutdown).await;
                drop(step);
                stop.requested().await;
            });
        }
    }
}
