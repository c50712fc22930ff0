//! What agents say, and what is known about nodes.

use super::App;
use crate::{
    core::{Event, Node, NodeFacts},
    error::Error,
    leader::Term,
    order::Order,
    store::Admission,
};
use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use http::HeaderMap;
use sha2::{Digest, Sha256};
use zectre_common::{
    id::NodeId,
    time::Time,
    wire::{
        agent::TaskReport,
        node::Node as NodeView,
        scheduler::{
            HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse, TaskReportsRequest,
        },
    },
};
use zectre_service::{
    auth,
    extract::{Json, Path},
    key::node_key,
    problem::Failure,
    token::name,
};

/// What join tokens begin with.
const JOIN_PREFIX: &str = "zj_";
/// The most tasks in one message of an agent.
const REPORTS_MAX: usize = 10_000;

/// `POST /nodes/register`
pub(super) async fn register(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<RegisterRequest>,
) -> Result<Json<RegisterResponse>, Failure> {
    let facts = facts_of(request)?;
    let engine = app.term()?.engine;
    let bearer = auth::bearer(&headers).unwrap_or_default();
    let (admission, stranger) = if bearer.starts_with(JOIN_PREFIX) {
        let admission = app.store.admit(&join_hash(bearer), &facts).await;
        (admission, Error::JoinToken)
    } else {
        let id = auth::node(&app.key, &headers, name::SCHEDULER)?;
        let admission = app.store.readmit(id, &facts.name).await;
        (admission, Error::UnknownNode(id))
    };
    let node_id = match admission.map_err(Error::from)? {
        Admission::Node(id) => id,
        Admission::Unknown => return Err(stranger.into()),
        Admission::NameTaken(address) => {
            let name = facts.name;
            return Err(Error::NodeNameTaken { name, address }.into());
        }
    };
    engine.apply(Event::NodeRegistered { id: node_id, facts }).await?;
    let credential = node_key(&app.key, node_id).to_hex();
    let heartbeat_ms = app.settings.heartbeat.as_millis() as u64;
    Ok(Json(RegisterResponse {
        node_id,
        credential,
        heartbeat_ms,
    }))
}

/// Nobody's body is read before it is known who speaks: a node's token, or something that may be a join token.
pub(super) async fn identified(
    State(app): State<App>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let joins = auth::bearer(request.headers()).is_some_and(|bearer| bearer.starts_with(JOIN_PREFIX));
    if !joins {
        auth::node(&app.key, request.headers(), name::SCHEDULER)?;
    }
    Ok(next.run(request).await)
}

/// A token is random: a plain hash of its text is enough, and comparing hashes leaks nothing of it.
fn join_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

fn facts_of(request: RegisterRequest) -> Result<NodeFacts, Failure> {
    let refuse = |field: &str, message: &str| {
        Failure::bad_request("INVALID_INPUT", format!("{field}: {message}")).with_field(field, message)
    };
    if request.name.is_empty() || request.name.len() > 253 {
        return Err(refuse("name", "a node's name has 1 to 253 characters"));
    }
    if request.address.is_empty() || request.address.len() > 253 {
        return Err(refuse("address", "a host name or IP address"));
    }
    if request.port_min == 0 || request.port_min > request.port_max {
        return Err(refuse("port_min", "must be above 0 and not above port_max"));
    }
    if i64::try_from(request.capacity.memory.0).is_err()
        || i32::try_from(request.capacity.task_slots).is_err()
    {
        return Err(refuse("capacity", "more than any machine has"));
    }
    Ok(NodeFacts {
        name: request.name,
        address: request.address,
        actions_port: request.actions_port,
        labels: request.labels,
        capacity: request.capacity,
        port_min: request.port_min,
        port_max: request.port_max,
        container_enabled: request.container_enabled,
        enforcement: request.enforcement,
    })
}

/// `POST /nodes/heartbeat`
pub(super) async fn heartbeat(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<HeartbeatRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    let heard_at = Time::now();
    let term = app.term()?;
    let node_id = speaker(&app, &headers, request.node_id, &request.tasks)?;
    app.usage.told(&request.tasks);
    let answer = term
        .engine
        .apply(Event::Heartbeat {
            node_id,
            heard_at,
            tasks: request.tasks,
        })
        .await?;
    if !answer.known {
        return Err(Error::UnknownNode(node_id).into());
    }
    respond(&app, &term, node_id, answer.orders).await
}

/// `POST /nodes/task-published-port`
pub(super) async fn reports(
    State(app): State<App>,
    headers: HeaderMap,
    Json(request): Json<TaskReportsRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    let term = app.term()?;
    let node_id = speaker(&app, &headers, request.node_id, &request.tasks)?;
    let answer = term
        .engine
        .apply(Event::TaskReports {
            node_id,
            tasks: request.tasks,
        })
        .await?;
    respond(&app, &term, node_id, answer.orders).await
}

/// The orders for the node that spoke; starts that can't be made end their tasks.
async fn respond(
    app: &App,
    term: &Term,
    node_id: NodeId,
    orders: Vec<Order>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    let composed = app.composer.compose(orders).await?;
    if !composed.failures.is_empty() {
        term.engine
            .send(Event::TaskReports {
                node_id,
                tasks: composed.failures,
            })
            .await?;
    }
    Ok(Json(HeartbeatResponse {
        leader_epoch: term.epoch,
        actions: composed.actions,
    }))
}

/// A node speaks for itself only.
fn speaker(app: &App, headers: &HeaderMap, claimed: NodeId, tasks: &[TaskReport]) -> Result<NodeId, Failure> {
    let node_id = auth::node(&app.key, headers, name::SCHEDULER)?;
    if node_id != claimed {
        return Err(Failure::forbidden(
            "a node speaks for itself only: node_id is not the one of the token",
        ));
    }
    if tasks.len() > REPORTS_MAX {
        return Err(Failure::bad_request(
            "TOO_MANY_TASKS",
            format!("at most {REPORTS_MAX} tasks in one message"),
        ));
    }
    Ok(node_id)
}

/// `GET /nodes`
pub(super) async fn list(State(app): State<App>) -> Result<Json<Vec<NodeView>>, Failure> {
    let nodes = app
        .term()?
        .engine
        .look(|cluster| cluster.nodes().map(view).collect())
        .await?;
    Ok(Json(nodes))
}

/// `GET /nodes/{id}`
pub(super) async fn show(State(app): State<App>, Path(id): Path<NodeId>) -> Result<Json<NodeView>, Failure> {
    let node = app
        .term()?
        .engine
        .look(move |cluster| cluster.node(id).map(view))
        .await?;
    node.map(Json)
        .ok_or_else(|| Failure::not_found(format!("there is no node {id}")))
}

fn view(node: &Node) -> NodeView {
    let facts = &node.facts;
    NodeView {
        id: node.id,
        name: facts.name.clone(),
        address: facts.address.clone(),
        actions_port: facts.actions_port,
        labels: facts.labels.clone(),
        capacity: facts.capacity,
        used: node.used,
        container_enabled: facts.container_enabled,
        eligibility: node.eligibility,
        status: node.status,
        lease_expires_at: node.lease_expires_at,
        enforcement: facts.enforcement.clone(),
        registered_at: node.registered_at,
    }
}
