//! Sleep when idle, wake on request. However many requests wait, a wake starts each replica once: it only
//! clears `asleep`, and what is missing is made by the same look that makes everything else.

use super::{Cluster, Command, Deployment, Happening, retreat, succession, withheld};
use std::{collections::BTreeSet, time::Duration};
use zectre_common::{
    id::{DeploymentId, NodeId},
    state::{Reason, TaskState, Wanted},
    time::Time,
};

/// What the activity feed calls a wake; series of applications count these, those of nodes [`Command::Woken`].
pub const AWAKE: &str = "deployment.awake";
/// A superseded deployment that was woken by its preview sleeps after this long, when its own time-out is 0.
const PREVIEW_IDLE: Duration = Duration::from_mins(5);

/// When the deployment goes to sleep, unless requests come. May be too early as long as it is after `now`.
pub(super) fn idle_deadline(cluster: &Cluster, id: DeploymentId, now: Time) -> Option<Time> {
    let deployment = cluster.deployments.get(&id)?;
    let settled = can_sleep(cluster, deployment);
    let environment = cluster.environments.get(&deployment.environment_id)?;
    // During a rollout its two sides don't sleep: the strategies count on the tasks that are there.
    let returns = cluster.returning.get(&deployment.environment_id) == Some(&id);
    let involved = returns
        || environment.target.is_some() && [environment.current, environment.target].contains(&Some(id));
    // Its time begins with the end of its rollout, however long its tasks have run.
    let is_open = !deployment.status.is_ended();
    if !settled || involved || is_open {
        return None;
    }
    let timeout = Duration::from_secs(u64::from(deployment.idle_timeout_secs));
    let timeout = match environment.current == Some(id) {
        true if timeout.is_zero() || !deployment.cold_start_enabled => return None,
        false if timeout.is_zero() => PREVIEW_IDLE,
        _ => timeout,
    };
    let known = deployment.last_active_at.max(deployment.finished_at);
    if let Some(early) = known.map(|at| at.plus(timeout)).filter(|at| *at > now) {
        return Some(early);
    }
    let begun = cluster
        .tasks_of(id)
        .map(|task| succession::begun_at(cluster, task).unwrap_or(task.created_at));
    let last = begun.max().max(known)?;
    Some(last.plus(timeout))
}

/// It runs without a rollout under way, and may be stopped when nobody asks for it.
fn can_sleep(cluster: &Cluster, deployment: &Deployment) -> bool {
    let runs = cluster.has_won(deployment.id) && !deployment.is_job() && !deployment.asleep;
    runs || (retreat::is_inspected(deployment) && cluster.count_ready(deployment.id) > 0)
}

pub(super) fn sleep_if_idle(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    if idle_deadline(cluster, id, now).is_some_and(|at| at <= now) {
        put_to_sleep(cluster, id, "no request came within its idle time");
    }
}

/// Of no replicas, one was tried in its rollout: it need not wait until it is idle, unless requests came meanwhile.
pub(super) fn sleep_if_emptied(cluster: &mut Cluster, id: DeploymentId) {
    let is_unasked = |deployment: &Deployment| {
        deployment.replicas == 0 && deployment.last_active_at <= deployment.rollout_started_at
    };
    if cluster.deployments.get(&id).is_some_and(is_unasked) {
        put_to_sleep(cluster, id, "it works, and has no replicas until a request comes");
    }
}

/// Stops what runs of it, in order; the next request wakes it. False when it can't sleep now, or sleeps already.
pub(super) fn put_to_sleep(cluster: &mut Cluster, id: DeploymentId, why: &str) -> bool {
    let settled = cluster
        .deployments
        .get(&id)
        .is_some_and(|deployment| can_sleep(cluster, deployment));
    if !settled {
        return false;
    }
    cluster.waking.remove(&id);
    cluster.update_deployment(id, |deployment| {
        deployment.asleep = true;
        deployment.completed.clear();
        deployment.backoff.clear();
        // Why a rollout failed stays to be read.
        if !deployment.is_given_up() {
            (deployment.reason, deployment.message, deployment.evidence) = (None, None, None);
        }
    });
    if !crate::planted::planted!(SleepForgetsWaiting) {
        cluster.say(Command::Asleep(id));
    }
    let (deployment_id, message, reason) = (Some(id), why.to_owned(), Some(Reason::Idle));
    cluster.record(Happening {
        action: "deployment.asleep",
        deployment_id,
        message,
        reason,
        ..Happening::default()
    });
    true
}

/// It no longer serves, and sleeps. Whoever waits for it is told when all proxies route without it: only those are left then who want
/// this version.
pub(super) fn displace(cluster: &mut Cluster, id: DeploymentId) {
    cluster.update_deployment(id, |deployment| deployment.asleep = true);
    if !crate::planted::planted!(DisplacedForgotten) {
        cluster.displaced.add(id, None);
    }
}

/// Proxies moved on: they know by now what serves no more.
pub(super) fn tell_displaced(cluster: &mut Cluster) {
    for id in cluster.displaced.up_to(cluster.applied_epoch()) {
        cluster.displaced.remove(id);
        // It may have been woken since, or serve again.
        if cluster.comes_back(id) {
            cluster.say(Command::Displaced(id));
        }
    }
}

/// A request waits for it.
pub(super) fn wake_on_request(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    let refusal = if deployment.is_job() {
        Some((
            Reason::Stopped,
            "it runs to completion and takes no requests".to_owned(),
        ))
    } else if deployment.is_given_up() {
        let message = deployment
            .message
            .clone()
            .unwrap_or_else(|| "it was never rolled out".into());
        Some((deployment.reason.unwrap_or(Reason::Cancelled), message))
    } else if deployment.asleep && !deployment.cold_start_enabled {
        Some((
            Reason::Stopped,
            "it sleeps, and requests don't wake it: cold_start_enabled is off".to_owned(),
        ))
    } else {
        None
    };
    match refusal {
        Some((reason, message)) => cluster.say(Command::WakeFailed {
            deployment_id: id,
            reason,
            message,
        }),
        None => {
            wake(cluster, id, now);
            withheld::refuse_in_vain(cluster, id, now);
        }
    }
}

/// Why none of its tasks has a place, or may start yet, where that was told before.
pub(super) fn why_in_vain(cluster: &Cluster, id: DeploymentId) -> Option<(Reason, String)> {
    let wanted = || {
        let tasks = cluster.tasks_of(id);
        tasks.filter(|task| task.wanted == Wanted::Run)
    };
    let why = wanted().find_map(|task| Some((task.reason?, task.message.clone()?)));
    let in_vain = wanted().all(|task| task.state == TaskState::Pending && task.reason.is_some());
    why.filter(|_| in_vain)
}

/// Lets it run again. False when it doesn't sleep.
pub(super) fn wake(cluster: &mut Cluster, id: DeploymentId, now: Time) -> bool {
    let Some(deployment) = cluster.deployments.get_mut(&id) else {
        return false;
    };
    deployment.last_active_at = deployment.last_active_at.max(Some(now));
    if !deployment.asleep || deployment.is_given_up() {
        cluster.touch(id);
        return false;
    }
    cluster.update_deployment(id, |deployment| {
        deployment.asleep = false;
        deployment.completed.clear();
        deployment.backoff.clear();
    });
    cluster.waking.insert(id, BTreeSet::new());
    let (deployment_id, message) = (Some(id), "it was woken".into());
    cluster.record(Happening {
        action: AWAKE,
        deployment_id,
        message,
        ..Happening::default()
    });
    true
}

/// A task of it got a place on a node: where that is for a wake, the node's series counts one, however many replicas follow.
pub(super) fn note_place(cluster: &mut Cluster, id: DeploymentId, node_id: NodeId) {
    let nodes = cluster.waking.get_mut(&id);
    if nodes.is_some_and(|nodes| nodes.insert(node_id)) {
        cluster.say(Command::Woken { node_id });
    }
}

/// A task of it takes requests now: whoever waits for it is answered, and its wake is over.
pub(super) fn takes_requests(cluster: &mut Cluster, id: DeploymentId) {
    cluster.waking.remove(&id);
    cluster.say(Command::Ready(id));
}

/// Requests came. The deadline of a deployment that is busy is found to be later when it comes.
pub(super) fn note_activity(cluster: &mut Cluster, seen: &[(DeploymentId, Time)]) {
    for (id, at) in seen.iter().filter(|_| !crate::planted::planted!(ActivityIgnored)) {
        if let Some(deployment) = cluster.deployments.get_mut(id) {
            deployment.last_active_at = deployment.last_active_at.max(Some(*at));
        }
    }
}
