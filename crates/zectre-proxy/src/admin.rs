//! `/routes`: what the proxy routes by, for the services that look into it. Names of hosts and addresses of tasks are
//! nobody else's business, also on this machine: programs of any tenant may run on it.

use crate::{
    live::{Acknowledgement, Replica, SLOW_START_STEPS},
    raw::ports::Ports,
    table::Table,
    tables::Tables,
};
use axum::{Json, Router, extract::State, response::IntoResponse, routing::get};
use http::HeaderMap;
use serde::Serialize;
use std::{collections::BTreeMap, sync::Arc, time::Instant};
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::DeploymentStatus,
};
use zectre_service::{auth, key::ServiceKey, problem::Failure};

const AUDIENCE: &str = "zectre-proxy";
const CALLERS: [&str; 2] = ["zectre-api", "zectre-scheduler"];

#[derive(Clone)]
struct Admin {
    tables: Arc<Tables>,
    ports: Arc<Ports>,
    key: ServiceKey,
    started: Instant,
}

#[derive(Debug, Serialize)]
struct Routes {
    epoch: u64,
    acknowledged: Option<Epochs>,
    hosts: BTreeMap<String, Option<DeploymentId>>,
    /// Where plain TCP is spoken, with the deployment that serves there.
    ports: BTreeMap<u16, Option<DeploymentId>>,
    /// Those of them that can't be listened at here, and why.
    ports_failed: BTreeMap<u16, String>,
    deployments: BTreeMap<DeploymentId, DeploymentView>,
}

#[derive(Debug, Serialize)]
struct Epochs {
    applied: u64,
    drained: u64,
}

#[derive(Debug, Serialize)]
struct DeploymentView {
    version: i32,
    status: DeploymentStatus,
    asleep: bool,
    in_flight: u32,
    held: u32,
    backends: Vec<BackendView>,
}

#[derive(Debug, Serialize)]
struct BackendView {
    task_id: TaskId,
    address: String,
    port: u16,
    in_flight: u32,
    /// Passed over, for whichever of the two reasons below.
    ejected: bool,
    /// For so long yet: a connection to it failed.
    unreachable_for_ms: u64,
    /// For so long yet: it failed one request after the other.
    suspect_for_ms: u64,
    /// Of its share of the requests, while it is new.
    slow_start_percent: u64,
    requests: u64,
    failures: u64,
    connect_failures: u64,
    /// New connections that were answered so late that more were opened meanwhile.
    slow_openings: u64,
    /// After the shortest rest that it ended without a word, within the last minute.
    closes_idle_after_ms: Option<u64>,
}

impl BackendView {
    fn new(replica: &Replica, now_ms: u64) -> Self {
        let tally = replica.tally();
        Self {
            task_id: replica.task(),
            address: replica.address().to_owned(),
            port: replica.port(),
            in_flight: replica.in_flight(),
            ejected: replica.is_passed_over(now_ms),
            unreachable_for_ms: replica.ejected_until_ms().saturating_sub(now_ms),
            suspect_for_ms: replica.suspect_until_ms().saturating_sub(now_ms),
            slow_start_percent: replica.share(now_ms) * 100 / SLOW_START_STEPS,
            requests: tally.requests,
            failures: tally.failures,
            connect_failures: tally.connect_failures,
            slow_openings: replica.pace().slow_openings(),
            closes_idle_after_ms: replica.lull().shortest().map(|rest| rest.as_millis() as u64),
        }
    }
}

/// The admin port's own routes.
pub(crate) fn router(tables: Arc<Tables>, ports: Arc<Ports>, key: ServiceKey, started: Instant) -> Router {
    Router::new().route("/routes", get(routes)).with_state(Admin {
        tables,
        ports,
        key,
        started,
    })
}

async fn routes(State(admin): State<Admin>, headers: HeaderMap) -> Result<impl IntoResponse, Failure> {
    auth::service(&admin.key, &headers, AUDIENCE, &CALLERS)?;
    Ok(Json(view(&admin)))
}

fn at_port(table: &Table, port: u16) -> Option<DeploymentId> {
    let serving = table.at_port(port)?.deployment(0)?;
    Some(serving.id)
}

fn view(admin: &Admin) -> Routes {
    let table = admin.tables.current();
    let now_ms = admin.started.elapsed().as_millis() as u64;
    let deployments = table.deployments().map(|deployment| {
        let backends = deployment.with_replicas(|replicas| {
            let backend = |replica: &Arc<Replica>| BackendView::new(replica, now_ms);
            replicas.iter().map(backend).collect()
        });
        let view = DeploymentView {
            version: deployment.version,
            status: deployment.status,
            asleep: deployment.is_asleep(),
            in_flight: deployment.traffic.in_flight(),
            held: deployment.traffic.held(),
            backends,
        };
        (deployment.id, view)
    });
    let epochs = |ack: Acknowledgement| Epochs {
        applied: ack.applied_epoch,
        drained: ack.drained_epoch,
    };
    Routes {
        epoch: table.epoch(),
        acknowledged: admin.tables.acknowledgement().map(epochs),
        hosts: table.hosts().collect(),
        ports: table
            .raw_ports()
            .map(|port| (port, at_port(&table, port)))
            .collect(),
        ports_failed: admin.ports.failed(),
        deployments: deployments.collect(),
    }
}
