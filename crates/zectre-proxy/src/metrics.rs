//! What the proxy counts.

use http::StatusCode;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use zectre_service::metrics::Registry;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Class {
    class: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    kind: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: String,
}

const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

/// Why the proxy ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// No head came in time.
    HeaderTimeout,
    /// No other request came in time.
    IdleTimeout,
    /// The client did not take its answer.
    WriteTimeout,
    /// A load balancer did not say whom it brings.
    ProxyProtocol,
    /// It sent too many frames that carry nothing.
    Flood,
}

const CLOSED: [&str; 5] = [
    "header_timeout",
    "idle_timeout",
    "write_timeout",
    "proxy_protocol",
    "flood",
];

/// How a task failed a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamError {
    /// No connection.
    Connect,
    /// The connection broke before an answer.
    Lost,
    /// No answer in time.
    Timeout,
    /// A kept connection was closed before its host took any of the request.
    Closed,
}

/// How a connection of plain TCP ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RawEnd {
    /// Both sides said that they were done.
    Done,
    /// One of them broke it off.
    Broken,
    /// Nothing moved for too long.
    Idle,
    /// There was no task for it.
    Refused,
    /// The client left before there was one.
    Gone,
}

const RAW_ENDS: [&str; 5] = ["done", "broken", "idle", "refused", "gone"];

/// What is counted of plain TCP.
#[derive(Debug, Clone)]
pub struct RawMetrics {
    /// Open listeners.
    pub listeners: Gauge,
    /// Listeners that can't be opened.
    pub listeners_failed: Gauge,
    /// Connections joined with a task.
    pub connections: Gauge,
    /// Connections that ended, each at its [`RawEnd`].
    pub ended: [Counter; RAW_ENDS.len()],
    /// Bytes from clients.
    pub received: Counter,
    /// Bytes to clients.
    pub sent: Counter,
}

impl RawMetrics {
    fn new(registry: &Registry) -> Self {
        let ended = registry.register(
            "proxy_tcp_ended",
            "Connections of plain TCP that ended, by how",
            Family::<Reason, Counter>::default(),
        );
        let gauge = |name, help| registry.register(name, help, Gauge::default());
        let counter = |name, help| registry.register(name, help, Counter::default());
        Self {
            listeners: gauge("proxy_tcp_listeners", "Open listeners for plain TCP"),
            listeners_failed: gauge(
                "proxy_tcp_listeners_failed",
                "Listeners for plain TCP that can't be opened",
            ),
            connections: gauge(
                "proxy_tcp_connections",
                "Connections of plain TCP that are joined with a task",
            ),
            ended: RAW_ENDS.map(|reason| ended.get_or_create(&Reason { reason }).clone()),
            received: counter("proxy_tcp_received_bytes", "Bytes of plain TCP from clients"),
            sent: counter("proxy_tcp_sent_bytes", "Bytes of plain TCP to clients"),
        }
    }
}

/// Counters that the hot path reaches without a lookup.
#[derive(Debug, Clone)]
pub struct Metrics {
    requests: [Counter; 5],
    upstream_errors: [Counter; 4],
    refused: Family<Code, Counter>,
    /// Requests under way, held ones and tunnels included.
    pub in_flight: Gauge,
    /// Open client connections.
    pub connections: Gauge,
    /// Those that nobody serves: new ones that have said nothing, and such as have been idle for a while.
    pub resting: Gauge,
    /// Connections that found as many open as may be, and waited for a place (over HTTP/3: were left to ask again).
    pub connections_waited: Counter,
    /// Connections that the proxy ended, each at its [`Closed`].
    pub closed: [Counter; CLOSED.len()],
    /// Streams of HTTP/2 that it reset, since their client took nothing of an answer.
    pub streams_reset: Counter,
    /// Wake calls that brought a replica.
    pub wakes: Counter,
    /// Wake calls that failed.
    pub wakes_failed: Counter,
    /// Seconds from the wake call to its answer.
    pub wake_seconds: Histogram,
    /// The epoch that is routed by.
    pub epoch: Gauge,
    /// Plain TCP.
    pub raw: RawMetrics,
}

impl Metrics {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        let requests = registry.register(
            "proxy_requests",
            "Requests by class of status",
            Family::<Class, Counter>::default(),
        );
        let upstream_errors = registry.register(
            "proxy_upstream_errors",
            "Requests that a task failed, before any second try",
            Family::<Kind, Counter>::default(),
        );
        let closed = registry.register(
            "proxy_connections_closed",
            "Connections that the proxy ended, by reason",
            Family::<Reason, Counter>::default(),
        );
        // 0.5 ms to 16 s.
        let wake_seconds = Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        Self {
            raw: RawMetrics::new(registry),
            requests: CLASSES.map(|class| requests.get_or_create(&Class { class }).clone()),
            upstream_errors: ["connect", "lost", "timeout", "closed"]
                .map(|kind| upstream_errors.get_or_create(&Kind { kind }).clone()),
            refused: registry.register(
                "proxy_refused",
                "Requests and connections that the proxy refused, by code",
                Family::default(),
            ),
            in_flight: registry.register(
                "proxy_in_flight",
                "Requests under way, tunnels included",
                Gauge::default(),
            ),
            connections: registry.register("proxy_connections", "Open client connections", Gauge::default()),
            resting: registry.register(
                "proxy_connections_resting",
                "Open client connections that wait for a first request or the next one, and hold no buffers",
                Gauge::default(),
            ),
            connections_waited: registry.register(
                "proxy_connections_waited",
                "Connections that found as many open as may be, and waited for a place",
                Counter::default(),
            ),
            closed: CLOSED.map(|reason| closed.get_or_create(&Reason { reason }).clone()),
            streams_reset: registry.register(
                "proxy_streams_reset",
                "Streams of HTTP/2 that were reset, since their client took nothing of an answer",
                Counter::default(),
            ),
            wakes: registry.register(
                "proxy_wakes",
                "Wake calls that brought a replica",
                Counter::default(),
            ),
            wakes_failed: registry.register(
                "proxy_wakes_failed",
                "Wake calls that failed",
                Counter::default(),
            ),
            wake_seconds: registry.register(
                "proxy_wake_seconds",
                "From a wake call to its answer",
                wake_seconds,
            ),
            epoch: registry.register(
                "proxy_routing_epoch",
                "The epoch that is routed by",
                Gauge::default(),
            ),
        }
    }

    /// A request was answered.
    pub fn answered(&self, status: StatusCode) {
        let class = usize::from(status.as_u16() / 100).clamp(1, CLASSES.len());
        self.requests[class - 1].inc();
    }

    /// A request or a connection was refused; `code` is of a bounded set.
    pub fn refused(&self, code: impl Into<String>) {
        self.refused.get_or_create(&Code { code: code.into() }).inc();
    }

    /// A task failed a request.
    pub fn upstream_error(&self, error: UpstreamError) {
        self.upstream_errors[error as usize].inc();
    }
}

/// What became of the lines of the access log.
#[derive(Debug, Clone)]
pub struct LogMetrics {
    written: Counter,
    dropped: Counter,
}

impl LogMetrics {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        Self {
            written: registry.register(
                "proxy_access_log_lines",
                "Lines of the access log that were written",
                Counter::default(),
            ),
            dropped: registry.register(
                "proxy_access_log_dropped",
                "Lines of the access log that found no room in its queue, or could not be written",
                Counter::default(),
            ),
        }
    }

    /// So many were written.
    pub fn written(&self, lines: u64) {
        self.written.inc_by(lines);
    }

    /// So many are lost.
    pub fn dropped(&self, lines: u64) {
        self.dropped.inc_by(lines);
    }

    /// How many are lost so far.
    pub fn dropped_lines(&self) -> u64 {
        self.dropped.get()
    }
}

/// Adds one to a gauge for as long as it lives.
#[derive(Debug)]
pub struct Counted(Gauge);

impl Counted {
    /// One more.
    pub fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}
