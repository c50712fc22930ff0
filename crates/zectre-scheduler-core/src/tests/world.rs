//! A model of everything around the core. It keeps the "database" from the saved rows alone, and checks the
//! invariants after every step.

use crate::*;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use zectre_common::{
    id::{ApplicationId, DeploymentId, EnvironmentId, NodeId, ProxyId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{DeploymentRequest, DeploymentSpec},
    state::{DeploymentStatus, Health, OperationKind},
    time::Time,
    wire::{
        agent::TaskReport,
        node::{Capacity, Enforcement},
    },
};

/// How the program of a deployment behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Program {
    Serves,
    Exits(i32),
    Hangs,
}

/// A node's agent.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) id: NodeId,
    pub(super) up: bool,
    pub(super) held: BTreeMap<TaskId, TaskReport>,
    pub(super) started: BTreeMap<TaskId, u32>,
}

/// A proxy, with the tasks that it sends requests to.
#[derive(Debug)]
pub(super) struct ModelProxy {
    pub(super) id: ProxyId,
    pub(super) live: bool,
    pub(super) table: BTreeSet<TaskId>,
    lease_expires_at: Time,
    applied: u64,
    drained: u64,
}

/// What a transaction of the shell would have written.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(super) environments: BTreeMap<EnvironmentId, Environment>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
}

pub(super) struct World {
    pub(super) cluster: Cluster,
    pub(super) now: Time,
    pub(super) rows: Rows,
    pub(super) agents: Vec<Agent>,
    pub(super) proxies: Vec<ModelProxy>,
    pub(super) undelivered: Vec<Command>,
    pub(super) programs: BTreeMap<DeploymentId, Program>,
    pub(super) versions: Vec<DeploymentId>,
    pub(super) environment: EnvironmentId,
    pub(super) answers: Vec<Command>,
    /// Of which those who wait were told to ask anew.
    pub(super) displaced: Vec<DeploymentId>,
    pub(super) happenings: Vec<Happening>,
    /// Wakes that nodes were counted.
    pub(super) woken: BTreeMap<NodeId, u32>,
    pub(super) epoch: u64,
    pub(super) serial: u128,
    pub(super) operations: i64,
}

pub(super) fn settings() -> Settings {
    Settings {
        heartbeat: Duration::from_secs(2),
        node_lease: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(30),
        backoff_initial: Duration::from_millis(500),
        backoff_max: Duration::from_mins(1),
        backoff_reset: Duration::from_mins(1),
        rollout_failures_max: 3,
        max_runtime_secs_cap: 0,
    }
}

pub(super) fn facts(name: &str, cpu: u32, memory_mib: u64, slots: u32) -> NodeFacts {
    NodeFacts {
        name: name.into(),
        address: format!("{name}.test"),
        actions_port: 1,
        labels: BTreeMap::new(),
        capacity: Capacity {
            cpu: CpuMillis(cpu),
            memory: MemoryBytes(memory_mib << 20),
            task_slots: slots,
        },
        port_min: 20_000,
        port_max: 20_063,
        container_enabled: false,
        enforcement: Enforcement::default(),
    }
}

pub(super) fn spec(json: &str) -> DeploymentSpec {
    let request: DeploymentRequest = serde_json::from_str(json).expect("a valid request");
    request
        .resolve(&DeploymentRequest::default())
        .expect("a valid spec")
}

impl World {
    pub(super) fn new(nodes: usize, proxies: usize) -> Self {
        let now = Time::from_unix_ms(1_000_000_000_000);
        let mut world = Self {
            cluster: Cluster::load(settings(), 7, Snapshot::default(), now),
            now,
            rows: Rows::default(),
            agents: Vec::new(),
            proxies: Vec::new(),
            undelivered: Vec::new(),
            programs: BTreeMap::new(),
            versions: Vec::new(),
            environment: EnvironmentId::from_uuid(uuid::Uuid::from_u128(1)),
            answers: Vec::new(),
            displaced: Vec::new(),
            happenings: Vec::new(),
            woken: BTreeMap::new(),
            epoch: 1,
            operations: 0,
            serial: 100,
        };
        for index in 0..nodes {
            let id = NodeId::from_uuid(world.fresh());
            world.agents.push(Agent {
                id,
                up: true,
                held: BTreeMap::new(),
                started: BTreeMap::new(),
            });
            world.join(id, facts(&format!("n{index}"), 1_000, 1_280, 8));
        }
        for _ in 0..proxies {
            world.add_proxy();
        }
        world
    }

    fn fresh(&mut self) -> uuid::Uuid {
        self.serial += 1;
        uuid::Uuid::from_u128(self.serial)
    }

    /// A node registers and tells its first digest: it runs nothing.
    pub(super) fn join(&mut self, id: NodeId, facts: NodeFacts) {
        self.feed(Event::NodeRegistered { id, facts });
        self.digest(id, Vec::new());
    }

    /// A node's digest arrives.
    pub(super) fn digest(&mut self, node_id: NodeId, tasks: Vec<TaskReport>) {
        let heard_at = self.now;
        self.feed(Event::Heartbeat {
            node_id,
            heard_at,
            tasks,
        });
    }

    pub(super) fn add_proxy(&mut self) {
        let id = ProxyId::from_uuid(self.fresh());
        self.proxies.push(ModelProxy {
            id,
            live: true,
            table: BTreeSet::new(),
            lease_expires_at: self.now,
            applied: 0,
            drained: 0,
        });
        let index = self.proxies.len() - 1;
        self.proxy_applies(index, true);
    }

    /// One step with its commit; what must be sent is kept until somebody delivers it.
    pub(super) fn feed(&mut self, event: Event) {
        let before = self.routed();
        let environment = self.cluster.environment(self.environment);
        let rolled = environment.and_then(|environment| environment.target);
        // Where what serves is asleep nothing is promised to stay: the next request waits for a start.
        let current = environment.and_then(|environment| environment.current);
        let served = current.and_then(|id| self.cluster.deployment(id));
        let asleep = served.is_some_and(|deployment| deployment.asleep);
        // Whoever asks to go back gets it at once where nothing else is ready: what served until then is the measure.
        let served = current.filter(|_| matches!(event, Event::Operation(_)));
        // What a person asks for takes nothing away either, but for what is to sleep or to go.
        let calm = match &event {
            _ if asleep => false,
            Event::Tick | Event::TaskReports { .. } | Event::ProxyReport(_) | Event::EpochRaised(_) => true,
            Event::Operation(operation) => !matches!(
                operation.kind,
                OperationKind::Sleep | OperationKind::Delete | OperationKind::StopTask
            ),
            _ => false,
        };
        let commands = step(&mut self.cluster, event, self.now);
        let raised = commands.contains(&Command::RaiseEpoch);
        self.epoch += u64::from(raised);
        for command in commands {
            self.carry_out(command);
        }
        self.check();
        if calm {
            self.check_availability(&before, rolled, served);
        }
        self.check_confirmed();
        if raised {
            self.feed(Event::EpochRaised(self.epoch));
        }
    }

    fn carry_out(&mut self, command: Command) {
        match command {
            Command::SaveTask(mut task) => {
                if task.unrouted == Unrouted::Awaited {
                    task.unrouted = Unrouted::At(self.epoch);
                }
                task.seen_at = None;
                self.rows.tasks.insert(task.id, *task);
            }
            Command::SaveDeployment(row) => drop(self.rows.deployments.insert(row.id, *row)),
            Command::SaveEnvironment(row) => drop(self.rows.environments.insert(row.id, row)),
            Command::SaveNode(row) => drop(self.rows.nodes.insert(row.id, *row)),
            Command::Stop { task_id, .. } => {
                // Invariant 4: nobody sends it requests any more.
                for proxy in self
                    .proxies
                    .iter()
                    .filter(|proxy| proxy.live && proxy.lease_expires_at > self.now)
                {
                    // Of a deployment that was deleted outright nothing is known any more.
                    let known = self.rows.tasks.contains_key(&task_id);
                    assert!(
                        !known || !proxy.table.contains(&task_id),
                        "a task is stopped that a proxy still routes to"
                    );
                }
                self.undelivered.push(command);
            }
            Command::Start { .. } | Command::Forget { .. } => self.undelivered.push(command),
            Command::Ready(_) | Command::WakeFailed { .. } => self.answers.push(command),
            Command::Woken { node_id } => *self.woken.entry(node_id).or_default() += 1,
            Command::Displaced(id) => self.displaced.push(id),
            Command::Record(happening) => self.happenings.push(*happening),
            Command::RaiseEpoch | Command::Asleep(_) | Command::OperationApplied(_) => {}
        }
    }

    pub(super) fn routed(&self) -> BTreeSet<TaskId> {
        self.cluster
            .tasks()
            .filter(|task| task.routed && task.is_ready())
            .map(|task| task.id)
            .collect()
    }

    pub(super) fn deploy(&mut self, json: &str, program: Program) -> DeploymentId {
        self.deploy_from(json, program, Source::Ready)
    }

    pub(super) fn deploy_from(&mut self, json: &str, program: Program, source: Source) -> DeploymentId {
        let deployment = self.deployment(json, program, source);
        let id = deployment.id;
        self.load(deployment);
        self.ask(OperationKind::Deploy, id);
        id
    }

    /// A row as the API writes it.
    pub(super) fn deployment(&mut self, json: &str, program: Program, source: Source) -> Deployment {
        let id = DeploymentId::from_uuid(self.fresh());
        self.versions.push(id);
        self.programs.insert(id, program);
        let spec = Arc::new(spec(json));
        let row = Deployment {
            id,
            application_id: ApplicationId::from_uuid(uuid::Uuid::from_u128(2)),
            environment_id: self.environment,
            version: self.versions.len() as u32,
            artifact_id: None,
            source,
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
            created_at: self.now,
            rollout_started_at: None,
            promoted_at: None,
            finished_at: None,
            last_active_at: None,
            rollout_failures: 0,
            completed: BTreeSet::new(),
            backoff: BTreeMap::new(),
        };
        self.rows.deployments.insert(id, row.clone());
        row
    }

    fn load(&mut self, deployment: Deployment) {
        let environment = self.environment_row(deployment.application_id);
        self.rows
            .environments
            .entry(self.environment)
            .or_insert(environment.clone());
        self.feed(Event::Loaded {
            environment,
            deployments: vec![deployment],
        });
    }

    pub(super) fn environment_row(&self, application_id: ApplicationId) -> Environment {
        Environment {
            id: self.environment,
            application_id,
            slug: "development".into(),
            current: None,
            target: None,
            target_weight: None,
            open: BTreeSet::new(),
        }
    }

    /// What the API writes, then the hint.
    pub(super) fn change(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        self.bring(id);
        let mut row = self.cluster.deployment(id).expect("it is known").clone();
        change(&mut row);
        self.load(row);
    }

    /// A deployment that is asked for is read first, with what served before it.
    pub(super) fn bring(&mut self, id: DeploymentId) {
        let Some(row) = self.rows.deployment(id) else {
            return;
        };
        for id in [row.previous_id, Some(id)].into_iter().flatten() {
            let unknown = self.cluster.deployment(id).is_none();
            if let Some(row) = self.rows.deployment(id).filter(|_| unknown) {
                self.load(row);
            }
        }
    }

    pub(super) fn wake(&mut self, id: DeploymentId) {
        self.bring(id);
        self.feed(Event::Wake(id));
    }

    pub(super) fn ask(&mut self, kind: OperationKind, id: DeploymentId) {
        self.ask_about(kind, id, None);
    }

    /// The same about one of its tasks.
    pub(super) fn ask_about(&mut self, kind: OperationKind, id: DeploymentId, task: Option<TaskId>) {
        self.bring(id);
        self.operations += 1;
        let operation = Operation {
            id: self.operations,
            kind,
            deployment_id: Some(id),
            task_id: task,
            node_id: None,
            actor: "user:test".into(),
            request_id: None,
        };
        self.feed(Event::Operation(operation.clone()));
        // Invariant 6: repeated, it has no second effect.
        assert_eq!(step(&mut self.cluster, Event::Operation(operation), self.now), []);
    }

    /// Time passes, and what is due then happens.
    pub(super) fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(Duration::from_millis(ms));
        self.feed(Event::Tick);
    }

    /// A proxy reads the rows and acknowledges; its old requests end only when `drains`.
    pub(super) fn proxy_applies(&mut self, index: usize, drains: bool) {
        let table = self
            .rows
            .tasks
            .values()
            .filter(|task| task.routed && !task.state.is_ended())
            .map(|task| task.id)
            .collect();
        let (epoch, now) = (self.epoch, self.now);
        let proxy = &mut self.proxies[index];
        if !proxy.live {
            return;
        }
        (proxy.table, proxy.applied) = (table, epoch);
        proxy.lease_expires_at = now.plus(Duration::from_secs(10));
        if drains {
            proxy.drained = epoch;
        }
        let seen = Proxy {
            id: proxy.id,
            lease_expires_at: proxy.lease_expires_at,
            applied_epoch: proxy.applied,
            drained_epoch: proxy.drained,
        };
        self.feed(Event::ProxyReport(seen));
    }

    /// A proxy that is alive, but routes by what it had.
    pub(super) fn proxy_renews(&mut self, index: usize) {
        let lease_expires_at = self.now.plus(Duration::from_secs(10));
        let proxy = &mut self.proxies[index];
        proxy.lease_expires_at = lease_expires_at;
        let seen = Proxy {
            id: proxy.id,
            lease_expires_at,
            applied_epoch: proxy.applied,
            drained_epoch: proxy.drained,
        };
        self.feed(Event::ProxyReport(seen));
    }

    pub(super) fn kill_proxy(&mut self, index: usize) {
        self.proxies[index].live = false;
        let id = self.proxies[index].id;
        self.feed(Event::ProxyGone(id));
    }

    /// Everything works for this long: agents and proxies answer, nothing is lost.
    pub(super) fn calm(&mut self, secs: u64) {
        let mut left_ms = secs * 1_000;
        let end = self.now.plus(Duration::from_secs(secs));
        while left_ms > 0 {
            // After a while nothing is left that happens between two heartbeats.
            let step_ms = if secs * 1_000 - left_ms < 20_000 {
                500
            } else {
                2_000
            };
            self.calm_step(step_ms.min(left_ms));
            left_ms = end.since(self.now).as_millis() as u64;
        }
    }

    pub(super) fn calm_step(&mut self, ms: u64) {
        self.pass(ms);
        for index in 0..self.agents.len() {
            self.agents[index].up = true;
            self.heartbeat(index);
        }
        self.deliver();
        for index in 0..self.proxies.len() {
            self.proxy_applies(index, true);
        }
    }

    /// What its row says.
    pub(super) fn status(&self, id: DeploymentId) -> DeploymentStatus {
        self.rows.deployments[&id].status
    }

    pub(super) fn current(&self) -> Option<DeploymentId> {
        self.cluster
            .environment(self.environment)
            .and_then(|environment| environment.current)
    }

    pub(super) fn ready(&self, id: DeploymentId) -> usize {
        self.cluster.ready_tasks(id).count()
    }
}
