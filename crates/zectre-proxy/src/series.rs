//! What is told of each route and each task: gathered when someone looks, within bounds. `live::red` says what is counted,
//! and how it stays cheap.

use crate::{
    live::{
        Backend, Replica, Tally,
        red::{BOUNDS_US, CLASSES, Red, Sum},
    },
    tables::Tables,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::{MetricType, exemplar::Exemplar},
};
use std::{fmt, sync::Arc, time::Instant};
use zectre_service::named::OTHER;

/// Gathers it.
#[derive(Debug)]
pub struct Series {
    tables: Arc<Tables>,
    started: Instant,
}

/// One task, or the sum of the others.
struct Line {
    labels: Vec<(&'static str, String)>,
    in_flight: u64,
    requests: u64,
    failures: u64,
    connect_failures: u64,
    ejected: u64,
}

impl Series {
    /// Of these tables; `started` is where the proxy's clock starts.
    pub fn new(tables: Arc<Tables>, started: Instant) -> Self {
        Self { tables, started }
    }

    fn lines(&self) -> Vec<Line> {
        let now_ms = self.started.elapsed().as_millis() as u64;
        let backends = self.tables.ledger().backends();
        let is_out = |replica: &Replica| u64::from(replica.is_passed_over(now_ms));
        let own = backends.own.iter().map(|backend| {
            let (replica, tally) = (&backend.replica, backend.replica.tally());
            Line {
                labels: labels(backend),
                in_flight: u64::from(replica.in_flight()),
                requests: tally.requests,
                failures: tally.failures,
                connect_failures: tally.connect_failures,
                ejected: is_out(replica),
            }
        });
        let mut lines: Vec<Line> = own.collect();
        let mut tally = backends.departed;
        backends.other.iter().for_each(|replica| tally += replica.tally());
        if !backends.other.is_empty() || tally != Tally::default() {
            let names = ["app", "environment", "version", "task", "address"];
            lines.push(Line {
                labels: names.map(|name| (name, OTHER.to_owned())).to_vec(),
                in_flight: backends.other.iter().map(|r| u64::from(r.in_flight())).sum(),
                requests: tally.requests,
                failures: tally.failures,
                connect_failures: tally.connect_failures,
                ejected: backends.other.iter().map(|replica| is_out(replica)).sum(),
            });
        }
        lines
    }
}

fn labels(backend: &Backend) -> Vec<(&'static str, String)> {
    let (name, replica) = (backend.traffic.route().name(), &backend.replica);
    vec![
        ("app", name.app.to_string()),
        ("environment", name.environment.to_string()),
        ("version", backend.traffic.version().to_string()),
        ("task", replica.task().to_string()),
        ("address", format!("{}:{}", replica.address(), replica.port())),
    ]
}

impl Collector for Series {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let routes = self.tables.ledger().routes();
        let mut routes: Vec<(&Red, Sum)> = routes.iter().map(|red| (&**red, red.sum())).collect();
        // Where no route had to share, there is nothing to tell of those that do.
        routes.pop_if(|(_, sum)| *sum == Sum::default());
        encode_routes(&mut encoder, &routes)?;
        let nodes = self.tables.ledger().nodes();
        let mut nodes: Vec<(&Red, Sum)> = nodes.iter().map(|red| (&**red, red.sum())).collect();
        nodes.pop_if(|(_, sum)| *sum == Sum::default());
        encode_nodes(&mut encoder, &nodes)?;
        encode_backends(&mut encoder, &self.lines())
    }
}

const NONE: Option<&Exemplar<NoLabelSet, f64>> = None;

fn encode_routes(encoder: &mut DescriptorEncoder<'_>, routes: &[(&Red, Sum)]) -> Result<(), fmt::Error> {
    let labels = |red: &Red| {
        vec![
            ("app", red.app().to_owned()),
            ("environment", red.environment().to_owned()),
        ]
    };
    let help = "Requests of a route by class of status; gone: the client left before an answer";
    encode_classes(encoder, ("zectre_proxy_route_requests", help), routes, labels)?;
    let help = "From a request to the head of its answer, by route";
    encode_durations(encoder, ("zectre_proxy_route_seconds", help), routes, labels)?;
    let help = "Requests of a route under way, held ones and tunnels included";
    let mut family =
        encoder.encode_descriptor("zectre_proxy_route_in_flight", help, None, MetricType::Gauge)?;
    for (red, sum) in routes {
        family.encode_family(&labels(red))?.encode_gauge(&sum.in_flight)?;
    }
    Ok(())
}

fn encode_nodes(encoder: &mut DescriptorEncoder<'_>, nodes: &[(&Red, Sum)]) -> Result<(), fmt::Error> {
    // What is counted of a node has its id where an application's label would be.
    let labels = |red: &Red| vec![("node", red.app().to_owned())];
    let help = "Requests that the tasks of a node answered, by class of status";
    encode_classes(encoder, ("zectre_proxy_node_requests", help), nodes, labels)?;
    let help = "From a request to the head of its answer, by node";
    encode_durations(encoder, ("zectre_proxy_node_seconds", help), nodes, labels)
}

fn encode_classes(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counted: &[(&Red, Sum)],
    labels: fn(&Red) -> Vec<(&'static str, String)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (red, sum) in counted {
        for (class, count) in CLASSES.iter().zip(&sum.classes).filter(|(_, count)| **count > 0) {
            let mut labels = labels(red);
            labels.push(("class", (*class).to_owned()));
            family.encode_family(&labels)?.encode_counter(count, NONE)?;
        }
    }
    Ok(())
}

fn encode_durations(
    encoder: &mut DescriptorEncoder<'_>,
    (name, help): (&str, &str),
    counted: &[(&Red, Sum)],
    labels: fn(&Red) -> Vec<(&'static str, String)>,
) -> Result<(), fmt::Error> {
    let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    for (red, sum) in counted {
        let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6).chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(sum.durations).collect();
        family
            .encode_family(&labels(red))?
            .encode_histogram::<NoLabelSet>(
                sum.sum_us as f64 / 1e6,
                sum.durations.iter().sum(),
                &buckets,
                None,
            )?;
    }
    Ok(())
}

fn encode_backends(encoder: &mut DescriptorEncoder<'_>, lines: &[Line]) -> Result<(), fmt::Error> {
    type Of = fn(&Line) -> u64;
    let gauges: [(&str, &str, Of); 2] = [
        (
            "zectre_proxy_backend_in_flight",
            "Requests under way on a task",
            |line| line.in_flight,
        ),
        (
            "zectre_proxy_backend_ejected",
            "1 for a task that is passed over: it can't be reached, or fails its requests",
            |line| line.ejected,
        ),
    ];
    let counters: [(&str, &str, Of); 3] = [
        (
            "zectre_proxy_backend_requests",
            "Places given on a task, second tries included",
            |line| line.requests,
        ),
        (
            "zectre_proxy_backend_failures",
            "Requests that a task lost, left without an answer or answered with 5xx",
            |line| line.failures,
        ),
        (
            "zectre_proxy_backend_connect_failures",
            "Attempts to connect to a task that failed",
            |line| line.connect_failures,
        ),
    ];
    for (name, help, of) in gauges {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for line in lines {
            family.encode_family(&line.labels)?.encode_gauge(&of(line))?;
        }
    }
    for (name, help, of) in counters {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for line in lines {
            family
                .encode_family(&line.labels)?
                .encode_counter(&of(line), NONE)?;
        }
    }
    Ok(())
}
