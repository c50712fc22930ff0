//! A rollout that ended badly midway gives back what it took: with `rolling`, the current deployment had given
//! up tasks for it, and its own healthy ones go on serving until the current one has enough again.
//!
//! While that lasts the environment's target is a deployment whose status is `failed` or `cancelled`; that is all
//! there is to store. It ends when the target's tasks are no longer needed, or after the target's progress deadline
//! (the current one may be unable to come back). A newer version begins its rollout after it.
//!
//! Someone may ask to go back to an earlier deployment meanwhile, or in the midst of a rollout. That one comes
//! up at once, becomes the target after the retreat, and ends it as soon as all of its tasks are ready. It is known after
//! a reload by its rollout, which began after the lost one's end.
//!
//! `auto_rollback: false` keeps the healthy tasks of a *failed* rollout up for inspection, at its preview label and
//! out of the environment's traffic (once the current one is back): nothing of it is started or replaced, and it is
//! stopped when idle, put to sleep or deleted. The current deployment serves on in either case.

use super::{Cluster, Deployment, Environment, progress, rollout};
use zectre_common::{
    id::{DeploymentId, EnvironmentId},
    spec::Strategy,
    state::DeploymentStatus,
    time::Time,
};

/// Healthy tasks of the lost target that still serve for the current deployment.
fn needed(cluster: &Cluster, environment: &Environment, target: &Deployment) -> u32 {
    let Strategy::Rolling { max_unavailable, .. } = target.spec.strategy else {
        return 0;
    };
    let max_unavailable = max_unavailable + u32::from(crate::planted::planted!(RetreatSkipped)) * 9;
    let current = environment.current.filter(|id| *id != target.id);
    let returning = cluster.returning.get(&environment.id);
    let lacks = |id: DeploymentId| cluster.count_ready(id) == 0;
    if returning.is_some_and(|id| lacks(*id)) && current.is_some_and(lacks) {
        // Nothing else serves until the one that someone went back to has a healthy task.
        return cluster.count_ready(target.id);
    }
    let Some(current) = current
        .and_then(|id| cluster.deployments.get(&id))
        .filter(|current| !current.asleep && !current.is_given_up() && !current.is_job())
    else {
        return 0;
    };
    let floor = current.full_size().saturating_sub(max_unavailable);
    let lacking = floor.saturating_sub(cluster.count_ready(current.id));
    lacking.min(cluster.count_ready(target.id))
}

/// Tasks that a deployment whose rollout ended badly may keep. Never more than are healthy already.
pub(super) fn kept(cluster: &Cluster, lost: &Deployment) -> u32 {
    if is_inspected(lost) {
        return cluster.count_ready(lost.id);
    }
    cluster
        .environments
        .get(&lost.environment_id)
        .filter(|environment| environment.target == Some(lost.id))
        .map_or(0, |environment| needed(cluster, environment, lost))
}

/// Its healthy tasks stay after its failure, until it is idle.
pub(super) fn is_inspected(deployment: &Deployment) -> bool {
    deployment.status == DeploymentStatus::Failed
        && !deployment.spec.auto_rollback
        && !deployment.is_job()
        && !deployment.asleep
}

/// Tasks of the current deployment beside a lost target: as many as the target's leaving makes room for.
pub(super) fn wanted_of_current(cluster: &Cluster, current: &Deployment, lost: &Deployment) -> u32 {
    let full = current.full_size();
    match lost.spec.strategy {
        Strategy::Rolling { max_surge, .. } if !is_inspected(lost) => {
            rollout::room_beside(cluster, current, lost.id, full, max_surge)
        }
        _ => full,
    }
}

/// When the current deployment is no longer waited for.
pub(super) fn deadline(cluster: &Cluster, lost: &Deployment) -> Option<Time> {
    let environment = cluster.environments.get(&lost.environment_id)?;
    let retreats = lost.is_given_up() && environment.target == Some(lost.id);
    let ended_at = lost.finished_at.filter(|_| retreats)?;
    Some(ended_at.plus(progress::progress_deadline(lost)))
}

/// After a reload: which deployments are gone back to once a retreat is over.
pub(super) fn restore_returns(cluster: &mut Cluster) {
    let mut returning: Vec<(EnvironmentId, DeploymentId)> = Vec::new();
    for deployment in cluster.deployments.values() {
        let Some(environment) = cluster.environments.get(&deployment.environment_id) else {
            continue;
        };
        let lost = environment.target.and_then(|id| cluster.deployments.get(&id));
        let Some(lost) = lost.filter(|lost| lost.is_given_up()) else {
            continue;
        };
        let is_awake = deployment.status == DeploymentStatus::Succeeded && !deployment.asleep;
        let began_after = lost.finished_at.is_some() && deployment.rollout_started_at >= lost.finished_at;
        if is_awake && began_after && environment.current != Some(deployment.id) {
            returning.push((environment.id, deployment.id));
        }
    }
    cluster.returning.extend(returning);
}

/// Moves the retreat on; true when there is none (any more).
pub(super) fn advance(cluster: &mut Cluster, environment_id: EnvironmentId, now: Time) -> bool {
    let Some(environment) = cluster.environments.get(&environment_id) else {
        return true;
    };
    let lost: Option<(DeploymentId, &Deployment)> = environment
        .target
        .and_then(|id| Some((id, cluster.deployments.get(&id)?)))
        .filter(|(_, deployment)| deployment.is_given_up());
    let Some((id, lost)) = lost else { return true };
    let returning = cluster.returning.get(&environment_id);
    let returning = returning.and_then(|id| cluster.deployments.get(id));
    let is_relieved = returning.is_some_and(|d| cluster.count_ready(d.id) >= d.full_size());
    let is_over = is_relieved || deadline(cluster, lost).is_none_or(|at| at <= now);
    if is_over || needed(cluster, environment, lost) == 0 {
        cluster.update_environment(environment_id, |e| (e.target, e.target_weight) = (None, None));
        return true;
    }
    let ready = cluster.count_ready(id);
    let old_ready = environment.current.map_or(0, |old| cluster.count_ready(old));
    let (before, share) = (
        environment.target_weight,
        (100 * ready / (ready + old_ready)) as u8,
    );
    if before != Some(share) {
        cluster.update_environment(environment_id, |environment| {
            environment.target_weight = Some(share);
        });
    }
    false
}
