//! What is counted of TLS.

use super::{Resolver, resolver::ORIGINS};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use std::sync::atomic::AtomicU64;
use zectre_service::metrics::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct From {
    origin: &'static str,
}

/// How a handshake ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// Well.
    Done,
    /// The client broke it off, or nothing suits both.
    Failed,
    /// It took too long.
    TimedOut,
    /// It was plain HTTP.
    Plain,
    /// It was an ACME server that looks at a challenge.
    Challenge,
}

const OUTCOMES: [&str; 5] = ["done", "failed", "timeout", "plain", "challenge"];
const NAMES: [&str; ORIGINS.len()] = ["files", "stored", "self_signed"];

type Days = Gauge<f64, AtomicU64>;

/// Counters that the handshake reaches without a lookup.
#[derive(Debug, Clone)]
pub struct TlsMetrics {
    handshakes: [Counter; OUTCOMES.len()],
    certificates: [Gauge; ORIGINS.len()],
    days_left: Family<From, Days>,
    orders: [Counter; 2],
}

impl TlsMetrics {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        let handshakes = registry.register(
            "proxy_tls_handshakes",
            "TLS handshakes by how they ended",
            Family::<Outcome, Counter>::default(),
        );
        let certificates = registry.register(
            "proxy_tls_certificates",
            "Certificates that can be served, by where they come from",
            Family::<From, Gauge>::default(),
        );
        let orders = registry.register(
            "proxy_tls_orders",
            "Orders for certificates by how they ended; a failed one is tried again",
            Family::<Outcome, Counter>::default(),
        );
        Self {
            orders: ["failed", "done"].map(|outcome| orders.get_or_create(&Outcome { outcome }).clone()),
            handshakes: OUTCOMES.map(|outcome| handshakes.get_or_create(&Outcome { outcome }).clone()),
            certificates: NAMES.map(|origin| certificates.get_or_create(&From { origin }).clone()),
            days_left: registry.register(
                "proxy_tls_certificate_days_left_min",
                "Days until the first of these certificates ends",
                Family::default(),
            ),
        }
    }

    /// A handshake ended.
    pub fn handshake(&self, outcome: Handshake) {
        self.handshakes[outcome as usize].inc();
    }

    /// An order ended.
    pub fn order(&self, done: bool) {
        self.orders[usize::from(done)].inc();
    }

    /// Looks at what is served.
    pub fn survey(&self, resolver: &Resolver) {
        for (origin, name) in ORIGINS.into_iter().zip(NAMES) {
            let (count, fewest) = resolver.survey(origin);
            self.certificates[origin as usize].set(count as i64);
            let label = From { origin: name };
            match fewest {
                Some(days) => {
                    self.days_left.get_or_create(&label).set(days);
                }
                None => {
                    self.days_left.remove(&label);
                }
            }
        }
    }
}
