//! How a new deployment takes over from the current one: only when it is healthy, and never when it is broken.
//!
//! A rollout ends in one of these ways, and always within its deadline:
//!
//! | outcome | when |
//! |---|---|
//! | succeeded | its strategy's number of tasks is ready (`canary`: its time is over, or a person promoted it), and the proxies know (`confirm`) |
//! | failed, the last task's reason | `rollout_failures_max` tasks of it failed |
//! | failed, `no_eligible_node` | for 15 seconds there was no node that could run it, however empty |
//! | failed, `no_capacity` | its deadline came while a task waited for a place |
//! | failed, `progress_deadline` | its deadline came for any other cause |
//! | failed, `build_failed` | the build that it waited for ended without an artifact |
//! | failed, `artifact_missing` | nothing to run was named or uploaded before its deadline |
//! | cancelled, `superseded` | a newer deployment of the environment began its own rollout |
//! | cancelled, `cancelled` | a person cancelled it, or went back to an earlier one |

use super::{
    Cluster, Command, Deployment, Environment, Happening, Source, canary, confirm,
    progress::{Defeat, defeat, wait_end},
    retreat, sleep,
};
use zectre_common::{
    id::{DeploymentId, EnvironmentId},
    spec::Strategy,
    state::{DeploymentStatus, Reason},
    time::Time,
};

/// Tasks of the deployment that is being rolled out.
pub(super) fn wanted_of_target(cluster: &Cluster, environment: &Environment, target: &Deployment) -> u32 {
    let full = target.full_size();
    let old = environment.current.filter(|id| *id != target.id);
    let old_live = old.map_or(0, |id| cluster.count_live(id));
    if is_return(target) {
        return full;
    }
    match target.spec.strategy {
        Strategy::Rolling { max_surge, .. } => match old {
            Some(old) => {
                // Where it is to become smaller, the larger one goes on until there is something to take over.
                let before = cluster.deployments.get(&old).map_or(0, Deployment::full_size);
                let room = before.saturating_sub(full).saturating_add(max_surge);
                room_beside(cluster, target, old, full, room)
            }
            None => full,
        },
        Strategy::Recreate if old_live > 0 && !crate::planted::planted!(RecreateOverlaps) => 0,
        Strategy::Canary { .. } => canary::size_now(cluster, target),
        Strategy::BlueGreen | Strategy::Recreate => full,
    }
}

/// How many of its `full` tasks a deployment may have beside the live ones of `other`.
pub(super) fn room_beside(
    cluster: &Cluster,
    deployment: &Deployment,
    other: DeploymentId,
    full: u32,
    max_surge: u32,
) -> u32 {
    let max_surge = max_surge.saturating_add(u32::from(crate::planted::planted!(SurgeForgotten)) * 9);
    let room = full
        .saturating_add(max_surge)
        .saturating_sub(cluster.count_live(other));
    // Its own tasks that are on their way out take room too.
    let leaving = cluster
        .rosters
        .get(&deployment.id)
        .map_or(0, |roster| roster.leaving.len());
    let ready = cluster.count_ready(deployment.id).min(full);
    full.min(room.saturating_sub(leaving as u32).max(ready))
}

/// Tasks of the deployment that serves, which gives way to a target as its strategy says.
pub(super) fn wanted_of_current(cluster: &Cluster, environment: &Environment, current: &Deployment) -> u32 {
    let full = current.full_size();
    let target = environment
        .target
        .filter(|id| *id != current.id)
        .and_then(|id| cluster.deployments.get(&id));
    let Some(target) = target.filter(|target| !is_return(target)) else {
        return full;
    };
    if target.is_given_up() {
        return retreat::wanted_of_current(cluster, current, target);
    }
    match target.spec.strategy {
        Strategy::Rolling { max_unavailable, .. } => {
            let max_unavailable =
                max_unavailable + u32::from(crate::planted::planted!(AvailabilityForgotten)) * 9;
            // As many as serve now, also where it is to become smaller: that it can serve is not known before it does.
            let floor = target.full_size().max(full).saturating_sub(max_unavailable);
            full.min(floor.saturating_sub(cluster.count_ready(target.id)))
        }
        Strategy::Recreate => 0,
        Strategy::BlueGreen | Strategy::Canary { .. } => full,
    }
}

/// Its rollout ended well before: it is being gone back to.
fn is_return(target: &Deployment) -> bool {
    target.status == DeploymentStatus::Succeeded
}

/// Moves the environment's rollout on.
pub(super) fn advance(cluster: &mut Cluster, environment_id: EnvironmentId, now: Time) {
    give_up_sourceless(cluster, environment_id, now);
    if !retreat::advance(cluster, environment_id, now) {
        return;
    }
    resume_return(cluster, environment_id, now);
    let Some(environment) = cluster.environments.get(&environment_id) else {
        return;
    };
    let is_ready = |id: &DeploymentId| {
        cluster
            .deployments
            .get(id)
            .is_some_and(|d| d.source == Source::Ready)
    };
    let newest = environment.open.iter().rev().map(|(_, id)| *id).find(is_ready);
    let is_server = |id: &DeploymentId| cluster.deployments.get(id).is_some_and(|d| !d.is_job());
    let serving = environment.current.filter(is_server);
    // Rows can come out of order: of an older one it may be heard only now.
    for newer in [newest, serving].into_iter().flatten() {
        supersede_older(cluster, environment_id, newer, now);
    }
    let target = cluster.environments.get(&environment_id).and_then(|e| e.target);
    let is_open = |id: &DeploymentId| !cluster.status_of(*id).is_some_and(DeploymentStatus::is_ended);
    if let Some(newest) = newest.filter(|id| target != Some(*id) && is_open(id)) {
        // What was midway gives back first.
        if !retreat::advance(cluster, environment_id, now) {
            return;
        }
        begin(cluster, environment_id, newest, now);
    }
    let Some(target) = cluster
        .environments
        .get(&environment_id)
        .and_then(|environment| environment.target)
    else {
        return;
    };
    judge(cluster, environment_id, target, now);
}

/// Ends the deployments that have nothing to run and will not get anything.
fn give_up_sourceless(cluster: &mut Cluster, environment_id: EnvironmentId, now: Time) {
    let open: Vec<DeploymentId> = cluster
        .environments
        .get(&environment_id)
        .into_iter()
        .flat_map(|e| e.open.iter().map(|(_, id)| *id))
        .collect();
    for id in open {
        give_up_if_sourceless(cluster, id, now);
    }
}

pub(super) fn give_up_if_sourceless(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(deployment) = cluster
        .deployments
        .get(&id)
        .filter(|deployment| !deployment.status.is_ended() && !cluster.confirming.contains(id))
    else {
        return;
    };
    match &deployment.source {
        Source::BuildFailed { message } => {
            let message = message.clone();
            end(
                cluster,
                id,
                DeploymentStatus::Failed,
                Reason::BuildFailed,
                message,
                now,
            );
        }
        Source::Missing if wait_end(deployment) <= now => {
            let message = "no artifact was uploaded for it in time: upload one and deploy again".into();
            end(
                cluster,
                id,
                DeploymentStatus::Failed,
                Reason::ArtifactMissing,
                message,
                now,
            );
        }
        _ => {}
    }
}

fn supersede_older(cluster: &mut Cluster, environment_id: EnvironmentId, id: DeploymentId, now: Time) {
    let known = cluster
        .deployments
        .get(&id)
        .filter(|_| !crate::planted::planted!(OlderRolloutKept));
    let Some(version) = known.map(|deployment| deployment.version) else {
        return;
    };
    let older: Vec<DeploymentId> = cluster
        .environments
        .get(&environment_id)
        .into_iter()
        .flat_map(|environment| environment.open.iter())
        .filter(|(other, _)| *other < version)
        .map(|(_, id)| *id)
        .collect();
    for older in older {
        let message = format!("version {version} of the same environment came after it");
        end(
            cluster,
            older,
            DeploymentStatus::Cancelled,
            Reason::Superseded,
            message,
            now,
        );
    }
}

fn begin(cluster: &mut Cluster, environment_id: EnvironmentId, id: DeploymentId, now: Time) {
    abandon_return(cluster, environment_id);
    cluster.update_deployment(id, |deployment| {
        (
            deployment.rollout_started_at,
            deployment.rollout_failures,
            deployment.asleep,
        ) = (Some(now), 0, false);
        deployment.promoted_at = None;
    });
    cluster.update_environment(environment_id, |e| (e.target, e.target_weight) = (Some(id), None));
}

/// A return that is under way gives way to something else: what was woken for it sleeps again.
fn abandon_return(cluster: &mut Cluster, environment_id: EnvironmentId) {
    if let Some(id) = cluster.returning.remove(&environment_id) {
        sleep::displace(cluster, id);
    }
    let Some(environment) = cluster.environments.get(&environment_id) else {
        return;
    };
    let Some(target) = environment
        .target
        .and_then(|id| cluster.deployments.get(&id))
        .filter(|t| is_return(t))
    else {
        return;
    };
    let id = target.id;
    sleep::displace(cluster, id);
    cluster.update_environment(environment_id, |e| (e.target, e.target_weight) = (None, None));
}

/// Goes back to a deployment that was rolled out before.
pub(super) fn begin_return(
    cluster: &mut Cluster,
    environment_id: EnvironmentId,
    id: DeploymentId,
    who: &str,
    now: Time,
) {
    abandon_return(cluster, environment_id);
    // Known before what is open ends: what that has of healthy tasks may be all that serves.
    cluster.returning.insert(environment_id, id);
    for open in asked_for_before(cluster, environment_id) {
        let message = format!("{who} went back to another version");
        end(
            cluster,
            open,
            DeploymentStatus::Cancelled,
            Reason::Cancelled,
            message,
            now,
        );
    }
    cluster.update_deployment(id, |deployment| {
        (
            deployment.rollout_started_at,
            deployment.rollout_failures,
            deployment.asleep,
        ) = (Some(now), 0, false);
        deployment.backoff.clear();
        deployment.completed.clear();
    });
    // What was midway gives back first; this one comes up meanwhile.
    if retreat::advance(cluster, environment_id, now) {
        resume_return(cluster, environment_id, now);
    }
}

/// What is rolled out, and what waits for its turn behind a lost rollout. A build that is under way is a wish for later: whoever
/// goes back while the remedy is built gets the remedy.
fn asked_for_before(cluster: &Cluster, environment_id: EnvironmentId) -> Vec<DeploymentId> {
    let Some(environment) = cluster.environments.get(&environment_id) else {
        return Vec::new();
    };
    let is_ready = |id: &DeploymentId| {
        let open = cluster.deployments.get(id);
        open.is_some_and(|open| open.source == Source::Ready)
    };
    let waiting = environment.open.iter().map(|(_, id)| *id).filter(is_ready);
    environment.target.into_iter().chain(waiting).collect()
}

/// Nothing is midway any more: the deployment that someone asked to go back to is the target.
fn resume_return(cluster: &mut Cluster, environment_id: EnvironmentId, now: Time) {
    let Some(id) = cluster.returning.remove(&environment_id) else {
        return;
    };
    // It may have been put to sleep, or deleted.
    let is_wanted = cluster
        .deployments
        .get(&id)
        .is_some_and(|deployment| is_return(deployment) && !deployment.asleep);
    if !is_wanted {
        return;
    }
    cluster.update_deployment(id, |deployment| {
        (deployment.rollout_started_at, deployment.rollout_failures) = (Some(now), 0);
    });
    cluster.update_environment(environment_id, |e| (e.target, e.target_weight) = (Some(id), None));
}

/// Whether the target has won, has lost, or gets another share.
fn judge(cluster: &mut Cluster, environment_id: EnvironmentId, id: DeploymentId, now: Time) {
    let (Some(environment), Some(target)) = (
        cluster.environments.get(&environment_id),
        cluster.deployments.get(&id),
    ) else {
        return;
    };
    let ready = cluster.count_ready(id);
    let old = environment.current.filter(|current| *current != id);
    let old_ready = old.map_or(0, |old| cluster.count_ready(old));
    let weight = environment.target_weight;
    let is_on_trial = canary::is_on_trial(cluster, target);
    let is_whole = ready >= canary::size_now(cluster, target);
    if is_return(target) {
        // Whoever asks to go back is not served by what is there: one healthy task is enough.
        if ready > 0 || old_ready == 0 {
            return take_over(cluster, environment_id, id, false, now);
        }
    } else if is_whole && !is_on_trial {
        take_over(cluster, environment_id, id, true, now);
        return sleep::sleep_if_emptied(cluster, id);
    }
    let strategy = target.spec.strategy;
    if canary::promoted_at(cluster, target).is_some_and(|at| at <= now) {
        return promote(cluster, id, now);
    }
    if let Some(defeat) = defeat(cluster, id, now) {
        return lose(cluster, environment_id, id, defeat, now);
    }
    let share = match strategy {
        Strategy::Rolling { .. } => (ready > 0).then(|| (100 * ready / (ready + old_ready)) as u8),
        Strategy::Canary { weight: share, .. } if is_on_trial && is_whole => Some(share),
        _ => weight.filter(|_| ready > 0),
    };
    set_weight(cluster, environment_id, weight, share);
}

/// The trial of a canary is over: all of it comes up, and then takes over.
pub(super) fn promote(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    cluster.update_deployment(id, |deployment| deployment.promoted_at = Some(now));
    let message = "its trial is over: all of its replicas come up, and then it takes over".into();
    cluster.record(Happening {
        action: "deployment.promoted",
        deployment_id: Some(id),
        message,
        ..Happening::default()
    });
}

fn set_weight(cluster: &mut Cluster, environment_id: EnvironmentId, before: Option<u8>, after: Option<u8>) {
    if before != after {
        cluster.update_environment(environment_id, |environment| environment.target_weight = after);
    }
}

fn lose(cluster: &mut Cluster, environment_id: EnvironmentId, id: DeploymentId, defeat: Defeat, now: Time) {
    let returning = cluster.deployments.get(&id).is_some_and(is_return);
    let Defeat {
        reason,
        message,
        evidence,
    } = defeat;
    if !returning {
        if evidence.is_some() {
            cluster.update_deployment(id, |deployment| {
                // How one failed says more.
                deployment.evidence = deployment.evidence.take().or(evidence);
            });
        }
        return end(cluster, id, DeploymentStatus::Failed, reason, message, now);
    }
    // It did succeed once, and keeps that; it just can't come back now.
    abandon_return(cluster, environment_id);
    let message = format!("going back to it failed: {message}");
    let (deployment_id, reason) = (Some(id), Some(reason));
    cluster.record(Happening {
        action: "deployment.return_failed",
        deployment_id,
        message,
        reason,
        ..Happening::default()
    });
}

/// The environment's requests go to `id` from now on; what served before is drained.
pub(super) fn take_over(
    cluster: &mut Cluster,
    environment_id: EnvironmentId,
    id: DeploymentId,
    is_forward: bool,
    now: Time,
) {
    let Some(environment) = cluster.environments.get(&environment_id) else {
        return;
    };
    let old = environment.current.filter(|old| *old != id);
    let returns = cluster.deployments.get(&id).is_some_and(is_return);
    cluster.update_environment(environment_id, |environment| {
        (environment.current, environment.target, environment.target_weight) = (Some(id), None, None);
    });
    cluster.update_deployment(id, |deployment| {
        if is_forward && old.is_some() {
            deployment.previous_id = old;
        }
        if !returns {
            deployment.status = DeploymentStatus::Running;
        }
        (deployment.reason, deployment.message, deployment.evidence) = (None, None, None);
    });
    if let Some(old) = old {
        confirm::confirm(cluster, old, now);
        sleep::displace(cluster, old);
    }
    if returns {
        confirm::record(cluster, id);
    } else {
        cluster.close_rollout(id);
        confirm::await_proxies(cluster, id, now);
    }
}

/// Ends a rollout that did not win. Its tasks are stopped by their next look.
pub(super) fn end(
    cluster: &mut Cluster,
    id: DeploymentId,
    status: DeploymentStatus,
    reason: Reason,
    message: String,
    now: Time,
) {
    let Some(deployment) = cluster
        .deployments
        .get(&id)
        .filter(|deployment| !deployment.status.is_ended())
    else {
        return;
    };
    let environment_id = deployment.environment_id;
    let said = message.clone();
    cluster.update_deployment(id, |deployment| {
        (deployment.status, deployment.reason) = (status, Some(reason));
        deployment.message = Some(said).filter(|_| !crate::planted::planted!(SentenceForgotten));
        deployment.finished_at = Some(now);
        deployment.backoff.clear();
    });
    // Clears the environment's target, as soon as nothing of it is needed.
    retreat::advance(cluster, environment_id, now);
    cluster.say(Command::WakeFailed {
        deployment_id: id,
        reason,
        message: message.clone(),
    });
    let action = if status == DeploymentStatus::Failed {
        "deployment.failed"
    } else {
        "deployment.cancelled"
    };
    let (deployment_id, reason) = (Some(id), Some(reason));
    cluster.record(Happening {
        action,
        deployment_id,
        message,
        reason,
        ..Happening::default()
    });
}
