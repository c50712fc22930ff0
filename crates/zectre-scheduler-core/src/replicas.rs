//! As many tasks as are wanted: missing ones are made, surplus ones stopped, failed ones replaced with backoff.
//!
//! A slot normally has one task that is to run; `succession` tells of those with two.

use super::{
    Cluster, Deployment, Source, Task,
    deployment::Backoff,
    drain, failure,
    placement::{self, Search},
    retreat, rollout, succession,
    timer::Timer,
};
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{Eligibility, Reason},
    time::Time,
};

/// How many tasks of the deployment are to run now.
pub(super) fn wanted(cluster: &Cluster, deployment: &Deployment) -> u32 {
    if deployment.asleep || deployment.source != Source::Ready {
        return 0;
    }
    if deployment.is_given_up() {
        return retreat::kept(cluster, deployment);
    }
    if deployment.is_job() {
        return if deployment.status.is_ended() {
            0
        } else {
            deployment.full_size()
        };
    }
    let Some(environment) = cluster.environments.get(&deployment.environment_id) else {
        return 0;
    };
    if environment.target == Some(deployment.id) {
        rollout::wanted_of_target(cluster, environment, deployment)
    } else if environment.current == Some(deployment.id) {
        rollout::wanted_of_current(cluster, environment, deployment)
    } else if cluster.returning.get(&deployment.environment_id) == Some(&deployment.id) {
        deployment.full_size()
    } else {
        // Superseded, and woken by its preview: one is enough. What was never rolled out has none.
        u32::from(deployment.status.is_ended())
    }
}

/// Brings the deployment's tasks to what is wanted.
pub(super) fn reconcile(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    let (count, given_up) = (wanted(cluster, deployment) as usize, deployment.is_given_up());
    let count = count + usize::from(count > 0 && crate::planted::planted!(WakeTwice));
    if given_up {
        stop_waiting(cluster, id, now);
    }
    succession::retire_predecessors(cluster, id, now);
    let slots = cluster.rosters.get(&id).map_or(0, |roster| roster.slots.len());
    if slots > count {
        stop_surplus(cluster, id, slots - count, now);
    } else if slots < count && !given_up {
        // What is there already comes before what is missing.
        succession::place_orphans(cluster, id, now);
        fill(cluster, id, count, now);
    }
    succession::leave_emptying_nodes(cluster, id, now);
    succession::place_next(cluster, id, now);
    forget_backoff(cluster, id);
}

/// What is given up keeps at most what is healthy: nothing of it is started any more, not even in the stead of another.
fn stop_waiting(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let reason = stop_reason(cluster, id);
    let pending = cluster.rosters.get(&id).map(|roster| roster.pending.clone());
    for task in pending.into_iter().flatten() {
        drain::stop_task(cluster, task, reason, None, now);
    }
}

/// What the failures of a slot said was for its next task; a slot that is not wanted now begins anew.
fn forget_backoff(cluster: &mut Cluster, id: DeploymentId) {
    if let Some(deployment) = cluster.deployments.get_mut(&id)
        && !deployment.backoff.is_empty()
    {
        deployment.backoff.clear();
    }
}

/// Those that do the least go first: waiting, starting, unhealthy, then the highest slots.
fn stop_surplus(cluster: &mut Cluster, id: DeploymentId, surplus: usize, now: Time) {
    let reason = stop_reason(cluster, id);
    let Some(roster) = cluster.rosters.get(&id) else {
        return;
    };
    let mut order: Vec<(bool, bool, u32)> = roster
        .slots
        .iter()
        .map(|(number, slot)| {
            let any =
                |test: fn(&Task) -> bool| slot.tasks().filter_map(|id| cluster.tasks.get(&id)).any(test);
            (any(Task::is_ready), any(Task::is_placed), u32::MAX - number)
        })
        .collect();
    order.sort_unstable();
    let tasks: Vec<TaskId> = order
        .into_iter()
        .take(surplus)
        .filter_map(|(_, _, inverse)| roster.slots.get(&(u32::MAX - inverse)))
        .flat_map(super::roster::Slot::tasks)
        .collect();
    for task in tasks {
        drain::stop_task(cluster, task, reason, None, now);
    }
}

/// What a task is stopped for when its deployment wants fewer; `None` is a plain scale-down.
fn stop_reason(cluster: &Cluster, id: DeploymentId) -> Option<Reason> {
    let deployment = cluster.deployments.get(&id)?;
    if deployment.is_given_up() {
        // The deployment's own row has the reason; its tasks did nothing wrong.
        Some(Reason::Cancelled)
    } else if deployment.asleep && cluster.is_current(deployment) {
        Some(Reason::Idle)
    } else if cluster.is_current(deployment) {
        None
    } else {
        Some(Reason::Superseded)
    }
}

/// Makes what is missing. Of those that find no room only the first one is made: it waits for all of them, and when it
/// gets its place the others follow.
fn fill(cluster: &mut Cluster, id: DeploymentId, count: usize, now: Time) {
    take_back(cluster, id, count);
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    if deployment.backoff.is_empty() && waits_for_room(cluster, id) {
        return;
    }
    let roster = cluster.rosters.get(&id);
    let taken = roster.map_or(0, |roster| roster.slots.len());
    let is_taken = |slot: &u32| roster.is_some_and(|roster| roster.slots.contains_key(slot));
    // A completed slot is not missing: its program ran to its end.
    let none = std::collections::BTreeSet::new();
    let done = if crate::planted::planted!(JobSlotRepeated) {
        &none
    } else {
        &deployment.completed
    };
    let bound = (count + taken + done.len()) as u32;
    let free: Vec<u32> = (0..bound)
        .filter(|slot| !is_taken(slot) && !done.contains(slot))
        .take(count.saturating_sub(taken + done.len()))
        .collect();
    let Some(mut search) = Search::new(cluster, id).filter(|_| !free.is_empty()) else {
        return;
    };
    let mut waits = waits_for_room(cluster, id);
    for slot in free {
        let deployment = cluster.deployments.get(&id);
        let pauses = deployment.is_some_and(|deployment| deployment.backoff.contains_key(&slot));
        if waits && !pauses {
            continue;
        }
        if crate::planted::planted!(WakeDoublesSlot) {
            create(cluster, id, slot, &mut search, now);
        }
        create(cluster, id, slot, &mut search, now);
        waits = waits || waits_for_room(cluster, id);
    }
}

/// Whether a task that is missing waits for room.
fn waits_for_room(cluster: &Cluster, id: DeploymentId) -> bool {
    cluster
        .waiting
        .of(id)
        .any(|task| !succession::is_successor(cluster, id, task))
}

/// Tasks that only drain are given back before new ones are made.
fn take_back(cluster: &mut Cluster, id: DeploymentId, count: usize) {
    let Some(roster) = cluster.rosters.get(&id) else {
        return;
    };
    let leaving = roster.leaving.iter().filter_map(|task| cluster.tasks.get(task));
    let reusable: Vec<(TaskId, u32)> = leaving
        .filter(|task| is_revivable(cluster, task))
        .map(|task| (task.id, task.slot))
        .collect();
    for (task, slot) in reusable {
        let Some(roster) = cluster.rosters.get(&id) else {
            return;
        };
        if roster.slots.len() < count && !roster.slots.contains_key(&slot) {
            drain::revive(cluster, task);
        }
    }
}

/// It was only taken out of routing, for a reason that no longer holds: giving it back beats a new start.
fn is_revivable(cluster: &Cluster, task: &Task) -> bool {
    let unjudged = matches!(task.reason, None | Some(Reason::Idle | Reason::Superseded));
    let node = task.node_id.and_then(|id| cluster.nodes.get(&id));
    task.is_draining()
        && task.healthy
        && task.drain_until.is_some()
        && unjudged
        && node.is_some_and(|node| node.eligibility != Eligibility::Draining)
}

/// Makes a task for a slot: placed at once, or after its backoff.
fn create(cluster: &mut Cluster, id: DeploymentId, slot: u32, search: &mut Search, now: Time) {
    let task_id = TaskId::from_uuid(cluster.new_id(now));
    let mut task = Task::new(task_id, id, slot, now);
    let backoff = cluster
        .deployments
        .get_mut(&id)
        .and_then(|deployment| deployment.backoff.remove(&slot));
    if let Some(Backoff { restarts, not_before }) = backoff {
        task.restarts = restarts;
        if not_before > now {
            task.not_before = Some(not_before);
        }
        if restarts >= failure::CRASH_LOOP_FAILURES {
            let message = format!(
                "its last {restarts} tasks failed one after the other; the next starts at {not_before}"
            );
            (task.reason, task.message) = (Some(Reason::CrashLoop), Some(message));
        }
    }
    let not_before = task.not_before;
    cluster.insert_task(task);
    if not_before.is_some() {
        cluster.timers.arm(Timer::Task(task_id), not_before);
    } else {
        placement::place_by(cluster, search, task_id, now);
    }
}
