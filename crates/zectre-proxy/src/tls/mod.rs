//! TLS: which certificate a name gets, where certificates come from, and the handshake.
//!
//! [`resolver`] decides by name alone, in memory. Its certificates come from [`files`] and from [`self_signed`];
//! each of them hands over all it has, whenever that changes.

pub mod certificate;
pub mod files;
pub mod listener;
pub mod metrics;
pub mod redirect;
pub mod resolver;
pub mod self_signed;

pub use certificate::{Certificate, Unusable};
pub use listener::Terminator;
pub use resolver::{Origin, Resolver};

use crate::Error;
use files::Watched;
use http::HeaderValue;
use metrics::TlsMetrics;
use std::{sync::Arc, time::Duration};
use zectre_common::config::ProxyConfig;
use zectre_service::{metrics::Registry, tasks::Tasks};

/// What requests need to know of TLS.
#[derive(Debug)]
pub struct Tls {
    /// Which names have certificates.
    pub resolver: Arc<Resolver>,
    /// The port that plain requests are sent to, when they are.
    redirect_port: Option<u16>,
    /// `Strict-Transport-Security`, when it is said.
    hsts: Option<HeaderValue>,
}

impl Tls {
    /// As `config` says.
    pub fn new(config: &ProxyConfig, resolver: Arc<Resolver>) -> Self {
        let tls = &config.tls;
        let max_age = (tls.hsts_max_age_secs > 0).then(|| format!("max-age={}", tls.hsts_max_age_secs));
        Self {
            resolver,
            redirect_port: tls.redirect.then(|| tls.public_port()),
            hsts: max_age.map(|value| HeaderValue::try_from(value).expect("a word and a number")),
        }
    }

    /// What answers over TLS say about later visits.
    pub fn hsts(&self) -> Option<&HeaderValue> {
        self.hsts.as_ref()
    }
}

/// TLS, set up and not running yet.
#[derive(Debug)]
pub struct Setup {
    /// For the accept loop.
    pub terminator: Arc<Terminator>,
    /// For requests.
    pub tls: Arc<Tls>,
    watched: Vec<Watched>,
    metrics: TlsMetrics,
}

impl Setup {
    /// Reads and makes the certificates that `config` asks for; `None` when it asks for no TLS.
    pub async fn load(config: &ProxyConfig, registry: &Registry) -> Result<Option<Self>, Error> {
        if !config.tls.enabled {
            return Ok(None);
        }
        let resolver = Arc::new(Resolver::new(&config.domain));
        let watched = files::load(&config.tls.certificates, &resolver).await?;
        resolver.replace(Origin::SelfSigned, vec![self_signed::make(&config.domain)?]);
        let metrics = TlsMetrics::new(registry);
        let handshake_timeout = Duration::from_millis(config.tls.handshake_timeout_ms);
        let terminator = Terminator::new(Arc::clone(&resolver), handshake_timeout, metrics.clone())?;
        Ok(Some(Self {
            terminator: Arc::new(terminator),
            tls: Arc::new(Tls::new(config, resolver)),
            watched,
            metrics,
        }))
    }

    /// Starts what keeps certificates up to date.
    pub fn spawn(self, tasks: &Tasks) {
        let resolver = Arc::clone(&self.tls.resolver);
        tasks.spawn("certificate files", |stop| {
            files::run(self.watched, resolver, self.metrics, stop)
        });
    }
}
