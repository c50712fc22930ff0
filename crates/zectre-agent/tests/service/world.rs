//! Everything around an agent, over real HTTP: a scheduler that registers it, gives orders and hears reports, a
//! registry that serves artifacts, and an API that stores lines.

use crate::{
    agent::{clear_tasks, guest_program},
    peers::{self, Shared},
};
use axum::{
    Router,
    routing::{get, post},
};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::net::TcpListener;
use zectre_common::{
    config::Config,
    id::{ArtifactId, DeploymentId, NodeId, TaskId},
    quantity::{CpuMillis, DurationMs, MemoryBytes},
    spec::{HealthCheck, ProcessType, Protocol, Resources, RestartPolicy},
    state::{ArtifactKind, Reason, TaskState},
    wire::{
        agent::{Action, ActionKind, ActionsRequest, ActionsResponse, ArtifactRef, TaskOrder, TaskReport},
        log::LogLine,
        scheduler::RegisterRequest,
    },
};
use zectre_service::{
    key::{KEY_BYTES, ServiceKey, node_key, to_hex},
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::{self, name},
};
use zectre_testkit::{free_port_range, wait_until};

/// Admits the node.
pub(crate) const JOIN_TOKEN: &str = "zj_test";
/// Nothing in these tests takes longer, or something is wrong.
const USUAL_DEADLINE_SECS: u64 = 30;

/// The same; on an emulated machine all takes its time.
pub(crate) fn deadline() -> Duration {
    let secs = std::env::var("ZECTRE_TEST_DEADLINE_SECS").ok();
    Duration::from_secs(
        secs.and_then(|secs| secs.parse().ok())
            .unwrap_or(USUAL_DEADLINE_SECS),
    )
}

/// A time-out that a program is given, longer by as much as the machine is slower.
pub(crate) fn patient(ms: u64) -> DurationMs {
    DurationMs(ms * deadline().as_secs() / USUAL_DEADLINE_SECS)
}

/// Waits until `holds`.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    wait_until(deadline(), what, async || holds().await.then_some(())).await;
}

/// The world, and what it has seen.
pub(crate) struct World {
    shared: Shared,
    url: String,
    ports: (u16, u16),
    ports_given: Mutex<u16>,
    /// The agent's.
    pub(crate) data_dir: tempfile::TempDir,
    shutdown: Shutdown,
    http: reqwest::Client,
    _tasks: Tasks,
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.request();
        clear_tasks(self.data_dir.path());
    }
}

impl World {
    /// A world without an agent yet.
    pub(crate) async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        Self::behind(listener.into_std().expect("a listener"))
    }

    /// One that is reached at `listener`, which may be of another network.
    pub(crate) fn behind(listener: std::net::TcpListener) -> Self {
        let shared = Shared {
            key: ServiceKey::from_bytes([7; KEY_BYTES]),
            seen: Arc::default(),
        };
        let router = Router::new()
            .route("/api/v1/nodes/register", post(peers::register))
            .route("/api/v1/nodes/heartbeat", post(peers::heartbeat))
            .route("/api/v1/nodes/task-published-port", post(peers::reports))
            .route("/api/v1/nodes/needed", post(peers::needed))
            .route("/api/v1/tasks/{id}/logs", post(peers::logs))
            .route("/artifacts/{sha256}", get(peers::artifact))
            .with_state(shared.clone());
        listener.set_nonblocking(true).expect("a socket can be");
        let listener = TcpListener::from_std(listener).expect("a listener");
        let url = format!("http://{}", listener.local_addr().expect("bound"));
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        let router = Base::new("world").wrap(router, Limits::default());
        tasks.spawn("world", |_| {
            server::serve(listener, router, Limits::default(), shutdown.clone())
        });
        let ports = free_port_range();
        Self {
            shared,
            url,
            ports,
            ports_given: Mutex::new(0),
            data_dir: tempfile::tempdir().expect("a directory"),
            shutdown,
            http: reqwest::Client::new(),
            _tasks: tasks,
        }
    }

    /// The configuration of the agent, as environment variables.
    pub(crate) fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("ZECTRE__AGENT__PORT", "0".into()),
            ("ZECTRE__AGENT__NAME", "node-1".into()),
            ("ZECTRE__AGENT__SCHEDULER_ADDRESS", self.url.clone()),
            ("ZECTRE__AGENT__JOIN_TOKEN", JOIN_TOKEN.into()),
            (
                "ZECTRE__AGENT__DATA_DIR",
                self.data_dir.path().display().to_string(),
            ),
            ("ZECTRE__AGENT__SHIM", env!("CARGO_BIN_EXE_zectre-shim").into()),
            ("ZECTRE__AGENT__PORT_MIN", self.ports.0.to_string()),
            ("ZECTRE__AGENT__PORT_MAX", self.ports.1.to_string()),
            ("ZECTRE__API__PUBLIC_URL", self.url.clone()),
            (
                "ZECTRE__LOGS__FILTER",
                std::env::var("TEST_LOG").unwrap_or_else(|_| "warn".into()),
            ),
        ]
    }

    /// The same for an agent within this process.
    pub(crate) fn config(&self) -> Config {
        let toml = self.settings().into_iter().map(|(key, value)| {
            let key = key
                .trim_start_matches("ZECTRE__")
                .replace("__", ".")
                .to_lowercase();
            let value = if value.parse::<u16>().is_ok() {
                value
            } else {
                format!("{value:?}")
            };
            format!("{key} = {value}\n")
        });
        Config::load_with(None, &toml.collect::<String>()).expect("valid settings")
    }

    /// A port of the agent's range that no other task of this world has.
    pub(crate) fn port(&self) -> u16 {
        let mut given = self.ports_given.lock().expect("not poisoned");
        *given += 1;
        let port = self.ports.0 + *given - 1;
        assert!(port <= self.ports.1, "too many tasks in one test");
        port
    }

    /// Publishes an artifact.
    pub(crate) fn artifact(&self, kind: ArtifactKind, bytes: Vec<u8>) -> ArtifactRef {
        let sha256 = to_hex(&Sha256::digest(&bytes));
        let artifact = ArtifactRef {
            id: ArtifactId::new(),
            kind,
            sha256: sha256.clone(),
            size: bytes.len() as u64,
            url: format!("{}/artifacts/{sha256}?signature=secret", self.url),
        };
        self.shared.seen().artifacts.insert(sha256, bytes);
        artifact
    }

    /// An order to run the guest program in `mode`.
    pub(crate) fn guest(&self, mode: &str) -> TaskOrder {
        let bytes = fs::read(guest_program()).expect("the guest was built");
        let mut order = self.order(self.artifact(ArtifactKind::Binary, bytes));
        order.env.insert("MODE".into(), mode.into());
        order
    }

    /// An order to run an artifact, with time-outs that no machine is too busy for.
    pub(crate) fn order(&self, artifact: ArtifactRef) -> TaskOrder {
        TaskOrder {
            deployment_id: DeploymentId::new(),
            application: "guest".into(),
            namespace: "default".into(),
            environment: "production".into(),
            process_type: ProcessType::Tish,
            artifact: Some(artifact),
            image: None,
            command: None,
            args: Vec::new(),
            env: BTreeMap::new(),
            port: self.port(),
            container_port: None,
            protocol: Protocol::Http,
            health_check: HealthCheck {
                path: None,
                interval: patient(100),
                timeout: patient(20_000),
                failures: 2,
                successes: 1,
                start_timeout: patient(30_000),
            },
            resources: Resources {
                cpu: CpuMillis(100),
                memory: MemoryBytes(64 << 20),
            },
            restart: RestartPolicy::Always,
            max_runtime_secs: None,
            stop_grace_secs: 20,
            volumes: Vec::new(),
        }
    }

    /// The node, once it has registered.
    pub(crate) async fn node(&self) -> (NodeId, RegisterRequest) {
        // A heartbeat says that the agent has its credential.
        until("the node registers", async || self.shared.seen().heartbeats > 0).await;
        self.shared.seen().node.clone().expect("just seen")
    }

    /// How many times an agent registered.
    pub(crate) fn registrations(&self) -> u32 {
        self.shared.seen().registrations
    }

    /// How many times an artifact was fetched.
    pub(crate) fn fetches(&self, artifact: &ArtifactRef) -> u32 {
        self.shared
            .seen()
            .fetches
            .get(&artifact.sha256)
            .copied()
            .unwrap_or(0)
    }

    /// Waits for the next heartbeat but one: it was made after this was called.
    pub(crate) async fn fresh_digest(&self) -> Vec<TaskReport> {
        let before = self.shared.seen().heartbeats;
        until("heartbeats", async || self.shared.seen().heartbeats >= before + 2).await;
        self.shared.seen().digest.clone()
    }

    /// Lets the next heartbeat's answer carry an order.
    pub(crate) fn order_by_heartbeat(&self, action: Action) {
        self.shared.seen().orders.push(action);
    }

    /// What has been seen, to look at and to change.
    pub(crate) fn seen(&self) -> MutexGuard<'_, peers::Seen> {
        self.shared.seen()
    }

    /// Wants a task: it is ordered by heartbeats until it is there.
    pub(crate) fn want(&self, order: TaskOrder) -> TaskId {
        let task_id = TaskId::new();
        let wish = peers::Wish {
            order: Box::new(order),
            stop: false,
        };
        self.shared.seen().wanted.insert(task_id, wish);
        task_id
    }

    /// Wants a task no more: it is stopped and forgotten by heartbeats.
    pub(crate) fn want_stopped(&self, task: TaskId) {
        if let Some(wish) = self.shared.seen().wanted.get_mut(&task) {
            wish.stop = true;
        }
    }

    /// The API stops or starts taking lines.
    pub(crate) fn api_is_away(&self, away: bool) {
        self.shared.seen().api_is_away = away;
    }

    /// Posts orders, as the scheduler of `epoch`.
    pub(crate) async fn send(
        &self,
        epoch: u64,
        actions: Vec<Action>,
    ) -> Result<ActionsResponse, (u16, String)> {
        let (node, registered) = self.node().await;
        let token = token::mint_node(
            &node_key(&self.shared.key, node),
            node,
            name::SCHEDULER,
            name::AGENT,
        );
        self.send_as(&token, &registered, epoch, actions).await
    }

    /// Posts orders with any token.
    pub(crate) async fn send_as(
        &self,
        token: &str,
        node: &RegisterRequest,
        epoch: u64,
        actions: Vec<Action>,
    ) -> Result<ActionsResponse, (u16, String)> {
        let url = format!("http://{}:{}/api/v1/actions", node.address, node.actions_port);
        let request = self.http.post(url).bearer_auth(token).json(&ActionsRequest {
            leader_epoch: epoch,
            actions,
        });
        let response = request.send().await.expect("the agent answers");
        let status = response.status();
        let body = response.text().await.expect("a body");
        if status.is_success() {
            Ok(serde_json::from_str(&body).expect("an answer"))
        } else {
            Err((status.as_u16(), body))
        }
    }

    /// GETs from the agent as the scheduler.
    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        let (node, _) = self.node().await;
        let token = token::mint_node(
            &node_key(&self.shared.key, node),
            node,
            name::SCHEDULER,
            name::AGENT,
        );
        self.get_as(&token, path).await
    }

    /// The same with any token.
    pub(crate) async fn get_as(&self, token: &str, path: &str) -> reqwest::Response {
        let (_, registered) = self.node().await;
        let url = format!("http://{}:{}{path}", registered.address, registered.actions_port);
        self.http
            .get(url)
            .bearer_auth(token)
            .send()
            .await
            .expect("the agent answers")
    }

    /// Starts a task.
    pub(crate) async fn start(&self, order: TaskOrder) -> TaskId {
        let task_id = TaskId::new();
        let action = Action {
            task_id,
            generation: 1,
            kind: ActionKind::Start {
                order: Box::new(order),
            },
        };
        let answer = self.send(1, vec![action]).await.expect("accepted");
        assert_eq!(
            answer,
            ActionsResponse {
                accepted: 1,
                ignored: 0
            }
        );
        task_id
    }

    /// Stops a task.
    pub(crate) async fn stop(&self, task_id: TaskId, grace_ms: u64) {
        let kind = ActionKind::Stop {
            grace: DurationMs(grace_ms),
        };
        self.send(
            1,
            vec![Action {
                task_id,
                generation: 2,
                kind,
            }],
        )
        .await
        .expect("accepted");
    }

    /// Every state that a task was reported in, in order.
    pub(crate) fn states(&self, task: TaskId) -> Vec<TaskState> {
        let seen = self.shared.seen();
        let mut states: Vec<_> = seen
            .reports
            .iter()
            .filter(|report| report.task_id == task)
            .map(|report| report.state)
            .collect();
        states.dedup();
        states
    }

    /// Waits until a task is reported in a state.
    pub(crate) async fn reported(&self, task: TaskId, state: TaskState) -> TaskReport {
        let find = || {
            let seen = self.shared.seen();
            // A digest may tell of an end before the news of it is sent, which then is no news any more.
            let ended = seen.ended.get(&task);
            let told = || seen.reports.iter().rev().find(|report| report.task_id == task);
            ended.or_else(told).cloned()
        };
        let what = format!("task {task} is {state}");
        until(&what, async || {
            let last = find();
            if let Some(report) = last
                .as_ref()
                .filter(|report| report.state.is_ended() && report.state != state)
            {
                panic!("{what}: it is {report:?}");
            }
            last.is_some_and(|report| report.state == state)
        })
        .await;
        find().expect("just seen")
    }

    /// Waits until a task has failed, and checks why.
    pub(crate) async fn failed(&self, task: TaskId, reason: Reason) -> TaskReport {
        let report = self.reported(task, TaskState::Failed).await;
        assert_eq!(report.reason, Some(reason), "{report:?}");
        assert!(!report.healthy && report.port.is_none(), "{report:?}");
        let is_said = report.message.as_ref().is_some_and(|said| !said.is_empty());
        assert!(is_said, "every failure has its sentence: {report:?}");
        report
    }

    /// Waits until the API has a line with this text.
    pub(crate) async fn logged(&self, task: TaskId, text: &str) -> Vec<LogLine> {
        let has = || self.lines(task).iter().any(|line| line.message.contains(text));
        until(&format!("`{text}` is logged"), async || has()).await;
        self.lines(task)
    }

    /// The lines the API has.
    pub(crate) fn lines(&self, task: TaskId) -> Vec<LogLine> {
        self.shared.seen().lines.get(&task).cloned().unwrap_or_default()
    }

    /// A task's directory on the node.
    pub(crate) fn task_dir(&self, task: TaskId) -> PathBuf {
        self.data_dir.path().join("tasks").join(task.to_string())
    }
}
