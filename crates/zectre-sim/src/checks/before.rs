//! A state before a step, as far as the checks after it ask.

use super::{Targets, routed};
use std::collections::BTreeSet;
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{DeploymentStatus, OperationKind, TaskState, Wanted},
};
use zectre_scheduler_core::{Cluster, Event};

/// What was so.
#[derive(Debug)]
pub(crate) struct Before {
    pub(super) routed: BTreeSet<TaskId>,
    pub(super) targets: Targets,
    /// The scheduler answers for every task that leaves the routing in this step.
    pub(super) is_answerable: bool,
    /// People asked for this to happen to this deployment.
    pub(super) asked: Option<(OperationKind, DeploymentId)>,
    /// What was due was done in this step.
    pub(super) is_tick: bool,
    /// All live tasks.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Slots with a successor.
    pub(super) doubled: BTreeSet<(DeploymentId, u32)>,
    /// Tasks that have been told to stop.
    pub(super) stopping: BTreeSet<TaskId>,
    pub(super) succeeded: BTreeSet<DeploymentId>,
    /// Deployments that serve.
    pub(super) serving: BTreeSet<DeploymentId>,
    /// Those of them that are awake.
    pub(super) awake: BTreeSet<DeploymentId>,
}

impl Before {
    /// Of this state.
    pub(crate) fn of(cluster: &Cluster, event: &Event, is_fresh: bool) -> Self {
        let asked = match event {
            Event::Operation(operation) => operation.deployment_id.map(|id| (operation.kind, id)),
            _ => None,
        };
        let is_answerable = !is_fresh && is_answerable(event);
        let run = |task: &&zectre_scheduler_core::Task| task.wanted == Wanted::Run;
        let (mut slots, mut doubled) = (BTreeSet::new(), BTreeSet::new());
        for task in cluster.tasks().filter(run) {
            let slot = (task.deployment_id, task.slot);
            if !slots.insert(slot) {
                doubled.insert(slot);
            }
        }
        let stopping = cluster.tasks().filter(|task| task.state == TaskState::Stopping);
        Self {
            routed: if is_answerable {
                routed(cluster)
            } else {
                BTreeSet::new()
            },
            targets: cluster.environments().map(|e| (e.id, e.target)).collect(),
            is_answerable,
            asked,
            is_tick: matches!(event, Event::Tick),
            tasks: cluster.tasks().map(|task| task.id).collect(),
            doubled,
            stopping: stopping.map(|task| task.id).collect(),
            succeeded: cluster
                .deployments()
                .filter(|d| d.status == DeploymentStatus::Succeeded)
                .map(|d| d.id)
                .collect(),
            serving: cluster.environments().filter_map(|e| e.current).collect(),
            awake: cluster
                .environments()
                .filter_map(|e| cluster.deployment(e.current?))
                .filter(|d| !d.asleep)
                .map(|d| d.id)
                .collect(),
        }
    }
}

/// People may want fewer tasks, or this one gone; nothing else excuses that too few are left.
fn is_answerable(event: &Event) -> bool {
    match event {
        Event::Operation(operation) => !matches!(
            operation.kind,
            OperationKind::Sleep | OperationKind::StopTask | OperationKind::Delete
        ),
        Event::Tick
        | Event::Heartbeat { .. }
        | Event::TaskReports { .. }
        | Event::ProxyReport(_)
        | Event::ProxyGone(_)
        | Event::EpochRaised(_)
        | Event::Activity(_)
        | Event::NodeRegistered { .. }
        | Event::NodeWanted { .. }
        | Event::Wake(_) => true,
        Event::Loaded { .. } | Event::DeploymentGone(_) | Event::NodeGone(_) => false,
    }
}
