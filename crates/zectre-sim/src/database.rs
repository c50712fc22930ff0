//! The model of PostgreSQL: rows, transactions behind the leader's fence, and what a new leader reads.
//!
//! It follows the scheduler's `store`: who may write which column, what foreign keys do, and how counts that are in
//! no column are made from the rows of tasks.

use crate::sim::{SECOND, Us};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, ProxyId, TaskId},
    spec::RestartPolicy,
    state::{DeploymentStatus, NodeStatus, Reason, TaskState, Wanted},
    time::Time,
};
use zectre_scheduler_core::{
    Command, Deployment, Environment, Node, Operation, Proxy, Snapshot, Task, Unrouted,
};

/// How far back a leader reads activity.
pub(crate) const ACTIVITY_WINDOW_US: Us = 15 * SECOND;
/// A proxy's row counts for so long.
pub(crate) const LEASE_US: Us = 10 * SECOND;
/// For so long after its lease a proxy may still live, when nobody could have renewed it.
const MERCY_US: Us = 300 * SECOND;

/// A proxy's row.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProxyRow {
    /// By the database's clock.
    pub(crate) lease_until_us: Us,
    pub(crate) applied_epoch: u64,
    pub(crate) drained_epoch: u64,
}

/// A row of `operations`.
#[derive(Debug, Clone)]
pub(crate) struct OperationRow {
    pub(crate) operation: Operation,
    /// How often a commit marked it as applied; more than once is once too often.
    pub(crate) applied: u32,
}

/// What a leader writes in one transaction; the last version of each row.
#[derive(Debug, Clone, Default)]
pub(crate) struct Batch {
    pub(crate) ended: BTreeMap<TaskId, Task>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(crate) environments: BTreeMap<EnvironmentId, Environment>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) operations: Vec<i64>,
    pub(crate) happenings: usize,
    pub(crate) raises_epoch: bool,
}

impl Batch {
    /// Takes what has to be saved; gives back what has to be sent or told.
    pub(crate) fn absorb(&mut self, command: Command) -> Option<Command> {
        match command {
            Command::SaveTask(task) if task.state.is_ended() => {
                self.tasks.remove(&task.id);
                self.ended.insert(task.id, *task);
            }
            Command::SaveTask(task) => drop(self.tasks.insert(task.id, *task)),
            Command::SaveDeployment(row) => drop(self.deployments.insert(row.id, *row)),
            Command::SaveEnvironment(row) => drop(self.environments.insert(row.id, row)),
            Command::SaveNode(row) => drop(self.nodes.insert(row.id, *row)),
            Command::RaiseEpoch => self.raises_epoch = true,
            Command::OperationApplied(id) => self.operations.push(id),
            Command::Record(_) => self.happenings += 1,
            Command::Woken { .. } => {}
            told => return Some(told),
        }
        None
    }

    /// Nothing has to be saved.
    pub(crate) fn is_empty(&self) -> bool {
        self.ended.is_empty()
            && self.tasks.is_empty()
            && self.deployments.is_empty()
            && self.environments.is_empty()
            && self.nodes.is_empty()
            && self.operations.is_empty()
            && self.happenings == 0
            && !self.raises_epoch
    }
}

/// All rows.
#[derive(Debug, Default)]
pub(crate) struct Database {
    /// It does not answer.
    pub(crate) is_down: bool,
    /// The epoch of the newest leader.
    pub(crate) leader_epoch: u64,
    /// Which scheduler that is.
    pub(crate) leader: Option<usize>,
    /// Whose connection holds the advisory lock: scheduler and term.
    pub(crate) lock: Option<(usize, u64)>,
    /// Transactions that hold the leader's row: an election waits for their end.
    pub(crate) fences: BTreeSet<u64>,
    pub(crate) routing_epoch: u64,
    pub(crate) environments: BTreeMap<EnvironmentId, Environment>,
    pub(crate) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(crate) tasks: BTreeMap<TaskId, Task>,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    pub(crate) proxies: BTreeMap<ProxyId, ProxyRow>,
    pub(crate) operations: Vec<OperationRow>,
    pub(crate) activity: BTreeMap<DeploymentId, Time>,
}

impl Database {
    /// Applies a batch. Returns the routing epoch that it raised.
    pub(crate) fn apply(&mut self, batch: &Batch) -> Option<u64> {
        let raised = batch.raises_epoch.then(|| {
            self.routing_epoch += 1;
            self.routing_epoch
        });
        for row in batch.nodes.values() {
            if let Some(node) = self.nodes.get_mut(&row.id) {
                node.facts = row.facts.clone();
                (node.status, node.lease_expires_at) = (row.status, row.lease_expires_at);
                node.registered_at = node.registered_at.min(row.registered_at);
            }
        }
        for task in batch.ended.values().chain(batch.tasks.values()) {
            self.save_task(task, raised);
        }
        for row in batch.deployments.values() {
            self.save_deployment(row);
        }
        for row in batch.environments.values() {
            let exists = |id: &DeploymentId| self.deployments.contains_key(id);
            let (current, target) = (row.current.filter(exists), row.target.filter(exists));
            if let Some(environment) = self.environments.get_mut(&row.id) {
                (environment.current, environment.target) = (current, target);
                environment.target_weight = row.target_weight;
            }
        }
        for id in &batch.operations {
            if let Some(row) = self.operations.iter_mut().find(|row| row.operation.id == *id) {
                row.applied += 1;
            }
        }
        raised
    }

    /// A deployment that was deleted meanwhile has no tasks, and a node that was has none either.
    fn save_task(&mut self, task: &Task, raised: Option<u64>) {
        if !self.deployments.contains_key(&task.deployment_id) {
            return;
        }
        let mut row = task.clone();
        row.node_id = row.node_id.filter(|id| self.nodes.contains_key(id));
        row.seen_at = None;
        if row.unrouted == Unrouted::Awaited {
            row.unrouted = raised.map_or(Unrouted::No, Unrouted::At);
        }
        self.tasks.insert(row.id, row);
    }

    fn save_deployment(&mut self, row: &Deployment) {
        let Some(deployment) = self.deployments.get_mut(&row.id) else {
            return;
        };
        deployment.artifact_id = deployment.artifact_id.or(row.artifact_id);
        (deployment.status, deployment.reason) = (row.status, row.reason);
        deployment.message.clone_from(&row.message);
        deployment.evidence.clone_from(&row.evidence);
        (deployment.health, deployment.asleep) = (row.health, row.asleep);
        deployment.previous_id = row.previous_id;
        deployment.rollout_started_at = row.rollout_started_at;
        deployment.finished_at = row.finished_at;
        deployment.promoted_at = row.promoted_at;
    }

    /// Live rows of a deployment.
    pub(crate) fn live_tasks_of(&self, id: DeploymentId) -> impl Iterator<Item = &Task> {
        self.tasks
            .values()
            .filter(move |task| task.deployment_id == id && !task.state.is_ended())
    }

    /// Tasks that proxies may send requests to.
    pub(crate) fn routed(&self) -> impl Iterator<Item = &Task> {
        self.tasks
            .values()
            .filter(|task| task.routed && task.address.is_some() && task.port.is_some())
    }

    /// Proxies, as the shell hands them to the core. Whoever has not listened for a while can't tell who was silent:
    /// then leases that have run out since start anew.
    pub(crate) fn live_proxies(&self, now_us: Us, now: Time, has_listened: bool) -> Vec<Proxy> {
        let mercy_us = if has_listened { 0 } else { MERCY_US };
        let live = self
            .proxies
            .iter()
            .filter(|(_, row)| row.lease_until_us + mercy_us > now_us);
        live.map(|(id, row)| {
            let left_us = row.lease_until_us.saturating_sub(now_us);
            // Time to read of a renewal in the last moment.
            let left_us = if has_listened { left_us } else { LEASE_US } + 1_500_000;
            Proxy {
                id: *id,
                lease_expires_at: now.plus(std::time::Duration::from_micros(left_us)),
                applied_epoch: row.applied_epoch,
                drained_epoch: row.drained_epoch,
            }
        })
        .collect()
    }

    /// A row with what is counted from the rows of its tasks.
    pub(crate) fn read_deployment(&self, id: DeploymentId) -> Option<Deployment> {
        let mut deployment = self.deployments.get(&id)?.clone();
        let tasks = || self.tasks.values().filter(|task| task.deployment_id == id);
        let since = deployment.rollout_started_at;
        let is_own_fault = |task: &&Task| {
            let failed = task.state == TaskState::Failed
                && task
                    .reason
                    .is_some_and(|reason| !matches!(reason, Reason::NodeLost | Reason::PortTaken));
            let condemned = task.wanted == Wanted::Stop
                && matches!(
                    task.reason,
                    Some(Reason::PortNeverOpened | Reason::HealthCheckFailed)
                );
            since.is_some_and(|since| task.created_at >= since) && (failed || condemned)
        };
        deployment.rollout_failures = tasks().filter(is_own_fault).count() as u32;
        if deployment.spec.restart != RestartPolicy::Always && !deployment.asleep {
            let mut last: BTreeMap<u32, &Task> = BTreeMap::new();
            for task in tasks() {
                let newest = last.entry(task.slot).or_insert(task);
                if task.created_at >= newest.created_at {
                    *newest = task;
                }
            }
            let completed = |task: &&Task| {
                task.state == TaskState::Stopped
                    && task.reason == Some(Reason::Exited)
                    && task.exit_code == Some(0)
            };
            deployment.completed = last
                .values()
                .copied()
                .filter(completed)
                .map(|task| task.slot)
                .collect();
        }
        deployment.last_active_at = self.activity.get(&id).copied();
        Some(deployment)
    }

    /// What a new leader begins with.
    pub(crate) fn live_deployments(&self) -> Vec<Deployment> {
        let is_live = |d: &&Deployment| {
            let environment = self.environments.get(&d.environment_id);
            let involved = environment.is_some_and(|e| [e.current, e.target].contains(&Some(d.id)));
            let previous = environment
                .and_then(|e| e.current)
                .and_then(|current| self.deployments.get(&current))
                .is_some_and(|current| current.previous_id == Some(d.id));
            !d.status.is_ended()
                || involved
                || previous
                || (d.status == DeploymentStatus::Succeeded && !d.asleep)
                || self.live_tasks_of(d.id).next().is_some()
        };
        let live = self.deployments.values().filter(is_live);
        live.filter_map(|d| self.read_deployment(d.id)).collect()
    }

    /// The environments of some deployments.
    pub(crate) fn environments_of(&self, deployments: &[Deployment]) -> Vec<Environment> {
        let ids: BTreeSet<EnvironmentId> = deployments.iter().map(|d| d.environment_id).collect();
        ids.iter()
            .filter_map(|id| self.environments.get(id).cloned())
            .collect()
    }

    /// Everything else that a new leader reads.
    pub(crate) fn complete(&self, snapshot: &mut Snapshot, now_us: Us, now: Time) {
        snapshot.tasks = self
            .tasks
            .values()
            .filter(|task| !task.state.is_ended())
            .cloned()
            .collect();
        snapshot.nodes = self
            .nodes
            .values()
            .map(|row| {
                let mut node = Node::new(row.id, row.facts.clone(), row.registered_at);
                (node.eligibility, node.status) = (row.eligibility, row.status);
                (node.lease_expires_at, node.has_extras) =
                    (row.lease_expires_at, row.status == NodeStatus::Lost);
                node
            })
            .collect();
        snapshot.proxies = self.live_proxies(now_us, now, false);
        snapshot.routing_epoch = self.routing_epoch;
        let applied = self.operations.iter().filter(|row| row.applied > 0);
        snapshot.applied = applied.map(|row| row.operation.id).collect();
    }

    /// Deployments by id with what served before them, by environment.
    pub(crate) fn read_deployments(&self, ids: &[DeploymentId]) -> Vec<(Environment, Vec<Deployment>)> {
        let mut all: BTreeSet<DeploymentId> = ids.iter().copied().collect();
        let previous = ids
            .iter()
            .filter_map(|id| self.deployments.get(id))
            .filter_map(|d| d.previous_id);
        all.extend(previous);
        let deployments: Vec<Deployment> = all.iter().filter_map(|id| self.read_deployment(*id)).collect();
        let of = |environment: &Environment| {
            let own = deployments.iter().filter(|d| d.environment_id == environment.id);
            own.cloned().collect::<Vec<_>>()
        };
        let environments = self.environments_of(&deployments);
        environments.into_iter().map(|e| (e.clone(), of(&e))).collect()
    }

    /// Operations that nobody applied, in order.
    pub(crate) fn open_operations(&self) -> Vec<Operation> {
        let open = self.operations.iter().filter(|row| row.applied == 0);
        open.map(|row| row.operation.clone()).collect()
    }

    /// What its requests told lately: by its clock, and then by that of who reads it.
    pub(crate) fn recent_activity(&self, now: Time, readers: Time) -> Vec<(DeploymentId, Time)> {
        let window = Duration::from_micros(ACTIVITY_WINDOW_US);
        let recent = self.activity.iter().filter(|(_, at)| now.since(**at) < window);
        recent
            .map(|(id, at)| (*id, ago(readers, now.since(*at))))
            .collect()
    }

    /// The row is gone, and what refers to it.
    pub(crate) fn delete_deployment(&mut self, id: DeploymentId) {
        self.deployments.remove(&id);
        self.tasks.retain(|_, task| task.deployment_id != id);
        self.activity.remove(&id);
        for environment in self.environments.values_mut() {
            environment.current = environment.current.filter(|current| *current != id);
            environment.target = environment.target.filter(|target| *target != id);
        }
    }

    /// Two live tasks of a node with one port: the unique index would refuse them.
    pub(crate) fn doubled_port(&self) -> Option<(NodeId, u16)> {
        let mut seen = BTreeSet::new();
        let held = self.tasks.values().filter(|task| !task.state.is_ended());
        held.filter_map(|task| Some((task.node_id?, task.port?)))
            .find(|key| !seen.insert(*key))
    }
}

/// That long before `now`.
pub(crate) fn ago(now: Time, duration: Duration) -> Time {
    Time::from_unix_ms(now.unix_ms() - duration.as_millis() as i64)
}
