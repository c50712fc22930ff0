//! What the scheduler counts.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
};
use std::time::Duration;
use zectre_service::metrics::Registry;

/// A label for states.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct StateLabel {
    /// The state.
    pub state: &'static str,
}

/// A label for kinds of events.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EventLabel {
    /// The kind.
    pub event: &'static str,
}

/// The scheduler's own metrics.
#[derive(Debug, Clone)]
pub struct Metrics {
    /// From the moment an event was handed in until it was decided, by kind; counts them as well.
    pub decision_seconds: Family<EventLabel, Histogram, fn() -> Histogram>,
    /// Events of one commit.
    pub batch_events: Histogram,
    /// Rows of one commit.
    pub batch_rows: Histogram,
    /// Seconds of one commit.
    pub commit_seconds: Histogram,
    /// Commits that failed.
    pub commit_failures: Counter,
    /// Deployments that were woken, as the activity feed and the series of applications count them.
    pub wakes: Counter,
    /// Tasks that have not ended, by state.
    pub tasks: Family<StateLabel, Gauge>,
    /// 1 while this one leads.
    pub leader: Gauge,
    /// Orders that did not reach their node at once; its next heartbeat brings them.
    pub orders_undelivered: Counter,
}

impl Metrics {
    /// Adds them to `registry`.
    pub fn new(registry: &Registry) -> Self {
        // 1 to 4,096.
        let sizes = || Histogram::new(exponential_buckets(1.0, 2.0, 13));
        Self {
            decision_seconds: registry.register(
                "scheduler_decision_seconds",
                "From an event's arrival in the queue until it was decided",
                Family::new_with_constructor(seconds as fn() -> Histogram),
            ),
            batch_events: registry.register("scheduler_batch_events", "Events of one commit", sizes()),
            batch_rows: registry.register("scheduler_batch_rows", "Rows of one commit", sizes()),
            commit_seconds: registry.register("scheduler_commit_seconds", "Time of one commit", seconds()),
            commit_failures: registry.register(
                "scheduler_commit_failures",
                "Commits that failed",
                Counter::default(),
            ),
            wakes: registry.register(
                "scheduler_wakes",
                "Deployments that were woken",
                Counter::default(),
            ),
            tasks: registry.register("scheduler_tasks", "Tasks that have not ended", Family::default()),
            leader: registry.register(
                "scheduler_leader",
                "1 while this scheduler leads",
                Gauge::default(),
            ),
            orders_undelivered: registry.register(
                "scheduler_orders_undelivered",
                "Orders that did not reach their node at once",
                Counter::default(),
            ),
        }
    }

    /// An event of this kind was decided, so long after it was handed in.
    pub fn decided(&self, event: &'static str, after: Duration) {
        self.decision_seconds
            .get_or_create(&EventLabel { event })
            .observe(after.as_secs_f64());
    }
}

/// 0.1 ms to 3.3 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}
