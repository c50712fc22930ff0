//! What decisions cost without a database or a network: `cargo run --release -p zectre-scheduler-core --example decisions`.
//!
//! Prints, for fleets of simulated nodes, the time of all decisions, of the slowest ones, and the memory they take.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::{Duration, Instant},
};
use uuid::Uuid;
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, NodeId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{DeploymentRequest, DeploymentSpec},
    state::{DeploymentStatus, Health, OperationKind, TaskState},
    time::Time,
    wire::{
        agent::TaskReport,
        node::{Capacity, Enforcement},
        task::Phases,
    },
};
use zectre_scheduler_core::{
    Cluster, Command, Deployment, Environment, Event, NodeFacts, Operation, Settings, Snapshot, Source, step,
};

/// Tasks that fit on one node.
const TASKS_PER_NODE: u32 = 220;

struct Bench {
    cluster: Cluster,
    now: Time,
    spec: Arc<DeploymentSpec>,
    serial: u128,
    steps: Vec<Duration>,
    epoch: u64,
    starts: Vec<(NodeId, TaskReport)>,
}

fn main() {
    many(5_000, 1_000, 1_000);
    many(5_000, 100_000, 10);
    single(10_000, 20_000);
}

/// Deploys `deployments` of `replicas` each, and lets all of them run.
fn many(nodes: u32, deployments: u32, replicas: u32) {
    let mut bench = Bench::new(nodes, replicas);
    let started = Instant::now();
    for _ in 0..deployments {
        bench.deploy();
    }
    let placed = started.elapsed();
    let tasks = bench.starts.len();
    let slowest = bench.slowest();
    let running = bench.all_run();
    let heartbeats = bench.heartbeats(nodes);
    println!(
        "{nodes} nodes, {deployments} x {replicas}: {tasks} placed in {:.2} s ({:.2} us each), slowest deployment {slowest:?}; \
         running in {:.2} s ({:.2} us each); a digest of a full node {heartbeats:?}; {} MiB at most",
        placed.as_secs_f64(),
        placed.as_secs_f64() * 1e6 / tasks as f64,
        running.as_secs_f64(),
        running.as_secs_f64() * 1e6 / tasks as f64,
        peak_mib(),
    );
    assert_eq!(tasks as u32, deployments * replicas, "all were placed");
    assert_eq!(bench.cluster.count_in(TaskState::Running), tasks);
}

/// Deploys one replica at a time, and looks at how long each step takes.
fn single(nodes: u32, deployments: u32) {
    let mut bench = Bench::new(nodes, 1);
    for _ in 0..deployments {
        bench.deploy();
    }
    let mut steps = std::mem::take(&mut bench.steps);
    steps.sort_unstable();
    let at = |share: f64| steps[((steps.len() - 1) as f64 * share) as usize];
    println!(
        "{nodes} nodes, {deployments} x 1: p50 {:?}, p99 {:?}, max {:?}",
        at(0.5),
        at(0.99),
        at(1.0)
    );
}

impl Bench {
    fn new(nodes: u32, replicas: u32) -> Self {
        // As in config/default.toml.
        let settings = Settings {
            heartbeat: Duration::from_secs(2),
            node_lease: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(30),
            backoff_initial: Duration::from_millis(500),
            backoff_max: Duration::from_mins(1),
            backoff_reset: Duration::from_mins(1),
            rollout_failures_max: 3,
            max_runtime_secs_cap: 0,
        };
        let now = Time::from_unix_ms(1_000_000_000_000);
        let json = format!(r#"{{"replicas":{replicas},"idle_timeout_secs":0}}"#);
        let request: DeploymentRequest = serde_json::from_str(&json).expect("a valid request");
        let spec = request
            .resolve(&DeploymentRequest::default())
            .expect("a valid spec");
        let mut bench = Self {
            cluster: Cluster::load(settings, 1, Snapshot::default(), now),
            now,
            spec: Arc::new(spec),
            serial: 1 << 80,
            steps: Vec::new(),
            epoch: 1,
            starts: Vec::new(),
        };
        for index in 0..nodes {
            let id = NodeId::from_uuid(Uuid::from_u128(u128::from(index) + 1));
            let facts = bench.facts(index);
            bench.feed(Event::NodeRegistered { id, facts });
            let (heard_at, tasks) = (bench.now, Vec::new());
            bench.feed(Event::Heartbeat {
                node_id: id,
                heard_at,
                tasks,
            });
        }
        bench.steps.clear();
        bench
    }

    fn facts(&self, index: u32) -> NodeFacts {
        let resources = self.spec.resources;
        NodeFacts {
            name: format!("node-{index}"),
            address: format!("10.{}.{}.{}", index >> 16, (index >> 8) & 255, index & 255),
            actions_port: 1,
            labels: BTreeMap::new(),
            capacity: Capacity {
                cpu: CpuMillis(resources.cpu.0 * TASKS_PER_NODE),
                memory: MemoryBytes(resources.memory.0 * u64::from(TASKS_PER_NODE)),
                task_slots: TASKS_PER_NODE,
            },
            port_min: 20_000,
            port_max: 29_999,
            container_enabled: false,
            enforcement: Enforcement::default(),
        }
    }

    fn feed(&mut self, event: Event) {
        let started = Instant::now();
        let commands = step(&mut self.cluster, event, self.now);
        self.steps.push(started.elapsed());
        let raised = commands.contains(&Command::RaiseEpoch);
        for command in commands {
            if let Command::Start { node_id, task } = command {
                self.starts
                    .push((node_id, running(task.id, task.generation, self.now)));
            }
        }
        if raised {
            self.epoch += 1;
            let epoch = self.epoch;
            self.feed(Event::EpochRaised(epoch));
        }
    }

    fn fresh(&mut self) -> Uuid {
        self.serial += 1;
        Uuid::from_u128(self.serial)
    }

    fn deploy(&mut self) {
        let (id, environment_id) = (
            DeploymentId::from_uuid(self.fresh()),
            EnvironmentId::from_uuid(self.fresh()),
        );
        let application_id = ApplicationId::from_uuid(self.fresh());
        let environment = Environment {
            id: environment_id,
            application_id,
            slug: "development".into(),
            current: None,
            target: None,
            target_weight: None,
            open: BTreeSet::new(),
        };
        let deployment = deployment(id, &environment, self.spec.clone(), self.now);
        self.feed(Event::Loaded {
            environment,
            deployments: vec![deployment],
        });
        self.serial += 1;
        self.feed(Event::Operation(Operation {
            id: self.serial as i64,
            kind: OperationKind::Deploy,
            deployment_id: Some(id),
            task_id: None,
            node_id: None,
            actor: "user:bench".into(),
            request_id: None,
        }));
    }

    fn slowest(&self) -> Duration {
        self.steps.iter().copied().max().unwrap_or_default()
    }

    /// Every node says that what it was told to start runs, in calls of up to 100 tasks.
    fn all_run(&mut self) -> Duration {
        let mut by_node: BTreeMap<NodeId, Vec<TaskReport>> = BTreeMap::new();
        for (node_id, report) in std::mem::take(&mut self.starts) {
            by_node.entry(node_id).or_default().push(report);
        }
        let started = Instant::now();
        for (node_id, reports) in by_node {
            for tasks in reports.chunks(100) {
                let tasks = tasks.to_vec();
                self.feed(Event::TaskReports { node_id, tasks });
            }
        }
        started.elapsed()
    }

    /// What a full digest costs, on average over a hundred nodes.
    fn heartbeats(&mut self, nodes: u32) -> Duration {
        let mut digests: Vec<(NodeId, Vec<TaskReport>)> = Vec::new();
        for index in 0..nodes.min(100) {
            let node_id = NodeId::from_uuid(Uuid::from_u128(u128::from(index) + 1));
            let held = self
                .cluster
                .tasks()
                .filter(|task| task.node_id == Some(node_id))
                .map(|task| running(task.id, task.generation, self.now));
            digests.push((node_id, held.collect()));
        }
        let count = digests.len() as u32;
        let started = Instant::now();
        for (node_id, tasks) in digests {
            let heard_at = self.now;
            self.feed(Event::Heartbeat {
                node_id,
                heard_at,
                tasks,
            });
        }
        started.elapsed() / count.max(1)
    }
}

fn deployment(
    id: DeploymentId,
    environment: &Environment,
    spec: Arc<DeploymentSpec>,
    now: Time,
) -> Deployment {
    Deployment {
        id,
        application_id: environment.application_id,
        environment_id: environment.id,
        version: 1,
        artifact_id: None,
        source: Source::Ready,
        replicas: spec.replicas,
        idle_timeout_secs: spec.idle_timeout_secs,
        cold_start_enabled: spec.cold_start_enabled,
        spec,
        status: DeploymentStatus::Pending,
        reason: None,
        message: None,
        evidence: None,
        health: Health::Down,
        asleep: false,
        previous_id: None,
        created_at: now,
        rollout_started_at: None,
        promoted_at: None,
        finished_at: None,
        last_active_at: None,
        rollout_failures: 0,
        completed: BTreeSet::new(),
        backoff: BTreeMap::new(),
    }
}

fn running(task_id: zectre_common::id::TaskId, generation: u64, since: Time) -> TaskReport {
    TaskReport {
        task_id,
        generation,
        state: TaskState::Running,
        healthy: true,
        port: None,
        reason: None,
        message: None,
        exit_code: None,
        signal: None,
        last_probe: None,
        log_tail: Vec::new(),
        phases: Phases::default(),
        usage: None,
        since,
    }
}

/// The most memory that this process ever held, as the kernel counted it.
fn peak_mib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.and_then(|text| text.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
    kib.unwrap_or_default() / 1_024
}
