//! What holds of a transaction, and of the rows after it.

use crate::{database::Batch, sim::Sim};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, NodeId},
    state::{DeploymentStatus, TaskState},
};
use zectre_scheduler_core::{Cluster, Deployment, Task, Unrouted};

/// How far a task is: it never goes back.
fn rank(state: TaskState) -> u32 {
    match state {
        TaskState::Pending => 0,
        TaskState::Starting => 1,
        TaskState::Running => 2,
        TaskState::Stopping => 3,
        TaskState::Stopped | TaskState::Failed => 4,
    }
}

impl Sim {
    /// Before it is applied.
    pub(crate) fn check_batch(&mut self, batch: &Batch) {
        if let Some((promise, detail)) = self.broken_batch(batch) {
            return self.fail(promise, detail);
        }
        let epoch = self.database.routing_epoch + u64::from(batch.raises_epoch);
        for row in batch.environments.values() {
            let before = self.database.environments.get(&row.id).and_then(|e| e.current);
            if let Some(current) = row.current.filter(|current| Some(*current) != before) {
                self.checks.taken_over.insert(current, epoch);
                if let Some(detail) = before.and_then(|before| self.displaces_newer(before, current)) {
                    return self.fail(
                        "an older version displaces a newer one only when asked to",
                        detail,
                    );
                }
            }
        }
        let late = batch
            .deployments
            .values()
            .find_map(|row| self.succeeds_early(batch, row));
        if let Some(detail) = late {
            self.fail("succeeded means that every live proxy routes to it", detail);
        }
    }

    fn broken_batch(&self, batch: &Batch) -> Option<(&'static str, String)> {
        let database = &self.database;
        let mut reroutes = false;
        for task in batch.ended.values().chain(batch.tasks.values()) {
            let row = database.tasks.get(&task.id);
            if task.state.is_ended() && (task.routed || task.unrouted == Unrouted::Awaited) {
                return Some(("4: what has ended is not routed", format!("{task:?}")));
            }
            let was = row.map_or((false, &None), |row| (row.routed, &row.address));
            reroutes |= was.0 != task.routed || (task.routed && was.1 != &task.address);
            let Some(row) = row else { continue };
            if rank(task.state) < rank(row.state) || (row.state.is_ended() && row.state != task.state) {
                let detail = format!("task {} from {} to {}", task.id, row.state, task.state);
                return Some(("5: a task never goes back", detail));
            }
            if task.generation < row.generation {
                return Some(("5: a generation never goes back", format!("{task:?}")));
            }
        }
        for row in batch.environments.values() {
            let known = database.environments.get(&row.id);
            reroutes |= known.is_some_and(|known| {
                (known.current, known.target, known.target_weight)
                    != (row.current, row.target, row.target_weight)
            });
        }
        if reroutes && !batch.raises_epoch {
            return Some(("4: proxies are told of every change", format!("{batch:?}")));
        }
        let repeated = |id: &&i64| {
            let mut rows = database.operations.iter();
            rows.any(|row| row.operation.id == **id && row.applied > 0)
        };
        let mut distinct = BTreeSet::new();
        let mut operations = batch.operations.iter();
        let twice = operations.find(|id| repeated(id) || !distinct.insert(**id))?;
        Some((
            "6: a repeated command has no second effect",
            format!("operation {twice}"),
        ))
    }

    /// A first rollout that takes the place of a later version.
    fn displaces_newer(&self, before: DeploymentId, current: DeploymentId) -> Option<String> {
        let row = |id| self.database.deployments.get(&id);
        let (old, new) = (row(before)?, row(current)?);
        let is_first = new.status != DeploymentStatus::Succeeded && !new.is_job();
        (is_first && new.version < old.version && !old.is_job())
            .then(|| format!("version {} after version {}", new.version, old.version))
    }

    /// A deployment that is saved as succeeded before every proxy that counts routes to it.
    fn succeeds_early(&self, batch: &Batch, row: &Deployment) -> Option<String> {
        let known = self.database.deployments.get(&row.id)?;
        let current = match batch.environments.get(&row.environment_id) {
            Some(saved) => saved.current,
            None => self.database.environments.get(&row.environment_id)?.current,
        };
        let succeeds = row.status == DeploymentStatus::Succeeded && known.status != row.status;
        if !succeeds || row.is_job() || current != Some(row.id) {
            return None;
        }
        // One that was displaced and came back within a batch was confirmed by that.
        let before = self.database.environments.get(&row.environment_id)?.current;
        if before == Some(row.id) && batch.environments.contains_key(&row.environment_id) {
            return None;
        }
        let epoch = *self.checks.taken_over.get(&row.id)?;
        let known = self.checks.known_at_success.get(&row.id)?;
        let behind = self.proxies.iter().position(|proxy| {
            let applied = self.database.proxies.get(&proxy.id);
            known.contains(&proxy.id) && applied.is_some_and(|row| row.applied_epoch < epoch)
        })?;
        Some(format!(
            "{} has succeeded, and proxy {behind} is before epoch {epoch}",
            row.id
        ))
    }

    /// After it is applied.
    pub(crate) fn check_rows(&mut self) {
        if let Some((node, port)) = self.database.doubled_port() {
            return self.fail("1: a port is never given twice", format!("port {port} of {node}"));
        }
        if let Some(row) = self.database.operations.iter().find(|row| row.applied > 1) {
            let detail = format!("operation {} was applied {} times", row.operation.id, row.applied);
            return self.fail("6: a repeated command has no second effect", detail);
        }
        let mut held: BTreeMap<NodeId, (u64, u64, u32)> = BTreeMap::new();
        for task in self.database.tasks.values().filter(|task| !task.state.is_ended()) {
            let needs = self
                .database
                .deployments
                .get(&task.deployment_id)
                .map(|d| d.spec.resources);
            if let (Some(node), Some(needs)) = (task.node_id, needs) {
                let sum = held.entry(node).or_default();
                *sum = (sum.0 + u64::from(needs.cpu.0), sum.1 + needs.memory.0, sum.2 + 1);
            }
        }
        let over = held.iter().find(|(node, (cpu, memory, slots))| {
            let capacity = self.database.nodes.get(node).map(|row| row.facts.capacity);
            capacity
                .is_some_and(|c| *cpu > u64::from(c.cpu.0) || *memory > c.memory.0 || *slots > c.task_slots)
        });
        if let Some((node, sum)) = over {
            let detail = format!("node {node} holds {sum:?}");
            self.fail("1: capacity", detail);
        }
    }

    /// A leader that has saved all knows what the rows say, and nothing else.
    pub(crate) fn check_memory(&mut self, index: usize, id: u64) {
        let Some(term) = self.schedulers[index].term.as_ref().filter(|term| term.id == id) else {
            return;
        };
        let Some(cluster) = term.cluster.as_ref() else {
            return;
        };
        if term.epoch != self.database.leader_epoch || !self.database.fences.is_empty() {
            return;
        }
        if let Some(detail) = self.differs(cluster) {
            self.fail("memory and rows agree", format!("scheduler {index}: {detail}"));
        }
    }

    fn differs(&self, cluster: &Cluster) -> Option<String> {
        let database = &self.database;
        for task in cluster.tasks() {
            // What was deleted meanwhile is learnt of soon.
            if !database.deployments.contains_key(&task.deployment_id)
                || task
                    .node_id
                    .is_some_and(|node| !database.nodes.contains_key(&node))
            {
                continue;
            }
            let Some(row) = database.tasks.get(&task.id) else {
                return Some(format!("no row of {task:?}"));
            };
            let memory = Task {
                seen_at: None,
                unrouted: match task.unrouted {
                    Unrouted::Awaited => row.unrouted,
                    unrouted => unrouted,
                },
                ..task.clone()
            };
            if &memory != row {
                return Some(format!("memory {memory:?}, row {row:?}"));
            }
        }
        let unknown = database.tasks.values().find(|row| {
            !row.state.is_ended()
                && cluster.deployment(row.deployment_id).is_some()
                && cluster.task(row.id).is_none()
        });
        if let Some(row) = unknown {
            return Some(format!("nobody knows {row:?}"));
        }
        for deployment in cluster.deployments() {
            let Some(row) = database.deployments.get(&deployment.id) else {
                continue;
            };
            let told = |d: &Deployment| {
                let states = (d.status, d.reason, d.health, d.asleep, d.previous_id);
                (states, d.rollout_started_at, d.finished_at, d.message.clone())
            };
            if told(row) != told(deployment) {
                return Some(format!("memory {:?}, row {:?}", told(deployment), told(row)));
            }
        }
        for environment in cluster.environments() {
            let row = database.environments.get(&environment.id)?;
            let told = |e: &zectre_scheduler_core::Environment| (e.current, e.target, e.target_weight);
            if told(row) != told(environment) {
                return Some(format!("memory {environment:?}, row {row:?}"));
            }
        }
        None
    }
}
