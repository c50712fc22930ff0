//! An agent that runs no programs but speaks the protocol: it takes orders over HTTP, heartbeats, and reports.

use super::{PATIENCE, Scheduler, World};
use axum::{Json, Router, extract::State, routing::post};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    state::{Reason, TaskState},
    time::Time,
    wire::{
        agent::{Action, ActionKind, ActionsRequest, ActionsResponse, TaskOrder, TaskReport},
        node::{Capacity, Enforcement},
        scheduler::{
            HeartbeatRequest, HeartbeatResponse, RegisterRequest, RegisterResponse, TaskReportsRequest,
        },
        task::Phases,
    },
};
use zectre_service::{
    call::{CallError, Caller, Identity},
    key::NodeKey,
    listen,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::{self, name},
};

/// What the programs of this agent do.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Programs {
    /// They serve.
    Serve,
    /// They end at once with this code.
    Exit(i32),
}

#[derive(Default)]
struct Held {
    epoch: u64,
    reports: BTreeMap<TaskId, TaskReport>,
    starts: BTreeMap<TaskId, u32>,
    orders: BTreeMap<TaskId, TaskOrder>,
    stopped: BTreeSet<TaskId>,
    news: Vec<TaskReport>,
}

struct Inner {
    id: NodeId,
    key: NodeKey,
    schedulers: Vec<String>,
    caller: Caller,
    programs: Programs,
    held: Mutex<Held>,
    news: tokio::sync::Notify,
}

/// A node.
pub(crate) struct Agent {
    inner: Arc<Inner>,
    shutdown: Shutdown,
    tasks: Tasks,
}

pub(crate) fn report(task_id: TaskId, generation: u64, state: TaskState) -> TaskReport {
    TaskReport {
        task_id,
        generation,
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
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The rules of the protocol: no older epoch, no older generation, a repetition has no effect.
    fn obey(&self, epoch: u64, actions: Vec<Action>) -> ActionsResponse {
        let mut held = self.held();
        let (mut accepted, mut ignored) = (0, 0);
        for Action {
            task_id,
            generation,
            kind,
        } in actions
        {
            let known = held.reports.get(&task_id).map(|report| report.generation);
            if epoch < held.epoch || known.is_some_and(|known| generation <= known) {
                ignored += 1;
                continue;
            }
            accepted += 1;
            let news = match kind {
                ActionKind::Forget => {
                    held.reports.remove(&task_id);
                    continue;
                }
                ActionKind::Stop { .. } => {
                    held.stopped.insert(task_id);
                    report(task_id, generation, TaskState::Stopped)
                }
                ActionKind::Start { order } => {
                    *held.starts.entry(task_id).or_default() += 1;
                    held.orders.insert(task_id, *order);
                    match self.programs {
                        Programs::Serve => report(task_id, generation, TaskState::Running),
                        Programs::Exit(code) => TaskReport {
                            reason: Some(Reason::Exited),
                            message: Some(format!("it ended with exit code {code}")),
                            exit_code: Some(code),
                            ..report(
                                task_id,
                                generation,
                                if code == 0 {
                                    TaskState::Stopped
                                } else {
                                    TaskState::Failed
                                },
                            )
                        },
                    }
                }
            };
            held.reports.insert(task_id, news.clone());
            held.news.push(news);
        }
        held.epoch = held.epoch.max(epoch);
        drop(held);
        self.news.notify_one();
        ActionsResponse { accepted, ignored }
    }

    async fn say<B: serde::Serialize>(&self, path: &str, body: &B) -> Result<HeartbeatResponse, CallError> {
        let token = token::mint_node(&self.key, self.id, name::AGENT, name::SCHEDULER);
        let mut last = None;
        for scheduler in &self.schedulers {
            let url = format!("{scheduler}/api/v1/nodes/{path}");
            match self
                .caller
                .post_json_as(&url, &token, body, Duration::from_secs(2))
                .await
            {
                Ok(answer) => return Ok(answer),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("there is at least one scheduler"))
    }

    async fn live(self: Arc<Self>, stop: Shutdown) {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        loop {
            let answer = tokio::select! {
                () = stop.requested() => return,
                () = self.news.notified() => {
                    let tasks = std::mem::take(&mut self.held().news);
                    self.say("task-published-port", &TaskReportsRequest { node_id: self.id, tasks }).await
                }
                _ = beat.tick() => {
                    let tasks = self.held().reports.values().cloned().collect();
                    self.say("heartbeat", &HeartbeatRequest { node_id: self.id, tasks }).await
                }
            };
            // No scheduler at the moment: the next beat brings everything.
            if let Ok(answer) = answer {
                self.obey(answer.leader_epoch, answer.actions);
            }
        }
    }
}

async fn actions(
    State(agent): State<Arc<Inner>>,
    headers: http::HeaderMap,
    Json(request): Json<ActionsRequest>,
) -> Json<ActionsResponse> {
    let bearer = zectre_service::auth::bearer(&headers).expect("the scheduler authenticates");
    token::verify_for_node(&agent.key, agent.id, bearer).expect("with a token for this node");
    Json(agent.obey(request.leader_epoch, request.actions))
}

impl Agent {
    /// Joins the cluster and begins to heartbeat.
    pub(crate) async fn join(
        world: &World,
        name: &str,
        join_token: &str,
        programs: Programs,
        schedulers: &[&Scheduler],
    ) -> Self {
        let listener = listen::bind("agent", "agent", "127.0.0.1", 0)
            .await
            .expect("a free port");
        let caller = Caller::with_identity(Identity::Anonymous);
        let request = RegisterRequest {
            name: name.into(),
            address: "127.0.0.1".into(),
            actions_port: listener.local_addr().expect("bound").port(),
            labels: BTreeMap::new(),
            capacity: Capacity {
                cpu: CpuMillis(4_000),
                memory: MemoryBytes(4 << 30),
                task_slots: 50,
            },
            port_min: 20_000,
            port_max: 20_100,
            container_enabled: false,
            enforcement: Enforcement::default(),
        };
        let url = format!("{}/api/v1/nodes/register", schedulers[0].url);
        let answer: RegisterResponse = caller
            .post_json_as(&url, join_token, &request, PATIENCE)
            .await
            .expect("the token admits it");
        assert_eq!(
            zectre_service::key::node_key(&world.key, answer.node_id).to_hex(),
            answer.credential
        );
        let inner = Arc::new(Inner {
            id: answer.node_id,
            key: NodeKey::from_hex(&answer.credential).expect("a key"),
            schedulers: schedulers.iter().map(|scheduler| scheduler.url.clone()).collect(),
            caller,
            programs,
            held: Mutex::default(),
            news: tokio::sync::Notify::new(),
        });
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let router = Router::new()
            .route("/api/v1/actions", post(actions))
            .with_state(inner.clone());
        let router = Base::new("agent").wrap(router, Limits::default());
        let stop = shutdown.clone();
        tasks.spawn_brief(
            "http",
            server::serve(listener, router, Limits::default(), stop.clone()),
        );
        tasks.spawn_brief("heartbeats", inner.clone().live(stop));
        Self {
            inner,
            shutdown,
            tasks,
        }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.inner.id
    }

    /// How often each task was started.
    pub(crate) fn starts(&self) -> Vec<u32> {
        self.inner.held().starts.values().copied().collect()
    }

    /// Whether it was told to stop the task.
    pub(crate) fn has_stopped(&self, task: TaskId) -> bool {
        self.inner.held().stopped.contains(&task)
    }

    /// The order of some task.
    pub(crate) fn any_order(&self) -> TaskOrder {
        self.inner
            .held()
            .orders
            .values()
            .next()
            .cloned()
            .expect("something was started")
    }

    /// Tasks that run here.
    pub(crate) fn running(&self) -> usize {
        self.inner
            .held()
            .reports
            .values()
            .filter(|report| report.state == TaskState::Running)
            .count()
    }

    /// One program ends by itself.
    pub(crate) fn crash_one(&self) {
        let mut held = self.inner.held();
        let victim = held
            .reports
            .values_mut()
            .find(|report| report.state == TaskState::Running)
            .expect("one runs");
        (victim.state, victim.healthy, victim.reason, victim.signal) =
            (TaskState::Failed, false, Some(Reason::Exited), Some(9));
        let news = victim.clone();
        held.news.push(news);
        drop(held);
        self.inner.news.notify_one();
    }

    /// Falls silent.
    pub(crate) async fn vanish(&self) {
        self.shutdown.request();
        self.tasks.stop(PATIENCE).await;
    }
}
