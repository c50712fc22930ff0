//! The state that rows describe: what a new leader begins with. It decides as the one before it would have.

use super::{
    Cluster, Deployment, Environment, Node, Proxy, Settings, Task, Unrouted, drain, lease, placement, report,
    retreat, succession, timer::Timer,
};
use std::sync::Arc;
use zectre_common::{
    id::NodeId,
    state::{NodeStatus, Reason, TaskState},
    time::Time,
};

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
    /// Operations that were applied lately: what was read before it was known that they were may still come.
    pub applied: Vec<i64>,
}

impl Cluster {
    /// The state that these rows describe. Leases and idle times start anew: whoever reads this has not listened yet.
    pub fn load(settings: Settings, seed: u64, snapshot: Snapshot, now: Time) -> Self {
        let mut cluster = Self::empty(settings, seed, snapshot.routing_epoch);
        for environment in snapshot.environments {
            cluster.insert_environment(environment);
        }
        for mut deployment in snapshot.deployments {
            // Perhaps nobody could tell of requests until now: a database that was away is asked for the first time.
            // The idle time of a rollout that has not ended has not begun.
            if !deployment.asleep
                && deployment.status.is_ended()
                && !crate::planted::planted!(IdleWhileUnheard)
            {
                deployment.last_active_at = deployment.last_active_at.max(Some(now));
            }
            cluster.insert_deployment(deployment);
        }
        for mut node in snapshot.nodes {
            node.lease_expires_at = now.plus(settings.node_lease);
            // What it runs beside its tasks is unknown until its first digest, whoever led before.
            node.has_extras = true;
            // What proxies knew when its tasks were lost isn't known; what they will know soon is enough.
            cluster.stranded.add(node.id, Some(snapshot.routing_epoch));
            cluster.insert_node(node, now);
        }
        let mut tasks = snapshot.tasks;
        tasks.sort_unstable_by_key(|task| task.id);
        if let Some(last) = tasks.last() {
            cluster.follow_id(last.id.get());
        }
        for mut task in tasks {
            task.seen_at = Some(now);
            cluster.insert_loaded_task(task, now);
        }
        end_displaced(&mut cluster, now);
        retreat::restore_returns(&mut cluster);
        for proxy in snapshot.proxies {
            cluster
                .timers
                .arm(Timer::Proxy(proxy.id), Some(proxy.lease_expires_at));
            cluster.proxies.insert(proxy.id, proxy);
        }
        for operation in snapshot.applied {
            cluster.is_first(operation);
        }
        cluster.touch_all();
        drain::check_all(&mut cluster, now);
        cluster
    }

    pub(super) fn insert_node(&mut self, mut node: Node, now: Time) {
        if node.status == NodeStatus::Lost {
            // To an earlier leader: of what that started there last, nobody knows.
            node.unsure_until = Some(lease::sure_at(&self.settings, now));
        }
        let lease = (node.status == NodeStatus::Ready).then(|| now.plus(self.settings.node_lease));
        self.timers.arm(Timer::Node(node.id), lease);
        let id: NodeId = node.id;
        self.nodes.insert(id, node);
        self.index_node(id, None);
        self.waiting.fleet_changed();
    }

    fn insert_loaded_task(&mut self, mut task: Task, now: Time) {
        let Some(deployment) = self.deployments.get(&task.deployment_id) else {
            return;
        };
        let (needs, serves) = (deployment.spec.resources, !deployment.is_job());
        if let Some(node_id) = task
            .node_id
            .filter(|_| !crate::planted::planted!(HeldForgottenOnReload))
        {
            self.hold(node_id, &task, needs);
        }
        let node = task.node_id.and_then(|id| self.nodes.get(&id));
        let shared = node
            .filter(|node| task.address.as_deref() == Some(&*node.address))
            .map(|node| Arc::clone(&node.address));
        if shared.is_some() {
            task.address = shared;
        }
        if task.is_draining() {
            let epoch = match task.unrouted {
                Unrouted::At(epoch) => Some(epoch),
                Unrouted::No | Unrouted::Awaited => Some(self.routing_epoch),
            };
            self.draining.add(task.id, epoch);
        } else if task.state == TaskState::Starting {
            self.unordered.insert(task.id);
            if serves && !crate::planted::planted!(NamedForgotten) {
                self.perhaps_named.insert(task.id);
            }
        }
        let deadline = match task.state {
            TaskState::Pending => task.not_before.or(Some(now)),
            _ if task.is_draining() => task.drain_until.or(Some(now)),
            TaskState::Starting => placement::start_deadline(self, &task),
            TaskState::Running => succession::relief_at(self, &task),
            _ => None,
        };
        self.timers.arm(Timer::Task(task.id), deadline);
        self.enlist(task);
    }
}

/// A node's row was deleted just when a task was placed on it: nobody can start it there, or tell of its end.
fn end_displaced(cluster: &mut Cluster, now: Time) {
    let is_displaced = |task: &&Task| task.node_id.is_none() && task.state != TaskState::Pending;
    let displaced: Vec<_> = cluster
        .tasks
        .values()
        .filter(is_displaced)
        .map(|task| task.id)
        .collect();
    for id in displaced {
        let message = "its node was deleted".into();
        report::end(
            cluster,
            id,
            TaskState::Failed,
            Reason::NodeLost,
            message,
            None,
            now,
        );
    }
}
