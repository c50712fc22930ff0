//! How many tasks there are, by what each strategy allows, and that nobody starts more than were asked for.

use super::{Before, state::Broken};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, TaskId},
    spec::Strategy,
    state::{DeploymentStatus, Eligibility, OperationKind, TaskState, Wanted},
    time::Time,
};
use zectre_scheduler_core::{Cluster, Deployment, Environment, Task};

/// The tasks of a deployment that are to run, by slot, oldest first.
fn slots(cluster: &Cluster, id: DeploymentId) -> BTreeMap<u32, Vec<&Task>> {
    let mut slots: BTreeMap<u32, Vec<&Task>> = BTreeMap::new();
    for task in cluster.tasks_of(id).filter(|task| task.wanted == Wanted::Run) {
        slots.entry(task.slot).or_default().push(task);
    }
    slots
}

/// Slots of a deployment with a task that has a place.
fn placed(cluster: &Cluster, id: DeploymentId) -> u32 {
    let tasks = cluster.tasks_of(id);
    let placed = tasks.filter(|task| task.is_placed() && task.wanted == Wanted::Run);
    // A successor on its way is counted by its slot.
    placed.map(|task| task.slot).collect::<BTreeSet<_>>().len() as u32
}

pub(super) fn broken_slots(cluster: &Cluster, deployment: &Deployment) -> Broken {
    let slots = slots(cluster, deployment.id);
    let counts = || -> Vec<(u32, usize)> { slots.iter().map(|(slot, tasks)| (*slot, tasks.len())).collect() };
    let starting = slots.values().map(|tasks| {
        let successors = tasks.iter().skip(1);
        successors
            .filter(|task| task.is_placed() && !task.is_ready())
            .count()
    });
    if starting.sum::<usize>() > 1 {
        let detail = format!("{} has slots {:?}", deployment.id, counts());
        return Some(("2: one successor starts after the other", detail));
    }
    if deployment.is_given_up() {
        // What it keeps is counted by the deployment that it serves for.
        return None;
    }
    let full = deployment.full_size();
    let crowded = slots.values().any(|tasks| tasks.len() > 2) || slots.len() as u32 > full;
    crowded.then(|| {
        let detail = format!("{} has slots {:?} of {full}", deployment.id, counts());
        ("2: a slot has one task and at most one successor", detail)
    })
}

/// How long a server may run.
pub(super) fn runtime_limit(deployment: &Deployment) -> Option<Duration> {
    let limit_secs = deployment
        .spec
        .max_runtime_secs
        .filter(|_| !deployment.is_job())?;
    Some(Duration::from_secs(limit_secs.into()))
}

/// A second task in a slot: because people restart the deployment, because its node is emptied, because half of its time
/// is over, or in the stead of one that ended.
pub(super) fn broken_succession(cluster: &Cluster, before: &Before, now: Time) -> Broken {
    for deployment in cluster.deployments() {
        if before.asked == Some((OperationKind::Restart, deployment.id)) {
            continue;
        }
        for (slot, tasks) in slots(cluster, deployment.id) {
            let [holder, .., newest] = tasks.as_slice() else {
                continue;
            };
            let node = holder.node_id.and_then(|id| cluster.node(id));
            let must_leave = node.is_some_and(|node| node.eligibility == Eligibility::Draining);
            let half = runtime_limit(deployment).map(|limit| limit / 2);
            let is_old = half.is_some_and(|half| holder.running_at.is_some_and(|at| at.plus(half) <= now));
            let is_asked = must_leave || is_old || before.doubled.contains(&(deployment.id, slot));
            if !before.tasks.contains(&newest.id) && !is_asked {
                let detail = format!(
                    "slot {slot} of {}: task {} has {}",
                    deployment.id, holder.id, newest.id
                );
                return Some(("7: a task is started once", detail));
            }
        }
    }
    None
}

/// Servers in the last quarter of their time, without a successor.
pub(super) fn unrelieved(cluster: &Cluster, now: Time) -> BTreeSet<TaskId> {
    let mut unrelieved = BTreeSet::new();
    for deployment in cluster.deployments().filter(|d| !d.is_given_up()) {
        let Some(limit) = runtime_limit(deployment) else {
            continue;
        };
        let is_old = |task: &Task| task.running_at.is_some_and(|at| at.plus(limit * 3 / 4) <= now);
        for tasks in slots(cluster, deployment.id).values() {
            if let [task] = tasks.as_slice()
                && task.state == TaskState::Running
                && is_old(task)
            {
                unrelieved.insert(task.id);
            }
        }
    }
    unrelieved
}

/// Beside each other are only as many as the strategy of the new one says.
pub(super) fn broken_strategy(cluster: &Cluster, environment: &Environment) -> Broken {
    let (current, target) = (environment.current?, environment.target?);
    let (old, new) = (cluster.deployment(current)?, cluster.deployment(target)?);
    if current == target || new.status == DeploymentStatus::Succeeded {
        return None;
    }
    let (beside, count) = (placed(cluster, current), placed(cluster, target));
    match new.spec.strategy {
        Strategy::Rolling { max_surge, .. } => {
            if new.is_given_up() && !new.spec.auto_rollback {
                return None;
            }
            let limit = old.full_size().max(new.full_size()) + max_surge;
            let detail = || format!("{} of {limit}", beside + count);
            (beside + count > limit).then(|| ("2: no more than wanted and surge", detail()))
        }
        Strategy::Recreate if !new.is_given_up() => {
            let lives = cluster.tasks_of(current).any(Task::is_placed);
            let detail = || format!("{target} has {count} beside those of {current}");
            (lives && count > 0).then(|| ("2: the old ones are gone before the new ones begin", detail()))
        }
        Strategy::Canary { weight, .. }
            if new.promoted_at.is_none() && !old.is_job() && !old.is_given_up() =>
        {
            let full = new.full_size();
            let share = (full * u32::from(weight)).div_ceil(100).clamp(1, full.max(1));
            let detail = || format!("{target} has {count} of {share}, a share of {full}");
            (count > share).then(|| ("2: a canary is a share", detail()))
        }
        _ => None,
    }
}
