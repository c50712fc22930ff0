//! After an event: every deployment that it touched is brought closer to what is wanted, until nothing moves.

use super::{
    Cluster, health, job, placement, progress, replicas, rollout, sleep, spare, timer::Timer, withheld,
};
use zectre_common::{id::DeploymentId, time::Time};

/// The most looks at deployments within one step. Each look moves something or is the last; what is left
/// over goes on at once, in the next step.
const LOOKS_MAX: usize = 100_000;
/// Rows to be saved from which on a step looks at nothing more, but for what its last look adds (the tasks of one
/// deployment): a commit has a deadline. What is left over goes on at once too.
pub(super) const STEP_ROWS_MAX: usize = 4_096;
/// The most tries of waiting deployments within one step.
const RETRIES_MAX: usize = 1_000;

pub(super) fn settle(cluster: &mut Cluster, now: Time) {
    spare::look_again(cluster, now);
    let mut retries = 0;
    for _ in 0..LOOKS_MAX {
        if cluster.rows_to_save() >= STEP_ROWS_MAX {
            break;
        }
        if let Some(id) = cluster.pop_touched() {
            look_at(cluster, id, now);
        } else if retries < RETRIES_MAX && placement::retry_next(cluster, now) {
            retries += 1;
        } else if let Some(id) = cluster.waiting.next_to_tell(now) {
            placement::tell_again(cluster, id, now);
        } else {
            break;
        }
    }
    withheld::look_again(cluster, now);
    cluster.timers.arm(Timer::Words, cluster.waiting.tells_at(now));
    cluster.timers.arm(Timer::Withheld, cluster.withheld.next());
    let looks_at = spare::looks_at(cluster, now);
    cluster.timers.arm(Timer::Spare, looks_at);
    if cluster.is_unsettled() {
        cluster.timers.arm(Timer::Rest, Some(now));
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
            health::refresh(cluster, one, now);
        }
    }
    let deadline = [
        progress::deadline(cluster, id, now),
        sleep::idle_deadline(cluster, id, now),
        health::forgiven_at(cluster, id).filter(|at| *at > now),
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
    cluster.note_rest(id);
    spare::note(cluster, id);
}
