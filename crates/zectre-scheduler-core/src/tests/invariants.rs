//! What holds after every step, whatever happened (the numbers are those of the design).

use super::world::World;
use crate::*;
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, TaskId},
    spec::Strategy,
    state::{DeploymentStatus, Reason, TaskState, Wanted},
};

impl World {
    /// Invariants 1, 2 and 7, and that the rows tell all that memory knows.
    pub(super) fn check(&self) {
        for node in self.cluster.nodes() {
            assert_eq!(
                self.cluster.held(node.id),
                node.used,
                "what is held is counted right"
            );
            let capacity = node.facts.capacity;
            assert!(
                node.used.memory <= capacity.memory && node.used.cpu <= capacity.cpu,
                "over capacity"
            );
            assert!(node.used.task_slots <= capacity.task_slots, "over capacity");
            let ports: Vec<u16> = self
                .cluster
                .tasks()
                .filter(|task| task.node_id == Some(node.id))
                .filter_map(|task| task.port)
                .collect();
            assert_eq!(
                ports.iter().collect::<BTreeSet<_>>().len(),
                ports.len(),
                "a port was given twice"
            );
        }
        for deployment in self.cluster.deployments() {
            let mut slots: BTreeMap<u32, usize> = BTreeMap::new();
            let run = self
                .cluster
                .tasks_of(deployment.id)
                .filter(|task| task.wanted == Wanted::Run);
            for task in run {
                *slots.entry(task.slot).or_default() += 1;
            }
            assert!(
                slots.values().all(|count| *count <= 2),
                "a slot has a task, and at most one successor"
            );
            // What a lost rollout keeps up serves for the current deployment: its own number of replicas, which a person may
            // change meanwhile, takes nothing from it, and nothing is added to it.
            let kept = if deployment.is_given_up() {
                self.ready(deployment.id) as u32
            } else {
                0
            };
            assert!(
                slots.len() as u32 <= deployment.full_size().max(kept),
                "more slots than replicas"
            );
        }
        for environment in self.cluster.environments() {
            self.check_surge(environment);
        }
        for state in TaskState::ALL {
            let counted = self.cluster.tasks().filter(|task| task.state == *state).count();
            assert_eq!(self.cluster.count_in(*state), counted, "{state} is counted right");
        }
        self.check_rows();
    }

    fn check_surge(&self, environment: &Environment) {
        let placed = |id: DeploymentId| {
            let tasks = self
                .cluster
                .tasks_of(id)
                .filter(|task| task.is_placed() && task.wanted == Wanted::Run);
            // A successor on its way is counted by its slot.
            tasks.map(|task| task.slot).collect::<BTreeSet<_>>().len() as u32
        };
        let (Some(current), Some(target)) = (environment.current, environment.target) else {
            return;
        };
        let (Some(old), Some(new)) = (self.cluster.deployment(current), self.cluster.deployment(target))
        else {
            return;
        };
        if let Strategy::Rolling { max_surge, .. } = new.spec.strategy
            && new.status != DeploymentStatus::Succeeded
            && (new.spec.auto_rollback || !new.is_given_up())
        {
            let limit = old.full_size().max(new.full_size()) + max_surge;
            assert!(
                placed(current) + placed(target) <= limit,
                "more than wanted and surge"
            );
        }
    }

    fn check_rows(&self) {
        for task in self.cluster.tasks() {
            let row = self.rows.tasks.get(&task.id).expect("every task has a row");
            let unrouted = if task.unrouted == Unrouted::Awaited {
                row.unrouted
            } else {
                task.unrouted
            };
            assert_eq!(
                row,
                &Task {
                    seen_at: None,
                    unrouted,
                    ..task.clone()
                },
                "memory and rows agree"
            );
        }
        let live: BTreeSet<TaskId> = self
            .rows
            .tasks
            .values()
            .filter(|task| !task.state.is_ended())
            .map(|task| task.id)
            .collect();
        assert_eq!(
            live,
            self.cluster.tasks().map(|task| task.id).collect(),
            "no row is left behind"
        );
        for deployment in self.cluster.deployments() {
            let row = &self.rows.deployments[&deployment.id];
            let told = |d: &Deployment| {
                (
                    d.status,
                    d.reason,
                    d.health,
                    d.asleep,
                    d.previous_id,
                    d.rollout_started_at,
                    d.finished_at,
                )
            };
            assert_eq!(told(row), told(deployment));
            assert_eq!(
                (&row.message, &row.evidence),
                (&deployment.message, &deployment.evidence)
            );
        }
        for environment in self.cluster.environments() {
            let row = &self.rows.environments[&environment.id];
            let told = |e: &Environment| (e.current, e.target, e.target_weight);
            assert_eq!(told(row), told(environment));
        }
    }

    /// Invariant 3: what the scheduler itself takes out of routing leaves enough behind.
    /// `rolled` was the target before the step: a rollout that fails gives back before it takes away. `served` is whose
    /// size counts, if it isn't that of the current deployment.
    pub(super) fn check_availability(
        &self,
        before: &BTreeSet<TaskId>,
        rolled: Option<DeploymentId>,
        served: Option<DeploymentId>,
    ) {
        let Some(environment) = self.cluster.environment(self.environment) else {
            return;
        };
        let serving = served
            .or(environment.current)
            .and_then(|id| self.cluster.deployment(id));
        let Some(serving) = serving else {
            return;
        };
        if serving.asleep {
            return;
        }
        let rolled = rolled.and_then(|id| self.cluster.deployment(id));
        // The current one may be unable to come back; that is waited for up to a deadline.
        let gave_up = |lost: &Deployment| {
            let wait = std::time::Duration::from_secs(u64::from(lost.spec.progress_deadline_secs));
            lost.is_given_up() && lost.finished_at.is_some_and(|at| at.plus(wait) <= self.now)
        };
        if rolled.is_some_and(gave_up) {
            return;
        }
        let target = environment.target.and_then(|id| self.cluster.deployment(id));
        // What a lost rollout gives back is measured by what serves.
        let size = |d: &Deployment| if d.is_given_up() { serving } else { d }.full_size();
        let floor_of = |d: &Deployment| match d.spec.strategy {
            Strategy::Rolling { max_unavailable, .. } => Some(size(d).saturating_sub(max_unavailable)),
            Strategy::Recreate => None,
            _ => Some(size(d)),
        };
        // A newer rollout may begin in the step that ends a lost one; it may want fewer.
        let sides = [
            rolled.or(target).unwrap_or(serving),
            target.or(rolled).unwrap_or(serving),
        ];
        let [Some(one), Some(other)] = sides.map(floor_of) else {
            return;
        };
        let floor = one.min(other);
        let after = self.routed();
        // Only a rolling update takes from what serves, and has to give back: the others came up beside all of it.
        let gave_for_it = |rolled: &Deployment, task: &Task| {
            rolled.id == task.deployment_id && matches!(rolled.spec.strategy, Strategy::Rolling { .. })
        };
        // A wish of the scheduler, not a failure: the task is still healthy and told to stop.
        let taken: Vec<_> = before
            .difference(&after)
            .filter_map(|id| self.cluster.task(*id))
            .filter(|task| !task.reason.is_some_and(task::is_failure) && task.reason != Some(Reason::Stopped))
            .filter(|task| self.of_environment(task) || rolled.is_some_and(|d| gave_for_it(d, task)))
            .collect();
        if taken.is_empty() || serving.full_size() < floor {
            return;
        }
        let left = after
            .iter()
            .filter_map(|id| self.cluster.task(*id))
            .filter(|task| self.of_environment(task))
            .count();
        assert!(
            left as u32 >= floor,
            "{left} tasks are left of at least {floor}, taken: {taken:?}"
        );
    }

    /// Whoever reads `succeeded` gets the new version: every live proxy routes by its take-over.
    pub(super) fn check_confirmed(&self) {
        for (id, epoch) in self.cluster.confirming.iter() {
            let deployment = self.cluster.deployment(*id).expect("it is known");
            assert!(
                !deployment.status.is_ended() && self.current() == Some(*id),
                "{deployment:?}"
            );
            assert!(
                epoch.is_none_or(|epoch| self.cluster.proxies().any(|proxy| proxy.applied_epoch < epoch)),
                "all know, and it still waits: {deployment:?}"
            );
        }
        for deployment in self.cluster.deployments() {
            let waits = !deployment.status.is_ended() && self.current() == Some(deployment.id);
            assert_eq!(
                waits && !deployment.is_job(),
                self.cluster.confirming.contains(deployment.id),
                "{deployment:?}"
            );
        }
    }

    fn of_environment(&self, task: &Task) -> bool {
        self.cluster
            .environment(self.environment)
            .is_some_and(|e| e.current == Some(task.deployment_id) || e.target == Some(task.deployment_id))
    }
}
