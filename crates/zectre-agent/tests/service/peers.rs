//! The services around an agent: what they answer, and what they have seen.

use crate::world::JOIN_TOKEN;
use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{HeaderMap, StatusCode};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard},
};
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::DurationMs,
    wire::{
        agent::{Action, ActionKind, TaskOrder, TaskReport},
        log::{AppendLogsRequest, LogLine},
        scheduler::{
            HeartbeatRequest, HeartbeatResponse, NeededRequest, NeededResponse, RegisterRequest,
            RegisterResponse, TaskReportsRequest,
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
    /// What is ordered in answer to the report of an end.
    pub(crate) successors: Vec<Action>,
    pub(crate) api_is_away: bool,
    /// What is wanted, where the scheduler orders what differs from the digest.
    pub(crate) wanted: BTreeMap<TaskId, Wish>,
    /// The last reports of tasks that were wanted and have ended.
    pub(crate) ended: BTreeMap<TaskId, TaskReport>,
    /// Artifacts and images that the cluster needs.
    pub(crate) needed: BTreeSet<String>,
    /// How often it was asked what is needed.
    pub(crate) needed_asked: u32,
}

/// What is wanted of a task.
#[derive(Clone)]
pub(crate) struct Wish {
    pub(crate) order: Box<TaskOrder>,
    pub(crate) stop: bool,
}

impl Seen {
    /// What differs between the digest and what is wanted, as the scheduler finds it.
    fn differences(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        for (task_id, wish) in &self.wanted {
            let report = self.digest.iter().find(|report| report.task_id == *task_id);
            let (generation, kind) = match report {
                Some(report) if report.state.is_ended() => {
                    self.ended.insert(*task_id, report.clone());
                    (report.generation, ActionKind::Forget)
                }
                _ if wish.stop => {
                    let grace = DurationMs(2_000);
                    (2, ActionKind::Stop { grace })
                }
                Some(_) => continue,
                None => {
                    let order = wish.order.clone();
                    (1, ActionKind::Start { order })
                }
            };
            actions.push(Action {
                task_id: *task_id,
                generation,
                kind,
            });
        }
        let ended = &self.ended;
        self.wanted.retain(|task, _| !ended.contains_key(task));
        actions
    }
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
    let mut actions = std::mem::take(&mut seen.orders);
    actions.extend(seen.differences());
    Ok(Json(HeartbeatResponse {
        leader_epoch: 1,
        actions,
    }))
}

pub(crate) async fn needed(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<NeededRequest>,
) -> Result<Json<NeededResponse>, Failure> {
    assert_eq!(
        auth::node(&shared.key, &headers, name::SCHEDULER)?,
        request.node_id
    );
    let mut seen = shared.seen();
    seen.needed_asked += 1;
    let of = |names: Vec<String>| {
        names
            .into_iter()
            .filter(|name| seen.needed.contains(name))
            .collect()
    };
    Ok(Json(NeededResponse {
        artifacts: of(request.artifacts),
        images: of(request.images),
    }))
}

pub(crate) async fn reports(
    State(shared): State<Shared>,
    headers: HeaderMap,
    Json(request): Json<TaskReportsRequest>,
) -> Result<Json<HeartbeatResponse>, Failure> {
    assert_eq!(
        auth::node(&shared.key, &headers, name::SCHEDULER)?,
        request.node_id
    );
    let mut seen = shared.seen();
    let has_ended = request.tasks.iter().any(|task| task.state.is_ended());
    seen.reports.extend(request.tasks);
    let successors = &mut seen.successors;
    Ok(Json(HeartbeatResponse {
        leader_epoch: 1,
        actions: if has_ended {
            std::mem::take(successors)
        } else {
            Vec::new()
        },
    }))
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
