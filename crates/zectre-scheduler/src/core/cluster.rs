//! All that the scheduler knows. Everything is changed through the `update_…` functions here, which note
//! what has to be saved, which deployments to look at again, and whether proxies must be told.

use super::{
    Command, Deployment, Environment, Happening, Node, Proxy, Task, Unrouted, confirm, ident,
    timer::{Timer, Timers},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use uuid::Uuid;
use zectre_common::{
    config::SchedulerConfig,
    id::{DeploymentId, EnvironmentId, NodeId, ProxyId, TaskId},
    spec::Resources,
    state::{Health, NodeStatus, TaskState, Wanted},
    time::Time,
};

/// The most applied operations remembered; older ones are marked in the database for sure.
const APPLIED_MAX: usize = 10_000;

/// `[scheduler]`, as far as decisions depend on it.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How often agents speak.
    pub heartbeat: Duration,
    /// A node silent for longer is lost.
    pub node_lease: Duration,
    /// How long a task may finish the requests it has.
    pub drain_timeout: Duration,
    /// The pause after a first failure; it doubles with each one.
    pub backoff_initial: Duration,
    /// The longest such pause.
    pub backoff_max: Duration,
    /// Running for this long forgives earlier failures.
    pub backoff_reset: Duration,
    /// Failures of new tasks that end a rollout.
    pub rollout_failures_max: u32,
}

impl From<&SchedulerConfig> for Settings {
    fn from(config: &SchedulerConfig) -> Self {
        Self {
            heartbeat: Duration::from_millis(config.heartbeat_ms),
            node_lease: Duration::from_millis(config.node_lease_ms),
            drain_timeout: Duration::from_millis(config.drain_timeout_ms),
            backoff_initial: Duration::from_millis(config.backoff_initial_ms),
            backoff_max: Duration::from_millis(config.backoff_max_ms),
            backoff_reset: Duration::from_millis(config.backoff_reset_ms),
            rollout_failures_max: config.rollout_failures_max,
        }
    }
}

/// The rows that a new leader begins with.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Environments of the deployments.
    pub environments: Vec<Environment>,
    /// Deployments that are served, rolled out, awake or gone back to.
    pub deployments: Vec<Deployment>,
    /// Tasks that have not ended.
    pub tasks: Vec<Task>,
    /// All nodes.
    pub nodes: Vec<Node>,
    /// Proxies whose lease holds.
    pub proxies: Vec<Proxy>,
    /// The routing epoch, read after all of the above.
    pub routing_epoch: u64,
}

/// What the step under way has done so far; empty between steps.
#[derive(Debug, Clone, Default)]
struct Pass {
    tasks: BTreeSet<TaskId>,
    deployments: BTreeSet<DeploymentId>,
    environments: BTreeSet<EnvironmentId>,
    nodes: BTreeSet<NodeId>,
    touched: BTreeSet<DeploymentId>,
    ended: Vec<Task>,
    commands: Vec<Command>,
    reroutes: bool,
}

/// The state that [`super::step`] changes.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(super) settings: Settings,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) environments: BTreeMap<EnvironmentId, Environment>,
    pub(super) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) proxies: BTreeMap<ProxyId, Proxy>,
    pub(super) timers: Timers,
    /// Nodes that take tasks, the fullest (by memory) first.
    pub(super) roomy: BTreeSet<(u64, NodeId)>,
    /// Tasks that found no place; tried again when room appears.
    pub(super) unplaced: BTreeSet<TaskId>,
    /// Room appeared since the unplaced tasks were tried.
    pub(super) room_appeared: bool,
    /// Tasks taken out of routing that may not be told to stop yet.
    pub(super) draining: BTreeSet<TaskId>,
    /// Deployments that took over and have not succeeded yet, with the epoch that proxies are to acknowledge
    /// (`None` until its commit).
    pub(super) confirming: BTreeMap<DeploymentId, Option<u64>>,
    counts: BTreeMap<TaskState, usize>,
    applied: BTreeSet<i64>,
    seed: u64,
    pass: Pass,
}

impl Cluster {
    /// The state that these rows describe. Leases start anew: whoever reads this has not listened yet.
    pub fn load(settings: Settings, seed: u64, snapshot: Snapshot, now: Time) -> Self {
        let mut cluster = Self {
            settings,
            nodes: BTreeMap::new(),
            environments: BTreeMap::new(),
            deployments: BTreeMap::new(),
            tasks: BTreeMap::new(),
            proxies: BTreeMap::new(),
            timers: Timers::default(),
            roomy: BTreeSet::new(),
            unplaced: BTreeSet::new(),
            room_appeared: false,
            draining: BTreeSet::new(),
            confirming: BTreeMap::new(),
            counts: BTreeMap::new(),
            applied: BTreeSet::new(),
            seed,
            pass: Pass::default(),
        };
        for environment in snapshot.environments {
            cluster.insert_environment(environment);
        }
        for deployment in snapshot.deployments {
            cluster.insert_deployment(deployment);
        }
        for epoch in cluster.confirming.values_mut() {
            *epoch = Some(snapshot.routing_epoch);
        }
        for mut node in snapshot.nodes {
            node.lease_expires_at = now.plus(settings.node_lease);
            cluster.insert_node(node, now);
        }
        for mut task in snapshot.tasks {
            task.seen_at = Some(now);
            cluster.insert_loaded_task(task);
        }
        for proxy in snapshot.proxies {
            cluster
                .timers
                .arm(Timer::Proxy(proxy.id), Some(proxy.lease_expires_at));
            cluster.proxies.insert(proxy.id, proxy);
        }
        let all: Vec<_> = cluster.deployments.keys().copied().collect();
        cluster.pass.touched.extend(all);
        confirm::check_all(&mut cluster, now);
        cluster
    }

    pub(super) fn insert_environment(&mut self, environment: Environment) {
        self.environments.entry(environment.id).or_insert(environment);
    }

    pub(super) fn insert_deployment(&mut self, deployment: Deployment) {
        let (id, open) = (
            deployment.id,
            !deployment.status.is_ended() && !deployment.is_job(),
        );
        if let Some(environment) = self
            .environments
            .get_mut(&deployment.environment_id)
            .filter(|_| open)
        {
            if environment.current == Some(id) {
                self.confirming.insert(id, None);
                self.deployments.insert(id, deployment);
                return self.touch(id);
            }
            environment.open.insert((deployment.version, id));
        }
        self.deployments.insert(id, deployment);
        self.pass.touched.insert(id);
    }

    pub(super) fn insert_node(&mut self, node: Node, now: Time) {
        let lease = (node.status == NodeStatus::Ready).then(|| now.plus(self.settings.node_lease));
        self.timers.arm(Timer::Node(node.id), lease);
        let id = node.id;
        self.nodes.insert(id, node);
        self.index_node(id, None);
    }

    fn insert_loaded_task(&mut self, task: Task) {
        let Some(deployment) = self.deployments.get_mut(&task.deployment_id) else {
            return;
        };
        deployment.tasks.insert(task.id);
        let needs = deployment.spec.resources;
        if let Some(node_id) = task.node_id {
            self.hold(node_id, &task, needs);
        }
        if task.is_draining() {
            self.draining.insert(task.id);
        }
        self.timers.arm(
            Timer::Task(task.id),
            task.not_before.or(task.drain_until).or(task.seen_at),
        );
        *self.counts.entry(task.state).or_default() += 1;
        self.tasks.insert(task.id, task);
    }

    /// Adds a task that waits for a place.
    pub(super) fn insert_task(&mut self, task: Task) {
        if let Some(deployment) = self.deployments.get_mut(&task.deployment_id) {
            deployment.tasks.insert(task.id);
            self.pass.tasks.insert(task.id);
            self.pass.touched.insert(task.deployment_id);
            *self.counts.entry(task.state).or_default() += 1;
            self.tasks.insert(task.id, task);
        }
    }

    /// A new id from the seed.
    pub(super) fn new_id(&mut self, now: Time) -> Uuid {
        ident::next(&mut self.seed, now)
    }

    /// Changes a task that stays alive.
    pub(super) fn update_task(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let (before, state) = ((task.routed, task.address.clone(), task.port), task.state);
        change(task);
        if state != task.state {
            *self.counts.entry(state).or_default() -= 1;
            *self.counts.entry(task.state).or_default() += 1;
        }
        // The address of a task that isn't routed is nobody's business yet.
        let after = (task.routed, task.address.clone(), task.port);
        self.pass.reroutes |= before != after && (before.0 || after.0);
        self.pass.tasks.insert(id);
        self.pass.touched.insert(task.deployment_id);
    }

    /// Ends a task: it gives back what it held, and is saved once more.
    pub(super) fn end_task(&mut self, id: TaskId, now: Time, change: impl FnOnce(&mut Task)) -> Option<Task> {
        let mut task = self.tasks.remove(&id)?;
        *self.counts.entry(task.state).or_default() -= 1;
        change(&mut task);
        debug_assert!(task.state.is_ended(), "end_task ends it");
        self.pass.reroutes |= task.routed;
        // Whoever removes it outright needs no epoch to wait for: nothing is left to stop.
        if task.unrouted == Unrouted::Awaited {
            task.unrouted = Unrouted::No;
        }
        (task.routed, task.healthy, task.wanted) = (false, false, Wanted::Stop);
        task.finished_at = Some(now);
        if let (Some(node_id), Some(deployment)) = (task.node_id, self.deployments.get(&task.deployment_id)) {
            self.release(node_id, &task, deployment.spec.resources);
        }
        if let Some(deployment) = self.deployments.get_mut(&task.deployment_id) {
            deployment.tasks.remove(&id);
        }
        self.unplaced.remove(&id);
        self.draining.remove(&id);
        self.timers.arm(Timer::Task(id), None);
        self.pass.tasks.remove(&id);
        self.pass.touched.insert(task.deployment_id);
        self.pass.ended.push(task.clone());
        Some(task)
    }

    /// Changes a deployment.
    pub(super) fn update_deployment(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        let Some(deployment) = self.deployments.get_mut(&id) else {
            return;
        };
        let before = (
            deployment.asleep,
            deployment.status,
            deployment.cold_start_enabled,
        );
        change(deployment);
        let after = (
            deployment.asleep,
            deployment.status,
            deployment.cold_start_enabled,
        );
        self.pass.reroutes |= before != after;
        let ended = before.1 != after.1 && deployment.status.is_ended();
        self.pass.deployments.insert(id);
        self.pass.touched.insert(id);
        if ended {
            self.confirming.remove(&id);
            self.close_rollout(id);
        }
    }

    /// It is no longer among those that are to be rolled out.
    pub(super) fn close_rollout(&mut self, id: DeploymentId) {
        if let Some(deployment) = self.deployments.get(&id)
            && let Some(environment) = self.environments.get_mut(&deployment.environment_id)
        {
            environment.open.remove(&(deployment.version, id));
        }
    }

    /// Live tasks in a state.
    pub fn count_in(&self, state: TaskState) -> usize {
        self.counts.get(&state).copied().unwrap_or_default()
    }

    /// Notes how a deployment is; nothing follows from it.
    pub(super) fn set_health(&mut self, id: DeploymentId, health: Health) {
        if let Some(deployment) = self
            .deployments
            .get_mut(&id)
            .filter(|deployment| deployment.health != health)
        {
            deployment.health = health;
            self.pass.deployments.insert(id);
        }
    }

    /// Changes an environment; everything about it matters to proxies.
    pub(super) fn update_environment(&mut self, id: EnvironmentId, change: impl FnOnce(&mut Environment)) {
        let Some(environment) = self.environments.get_mut(&id) else {
            return;
        };
        let involved = |e: &Environment| [e.current, e.target];
        let mut touched: Vec<_> = involved(environment).into_iter().flatten().collect();
        change(environment);
        touched.extend(involved(environment).into_iter().flatten());
        self.pass.touched.extend(touched);
        self.pass.environments.insert(id);
        self.pass.reroutes = true;
    }

    /// Changes a node and saves it.
    pub(super) fn update_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        self.reindex_node(id, change);
        if self.nodes.contains_key(&id) {
            self.pass.nodes.insert(id);
        }
    }

    /// Changes what isn't saved of a node: what is held, what was seen.
    pub(super) fn reindex_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let before = node.takes_tasks().then_some(node.free_memory());
        change(node);
        self.index_node(id, before);
    }

    fn index_node(&mut self, id: NodeId, before: Option<u64>) {
        if let Some(free) = before {
            self.roomy.remove(&(free, id));
        }
        let Some(node) = self.nodes.get(&id) else { return };
        if node.takes_tasks() {
            self.roomy.insert((node.free_memory(), id));
            self.room_appeared |= before.is_none_or(|free| free <= node.free_memory());
        }
    }

    pub(super) fn remove_node(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.roomy.remove(&(node.free_memory(), id));
            self.timers.arm(Timer::Node(id), None);
            self.pass.nodes.remove(&id);
        }
    }

    pub(super) fn hold(&mut self, node_id: NodeId, task: &Task, needs: Resources) {
        self.reindex_node(node_id, |node| node.hold(task.id, needs, task.port));
    }

    fn release(&mut self, node_id: NodeId, task: &Task, needs: Resources) {
        self.reindex_node(node_id, |node| node.release(task.id, needs, task.port));
    }

    /// Forgets a deployment whose row is gone; its tasks must have ended.
    pub(super) fn remove_deployment(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployments.remove(&id) else {
            return;
        };
        if let Some(environment) = self.environments.get_mut(&deployment.environment_id) {
            environment.open.remove(&(deployment.version, id));
        }
        self.confirming.remove(&id);
        self.timers.arm(Timer::Deployment(id), None);
        self.pass.deployments.remove(&id);
        self.pass.touched.remove(&id);
        self.pass.ended.retain(|task| task.deployment_id != id);
    }

    /// Looks at a deployment again before the step ends.
    pub(super) fn touch(&mut self, id: DeploymentId) {
        self.pass.touched.insert(id);
    }

    pub(super) fn pop_touched(&mut self) -> Option<DeploymentId> {
        self.pass.touched.pop_first()
    }

    /// Says something that isn't a row.
    pub(super) fn say(&mut self, command: Command) {
        self.pass.commands.push(command);
    }

    /// Adds to the activity feed; the application is filled in from the deployment.
    pub(super) fn record(&mut self, mut happening: Happening) {
        let deployment = happening.deployment_id.and_then(|id| self.deployments.get(&id));
        happening.application_id = happening.application_id.or(deployment.map(|d| d.application_id));
        self.say(Command::Record(Box::new(happening)));
    }

    /// Remembers an operation; false when it was applied before.
    pub(super) fn is_first(&mut self, operation: i64) -> bool {
        if self.applied.len() >= APPLIED_MAX {
            self.applied.pop_first();
        }
        self.applied.insert(operation)
    }

    /// Ends the step: its rows first (ended tasks before all, so that their ports are free), then its words.
    pub(super) fn flush(&mut self) -> Vec<Command> {
        let pass = std::mem::take(&mut self.pass);
        let mut commands: Vec<Command> = pass
            .ended
            .into_iter()
            .map(|t| Command::SaveTask(Box::new(t)))
            .collect();
        let tasks = pass.tasks.iter().filter_map(|id| self.tasks.get(id));
        commands.extend(tasks.map(|task| Command::SaveTask(Box::new(task.clone()))));
        let deployments = pass.deployments.iter().filter_map(|id| self.deployments.get(id));
        commands.extend(deployments.map(|deployment| Command::SaveDeployment(Box::new(deployment.clone()))));
        let environments = pass
            .environments
            .iter()
            .filter_map(|id| self.environments.get(id));
        commands.extend(environments.map(|environment| Command::SaveEnvironment(environment.clone())));
        let nodes = pass.nodes.iter().filter_map(|id| self.nodes.get(id));
        commands.extend(nodes.map(|node| Command::SaveNode(Box::new(node.clone()))));
        if pass.reroutes {
            commands.push(Command::RaiseEpoch);
        }
        commands.extend(pass.commands);
        // What the step's bound left over goes on at the next one.
        self.pass.touched = pass.touched;
        commands
    }
}
