//! What the failure of a task means: a growing pause for the next one of its slot, a name for what fails again
//! and again, and the end of a rollout that fails too often.

use super::{Cluster, Command, Deployment, Task, deployment::Backoff, succession, timer::Timer};
use std::time::Duration;
use zectre_common::{id::NodeId, spec::RestartPolicy, state::Reason, time::Time, wire::deployment::Evidence};

/// Failures in a row that are called a crash loop.
pub(super) const CRASH_LOOP_FAILURES: u32 = 3;

/// What a failure means for the next task of its slot, and for the rollout it belongs to.
pub(super) fn note(cluster: &mut Cluster, task: &Task, evidence: Evidence, now: Time) {
    let (Some(reason), id) = (task.reason, task.deployment_id) else {
        return;
    };
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    // The loss of a node, or a port that something else holds, says nothing about the program.
    let its_own = !matches!(reason, Reason::NodeLost | Reason::PortTaken);
    let rolling_out = cluster.is_rolling_out(deployment);
    // A run to completion must not run twice, but one that found its port taken never ran.
    let counts = rolling_out && !(deployment.is_job() && reason == Reason::PortTaken);
    let next = next_start(cluster, task, its_own, now);
    let down = cluster.count_ready(id) == 0;
    let message = task.message.clone().unwrap_or_default();
    if next.is_some() || counts {
        cluster.update_deployment(id, |deployment| {
            if let Some(next) = next {
                deployment.backoff.insert(task.slot, next);
            }
            let is_of_rollout = deployment.rollout_started_at.is_none_or(|at| task.created_at >= at);
            if counts {
                deployment.rollout_failures += u32::from(its_own && is_of_rollout);
                (deployment.reason, deployment.message) = (Some(reason), Some(message.clone()));
                deployment.evidence = Some(evidence).filter(|_| !crate::planted::planted!(EvidenceForgotten));
            } else if let Some(next) = next.filter(|next| next.restarts >= CRASH_LOOP_FAILURES) {
                let sentence = format!(
                    "{} tasks of replica {} failed one after the other, the last one with {reason}: {message}; the next \
                     starts at {}",
                    next.restarts, task.slot, next.not_before
                );
                (deployment.reason, deployment.message) = (Some(Reason::CrashLoop), Some(sentence));
                deployment.evidence = Some(evidence);
            }
        });
    }
    if !its_own {
        succession::try_again(cluster, task, now);
    }
    if down && its_own {
        cluster.say(Command::WakeFailed {
            deployment_id: id,
            reason,
            message,
        });
    }
}

/// How long the slot has to wait; `None` when its next task may start at once.
fn next_start(cluster: &Cluster, task: &Task, its_own: bool, now: Time) -> Option<Backoff> {
    let settings = cluster.settings;
    let ran = task.running_at.map_or(Duration::ZERO, |at| now.since(at));
    if its_own {
        let restarts = if ran >= settings.backoff_reset {
            1
        } else {
            task.restarts + 1
        };
        let not_before = now.plus(backoff(settings.backoff_initial, settings.backoff_max, restarts));
        return Some(Backoff { restarts, not_before });
    }
    // A node whose ports are held by something else gets slower, the more of them it is.
    let node = cluster.nodes.get(&task.node_id?)?;
    let is_taken = task.reason == Some(Reason::PortTaken) && node.is_crowded();
    let misses = node.resting_ports.len() as u32;
    let pause = (settings.backoff_initial * misses).min(settings.backoff_max);
    is_taken.then(|| Backoff {
        restarts: task.restarts,
        not_before: now.plus(pause),
    })
}

/// Something else holds the port that a task was given: others don't get it for a while.
pub(super) fn rest_port(cluster: &mut Cluster, task: &Task, now: Time) {
    let (Some(node_id), Some(port)) = (task.node_id, task.port) else {
        return;
    };
    cluster.reindex_node(node_id, |node| node.rest_port(port, now));
    wake_ports(cluster, node_id, now);
}

/// Ports that have rested long enough may be given again.
pub(super) fn wake_ports(cluster: &mut Cluster, node_id: NodeId, now: Time) {
    let mut next = None;
    cluster.reindex_node(node_id, |node| next = node.wake_ports(now));
    cluster.timers.arm(Timer::Ports(node_id), next);
}

/// A program with `restart: on_failure` or `never` that ended with 0 is done, not failed.
pub(super) fn ran_to_completion(deployment: &Deployment, exit_code: Option<i32>, rolling_out: bool) -> bool {
    exit_code == Some(0)
        && match deployment.spec.restart {
            RestartPolicy::Never => true,
            // A server that ends before it ever served is no success.
            RestartPolicy::OnFailure => !rolling_out,
            RestartPolicy::Always => false,
        }
}

/// Doubles with each failure in a row, up to `max`.
fn backoff(initial: Duration, max: Duration, failures: u32) -> Duration {
    initial
        .saturating_mul(1 << failures.saturating_sub(1).min(30))
        .min(max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let pause =
            |failures| backoff(Duration::from_millis(500), Duration::from_mins(1), failures).as_millis();
        assert_eq!(
            [pause(1), pause(2), pause(3), pause(8), pause(40)],
            [500, 1_000, 2_000, 60_000, 60_000]
        );
    }
}
