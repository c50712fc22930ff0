//! What a new leader reads, from the rows that the steps saved and nothing else; and that it then knows and
//! decides the same.

use super::world::{Rows, World, settings};
use crate::{task::is_failure, *};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    spec::RestartPolicy,
    state::{DeploymentStatus, NodeStatus, Reason, TaskState, Wanted},
    time::Time,
    wire::node::Capacity,
};

impl Rows {
    /// A deployment's row with what is counted from the rows of its tasks.
    pub(super) fn deployment(&self, id: DeploymentId) -> Option<Deployment> {
        let mut deployment = self.deployments.get(&id)?.clone();
        let tasks = || self.tasks.values().filter(|task| task.deployment_id == id);
        let is_own_fault = |task: &&Task| {
            let own = |reason| !matches!(reason, Reason::NodeLost | Reason::PortTaken);
            let failed = task.state == TaskState::Failed && task.reason.is_some_and(own);
            let condemned = task.wanted == Wanted::Stop
                && matches!(
                    task.reason,
                    Some(Reason::PortNeverOpened | Reason::HealthCheckFailed)
                );
            let since = deployment.rollout_started_at;
            since.is_some_and(|since| task.created_at >= since) && (failed || condemned)
        };
        deployment.rollout_failures = tasks().filter(is_own_fault).count() as u32;
        deployment.backoff.clear();
        deployment.completed.clear();
        if deployment.spec.restart != RestartPolicy::Always && !deployment.asleep {
            let mut newest: BTreeMap<u32, &Task> = BTreeMap::new();
            for task in tasks() {
                let known = newest.entry(task.slot).or_insert(task);
                if (task.created_at, task.id) >= (known.created_at, known.id) {
                    *known = task;
                }
            }
            let ran_to_its_end = |task: &&&Task| {
                (task.state, task.reason, task.exit_code)
                    == (TaskState::Stopped, Some(Reason::Exited), Some(0))
            };
            let done = newest.values().filter(ran_to_its_end).map(|task| task.slot);
            deployment.completed = done.collect();
        }
        Some(deployment)
    }

    /// Those that a new leader reads: the rest is read when someone asks for it.
    fn live_deployments(&self) -> Vec<Deployment> {
        let is_live = |d: &&Deployment| {
            let environment = self.environments.get(&d.environment_id);
            let current = environment.and_then(|e| e.current);
            let involved = environment.is_some_and(|e| [e.current, e.target].contains(&Some(d.id)));
            let before = current
                .and_then(|id| self.deployments.get(&id))
                .and_then(|c| c.previous_id);
            let runs = |task: &Task| task.deployment_id == d.id && !task.state.is_ended();
            !d.status.is_ended()
                || involved
                || (d.status == DeploymentStatus::Succeeded && !d.asleep)
                || before == Some(d.id)
                || self.tasks.values().any(runs)
        };
        let live = self.deployments.values().filter(is_live);
        live.filter_map(|row| self.deployment(row.id)).collect()
    }
}

/// What decides, without what is found out anew after a reload.
#[derive(Debug, PartialEq)]
struct View {
    tasks: BTreeMap<TaskId, Task>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    environments: BTreeMap<EnvironmentId, Environment>,
    nodes: BTreeMap<NodeId, (Capacity, BTreeSet<u16>, BTreeSet<TaskId>, NodeStatus)>,
    rosters: BTreeMap<DeploymentId, roster::Roster>,
    deadlines: BTreeMap<DeploymentId, Option<Time>>,
    waiting: BTreeSet<TaskId>,
    draining: BTreeMap<TaskId, Option<u64>>,
    confirming: BTreeSet<DeploymentId>,
    emptying: BTreeSet<NodeId>,
}

fn view(cluster: &Cluster, now: Time) -> View {
    let task = |task: &Task| {
        let mut task = Task {
            seen_at: None,
            ..task.clone()
        };
        // The words about a shortage are refreshed now and then.
        if task.state == TaskState::Pending && task.reason != Some(Reason::CrashLoop) {
            (task.reason, task.message) = (None, None);
        }
        (task.id, task)
    };
    let deployment = |deployment: &Deployment| {
        let mut deployment = deployment.clone();
        // A new leader counts idle times from the moment it read.
        deployment.last_active_at = None;
        if !cluster.is_rolling_out(&deployment) {
            deployment.rollout_failures = 0;
        }
        if cluster.waiting.of(deployment.id).next().is_some() {
            (deployment.reason, deployment.message) = (None, None);
        }
        (deployment.id, deployment)
    };
    let is_first = |id: &TaskId| {
        let task = cluster.task(*id);
        task.is_some_and(|task| !succession::is_successor(cluster, task.deployment_id, *id))
    };
    let has_tasks = |(_, roster): &(&DeploymentId, &roster::Roster)| !roster.tasks.is_empty();
    let rosters = cluster.rosters.iter().filter(has_tasks);
    View {
        tasks: cluster.tasks().map(task).collect(),
        deployments: cluster.deployments().map(deployment).collect(),
        environments: cluster.environments().map(|e| (e.id, e.clone())).collect(),
        nodes: cluster
            .nodes()
            .map(|n| (n.id, (n.used, n.ports.clone(), n.tasks.clone(), n.status)))
            .collect(),
        rosters: rosters.map(|(id, roster)| (*id, roster.clone())).collect(),
        deadlines: cluster
            .deployments()
            .map(|d| (d.id, progress::deadline(cluster, d.id, now)))
            .collect(),
        // Which of them tries for a successor's place doesn't matter: they all get it or none does.
        waiting: cluster.waiting.all().into_iter().filter(is_first).collect(),
        draining: cluster.draining.iter().map(|(id, epoch)| (*id, *epoch)).collect(),
        confirming: cluster.confirming.iter().map(|(id, _)| *id).collect(),
        emptying: cluster.emptying.clone(),
    }
}

/// The lines in which they differ.
fn differences(mine: &View, theirs: &View) -> String {
    let (mine, theirs) = (format!("{mine:#?}"), format!("{theirs:#?}"));
    let lines = mine.lines().zip(theirs.lines()).filter(|(a, b)| a != b);
    let told: Vec<String> = lines.take(8).map(|(a, b)| format!("{a} / {b}")).collect();
    told.join("\n")
}

impl World {
    /// The rows as a new leader reads them.
    pub(super) fn snapshot(&self) -> Snapshot {
        let mut environments: Vec<Environment> = self.rows.environments.values().cloned().collect();
        for environment in &mut environments {
            environment.open.clear();
        }
        let nodes = self.rows.nodes.values().map(|row| {
            let mut node = Node::new(row.id, row.facts.clone(), row.registered_at);
            (node.status, node.has_extras) = (row.status, row.status == NodeStatus::Lost);
            // The API's column, which it wrote before anybody here heard of it.
            node.eligibility = self
                .cluster
                .node(row.id)
                .map_or(node.eligibility, |n| n.eligibility);
            node
        });
        Snapshot {
            environments,
            deployments: self.rows.live_deployments(),
            nodes: nodes.collect(),
            tasks: self
                .rows
                .tasks
                .values()
                .filter(|task| !task.state.is_ended())
                .cloned()
                .collect(),
            proxies: self.cluster.proxies().copied().collect(),
            routing_epoch: self.epoch,
            applied: (1..=self.operations).collect(),
        }
    }

    /// A new leader reads the rows.
    pub(super) fn reload(&mut self) {
        let snapshot = self.snapshot();
        self.undelivered.clear();
        self.serial += 1;
        self.cluster = Cluster::load(settings(), self.serial as u64, snapshot, self.now);
        self.check();
    }

    /// A leader that read the rows now would know the same, and have nothing to do that this one has not done.
    pub(super) fn check_resync(&mut self) {
        self.feed(Event::Tick);
        let mut snapshot = self.snapshot();
        for node in &mut snapshot.nodes {
            // What only agents tell is found out within a heartbeat.
            let known = self.cluster.node(node.id).expect("it has a row");
            node.port_cursor = known.port_cursor;
            node.resting_ports.clone_from(&known.resting_ports);
        }
        let mut other = Cluster::load(settings(), 5, snapshot, self.now);
        for node in self.cluster.nodes() {
            other.reindex_node(node.id, |n| {
                (n.has_extras, n.unsure_until) = (node.has_extras, node.unsure_until);
            });
        }
        for command in step(&mut other, Event::Tick, self.now) {
            let is_new = match &command {
                Command::SaveTask(task) => {
                    task.state != TaskState::Pending || !self.rows.tasks.contains_key(&task.id)
                }
                // The words about a shortage.
                Command::SaveDeployment(row) => other.waiting.of(row.id).next().is_none(),
                Command::WakeFailed { reason, .. } => !is_failure(*reason),
                _ => true,
            };
            assert!(!is_new, "the one before had not decided this: {command:?}");
        }
        let (mine, theirs) = (view(&self.cluster, self.now), view(&other, self.now));
        // What one of them would have to read first, when someone asks for it, decides nothing.
        let known: BTreeSet<DeploymentId> = theirs
            .deployments
            .keys()
            .filter(|id| mine.deployments.contains_key(id))
            .copied()
            .collect();
        let only_known = |mut view: View| {
            view.deployments.retain(|id, _| known.contains(id));
            view.deadlines.retain(|id, _| known.contains(id));
            view
        };
        let (mine, theirs) = (only_known(mine), only_known(theirs));
        assert!(mine == theirs, "{}", differences(&mine, &theirs));
    }
}
