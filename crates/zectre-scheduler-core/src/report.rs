//! What agents say. A report moves a task forward and never back; what is said about tasks that the node
//! should not have changes nothing here, and is answered with an order to stop or forget them.

use super::{
    Cluster, Command, Happening, Task, Unrouted, drain, failure, lease, placement, sleep, succession,
    task::is_failure,
};
use std::sync::Arc;
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::DurationMs,
    state::{Reason, TaskState, Wanted},
    time::Time,
    wire::{agent::TaskReport, deployment::Evidence, task::Phases},
};

/// How long a task of an earlier leader or of before a loss may take to end.
const EXTRA_GRACE: DurationMs = DurationMs::from_secs(10);

/// In heartbeats, how old a digest may be when it arrives: its agent gives up after two, and as much again is for a
/// scheduler that stood still, or whose clock was set, while it was on its way.
const DIGEST_AGE_MAX: u32 = 4;

/// News between heartbeats.
pub(super) fn news(cluster: &mut Cluster, node_id: NodeId, tasks: Vec<TaskReport>, now: Time) {
    if !cluster.nodes.contains_key(&node_id) {
        return;
    }
    for report in tasks {
        if is_of(cluster, node_id, report.task_id) {
            apply(cluster, &report, now);
        } else {
            refuse(cluster, node_id, &report);
        }
    }
}

/// The full digest: what it has is applied, what it lacks and should have is ordered again.
pub(super) fn heartbeat(
    cluster: &mut Cluster,
    node_id: NodeId,
    tasks: Vec<TaskReport>,
    heard_at: Time,
    now: Time,
) {
    if !cluster.nodes.contains_key(&node_id) {
        return;
    }
    lease::renew(cluster, node_id, now);
    let held: Vec<TaskId> = cluster
        .nodes
        .get(&node_id)
        .into_iter()
        .flat_map(|node| node.tasks.iter().copied())
        .collect();
    let mut seen: Vec<TaskId> = Vec::with_capacity(tasks.len());
    let mut extras = is_unsure(cluster, node_id, heard_at);
    for report in tasks {
        seen.push(report.task_id);
        match cluster.tasks.get(&report.task_id) {
            Some(task) if task.node_id == Some(node_id) => {
                if !is_no_news(task, &report) {
                    apply(cluster, &report, now);
                    repeat_stop(cluster, &report, now);
                }
            }
            // Made before the news of its end, which overtook it: nothing of it is there any more.
            _ if !report.state.is_ended() && has_just_ended(cluster, node_id, report.task_id) => {}
            _ => {
                extras |= !report.state.is_ended() && !crate::planted::planted!(ExtrasIgnored);
                refuse(cluster, node_id, &report);
            }
        }
    }
    // The next one is made after this one was answered.
    cluster.just_ended.remove(&node_id);
    if cluster
        .nodes
        .get(&node_id)
        .is_some_and(|node| node.has_extras != extras)
    {
        cluster.reindex_node(node_id, |node| node.has_extras = extras);
    }
    seen.sort_unstable();
    for id in held {
        if seen.binary_search(&id).is_err() {
            not_held(cluster, node_id, id, heard_at, now);
        }
    }
}

/// The node was lost, and this digest may be older than the last that was started on it before.
fn is_unsure(cluster: &Cluster, node_id: NodeId, heard_at: Time) -> bool {
    let until = cluster.nodes.get(&node_id).and_then(|node| node.unsure_until);
    until.is_some_and(|until| heard_at < until)
}

/// Nearly all that a digest says is known.
fn is_no_news(task: &Task, report: &TaskReport) -> bool {
    task.state == TaskState::Running
        && report.state == TaskState::Running
        && (task.healthy == report.healthy || task.wanted == Wanted::Stop)
}

fn is_of(cluster: &Cluster, node_id: NodeId, id: TaskId) -> bool {
    cluster
        .tasks
        .get(&id)
        .is_some_and(|task| task.node_id == Some(node_id))
}

fn has_just_ended(cluster: &Cluster, node_id: NodeId, id: TaskId) -> bool {
    let ended = cluster.just_ended.get(&node_id);
    ended.is_some_and(|ended| ended.contains(&id))
}

/// The node has a task that isn't its: an ended one, one of a lost lease, or one nobody knows. What proxies may
/// still be routing to is stopped by a later digest.
fn refuse(cluster: &mut Cluster, node_id: NodeId, report: &TaskReport) {
    let (task_id, generation) = (report.task_id, report.generation.saturating_add(1));
    if report.state.is_ended() {
        cluster.say(Command::Forget {
            node_id,
            task_id,
            generation,
        });
    } else if !cluster.stranded.contains(node_id) && !crate::planted::planted!(ExtrasKept) {
        cluster.say(Command::Stop {
            node_id,
            task_id,
            generation,
            grace: EXTRA_GRACE,
        });
    }
}

/// The agent holds a task that it was told to stop: it has not seen the order, or it has, and ended before it could
/// write down that the task is to stop. An agent obeys only what is newer than what it holds.
fn repeat_stop(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let id = report.task_id;
    let Some(task) = cluster
        .tasks
        .get(&id)
        .filter(|task| task.state == TaskState::Stopping && is_due(cluster, task, now))
    else {
        return;
    };
    let goes_on = matches!(report.state, TaskState::Starting | TaskState::Running);
    if report.generation < task.generation {
        drain::send_stop(cluster, id, now);
    } else if goes_on {
        cluster.update_task(id, |task| task.generation += 1);
        drain::send_stop(cluster, id, now);
    }
}

/// The last order is old enough to repeat: a digest made before it arrived is no news.
fn is_due(cluster: &Cluster, task: &Task, now: Time) -> bool {
    task.seen_at
        .is_none_or(|at| now.since(at) >= cluster.settings.heartbeat / 2)
}

/// The digest lacks a task that is placed on the node.
fn not_held(cluster: &mut Cluster, node_id: NodeId, id: TaskId, heard_at: Time, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    // A digest may have been made before the order, or before the news that overtook it. How long it waited here, behind a
    // commit that took its time, makes it no newer.
    let last_word = task.seen_at.max(task.running_at);
    let settled =
        last_word.is_none_or(|at| heard_at.since(at) >= cluster.settings.heartbeat * DIGEST_AGE_MAX);
    match task.state {
        TaskState::Starting if task.is_draining() && !settled => {}
        TaskState::Starting if crate::planted::planted!(StartNotRepeated) => {}
        TaskState::Starting
            if !task.is_draining() && (is_due(cluster, task, now) || cluster.unordered.contains(&id)) =>
        {
            order_again(cluster, node_id, id, now);
        }
        _ if settled && (task.state == TaskState::Running || task.is_draining()) => {
            let message = "its node restarted and no longer has it".into();
            lease::strand(cluster, node_id, id);
            end(
                cluster,
                id,
                TaskState::Failed,
                Reason::NodeLost,
                message,
                None,
                now,
            );
        }
        TaskState::Stopping if settled => finish_stopping(cluster, id, None, now),
        _ => {}
    }
}

fn order_again(cluster: &mut Cluster, node_id: NodeId, id: TaskId, now: Time) {
    // Its time begins now: what was ordered before got lost with whoever was to hear it.
    if cluster.unordered.remove(&id) {
        cluster.update_task(id, |task| task.started_at = Some(now));
    }
    let Some(task) = cluster.tasks.get_mut(&id) else {
        return;
    };
    task.seen_at = Some(now);
    let task = Box::new(task.clone());
    placement::arm_start(cluster, &task);
    cluster.say(Command::Start { node_id, task });
}

fn apply(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let Some(task) = cluster.tasks.get(&report.task_id) else {
        return;
    };
    // A report that an agent can't have made about this task's orders is a stranger's.
    if report.generation > task.generation {
        return;
    }
    cluster.unordered.remove(&report.task_id);
    match report.state {
        TaskState::Pending | TaskState::Stopping => {}
        TaskState::Starting => still_starting(cluster, report, now),
        TaskState::Running => runs(cluster, report, now),
        TaskState::Stopped | TaskState::Failed => {
            if let Some(node_id) = task.node_id {
                let just_ended = cluster.just_ended.entry(node_id).or_default();
                just_ended.insert(report.task_id);
            }
            ended(cluster, report, now);
        }
    }
}

fn still_starting(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let Some(task) = cluster
        .tasks
        .get_mut(&report.task_id)
        .filter(|task| task.state == TaskState::Starting && task.wanted == Wanted::Run)
    else {
        return;
    };
    task.seen_at = Some(now);
    let task = task.clone();
    if let Some(answer) = &report.last_probe {
        cluster.answers.insert(task.id, answer.clone());
    }
    placement::arm_start(cluster, &task);
}

fn runs(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let Some(task) = cluster.tasks.get(&report.task_id) else {
        return;
    };
    let (id, deployment_id, wanted) = (task.id, task.deployment_id, task.wanted);
    let address = task
        .node_id
        .and_then(|id| cluster.nodes.get(&id))
        .map(|node| Arc::clone(&node.address));
    let serves = cluster
        .deployments
        .get(&deployment_id)
        .is_some_and(|deployment| !deployment.is_job());
    match task.state {
        TaskState::Starting if wanted == Wanted::Run => {
            let healthy = report.healthy;
            let placed = task.phases.and_then(|phases| phases.place_us);
            let phases = Phases {
                place_us: placed,
                ..report.phases
            };
            cluster.update_task(id, |task| {
                (task.state, task.healthy, task.routed) = (TaskState::Running, healthy, healthy && serves);
                // The port that was given is the one that is held; an agent can't choose another.
                (task.address, task.phases, task.running_at) = (address, Some(phases), Some(now));
            });
            cluster.answers.remove(&id);
            succession::arm_relief(cluster, id);
            let message = "its port is open and its check passed".into();
            record_task(cluster, "task.running", id, deployment_id, message, None);
            if healthy && serves {
                sleep::takes_requests(cluster, deployment_id);
            }
            // It was well, and has fallen ill before anybody listened.
            if !healthy {
                is_ill(cluster, report, now);
            }
        }
        TaskState::Running if wanted == Wanted::Run && task.healthy && !report.healthy => {
            is_ill(cluster, report, now);
        }
        TaskState::Running if wanted == Wanted::Run && !task.healthy && report.healthy => {
            cluster.update_task(id, |task| (task.healthy, task.routed) = (true, serves));
            if serves {
                sleep::takes_requests(cluster, deployment_id);
            }
        }
        _ => {}
    }
}

/// It failed its checks as often as it is allowed to.
fn is_ill(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let probe = report.last_probe.as_deref().unwrap_or("no answer");
    let message = format!("its health check failed: {probe}");
    let reason = Reason::HealthCheckFailed;
    condemn(cluster, report.task_id, reason, message, Some(report), now);
}

fn ended(cluster: &mut Cluster, report: &TaskReport, now: Time) {
    let Some(task) = cluster.tasks.get(&report.task_id) else {
        return;
    };
    let (id, deployment_id) = (task.id, task.deployment_id);
    if crate::planted::planted!(EndUnheard) && task.wanted == Wanted::Stop {
        return;
    }
    if task.wanted == Wanted::Stop {
        return finish_stopping(cluster, id, Some(report), now);
    }
    let Some(deployment) = cluster.deployments.get(&deployment_id) else {
        return;
    };
    let rolling_out = cluster.is_rolling_out(deployment);
    if failure::ran_to_completion(deployment, report.exit_code, rolling_out) {
        let slot = task.slot;
        finish(
            cluster,
            id,
            TaskState::Stopped,
            Some(Reason::Exited),
            Some("it ran to its end".into()),
            Some(report),
            now,
        );
        cluster.update_deployment(deployment_id, |deployment| {
            deployment.completed.insert(slot);
        });
        if cluster
            .rosters
            .get(&deployment_id)
            .is_none_or(|roster| roster.tasks.is_empty())
        {
            sleep::put_to_sleep(cluster, deployment_id, "its last task ended with 0");
        }
        return;
    }
    // Its node's agent stops, and took its tasks with it. What must not run twice has failed all the same.
    if (report.state, report.reason) == (TaskState::Stopped, Some(Reason::Stopped)) && !deployment.is_job() {
        let message = report.message.clone();
        finish(
            cluster,
            id,
            TaskState::Stopped,
            report.reason,
            message,
            Some(report),
            now,
        );
        return;
    }
    let reason = report
        .reason
        .filter(|reason| is_failure(*reason))
        .unwrap_or(Reason::Exited);
    let message = report.message.clone().unwrap_or_else(|| how_it_ended(report));
    if reason == Reason::PortTaken {
        let task = task.clone();
        failure::rest_port(cluster, &task, now);
    }
    end(cluster, id, TaskState::Failed, reason, message, Some(report), now);
}

fn how_it_ended(report: &TaskReport) -> String {
    match (report.exit_code, report.signal) {
        (_, Some(signal)) => format!("it was ended by signal {signal}"),
        (Some(code), None) => format!("it ended by itself with exit code {code}"),
        (None, None) => "it ended by itself".into(),
    }
}

/// The end of a task that was told to stop: as wished, or as the failure that it was stopped for.
fn finish_stopping(cluster: &mut Cluster, id: TaskId, report: Option<&TaskReport>, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    let (reason, message) = (task.reason, task.message.clone());
    let state = if reason.is_some_and(is_failure) {
        TaskState::Failed
    } else {
        TaskState::Stopped
    };
    finish(
        cluster,
        id,
        state,
        reason.or(Some(Reason::Stopped)),
        message,
        report,
        now,
    );
}

/// Ends a task for a reason that counts as a failure of its slot.
pub(super) fn end(
    cluster: &mut Cluster,
    id: TaskId,
    state: TaskState,
    reason: Reason,
    message: String,
    report: Option<&TaskReport>,
    now: Time,
) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    if task.wanted == Wanted::Stop {
        return finish_stopping(cluster, id, report, now);
    }
    if let Some(task) = finish(cluster, id, state, Some(reason), Some(message), report, now) {
        failure::note(cluster, &task, evidence(&task, report), now);
    }
}

fn finish(
    cluster: &mut Cluster,
    id: TaskId,
    state: TaskState,
    reason: Option<Reason>,
    message: Option<String>,
    report: Option<&TaskReport>,
    now: Time,
) -> Option<Task> {
    let task = cluster.end_task(id, now, |task| {
        (task.state, task.reason, task.message) = (state, reason, message);
        if let Some(report) = report {
            (task.exit_code, task.signal) = (report.exit_code, report.signal);
        }
        if task.unrouted == Unrouted::Awaited {
            task.unrouted = Unrouted::No;
        }
    })?;
    let action = if state == TaskState::Failed {
        "task.failed"
    } else {
        "task.stopped"
    };
    let said = task.message.clone().unwrap_or_else(|| "it was stopped".into());
    record_task(cluster, action, id, task.deployment_id, said, task.reason);
    Some(task)
}

/// Gives up a task that may still be there: it counts as failed now, and is stopped in order.
pub(super) fn condemn(
    cluster: &mut Cluster,
    id: TaskId,
    reason: Reason,
    message: String,
    report: Option<&TaskReport>,
    now: Time,
) {
    drain::stop_task(cluster, id, Some(reason), Some(message), now);
    if let Some(task) = cluster.tasks.get(&id).cloned() {
        failure::note(cluster, &task, evidence(&task, report), now);
    }
}

fn evidence(task: &Task, report: Option<&TaskReport>) -> Evidence {
    Evidence {
        task_id: Some(task.id),
        exit_code: task.exit_code,
        signal: task.signal,
        last_probe: report.and_then(|report| report.last_probe.clone()),
        log_tail: report.map(|report| report.log_tail.clone()).unwrap_or_default(),
    }
}

fn record_task(
    cluster: &mut Cluster,
    action: &'static str,
    id: TaskId,
    deployment_id: zectre_common::id::DeploymentId,
    message: String,
    reason: Option<Reason>,
) {
    let (task_id, deployment_id) = (Some(id), Some(deployment_id));
    cluster.record(Happening {
        action,
        deployment_id,
        task_id,
        message,
        reason,
        ..Happening::default()
    });
}
