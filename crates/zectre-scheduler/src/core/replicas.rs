//! As many tasks as are wanted: missing ones are made, surplus ones stopped, failed ones replaced with backoff.
//!
//! A slot normally has one task that is to run. With two, the newer one is the successor of the older (a
//! restart, a draining node): once it is ready the older one is stopped. Successors start one at a time.

use super::{
    Cluster, Command, Deployment, Source, Task, deployment::Backoff, drain, placement, retreat, rollout,
    timer::Timer,
};
use std::{collections::BTreeMap, time::Duration};
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    spec::RestartPolicy,
    state::{Eligibility, Reason, TaskState, Wanted},
    time::Time,
    wire::deployment::Evidence,
};

/// Failures in a row that are called a crash loop.
const CRASH_LOOP_FAILURES: u32 = 3;

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
            deployment.replicas
        };
    }
    let Some(environment) = cluster.environments.get(&deployment.environment_id) else {
        return 0;
    };
    if environment.target == Some(deployment.id) {
        rollout::wanted_of_target(cluster, environment, deployment)
    } else if environment.current == Some(deployment.id) {
        rollout::wanted_of_current(cluster, environment, deployment)
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
    let slots = slots(cluster, id);
    retire_predecessors(cluster, &slots, now);
    if slots.len() > count {
        stop_surplus(cluster, id, &slots, slots.len() - count, now);
    } else if slots.len() < count && !given_up {
        fill(cluster, id, count, now);
    }
    succeed_on_draining_nodes(cluster, id, now);
    place_successors(cluster, id, now);
}

/// The tasks that are to run, by slot, oldest first.
fn slots(cluster: &Cluster, id: DeploymentId) -> BTreeMap<u32, Vec<TaskId>> {
    let mut run: Vec<&Task> = cluster
        .tasks_of(id)
        .filter(|task| task.wanted == Wanted::Run)
        .collect();
    run.sort_by_key(|task| (task.created_at, task.id));
    let mut slots: BTreeMap<u32, Vec<TaskId>> = BTreeMap::new();
    for task in run {
        slots.entry(task.slot).or_default().push(task.id);
    }
    slots
}

fn retire_predecessors(cluster: &mut Cluster, slots: &BTreeMap<u32, Vec<TaskId>>, now: Time) {
    for tasks in slots.values() {
        let Some((newest, older)) = tasks.split_last() else {
            continue;
        };
        if cluster.tasks.get(newest).is_some_and(Task::is_ready) {
            for id in older {
                let message = Some("its successor took over".into());
                drain::stop_task(cluster, *id, Some(Reason::Stopped), message, now);
            }
        }
    }
}

/// Those that do the least go first: waiting, starting, unhealthy, then the highest slots.
fn stop_surplus(
    cluster: &mut Cluster,
    id: DeploymentId,
    slots: &BTreeMap<u32, Vec<TaskId>>,
    surplus: usize,
    now: Time,
) {
    let reason = stop_reason(cluster, id);
    let mut order: Vec<(bool, bool, u32)> = slots
        .iter()
        .map(|(slot, tasks)| {
            let any = |test: fn(&Task) -> bool| tasks.iter().filter_map(|id| cluster.tasks.get(id)).any(test);
            (any(Task::is_ready), any(Task::is_placed), u32::MAX - slot)
        })
        .collect();
    order.sort_unstable();
    for (_, _, inverse_slot) in order.into_iter().take(surplus) {
        for task in slots.get(&(u32::MAX - inverse_slot)).into_iter().flatten() {
            drain::stop_task(cluster, *task, reason, None, now);
        }
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

fn fill(cluster: &mut Cluster, id: DeploymentId, count: usize, now: Time) {
    let mut missing = count - slots(cluster, id).len();
    let reusable: Vec<TaskId> = cluster
        .tasks_of(id)
        .filter(|task| is_revivable(cluster, task))
        .map(|task| task.id)
        .collect();
    for task in reusable {
        let free = cluster
            .tasks
            .get(&task)
            .is_some_and(|t| !slots(cluster, id).contains_key(&t.slot));
        if missing > 0 && free {
            drain::revive(cluster, task);
            cluster.say(Command::Ready(id));
            missing -= 1;
        }
    }
    let taken = slots(cluster, id);
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    // A completed slot is not missing: its program ran to its end.
    let bound = count as u32 + taken.len() as u32 + deployment.completed.len() as u32;
    let missing = missing.saturating_sub(deployment.completed.len());
    let free: Vec<u32> = (0..bound)
        .filter(|slot| !taken.contains_key(slot) && !deployment.completed.contains(slot))
        .take(missing)
        .collect();
    for slot in free {
        create(cluster, id, slot, now);
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
fn create(cluster: &mut Cluster, id: DeploymentId, slot: u32, now: Time) -> TaskId {
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
        if restarts >= CRASH_LOOP_FAILURES {
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
        placement::place(cluster, task_id, None, now);
    }
    task_id
}

/// A second task for every slot that has one: the restart of a deployment.
pub(super) fn restart(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    if cluster.deployments.get(&id).is_none_or(Deployment::is_given_up) {
        return;
    }
    let lone: Vec<u32> = slots(cluster, id)
        .into_iter()
        .filter(|(_, tasks)| tasks.len() == 1)
        .map(|(slot, _)| slot)
        .collect();
    for slot in lone {
        create_successor(cluster, id, slot, now);
    }
}

fn create_successor(cluster: &mut Cluster, id: DeploymentId, slot: u32, now: Time) {
    let task_id = TaskId::from_uuid(cluster.new_id(now));
    cluster.insert_task(Task::new(task_id, id, slot, now));
}

/// Tasks on a draining node get successors elsewhere. A run to completion is left to end.
fn succeed_on_draining_nodes(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let stays = |deployment: &Deployment| deployment.is_job() || deployment.is_given_up();
    if cluster.deployments.get(&id).is_none_or(stays) {
        return;
    }
    for (slot, tasks) in slots(cluster, id) {
        let [only] = tasks.as_slice() else { continue };
        let node = cluster
            .tasks
            .get(only)
            .and_then(|task| task.node_id)
            .and_then(|id| cluster.nodes.get(&id));
        if node.is_some_and(|node| node.eligibility == Eligibility::Draining) {
            create_successor(cluster, id, slot, now);
        }
    }
}

/// Starts the next successor, when none is on its way.
fn place_successors(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    for tasks in slots(cluster, id).into_values().filter(|tasks| tasks.len() > 1) {
        for task in &tasks[1..] {
            let due = cluster
                .tasks
                .get(task)
                .is_some_and(|t| t.state == TaskState::Pending && t.not_before.is_none_or(|at| at <= now));
            if due && !cluster.unplaced.contains(task) {
                place_if_its_turn(cluster, id, *task, now);
            }
        }
    }
}

/// Places a waiting task, unless it is a successor and another one is on its way.
pub(super) fn place_if_its_turn(cluster: &mut Cluster, id: DeploymentId, task: TaskId, now: Time) {
    let slots = slots(cluster, id);
    let predecessor = |id: &TaskId| {
        slots
            .values()
            .find(|tasks| tasks.len() > 1 && tasks[1..].contains(id))
            .map(|t| t[0])
    };
    let mut avoid: Option<NodeId> = None;
    if let Some(before) = predecessor(&task) {
        let successors = slots
            .values()
            .filter(|tasks| tasks.len() > 1)
            .flat_map(|tasks| &tasks[1..]);
        let busy = successors
            .filter_map(|id| cluster.tasks.get(id))
            .any(|other| other.state == TaskState::Starting);
        if busy {
            return;
        }
        let node = cluster
            .tasks
            .get(&before)
            .and_then(|t| t.node_id)
            .and_then(|id| cluster.nodes.get(&id));
        avoid = node
            .filter(|node| node.eligibility == Eligibility::Draining)
            .map(|node| node.id);
    }
    placement::place(cluster, task, avoid, now);
}

/// What a failure means for the next task of its slot, and for the rollout it belongs to.
pub(super) fn note_failure(cluster: &mut Cluster, task: &Task, evidence: Evidence, now: Time) {
    let (Some(reason), id) = (task.reason, task.deployment_id) else {
        return;
    };
    let settings = cluster.settings;
    let message = task.message.clone().unwrap_or_default();
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    // The loss of a node says nothing about the program.
    let its_own = !matches!(reason, Reason::NodeLost | Reason::PortTaken);
    let rolling_out = cluster.is_rolling_out(deployment);
    let ran = task.running_at.map_or(Duration::ZERO, |at| now.since(at));
    let restarts = if ran >= settings.backoff_reset {
        1
    } else {
        task.restarts + 1
    };
    let down = cluster.count_ready(id) == 0;
    let named = restarts >= CRASH_LOOP_FAILURES && down;
    if its_own || rolling_out {
        cluster.update_deployment(id, |deployment| {
            if its_own {
                let not_before = now.plus(backoff(settings.backoff_initial, settings.backoff_max, restarts));
                deployment
                    .backoff
                    .insert(task.slot, Backoff { restarts, not_before });
            }
            if rolling_out {
                deployment.rollout_failures += u32::from(its_own);
                (deployment.reason, deployment.message) = (Some(reason), Some(message.clone()));
                deployment.evidence = Some(evidence);
            } else if named {
                let sentence = format!(
                    "{restarts} tasks failed one after the other, the last one with {reason}: {message}"
                );
                (deployment.reason, deployment.message) = (Some(Reason::CrashLoop), Some(sentence));
                deployment.evidence = Some(evidence);
            }
        });
    }
    if down && reason != Reason::NodeLost {
        cluster.say(Command::WakeFailed {
            deployment_id: id,
            reason,
            message,
        });
    }
}

/// A program with `restart: on_failure` or `never` that ended with 0 is done, not failed.
pub(super) fn ran_to_completion(deployment: &Deployment, exit_code: Option<i32>, rolling_out: bool) -> bool {
    exit_code == Some(0)
        && match deployment.spec.restart {
            RestartPolicy::Never => true,
            // A server that ends before it ever served is no success.
            RestartPolicy::OnFailure => !rolling_out,
            RestartPolicy::Always => false,
        }
}

/// Doubles with each failure in a row, up to `max`.
fn backoff(initial: Duration, max: Duration, failures: u32) -> Duration {
    initial
        .saturating_mul(1 << failures.saturating_sub(1).min(30))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let pause =
            |failures| backoff(Duration::from_millis(500), Duration::from_mins(1), failures).as_millis();
        assert_eq!(
            [pause(1), pause(2), pause(3), pause(8), pause(40)],
            [500, 1_000, 2_000, 60_000, 60_000]
        );
    }
}
