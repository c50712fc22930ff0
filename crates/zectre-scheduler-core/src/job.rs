//! Runs to completion (`restart: never`): they serve nothing, take nobody's place, and run once.

use super::{
    Cluster, Happening, Source,
    progress::{Defeat, defeat},
    rollout::{end, give_up_if_sourceless},
};
use zectre_common::{
    id::{DeploymentId, EnvironmentId},
    state::{DeploymentStatus, Reason},
    time::Time,
};

/// A run to completion: succeeded when every slot ended with 0, failed with the first that did not.
pub(super) fn advance(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    give_up_if_sourceless(cluster, id, now);
    let Some(job) = cluster.deployments.get(&id) else {
        return;
    };
    if !job.is_job() || job.status.is_ended() || job.source != Source::Ready {
        return;
    }
    if job.rollout_started_at.is_none() {
        cluster.update_deployment(id, |deployment| deployment.rollout_started_at = Some(now));
        return;
    }
    // Any failure of a task is noted on the deployment with its evidence; the loss of a node is one too,
    // because a program that runs once must not run twice.
    if job.evidence.is_some() && !crate::planted::planted!(JobRepeated) {
        let (reason, message) = (
            job.reason.unwrap_or(Reason::Exited),
            job.message.clone().unwrap_or_default(),
        );
        return end(cluster, id, DeploymentStatus::Failed, reason, message, now);
    }
    if job.completed.len() >= job.full_size() as usize {
        let environment_id = job.environment_id;
        cluster.update_deployment(id, |deployment| {
            (deployment.status, deployment.finished_at) = (DeploymentStatus::Succeeded, Some(now));
            (deployment.reason, deployment.message) = (None, None);
        });
        adopt_job(cluster, environment_id, id);
        let message = "every task of it ran to its end".into();
        return cluster.record(Happening {
            action: "deployment.succeeded",
            deployment_id: Some(id),
            message,
            ..Happening::default()
        });
    }
    let all_began = cluster
        .rosters
        .get(&id)
        .is_none_or(|roster| roster.running as usize == roster.tasks.len());
    if all_began {
        return;
    }
    if let Some(Defeat { reason, message, .. }) = defeat(cluster, id, now) {
        end(cluster, id, DeploymentStatus::Failed, reason, message, now);
    }
}

/// An environment of nothing but runs to completion points to the last one; a server is never displaced.
fn adopt_job(cluster: &mut Cluster, environment_id: EnvironmentId, id: DeploymentId) {
    let current = cluster
        .environments
        .get(&environment_id)
        .and_then(|environment| environment.current);
    let serves = current
        .and_then(|current| cluster.deployments.get(&current))
        .is_some_and(|d| !d.is_job());
    if !serves {
        cluster.update_environment(environment_id, |environment| environment.current = Some(id));
    }
}
