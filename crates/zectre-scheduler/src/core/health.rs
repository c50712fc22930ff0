//! How a deployment is now, and what its failure is called while it lasts.

use super::{Cluster, Deployment};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, Health, TaskState},
};

pub(super) fn refresh(cluster: &mut Cluster, id: DeploymentId) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    let ready = cluster.count_ready(id);
    let health = health_of(cluster, deployment, ready);
    let recovered = health == Health::Healthy
        && deployment.status == DeploymentStatus::Succeeded
        && (deployment.reason.is_some() || deployment.evidence.is_some());
    if recovered {
        cluster.update_deployment(id, |d| (d.reason, d.message, d.evidence) = (None, None, None));
    }
    cluster.set_health(id, health);
}

fn health_of(cluster: &Cluster, deployment: &Deployment, ready: u32) -> Health {
    if deployment.is_job() {
        let running = cluster
            .tasks_of(deployment.id)
            .any(|task| task.state == TaskState::Running);
        return match deployment.status {
            DeploymentStatus::Succeeded => Health::Asleep,
            _ if running => Health::Healthy,
            _ => Health::Down,
        };
    }
    // What is woken by its preview alone runs once.
    let wanted = if cluster.is_current(deployment) || cluster.is_rolling_out(deployment) {
        deployment.full_size()
    } else {
        1
    };
    match ready {
        _ if deployment.asleep && !deployment.is_given_up() => Health::Asleep,
        0 => Health::Down,
        some if some < wanted => Health::Degraded,
        _ => Health::Healthy,
    }
}
