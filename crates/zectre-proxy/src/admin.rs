//! `/routes`: what the proxy routes by, for the services that look into it. Names of hosts and addresses of tasks are
//! nobody else's business, also on this machine: programs of any tenant may run on it.

use crate::{live::Acknowledgement, tables::Tables};
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
    key: ServiceKey,
    started: Instant,
}

#[derive(Debug, Serialize)]
struct Routes {
    epoch: u64,
    acknowledged: Option<Epochs>,
    hosts: BTreeMap<String, Option<DeploymentId>>,
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
    ejected: bool,
}

/// The admin port's own routes.
pub(crate) fn router(tables: Arc<Tables>, key: ServiceKey, started: Instant) -> Router {
    Router::new()
        .route("/routes", get(routes))
        .with_state(Admin { tables, key, started })
}

async fn routes(State(admin): State<Admin>, headers: HeaderMap) -> Result<impl IntoResponse, Failure> {
    auth::service(&admin.key, &headers, AUDIENCE, &CALLERS)?;
    Ok(Json(view(&admin)))
}

fn view(admin: &Admin) -> Routes {
    let table = admin.tables.current();
    let now_ms = admin.started.elapsed().as_millis() as u64;
    let deployments = table.deployments().map(|deployment| {
        let backends = deployment.with_replicas(|replicas| {
            let backend = |replica: &Arc<crate::live::Replica>| BackendView {
                task_id: replica.task(),
                address: replica.address().to_owned(),
                port: replica.port(),
                in_flight: replica.in_flight(),
                ejected: replica.ejected_until_ms() > now_ms || replica.is_suspect(now_ms),
            };
            replicas.iter().map(backend).collect()
        });
        let view = DeploymentView {
            version: deployment.version,
            status: deployment.status,
            asleep: deployment.asleep,
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
        deployments: deployments.collect(),
    }
}
