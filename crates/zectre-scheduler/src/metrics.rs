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
use zectre_common::id::NodeId;
use zectre_service::{
    metrics::Registry,
    named::{Named, OTHER},
};

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
    /// What was woken.
    pub wakes: WakeMetrics,
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
            wakes: WakeMetrics::new(registry),
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

/// A label for routes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    app: String,
    environment: String,
}

/// A label for nodes.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NodeLabel {
    node: String,
}

/// Wakes, as the series of applications and nodes count them. The first environments and nodes that something of was woken have
/// numbers of their own.
#[derive(Debug, Clone)]
pub struct WakeMetrics {
    all: Counter,
    routes: Family<RouteLabel, Counter>,
    nodes: Family<NodeLabel, Counter>,
    named_routes: Named<RouteLabel>,
    named_nodes: Named<NodeId>,
}

impl WakeMetrics {
    fn new(registry: &Registry) -> Self {
        Self {
            all: registry.register(
                "scheduler_wakes",
                "Deployments that were woken",
                Counter::default(),
            ),
            routes: registry.register(
                "scheduler_route_wakes",
                "Deployments of an environment that were woken",
                Family::default(),
            ),
            nodes: registry.register(
                "scheduler_node_wakes",
                "Wakes that something was started on a node for",
                Family::default(),
            ),
            named_routes: Named::default(),
            named_nodes: Named::default(),
        }
    }

    /// A deployment was woken, of the environment of this application's label; without one nobody knows whose it was.
    pub fn of_deployment(&self, name: Option<(String, &str)>) {
        self.all.inc();
        let named = name.map(|(app, environment)| RouteLabel {
            app,
            environment: environment.to_owned(),
        });
        let label = named.filter(|label| self.named_routes.has(label));
        let label = label.unwrap_or_else(|| RouteLabel {
            app: OTHER.to_owned(),
            environment: OTHER.to_owned(),
        });
        self.routes.get_or_create(&label).inc();
    }

    /// Something was started on a node for so many wakes.
    pub fn of_node(&self, node: NodeId, wakes: u64) {
        let node = if self.named_nodes.has(&node) {
            node.to_string()
        } else {
            OTHER.to_owned()
        };
        self.nodes.get_or_create(&NodeLabel { node }).inc_by(wakes);
    }
}

/// 0.1 ms to 3.3 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.0001, 2.0, 16))
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_service::named::NAMED_MAX;

    #[test]
    fn wakes_have_the_names_of_the_first_and_the_others_are_summed_up() {
        let registry = Registry::new();
        let wakes = WakeMetrics::new(&registry);
        wakes.of_deployment(Some(("shop-default".to_owned(), "production")));
        for number in 0..NAMED_MAX {
            wakes.of_deployment(Some((format!("app-{number}"), "production")));
            wakes.of_node(NodeId::new(), 2);
        }
        wakes.of_deployment(Some(("shop-default".to_owned(), "production")));
        wakes.of_deployment(None);
        wakes.of_node(NodeId::new(), 3);
        let text = registry.render();
        for line in [
            "zectre_scheduler_wakes_total 1003",
            "zectre_scheduler_route_wakes_total{app=\"shop-default\",environment=\"production\"} 2",
            "zectre_scheduler_route_wakes_total{app=\"other\",environment=\"other\"} 2",
            "zectre_scheduler_node_wakes_total{node=\"other\"} 3",
        ] {
            assert!(text.lines().any(|one| one == line), "{line} is not in {text}");
        }
        assert_eq!(
            text.matches("zectre_scheduler_route_wakes_total{").count(),
            NAMED_MAX + 1
        );
    }
}
