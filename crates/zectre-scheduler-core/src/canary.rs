//! A canary: a share of the new version takes a share of the requests, until its time is over or someone promotes
//! it. Then all of it comes up, and only then it takes over. Without a server to compare with there is no canary.

use super::{Cluster, Deployment};
use std::time::Duration;
use zectre_common::{
    spec::{Strategy, canary_size},
    state::DeploymentStatus,
    time::Time,
};

/// Tasks that a share of the replicas makes: at least one.
fn size(deployment: &Deployment) -> u32 {
    match deployment.spec.strategy {
        Strategy::Canary { weight, .. } if !crate::planted::planted!(CanaryWhole) => {
            canary_size(deployment.replicas, weight)
        }
        _ => deployment.full_size(),
    }
}

/// It is, or would be, tried with a share of the requests: nobody promoted it yet, and something else serves.
pub(super) fn is_on_trial(cluster: &Cluster, target: &Deployment) -> bool {
    let serves = |id| {
        let current: Option<&Deployment> = cluster.deployments.get(&id);
        id != target.id && current.is_some_and(|current| !current.is_job() && !current.is_given_up())
    };
    matches!(target.spec.strategy, Strategy::Canary { .. })
        && target.status != DeploymentStatus::Succeeded
        && target.promoted_at.is_none()
        && cluster
            .environments
            .get(&target.environment_id)
            .and_then(|environment| environment.current)
            .is_some_and(serves)
}

/// Its tasks at this stage of its rollout.
pub(super) fn size_now(cluster: &Cluster, target: &Deployment) -> u32 {
    if is_on_trial(cluster, target) {
        size(target)
    } else {
        target.full_size()
    }
}

/// When it is promoted by itself: all of its share has been ready for so long.
pub(super) fn promoted_at(cluster: &Cluster, target: &Deployment) -> Option<Time> {
    let Strategy::Canary {
        auto_promote_secs: Some(secs),
        ..
    } = target.spec.strategy
    else {
        return None;
    };
    let is_whole = is_on_trial(cluster, target) && cluster.count_ready(target.id) >= size(target);
    if !is_whole {
        return None;
    }
    let ready = cluster.tasks_of(target.id).filter(|task| task.is_ready());
    let youngest = ready.filter_map(|task| task.running_at).max()?;
    Some(youngest.plus(Duration::from_secs(u64::from(secs))))
}

/// Since when its progress is waited for; `None` while nothing is, because only a person's word is missing.
pub(super) fn waits_since(cluster: &Cluster, target: &Deployment) -> Option<Time> {
    if cluster.count_ready(target.id) >= size(target) {
        return None;
    }
    // A trial may last for days: what counts is how long the task that is missing has been missing.
    let missing = cluster
        .tasks_of(target.id)
        .filter(|task| task.wanted == zectre_common::state::Wanted::Run && !task.is_ready());
    // None, when its replacement is made by this very step.
    missing.map(|task| task.created_at).min()
}
