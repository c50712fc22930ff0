//! Prometheus metrics: an explicit registry for each service.

use prometheus_client::{
    collector::Collector,
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Metric, Registry as Inner},
};
use std::sync::{Arc, Mutex, PoisonError};

/// The content type of the exposition.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one service.
#[derive(Debug, Clone, Default)]
pub struct Registry(Arc<Mutex<Inner>>);

impl Registry {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a metric; the name gets the prefix `zectre_`, counters the suffix `_total`.
    pub fn register<M: Metric + Clone>(&self, name: &str, help: &str, metric: M) -> M {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).register(
            format!("zectre_{name}"),
            help,
            metric.clone(),
        );
        metric
    }

    /// Adds what is gathered only when someone looks; it names its metrics itself, prefix included.
    pub fn collect(&self, collector: impl Collector) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .register_collector(Box::new(collector));
    }

    /// The exposition.
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String can't fail.
        let _ = encode(&mut text, &self.0.lock().unwrap_or_else(PoisonError::into_inner));
        text
    }
}

/// Labels of the HTTP metrics; the route is the pattern, so their number is bounded.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct HttpLabels {
    method: String,
    route: String,
    status: u16,
}

/// Counts and times the requests of one service.
#[derive(Debug, Clone)]
pub struct HttpMetrics {
    requests: Family<HttpLabels, Counter>,
    seconds: Histogram,
    in_flight: Gauge,
}

impl HttpMetrics {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        // 0.5 ms to 16 s.
        let seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        Self {
            requests: registry.register("http_requests", "Requests by route and status", Family::default()),
            seconds: registry.register("http_request_seconds", "Time to the answer's head", seconds),
            in_flight: registry.register("http_in_flight", "Requests under way", Gauge::default()),
        }
    }

    /// A request began; dropping the guard ends it, also when its client is gone.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// A request was answered.
    pub fn observe(&self, method: &http::Method, route: &str, status: http::StatusCode, seconds: f64) {
        let labels = HttpLabels {
            method: method.to_string(),
            route: route.to_owned(),
            status: status.as_u16(),
        };
        self.requests.get_or_create(&labels).inc();
        self.seconds.observe(seconds);
    }
}

/// Counts one request as under way.
#[derive(Debug)]
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
