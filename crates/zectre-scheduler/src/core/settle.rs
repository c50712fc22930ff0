//! After an event: every deployment that it touched is brought closer to what is wanted, until nothing moves.

use super::{Cluster, health, job, placement, replicas, rollout, sleep, timer::Timer};
use zectre_common::{id::DeploymentId, time::Time};

/// The most looks at deployments within one step. Each look moves something or is the last; what is left
/// over goes on with the next event.
const LOOKS_MAX: usize = 100_000;

pub(super) fn settle(cluster: &mut Cluster, now: Time) {
    for _ in 0..LOOKS_MAX {
        if let Some(id) = cluster.pop_touched() {
            look_at(cluster, id, now);
        } else if cluster.room_appeared && !cluster.unplaced.is_empty() {
            cluster.room_appeared = false;
            placement::retry_unplaced(cluster, now);
        } else {
            cluster.room_appeared = false;
            return;
        }
    }
}

fn look_at(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let Some(environment_id) = cluster
        .deployments
        .get(&id)
        .map(|deployment| deployment.environment_id)
    else {
        return;
    };
    rollout::advance(cluster, environment_id, now);
    job::advance(cluster, id, now);
    // The two deployments of a rollout give way to each other, so both are looked at.
    let partners = cluster
        .environments
        .get(&environment_id)
        .map_or([None; 2], |e| [e.current, e.target]);
    for one in [Some(id)].into_iter().chain(partners).flatten() {
        if one == id || !partners.contains(&None) {
            replicas::reconcile(cluster, one, now);
            health::refresh(cluster, one);
        }
    }
    let deadline = [
        rollout::deadline(cluster, id, now),
        sleep::idle_deadline(cluster, id),
    ]
    .into_iter()
    .flatten()
    .min();
    if deadline.is_some_and(|at| at <= now) {
        sleep::sleep_if_idle(cluster, id, now);
    }
    // A deadline that has passed without effect is not waited for again.
    cluster
        .timers
        .arm(Timer::Deployment(id), deadline.filter(|at| *at > now));
}
