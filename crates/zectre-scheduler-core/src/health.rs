//! How a deployment is now, and what its failure is called while it lasts.

use super::{Cluster, Deployment, canary};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, Health, Reason},
    time::Time,
};

pub(super) fn refresh(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    let health = health_of(cluster, deployment);
    let recovered = health == Health::Healthy
        && deployment.status == DeploymentStatus::Succeeded
        && (deployment.reason.is_some() || deployment.evidence.is_some())
        && forgiven_at(cluster, id).is_none_or(|at| at <= now);
    if recovered {
        cluster.update_deployment(id, |d| (d.reason, d.message, d.evidence) = (None, None, None));
    }
    cluster.set_health(id, health);
}

/// When a crash loop is over: its tasks have run for as long as forgives earlier failures. Between two
/// crashes a task may look well.
pub(super) fn forgiven_at(cluster: &Cluster, id: DeploymentId) -> Option<Time> {
    let deployment = cluster.deployments.get(&id)?;
    if deployment.reason != Some(Reason::CrashLoop) {
        return None;
    }
    let youngest = cluster.ready_tasks(id).filter_map(|task| task.running_at).max()?;
    Some(youngest.plus(cluster.settings.backoff_reset))
}

fn health_of(cluster: &Cluster, deployment: &Deployment) -> Health {
    let roster = cluster.rosters.get(&deployment.id);
    if deployment.is_job() {
        return match deployment.status {
            DeploymentStatus::Succeeded => Health::Asleep,
            _ if roster.is_some_and(|roster| roster.running > 0) => Health::Healthy,
            _ => Health::Down,
        };
    }
    match cluster.count_ready(deployment.id) {
        _ if deployment.asleep && !deployment.is_given_up() => Health::Asleep,
        0 => Health::Down,
        some if some < expected(cluster, deployment) => Health::Degraded,
        _ => Health::Healthy,
    }
}

/// Healthy tasks when all is well.
fn expected(cluster: &Cluster, deployment: &Deployment) -> u32 {
    if cluster.is_rolling_out(deployment) {
        canary::size_now(cluster, deployment)
    } else if cluster.is_current(deployment) {
        // What completed is not missing.
        let done = deployment.completed.len() as u32;
        deployment.full_size().saturating_sub(done).max(1)
    } else {
        // What is woken by its preview alone runs once.
        1
    }
}
