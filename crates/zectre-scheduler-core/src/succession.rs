//! Slots with two tasks: the newer one is the successor of the older (a restart, a draining node). Successors
//! start one at a time; once one is ready the older one is stopped, in order.

use super::{
    Cluster, Deployment, Task, drain, placement, progress, settings::max_runtime_secs, timer::Timer,
};
use std::time::Duration;
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{Reason, TaskState, Wanted},
    time::Time,
};

/// How long before its time is over a server gets a successor: for its start, and for the drain that follows.
const RELIEF_AHEAD_MAX: Duration = Duration::from_secs(90);
/// So much earlier for each replica: successors start one at a time.
const RELIEF_TURN: Duration = Duration::from_secs(5);
/// A successor that was not to be had, or failed, is tried again after this time.
const RELIEF_AGAIN: Duration = Duration::from_secs(10);

pub(super) fn retire_predecessors(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    for tasks in doubled(cluster, id) {
        let Some((newest, older)) = tasks.split_last() else {
            continue;
        };
        let takes_over = |task: &Task| task.is_ready() || crate::planted::planted!(PredecessorFirst);
        if cluster.tasks.get(newest).is_some_and(takes_over) {
            for id in older {
                let message = Some("its successor took over".into());
                drain::stop_task(cluster, *id, Some(Reason::Stopped), message, now);
            }
        }
    }
}

/// The tasks of slots with a successor, oldest first.
fn doubled(cluster: &Cluster, id: DeploymentId) -> Vec<Vec<TaskId>> {
    let Some(roster) = cluster.rosters.get(&id) else {
        return Vec::new();
    };
    let slots = roster.doubled.iter().filter_map(|slot| roster.slots.get(slot));
    slots.map(|slot| slot.tasks().collect()).collect()
}

/// A second task for every slot that has one: the restart of a deployment. How many; a run to completion, which must
/// not run twice, gets none.
pub(super) fn restart(cluster: &mut Cluster, id: DeploymentId, now: Time) -> usize {
    let stays = |deployment: &Deployment| deployment.is_job() || deployment.is_given_up();
    if cluster.deployments.get(&id).is_none_or(stays) {
        return 0;
    }
    let Some(roster) = cluster.rosters.get(&id) else {
        return 0;
    };
    let lone: Vec<u32> = roster
        .slots
        .iter()
        .filter(|(_, slot)| slot.successors.is_empty())
        .map(|(number, _)| *number)
        .collect();
    for slot in &lone {
        create_successor(cluster, id, *slot, now);
    }
    lone.len()
}

fn create_successor(cluster: &mut Cluster, id: DeploymentId, slot: u32, now: Time) {
    let task_id = TaskId::from_uuid(cluster.new_id(now));
    let mut task = Task::new(task_id, id, slot, now);
    let backoff = cluster
        .deployments
        .get_mut(&id)
        .and_then(|deployment| deployment.backoff.remove(&slot));
    if let Some(backoff) = backoff {
        task.restarts = backoff.restarts;
        task.not_before = Some(backoff.not_before).filter(|at| *at > now);
    }
    let not_before = task.not_before;
    if let Some(begun_at) = slot_begun_at(cluster, id, slot) {
        cluster.begun.insert(task_id, begun_at);
    }
    cluster.insert_task(task);
    let at = not_before.or_else(|| patience(cluster, id, task_id));
    cluster.timers.arm(Timer::Task(task_id), at);
}

/// Since when a slot has been running.
fn slot_begun_at(cluster: &Cluster, id: DeploymentId, slot: u32) -> Option<Time> {
    let holder = cluster.rosters.get(&id)?.slots.get(&slot)?.holder;
    begun_at(cluster, cluster.tasks.get(&holder)?)
}

/// Since when a task, or those whose place it took, has been running. A task that takes over is no sign that anybody
/// asked for its deployment.
pub(super) fn begun_at(cluster: &Cluster, task: &Task) -> Option<Time> {
    cluster.begun.get(&task.id).copied().or(task.running_at)
}

/// When a server that may not run for ever gets a successor: early enough to be replaced in order, as its agent ends it
/// when its time is over, whatever goes to it then.
pub(super) fn relief_at(cluster: &Cluster, task: &Task) -> Option<Time> {
    let deployment = cluster.deployments.get(&task.deployment_id)?;
    if deployment.is_job() || task.wanted == Wanted::Stop {
        return None;
    }
    let limit_secs = max_runtime_secs(&deployment.spec, cluster.settings.max_runtime_secs_cap)?;
    let limit = Duration::from_secs(limit_secs.into());
    // Those that began together are replaced one after the other.
    let turns = RELIEF_TURN * deployment.replicas;
    let ahead = ((limit / 4).min(RELIEF_AHEAD_MAX) + turns).min(limit / 2);
    Some(task.running_at?.plus(limit.saturating_sub(ahead)))
}

/// Arms what [`relief_at`] says of a task that runs.
pub(super) fn arm_relief(cluster: &mut Cluster, id: TaskId) {
    let at = cluster.tasks.get(&id).and_then(|task| relief_at(cluster, task));
    cluster.timers.arm(Timer::Task(id), at);
}

/// A running task's time is nearly over: it gets a successor, unless it has one.
pub(super) fn relieve(cluster: &mut Cluster, id: TaskId, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    let (deployment_id, slot) = (task.deployment_id, task.slot);
    let Some(due_at) = relief_at(cluster, task) else {
        return;
    };
    if due_at > now {
        // Fewer replicas need less time than when this was armed.
        return cluster.timers.arm(Timer::Task(id), Some(due_at));
    }
    let is_given_up = cluster
        .deployments
        .get(&deployment_id)
        .is_none_or(Deployment::is_given_up);
    let roster = cluster.rosters.get(&deployment_id);
    let taken = roster.and_then(|roster| roster.slots.get(&slot));
    let is_alone = taken.is_some_and(|taken| taken.holder == id && taken.successors.is_empty());
    let is_alone = is_alone || crate::planted::planted!(ReliefRepeated);
    if is_alone && !is_given_up && !crate::planted::planted!(ReliefForgotten) {
        create_successor(cluster, deployment_id, slot, now);
    }
    cluster.timers.arm(Timer::Task(id), Some(now.plus(RELIEF_AGAIN)));
}

/// A successor that ended through no fault of its own gets another one in its stead.
pub(super) fn try_again(cluster: &mut Cluster, ended: &Task, now: Time) {
    let roster = cluster.rosters.get(&ended.deployment_id);
    let slot = roster.and_then(|roster| roster.slots.get(&ended.slot));
    let was_successor = slot.is_some_and(|slot| slot.holder < ended.id && slot.successors.is_empty());
    if was_successor {
        create_successor(cluster, ended.deployment_id, ended.slot, now);
    }
}

/// How long a successor waits for room: not longer than a rollout would.
fn patience(cluster: &Cluster, id: DeploymentId, task: TaskId) -> Option<Time> {
    let deployment = cluster.deployments.get(&id)?;
    let created_at = cluster.tasks.get(&task)?.created_at;
    is_successor(cluster, id, task).then(|| created_at.plus(progress::progress_deadline(deployment)))
}

pub(super) fn is_successor(cluster: &Cluster, id: DeploymentId, task: TaskId) -> bool {
    let slot = cluster.tasks.get(&task).map(|task| task.slot);
    let roster = cluster.rosters.get(&id);
    let taken = slot.and_then(|slot| roster.and_then(|roster| roster.slots.get(&slot)));
    taken.is_some_and(|taken| taken.successors.contains(&task))
}

/// A waiting task's time came: its backoff is over, or nobody found room for it in all its time.
pub(super) fn waited(cluster: &mut Cluster, id: DeploymentId, task: TaskId, now: Time) {
    place_if_its_turn(cluster, id, task, now);
    let still_waits = cluster
        .tasks
        .get(&task)
        .is_some_and(|task| task.state == TaskState::Pending);
    let Some(at) = patience(cluster, id, task).filter(|_| still_waits) else {
        return;
    };
    // Its turn doesn't come while others of the deployment look for room in vain; behind one that starts it will.
    let in_vain = cluster.waiting.of(id).next().is_some() && !a_successor_starts(cluster, id);
    let given_up = at <= now && in_vain && !replaces_one_that_must_leave(cluster, id, task);
    if given_up {
        // The one that it was to replace runs on.
        let (reason, message) = cluster
            .tasks
            .get(&task)
            .map_or((None, None), |task| (task.reason, task.message.clone()));
        drain::stop_task(cluster, task, reason, message, now);
    } else {
        // Its turn may not have come yet.
        let again = at.max(now.plus(cluster.settings.heartbeat));
        cluster.timers.arm(Timer::Task(task), Some(again));
    }
}

fn replaces_one_that_must_leave(cluster: &Cluster, id: DeploymentId, task: TaskId) -> bool {
    let slot = cluster.tasks.get(&task).map(|task| task.slot);
    let roster = cluster.rosters.get(&id);
    let holder = slot.and_then(|slot| Some(roster?.slots.get(&slot)?.holder));
    let node = holder.and_then(|holder| cluster.tasks.get(&holder)?.node_id);
    node.is_some_and(|node| cluster.emptying.contains(&node))
}

/// Tasks on a draining node get successors elsewhere. A run to completion is left to end.
pub(super) fn leave_emptying_nodes(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let stays = |deployment: &Deployment| deployment.is_job() || deployment.is_given_up();
    let Some(roster) = cluster.rosters.get(&id) else {
        return;
    };
    let concerned = cluster.emptying.iter().any(|node| roster.siblings_on(*node) > 0);
    if !concerned || cluster.deployments.get(&id).is_none_or(stays) {
        return;
    }
    let must_leave = |task: &Task| task.node_id.is_some_and(|node| cluster.emptying.contains(&node));
    let slots: Vec<u32> = roster
        .slots
        .iter()
        .filter(|(_, slot)| slot.successors.is_empty())
        .filter(|(_, slot)| cluster.tasks.get(&slot.holder).is_some_and(must_leave))
        .map(|(number, _)| *number)
        .collect();
    for slot in slots {
        create_successor(cluster, id, slot, now);
    }
}

/// Places what is due and was not tried yet: those whose predecessor went before they had a place, and the next successor,
/// when none is on its way.
pub(super) fn place_next(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    place_orphans(cluster, id, now);
    let next = untried(cluster, id, now)
        .into_iter()
        .find(|task| is_successor(cluster, id, *task));
    if let Some(next) = next.filter(|task| is_its_turn(cluster, id, *task)) {
        placement::place(cluster, next, now);
    }
}

/// Places those that are due, were not tried yet and replace nothing.
pub(super) fn place_orphans(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    for task in untried(cluster, id, now) {
        if !is_successor(cluster, id, task) {
            placement::place(cluster, task, now);
        }
    }
}

/// Tasks without a place that are due and don't wait for room, oldest first.
fn untried(cluster: &Cluster, id: DeploymentId, now: Time) -> Vec<TaskId> {
    let Some(roster) = cluster.rosters.get(&id) else {
        return Vec::new();
    };
    if roster.pending.len() == cluster.waiting.count(id) {
        return Vec::new();
    }
    let is_due = |task: &&TaskId| {
        let not_before = cluster.tasks.get(task).and_then(|task| task.not_before);
        not_before.is_none_or(|at| at <= now) && !cluster.waiting.contains(id, **task)
    };
    roster.pending.iter().filter(is_due).copied().collect()
}

fn a_successor_starts(cluster: &Cluster, id: DeploymentId) -> bool {
    let Some(roster) = cluster.rosters.get(&id) else {
        return false;
    };
    let slots = roster.doubled.iter().filter_map(|slot| roster.slots.get(slot));
    slots
        .flat_map(|slot| &slot.successors)
        .filter_map(|id| cluster.tasks.get(id))
        .any(|task| task.state == TaskState::Starting)
}

/// Whether a waiting task may be placed: successors go one at a time.
pub(super) fn is_its_turn(cluster: &Cluster, id: DeploymentId, task: TaskId) -> bool {
    let another_waits = || cluster.waiting.of(id).any(|other| other != task);
    let at_once = crate::planted::planted!(SuccessorsAllAtOnce);
    at_once || !is_successor(cluster, id, task) || !(a_successor_starts(cluster, id) || another_waits())
}

/// Places a waiting task, unless it is a successor and another one is on its way.
pub(super) fn place_if_its_turn(cluster: &mut Cluster, id: DeploymentId, task: TaskId, now: Time) {
    if is_its_turn(cluster, id, task) {
        placement::place(cluster, task, now);
    }
}
