//! The agents of the benchmark: HTTP endpoints, one address each, in this process. They take orders, answer, and
//! send heartbeats with their full digest over HTTP as agents do; they don't run programs, write orders to disk or
//! check the scheduler's tokens, and their heartbeats share connections.

use crate::{sample::Samples, schedule::store};
use axum::{
    Json, Router,
    extract::{DefaultBodyLimit, State},
    http::{HeaderMap, header::HOST},
    routing::post,
};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, task::JoinSet};
use zectre_common::{
    id::{NodeId, TaskId},
    state::TaskState,
    time::Time,
    wire::{
        agent::{ActionsResponse, TaskReport},
        scheduler::{HeartbeatRequest, HeartbeatResponse, TaskReportsRequest},
        task::Phases,
    },
};
use zectre_service::{
    call::{Caller, Identity},
    key::{NodeKey, ServiceKey, node_key},
    token::{self, name},
};

/// How long the scheduler may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Nodes that speak at the same moment when all are to speak at once.
const REPORTERS: usize = 64;

/// What is read of an order: agents need all of it, this one needs to know that it came.
#[derive(Deserialize)]
struct Order {
    task_id: TaskId,
    generation: u64,
    kind: String,
}

#[derive(Deserialize)]
struct Orders {
    actions: Vec<Order>,
}

struct Node {
    id: NodeId,
    key: NodeKey,
    tasks: Mutex<BTreeMap<TaskId, u64>>,
}

/// All nodes.
pub(crate) struct Fleet {
    scheduler: String,
    caller: Caller,
    nodes: Vec<Node>,
    by_address: HashMap<String, usize>,
    /// Tasks that were ordered.
    started: AtomicUsize,
    /// Orders that were here before, by a heartbeat that overtook a message.
    repeated: AtomicUsize,
    /// Whether their programs are up.
    running: AtomicBool,
    /// How long heartbeats took to be answered.
    beats: Mutex<Samples>,
    failed_beats: AtomicUsize,
}

impl Node {
    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, u64>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn digest(&self, state: TaskState) -> Vec<TaskReport> {
        let report = |(task_id, generation): (&TaskId, &u64)| TaskReport {
            task_id: *task_id,
            generation: *generation,
            state,
            healthy: state == TaskState::Running,
            port: None,
            reason: None,
            message: None,
            exit_code: None,
            signal: None,
            last_probe: None,
            log_tail: Vec::new(),
            phases: Phases::default(),
            usage: None,
            since: Time::now(),
        };
        self.tasks().iter().map(report).collect()
    }
}

impl Fleet {
    /// Takes orders on `listener` for these nodes.
    pub(crate) fn start(
        listener: TcpListener,
        ids: &[NodeId],
        key: &ServiceKey,
        scheduler: &str,
        work: &mut JoinSet<()>,
    ) -> Arc<Self> {
        let node = |id: &NodeId| Node {
            id: *id,
            key: node_key(key, *id),
            tasks: Mutex::default(),
        };
        let fleet = Arc::new(Self {
            scheduler: scheduler.to_owned(),
            caller: Caller::with_identity(Identity::Anonymous),
            nodes: ids.iter().map(node).collect(),
            by_address: (0..ids.len())
                .map(|index| (store::address(index), index))
                .collect(),
            started: AtomicUsize::new(0),
            repeated: AtomicUsize::new(0),
            running: AtomicBool::new(false),
            beats: Mutex::default(),
            failed_beats: AtomicUsize::new(0),
        });
        let router = Router::new()
            .route("/api/v1/actions", post(take))
            .layer(DefaultBodyLimit::disable())
            .with_state(fleet.clone());
        work.spawn(async move {
            axum::serve(listener, router).await.expect("it serves");
        });
        fleet
    }

    /// Every node sends a heartbeat each `interval`, spread evenly.
    pub(crate) fn beat(self: &Arc<Self>, interval: Duration, work: &mut JoinSet<()>) {
        for index in 0..self.nodes.len() {
            let fleet = self.clone();
            let begin = Instant::now() + interval * index as u32 / self.nodes.len() as u32;
            work.spawn(async move {
                let mut tick = tokio::time::interval_at(begin.into(), interval);
                tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
                loop {
                    tick.tick().await;
                    fleet.beat_once(&fleet.nodes[index]).await;
                }
            });
        }
    }

    /// Every node is heard once: a node takes tasks from its first heartbeat on, and a fleet that has just come up is
    /// not what is measured.
    pub(crate) async fn greet(self: &Arc<Self>) {
        let mut greetings = JoinSet::new();
        for index in 0..self.nodes.len() {
            if greetings.len() >= REPORTERS {
                drop(greetings.join_next().await);
            }
            let fleet = self.clone();
            greetings.spawn(async move { fleet.beat_once(&fleet.nodes[index]).await });
        }
        drop(greetings.join_all().await);
        let (heard, failed) = self.take_beats();
        assert_eq!(
            (heard.len(), failed),
            (self.nodes.len(), 0),
            "every node is heard"
        );
    }

    async fn beat_once(&self, node: &Node) {
        let state = if self.running.load(Ordering::Relaxed) {
            TaskState::Running
        } else {
            TaskState::Starting
        };
        let request = HeartbeatRequest {
            node_id: node.id,
            tasks: node.digest(state),
        };
        let began = Instant::now();
        match self.say(node, "heartbeat", &request).await {
            Some(answer) => {
                self.beats
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(began.elapsed());
                let orders = answer.actions.into_iter().filter_map(|action| {
                    matches!(action.kind, zectre_common::wire::agent::ActionKind::Start { .. })
                        .then_some((action.task_id, action.generation))
                });
                self.accept(node, orders);
            }
            None => drop(self.failed_beats.fetch_add(1, Ordering::Relaxed)),
        }
    }

    async fn say<B: serde::Serialize>(&self, node: &Node, path: &str, body: &B) -> Option<HeartbeatResponse> {
        let url = format!("{}/api/v1/nodes/{path}", self.scheduler);
        let token = token::mint_node(&node.key, node.id, name::AGENT, name::SCHEDULER);
        self.caller
            .post_json_as(&url, &token, body, ANSWER_TIMEOUT)
            .await
            .ok()
    }

    fn accept(&self, node: &Node, orders: impl Iterator<Item = (TaskId, u64)>) -> u32 {
        let mut tasks = node.tasks();
        let mut new = 0;
        for (task, generation) in orders {
            match tasks.insert(task, generation) {
                None => new += 1,
                Some(_) => drop(self.repeated.fetch_add(1, Ordering::Relaxed)),
            }
        }
        self.started.fetch_add(new, Ordering::Relaxed);
        new as u32
    }

    /// Tasks that nodes were told to start, and orders that came again.
    pub(crate) fn ordered(&self) -> (usize, usize) {
        (
            self.started.load(Ordering::Relaxed),
            self.repeated.load(Ordering::Relaxed),
        )
    }

    /// Heartbeats so far: the times until their answers, and how many had none. Counted anew from here on.
    pub(crate) fn take_beats(&self) -> (Samples, usize) {
        let beats = std::mem::take(&mut *self.beats.lock().unwrap_or_else(PoisonError::into_inner));
        (beats, self.failed_beats.swap(0, Ordering::Relaxed))
    }

    /// Every node reports that its programs are up; returns when all of that is committed.
    pub(crate) async fn run_all(self: &Arc<Self>) {
        self.running.store(true, Ordering::Relaxed);
        let mut reports = JoinSet::new();
        for index in 0..self.nodes.len() {
            if reports.len() >= REPORTERS {
                reports.join_next().await;
            }
            let fleet = self.clone();
            reports.spawn(async move {
                let node = &fleet.nodes[index];
                let (node_id, tasks) = (node.id, node.digest(TaskState::Running));
                let request = TaskReportsRequest { node_id, tasks };
                while fleet.say(node, "task-published-port", &request).await.is_none() {}
            });
        }
        reports.join_all().await;
    }
}

async fn take(
    State(fleet): State<Arc<Fleet>>,
    headers: HeaderMap,
    Json(orders): Json<Orders>,
) -> Json<ActionsResponse> {
    let host = headers
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let address = host.rsplit_once(':').map_or(host, |(address, _)| address);
    let node = &fleet.nodes[*fleet
        .by_address
        .get(address)
        .expect("the address of one of the nodes")];
    let count = orders.actions.len() as u32;
    let starts = orders.actions.into_iter().filter(|order| order.kind == "start");
    let accepted = fleet.accept(node, starts.map(|order| (order.task_id, order.generation)));
    Json(ActionsResponse {
        accepted,
        ignored: count - accepted,
    })
}
