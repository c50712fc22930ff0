//! Looking at the cluster without changing it: for the rules, the shell, the simulator and tests.

use super::{Cluster, Deployment, Environment, Node, Proxy, Source, Task};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    state::DeploymentStatus,
    time::Time,
    wire::node::Capacity,
};

impl Cluster {
    /// When to send the next [`super::Event::Tick`].
    pub fn next_deadline(&self) -> Option<Time> {
        self.timers.next()
    }

    /// The newest routing epoch that is known: all that was saved is in what proxies read by it, or by a later one.
    pub const fn routing_epoch(&self) -> u64 {
        self.routing_epoch
    }

    /// A task that has not ended.
    pub fn task(&self, id: TaskId) -> Option<&Task> {
        self.tasks.get(&id)
    }

    /// All tasks that have not ended.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.tasks.values()
    }

    /// The live tasks of a deployment.
    pub fn tasks_of(&self, id: DeploymentId) -> impl Iterator<Item = &Task> {
        let ids = self.rosters.get(&id).into_iter().flat_map(|roster| &roster.tasks);
        ids.filter_map(|id| self.tasks.get(id))
    }

    /// A deployment that the scheduler looks after.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.get(&id)
    }

    /// All of them.
    pub fn deployments(&self) -> impl Iterator<Item = &Deployment> {
        self.deployments.values()
    }

    /// An environment.
    pub fn environment(&self, id: EnvironmentId) -> Option<&Environment> {
        self.environments.get(&id)
    }

    /// All environments.
    pub fn environments(&self) -> impl Iterator<Item = &Environment> {
        self.environments.values()
    }

    /// A node.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// Proxies whose lease holds.
    pub fn proxies(&self) -> impl Iterator<Item = &Proxy> {
        self.proxies.values()
    }

    /// Deployments whose rollout has not ended.
    pub fn rollouts(&self) -> usize {
        self.environments.values().filter(|e| e.target.is_some()).count()
    }

    /// Tasks that take requests.
    pub fn ready_tasks(&self, id: DeploymentId) -> impl Iterator<Item = &Task> {
        self.tasks_of(id).filter(|task| task.is_ready() && task.routed)
    }

    /// Those of them that a request which waits is sent to. What was taken back into the routing is told of once that is saved:
    /// its stop goes on, should the commit fail.
    pub fn tasks_to_tell(&self, id: DeploymentId) -> impl Iterator<Item = &Task> {
        let is_saved = |task: &&Task| !self.revived.contains(&task.id);
        self.ready_tasks(id)
            .filter(move |task| is_saved(task) || crate::planted::planted!(RevivedToldEarly))
    }

    /// Whether a request that wakes it brings a superseded version back, beside the current one.
    pub fn comes_back(&self, id: DeploymentId) -> bool {
        let serves = |deployment: &Deployment| {
            self.environments
                .get(&deployment.environment_id)
                .is_some_and(|environment| [environment.current, environment.target].contains(&Some(id)))
        };
        self.deployments
            .get(&id)
            .is_some_and(|deployment| deployment.asleep && !serves(deployment))
    }

    /// Proxies route to it, or may have been told of it by a leader that could not save that.
    pub(super) fn may_get_requests(&self, task: &Task) -> bool {
        task.routed || self.perhaps_named.contains(&task.id)
    }

    /// What live tasks hold of a node, added up from the tasks themselves.
    pub fn held(&self, id: NodeId) -> Capacity {
        let mut held = Capacity {
            cpu: CpuMillis(0),
            memory: MemoryBytes(0),
            task_slots: 0,
        };
        for task in self.tasks.values().filter(|task| task.node_id == Some(id)) {
            if let Some(deployment) = self.deployments.get(&task.deployment_id) {
                held.cpu.0 += deployment.spec.resources.cpu.0;
                held.memory.0 += deployment.spec.resources.memory.0;
                held.task_slots += 1;
            }
        }
        held
    }

    pub(super) fn count_ready(&self, id: DeploymentId) -> u32 {
        self.rosters.get(&id).map_or(0, super::roster::Roster::ready)
    }

    pub(super) fn count_live(&self, id: DeploymentId) -> u32 {
        self.rosters.get(&id).map_or(0, |roster| roster.live)
    }

    pub(super) fn is_rolling_out(&self, deployment: &Deployment) -> bool {
        let is_target = self
            .environments
            .get(&deployment.environment_id)
            .is_some_and(|e| e.target == Some(deployment.id));
        (is_target && !deployment.is_given_up())
            || (deployment.is_job() && !deployment.status.is_ended() && deployment.source == Source::Ready)
    }

    pub(super) fn is_current(&self, deployment: &Deployment) -> bool {
        self.environments
            .get(&deployment.environment_id)
            .is_some_and(|e| e.current == Some(deployment.id))
    }

    /// Its rollout has won: it succeeded, or only waits until all proxies know.
    pub(super) fn has_won(&self, id: DeploymentId) -> bool {
        self.status_of(id) == Some(DeploymentStatus::Succeeded) || self.confirming.contains(id)
    }

    pub(super) fn status_of(&self, id: DeploymentId) -> Option<DeploymentStatus> {
        self.deployments.get(&id).map(|deployment| deployment.status)
    }
}
