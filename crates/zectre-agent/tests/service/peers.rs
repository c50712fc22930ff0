//! The services around an agent: what they answer, and what they have seen.

use crate::world::JOIN_TOKEN;
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
};
use zectre_common::{
    id::{NodeId, TaskId},
    wire::{
        agent::{Action, TaskReport},
        log::{AppendLogsRequest, LogLine},
        scheduler::{
            HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse, TaskReportsRequest,
        },
    },
};
use zectre_service::{
    auth,
    extract::Json,
    key::{ServiceKey, node_key},
    problem::Failure,
    token::{self, name},
};

#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) node: Option<(NodeId, RegisterRequest)>,
    pub(crate) registrations: u32,
    pub(crate) heartbeats: u32,
    pub(crate) digest: Vec<TaskReport>,
    pub(crate) reports: Vec<TaskReport>,
    pub(crate) lines: HashMap<TaskId, Vec<LogLine>>,
    pub(crate) artifacts: HashMap<String, Vec<u8>>,
    pub(crate) fetches: HashMap<String, u32>,
    pub(crate) orders: Vec<Action>,
    pub(crate) api_is_away: bool,
}

#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) key: ServiceKey,
    pub(crate) seen: Arc<Mutex<Seen>>,
}

impl Shared {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no test panics while it holds this")
    }
}

pub(crate) async fn register(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<RegisterRequest>,
) -> Result<Json<RegisterResponse>, Failure> {
    let bearer = auth::bearer(&headers).ok_or_else(|| Failure::unauthorized("no token"))?;
    let mut seen = shared.seen();
    let node_id = match &seen.node {
        None if bearer == JOIN_TOKEN => NodeId::new(),
        Some((node, _)) if token::verify_node(&shared.key, bearer, name::SCHEDULER).as_ref() == Ok(node) => {
            *node
        }
        _ => return Err(Failure::unauthorized("refused")),
    };
    seen.node = Some((node_id, request));
    seen.registrations += 1;
    let credential = node_key(&shared.key, node_id).to_hex();
    Ok(Json(RegisterResponse {
        node_id,
        credential,
        heartbeat_ms: 100,
    }))
}

pub(crate) async fn heartbeat(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<HeartbeatRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    assert_eq!(
        auth::node(&shared.key, &headers, name::SCHEDULER)?,
        request.node_id
    );
    let mut seen = shared.seen();
    seen.heartbeats += 1;
    seen.digest = request.tasks;
    Ok(Json(HeartbeatResponse {
        leader_epoch: 1,
        actions: std::mem::take(&mut seen.orders),
    }))
}

pub(crate) async fn reports(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<TaskReportsRequest>,
) -> Result<StatusCode, Failure> {
    assert_eq!(
        auth::node(&shared.key, &headers, name::SCHEDULER)?,
        request.node_id
    );
    shared.seen().reports.extend(request.tasks);
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn logs(
    State(shared): State<Shared>,
    Path(task): Path<TaskId>,
    headers: HeaderMap,
    Json(request): Json<AppendLogsRequest>,
) -> Result<StatusCode, Failure> {
    auth::node(&shared.key, &headers, name::API)?;
    let mut seen = shared.seen();
    if seen.api_is_away {
        return Err(Failure::unavailable("AWAY", "away", 1));
    }
    let lines = seen.lines.entry(task).or_default();
    let last = lines.last().map_or(0, |line| line.seq);
    lines.extend(request.lines.into_iter().filter(|line| line.seq > last));
    Ok(StatusCode::NO_CONTENT)
}

pub(crate) async fn artifact(
    State(shared): State<Shared>,
    Path(sha256): Path<String>,
) -> Result<Response, Failure> {
    let mut seen = shared.seen();
    *seen.fetches.entry(sha256.clone()).or_default() += 1;
    let bytes = seen
        .artifacts
        .get(&sha256)
        .cloned()
        .ok_or_else(|| Failure::not_found("no such artifact"))?;
    Ok(Response::new(Body::from(bytes)))
}
