//! A deployment has *succeeded* only when every live proxy routes by the epoch with which it took over: who
//! reads `succeeded` and sends a request gets the new version.
//!
//! `current` flips at the take-over, one acknowledgement earlier; so `status = succeeded` is what a caller waits
//! for. A return (rollback, promote of an earlier version) keeps its old `succeeded` and flips `current` alone:
//! whoever needs to know that no proxy answers with the other version any more waits until the tasks of the
//! other one have left `running`, because those stop only after the same acknowledgement.
//!
//! Bounded by the proxies' leases: one that is silent no longer counts. Nothing is stored: a deployment that is
//! current with an open status waits, and after a reload it waits for the epoch that the reload found.

use super::{Cluster, Happening};
use zectre_common::{id::DeploymentId, state::DeploymentStatus, time::Time};

/// Awaits the acknowledgement of the epoch that this step's commit will raise.
pub(super) fn await_proxies(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    if cluster.proxies.is_empty() || crate::planted::planted!(SucceedsEarly) {
        return confirm(cluster, id, now);
    }
    cluster.confirming.add(id, None);
}

/// Proxies moved on, or went away.
pub(super) fn check_all(cluster: &mut Cluster, now: Time) {
    for id in cluster.confirming.up_to(cluster.applied_epoch()) {
        confirm(cluster, id, now);
    }
}

/// Its rollout has ended well. Also when something else takes its place before all proxies knew of it.
pub(super) fn confirm(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    cluster.confirming.remove(id);
    let open = cluster.status_of(id).is_some_and(|status| !status.is_ended());
    if !open {
        return;
    }
    cluster.update_deployment(id, |deployment| {
        (deployment.status, deployment.finished_at) = (DeploymentStatus::Succeeded, Some(now));
    });
    record(cluster, id);
}

/// Tells the activity feed that it serves.
pub(super) fn record(cluster: &mut Cluster, id: DeploymentId) {
    let environment = cluster
        .deployments
        .get(&id)
        .and_then(|deployment| cluster.environments.get(&deployment.environment_id));
    let slug = environment.map_or("its environment", |environment| environment.slug.as_str());
    let message = format!("it serves {slug} from now on");
    cluster.record(Happening {
        action: "deployment.succeeded",
        deployment_id: Some(id),
        message,
        ..Happening::default()
    });
}
