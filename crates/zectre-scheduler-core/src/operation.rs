//! What people ask for. Each operation is applied once, and marked in the transaction that saves its effects;
//! one that makes no sense any more changes nothing and says so in the activity feed.

use super::{Cluster, Command, Deployment, Happening, Operation, canary, drain, rollout, sleep, succession};
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::{DeploymentStatus, OperationKind, Reason},
    time::Time,
    wire::event::who,
};

/// Takes over what others wrote about a deployment; all of it, when it isn't known yet.
pub(super) fn merge_loaded(cluster: &mut Cluster, loaded: Deployment, now: Time) {
    let id = loaded.id;
    let Some(known) = cluster.deployments.get(&id) else {
        return cluster.insert_deployment(loaded);
    };
    let before = (known.replicas, known.idle_timeout_secs, known.cold_start_enabled);
    let after = (
        loaded.replicas,
        loaded.idle_timeout_secs,
        loaded.cold_start_enabled,
    );
    let has_source = known.source == loaded.source && known.artifact_id == loaded.artifact_id;
    if before == after && has_source {
        // Somebody is about to ask something of it: it is not forgotten before.
        return cluster.touch(id);
    }
    cluster.update_deployment(id, |deployment| {
        (
            deployment.replicas,
            deployment.idle_timeout_secs,
            deployment.cold_start_enabled,
        ) = after;
        // Once it has its source it keeps it: an artifact is immutable, and in use.
        if deployment.source != super::Source::Ready {
            (deployment.source, deployment.artifact_id) = (loaded.source, loaded.artifact_id);
        }
    });
    let settled = cluster.has_won(id);
    let is_current = cluster
        .deployments
        .get(&id)
        .is_some_and(|deployment| cluster.is_current(deployment));
    if settled && after.0 == 0 && before.0 > 0 {
        sleep::put_to_sleep(cluster, id, "it was scaled to 0");
    } else if settled && is_current && after.0 > 0 && before.0 == 0 {
        sleep::wake(cluster, id, now);
    }
}

pub(super) fn apply(cluster: &mut Cluster, operation: &Operation, now: Time) {
    if !cluster.is_first(operation.id) && !crate::planted::planted!(OperationRepeated) {
        return;
    }
    if !crate::planted::planted!(OperationNotMarked) {
        cluster.say(Command::OperationApplied(operation.id));
    }
    let refused = match (operation.kind, operation.deployment_id) {
        (OperationKind::StopTask, _) => stop_one(cluster, operation.task_id, who(&operation.actor), now),
        // The shell reads the node's row and sends what it wants of it.
        (OperationKind::Node, _) => return,
        (_, None) => Err("it names no deployment".to_owned()),
        (kind, Some(id)) if cluster.deployments.contains_key(&id) => {
            apply_to_deployment(cluster, kind, id, &operation.actor, now)
        }
        (_, Some(_)) => Err("the deployment is gone".to_owned()),
    };
    // Who accepted these has told what was created or changed; that it is looked at now is no news.
    let is_told = matches!(operation.kind, OperationKind::Deploy | OperationKind::Reconcile);
    if is_told && refused.is_ok() {
        return;
    }
    let action = match operation.kind {
        OperationKind::Deploy => "deployment.deploy",
        OperationKind::Reconcile => "deployment.changed",
        OperationKind::Promote => "deployment.promote",
        OperationKind::Rollback => "deployment.rollback",
        OperationKind::Cancel => "deployment.cancel",
        OperationKind::Restart => "deployment.restart",
        OperationKind::Sleep => "deployment.sleep",
        OperationKind::Wake => "deployment.wake",
        OperationKind::StopTask => "task.stop",
        OperationKind::Node => "node.changed",
        OperationKind::Delete => "deployment.delete",
    };
    let message = match refused {
        Ok(()) => format!("{} was applied", operation.kind),
        Err(why) => format!("{} had no effect: {why}", operation.kind),
    };
    cluster.record(Happening {
        actor: Some(operation.actor.clone()),
        action,
        deployment_id: operation.deployment_id,
        task_id: operation.task_id,
        node_id: operation.node_id,
        message,
        request_id: operation.request_id.clone(),
        ..Happening::default()
    });
}

fn apply_to_deployment(
    cluster: &mut Cluster,
    kind: OperationKind,
    id: DeploymentId,
    actor: &str,
    now: Time,
) -> Result<(), String> {
    cluster.touch(id);
    let who = who(actor);
    match kind {
        OperationKind::Promote => promote(cluster, id, who, now),
        OperationKind::Rollback => roll_back(cluster, id, who, now),
        OperationKind::Cancel => cancel(cluster, id, format!("{who} cancelled it"), now),
        OperationKind::Restart => restart(cluster, id, now),
        OperationKind::Sleep => put_to_sleep(cluster, id, who),
        OperationKind::Wake => wake(cluster, id, now),
        OperationKind::Delete => {
            delete(cluster, id, now);
            Ok(())
        }
        OperationKind::Deploy | OperationKind::Reconcile | OperationKind::StopTask | OperationKind::Node => {
            Ok(())
        }
    }
}

/// Why nobody can stop, start or replace what runs of it.
fn unless_serving(cluster: &Cluster, id: DeploymentId) -> Result<(), String> {
    match cluster.deployments.get(&id) {
        Some(deployment) if deployment.is_job() => Err("it runs to completion, once".into()),
        Some(deployment) if deployment.is_given_up() => Err(format!("its rollout is {}", deployment.status)),
        _ => Ok(()),
    }
}

fn restart(cluster: &mut Cluster, id: DeploymentId, now: Time) -> Result<(), String> {
    unless_serving(cluster, id)?;
    match succession::restart(cluster, id, now) {
        0 => Err("none of its tasks is there to be replaced, or all of them are being replaced".into()),
        _ => Ok(()),
    }
}

fn put_to_sleep(cluster: &mut Cluster, id: DeploymentId, who: &str) -> Result<(), String> {
    if sleep::put_to_sleep(cluster, id, &format!("{who} put it to sleep")) {
        return Ok(());
    }
    unless_serving(cluster, id)?;
    let asleep = cluster.deployments.get(&id).is_some_and(|d| d.asleep);
    Err(if asleep {
        "it sleeps"
    } else {
        "its rollout has not ended"
    }
    .into())
}

fn wake(cluster: &mut Cluster, id: DeploymentId, now: Time) -> Result<(), String> {
    unless_serving(cluster, id)?;
    if sleep::wake(cluster, id, now) {
        return Ok(());
    }
    Err("it doesn't sleep".into())
}

fn promote(cluster: &mut Cluster, id: DeploymentId, who: &str, now: Time) -> Result<(), String> {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return Ok(());
    };
    let environment_id = deployment.environment_id;
    let environment = cluster.environments.get(&environment_id);
    if deployment.is_job() {
        return Err("it runs to completion and serves nothing".into());
    }
    if environment.is_some_and(|environment| environment.current == Some(id)) {
        return Err("it is current already".into());
    }
    let rolls = !deployment.is_given_up();
    if environment.is_some_and(|environment| rolls && environment.target == Some(id)) {
        if cluster.count_ready(id) == 0 {
            return Err("none of its tasks is healthy yet; it takes over by itself when they are".into());
        }
        if !canary::is_on_trial(cluster, deployment) {
            // Sooner would leave fewer tasks serving than there were.
            return Err("it takes over by itself as soon as all of its tasks are healthy".into());
        }
        rollout::promote(cluster, id, now);
        return Ok(());
    }
    match deployment.status {
        DeploymentStatus::Succeeded => {
            let old = environment.and_then(|environment| environment.current);
            rollout::begin_return(cluster, environment_id, id, who, now);
            // Going back from here leads to what serves now.
            cluster.update_deployment(id, |deployment| deployment.previous_id = old);
            Ok(())
        }
        status => Err(format!(
            "its rollout is {status}; only one that succeeded can be brought back"
        )),
    }
}

fn roll_back(cluster: &mut Cluster, id: DeploymentId, who: &str, now: Time) -> Result<(), String> {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return Ok(());
    };
    if !deployment.status.is_ended() && !cluster.has_won(id) {
        let why = format!("{who} rolled it back before it had taken over");
        return cancel(cluster, id, why, now);
    }
    if !cluster.is_current(deployment) {
        return Err("it isn't current, so there is nothing to take back".into());
    }
    let (environment_id, previous) = (deployment.environment_id, deployment.previous_id);
    let previous = previous.filter(|previous| cluster.has_won(*previous));
    let Some(previous) = previous else {
        return Err("nothing served before it".into());
    };
    rollout::begin_return(cluster, environment_id, previous, who, now);
    Ok(())
}

fn cancel(cluster: &mut Cluster, id: DeploymentId, why: String, now: Time) -> Result<(), String> {
    if cluster.status_of(id).is_some_and(DeploymentStatus::is_ended) {
        return Err("its rollout has ended".into());
    }
    if cluster.has_won(id) {
        return Err("it has taken over already; roll back instead".into());
    }
    rollout::end(
        cluster,
        id,
        DeploymentStatus::Cancelled,
        Reason::Cancelled,
        why,
        now,
    );
    Ok(())
}

/// Stops everything of its environment, which is being deleted, whatever it was: an earlier wish may have brought back what
/// nobody knew to be concerned when the deletion was asked for.
fn delete(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(environment_id) = cluster
        .deployments
        .get(&id)
        .map(|deployment| deployment.environment_id)
    else {
        return;
    };
    let residents = cluster
        .residents
        .get(&environment_id)
        .cloned()
        .unwrap_or_default();
    for resident in residents {
        cluster.update_deployment(resident, |deployment| {
            (deployment.status, deployment.asleep) = (DeploymentStatus::Cancelled, true);
            (deployment.reason, deployment.message) =
                (Some(Reason::Cancelled), Some("it is being deleted".into()));
            deployment.finished_at = deployment.finished_at.or(Some(now));
        });
        cluster.say(Command::WakeFailed {
            deployment_id: resident,
            reason: Reason::Cancelled,
            message: "it is being deleted".into(),
        });
    }
    cluster.returning.remove(&environment_id);
    let environment = cluster.environments.get(&environment_id);
    if environment.is_some_and(|e| e.current.is_some() || e.target.is_some()) {
        cluster.update_environment(environment_id, |environment| {
            (environment.current, environment.target, environment.target_weight) = (None, None, None);
        });
    }
}

fn stop_one(cluster: &mut Cluster, id: Option<TaskId>, who: &str, now: Time) -> Result<(), String> {
    let Some(id) = id.filter(|id| cluster.tasks.contains_key(id)) else {
        return Err("the task has ended".into());
    };
    let job = cluster
        .tasks
        .get(&id)
        .and_then(|task| cluster.deployments.get(&task.deployment_id))
        .filter(|deployment| deployment.is_job())
        .map(|deployment| deployment.id);
    let message = format!("{who} stopped it");
    drain::stop_task(cluster, id, Some(Reason::Stopped), Some(message), now);
    // A run to completion is over then: another task would run once more what was to run once.
    if let Some(job) = job {
        let (status, reason) = (DeploymentStatus::Cancelled, Reason::Cancelled);
        let message = format!("{who} stopped a task of it");
        rollout::end(cluster, job, status, reason, message, now);
    }
    Ok(())
}

/// The row is gone, and its tasks' rows with it: their nodes are told to stop them.
pub(super) fn forget_deployment(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(environment_id) = cluster
        .deployments
        .get(&id)
        .map(|deployment| deployment.environment_id)
    else {
        return;
    };
    let tasks: Vec<TaskId> = cluster.tasks_of(id).map(|task| task.id).collect();
    for task in tasks {
        drain::send_stop_of_gone(cluster, task, now);
        cluster.end_task(task, now, |task| {
            task.state = zectre_common::state::TaskState::Stopped;
        });
    }
    cluster.remove_deployment(id);
    let environment = cluster.environments.get(&environment_id);
    if environment.is_some_and(|e| e.current == Some(id) || e.target == Some(id)) {
        // The database did the same by its foreign keys.
        cluster.update_environment(environment_id, |environment| {
            environment.current = environment.current.filter(|current| *current != id);
            environment.target = environment.target.filter(|target| *target != id);
        });
    }
}
