//! How long a rollout is waited for, and what its end is called when it was waited for in vain.

use super::{
    Cluster, Deployment, Source, canary, retreat,
    shortage::{is_too_large, shortage},
};
use std::time::Duration;
use zectre_common::{id::DeploymentId, state::Reason, time::Time, wire::deployment::Evidence};

/// A task that no node is made for, or large enough for, is waited for this long.
const ELIGIBLE_GRACE: Duration = Duration::from_secs(15);

/// Since when the rollout's progress is waited for; `None` while only a person's word is missing.
fn waits_since(cluster: &Cluster, target: &Deployment) -> Option<Time> {
    if canary::is_on_trial(cluster, target) {
        return canary::waits_since(cluster, target);
    }
    let begun_at = target.rollout_started_at.unwrap_or(target.created_at);
    Some(begun_at.max(target.promoted_at.unwrap_or(begun_at)))
}

/// Until when a task for which no node is made, or large enough, is waited for: nodes may be registering.
fn eligible_until(cluster: &Cluster, target: &Deployment) -> Option<Time> {
    let oldest = cluster.waiting.of(target.id).next()?;
    if !waits_in_vain(cluster, target, target.reason?) {
        return None;
    }
    let created_at = cluster.tasks.get(&oldest)?.created_at;
    Some(created_at.plus(ELIGIBLE_GRACE))
}

/// Whether what it is short of for this reason is nothing that could become free.
fn waits_in_vain(cluster: &Cluster, target: &Deployment, reason: Reason) -> bool {
    match reason {
        Reason::NoEligibleNode => true,
        Reason::NoCapacity => is_too_large(cluster, target),
        _ => false,
    }
}

/// How a rollout is lost.
pub(super) struct Defeat {
    pub(super) reason: Reason,
    pub(super) message: String,
    /// What is at hand beside that of the last failure.
    pub(super) evidence: Option<Evidence>,
}

impl From<(Reason, String)> for Defeat {
    fn from((reason, message): (Reason, String)) -> Self {
        Self {
            reason,
            message,
            evidence: None,
        }
    }
}

/// Why the rollout is lost, if it is.
pub(super) fn defeat(cluster: &Cluster, id: DeploymentId, now: Time) -> Option<Defeat> {
    let target = cluster.deployments.get(&id)?;
    if target.rollout_failures >= cluster.settings.rollout_failures_max {
        let reason = target.reason.unwrap_or(Reason::Exited);
        let message = target
            .message
            .clone()
            .unwrap_or_else(|| "its tasks failed".into());
        return Some((reason, message).into());
    }
    if eligible_until(cluster, target).is_some_and(|at| at <= now) {
        let (reason, message) = shortage(cluster, target);
        if waits_in_vain(cluster, target, reason) {
            return Some((reason, message).into());
        }
    }
    if waits_since(cluster, target)?.plus(progress_deadline(target)) > now {
        return None;
    }
    if cluster.waiting.of(id).next().is_some() {
        return Some(shortage(cluster, target).into());
    }
    let secs = target.spec.progress_deadline_secs;
    let (ready, full) = (cluster.count_ready(id), canary::size_now(cluster, target));
    let mut message = format!("{ready} of {full} tasks were ready after {secs} s");
    if let (Some(reason), Some(said)) = (target.reason, &target.message) {
        message = format!("{message}; the last failure was {reason}: {said}");
    }
    let evidence = answered(cluster, id);
    if let Some(answer) = evidence
        .as_ref()
        .and_then(|evidence| evidence.last_probe.as_ref())
    {
        message = format!("{message}; the last answer to the check of one that is starting: {answer}");
    }
    Some(Defeat {
        reason: Reason::ProgressDeadline,
        message,
        evidence,
    })
}

/// What the check of one of its starting tasks got for an answer.
fn answered(cluster: &Cluster, id: DeploymentId) -> Option<Evidence> {
    let mut starting = cluster.tasks_of(id);
    starting.find_map(|task| {
        Some(Evidence {
            task_id: Some(task.id),
            last_probe: Some(cluster.answers.get(&task.id)?.clone()),
            ..Evidence::default()
        })
    })
}

pub(super) fn wait_end(deployment: &Deployment) -> Time {
    deployment.created_at.plus(progress_deadline(deployment))
}

pub(super) fn progress_deadline(deployment: &Deployment) -> Duration {
    Duration::from_secs(u64::from(deployment.spec.progress_deadline_secs))
}

/// When the deployment's rollout has to be looked at again.
pub(super) fn deadline(cluster: &Cluster, id: DeploymentId, now: Time) -> Option<Time> {
    let deployment = cluster.deployments.get(&id)?;
    let waits = !deployment.status.is_ended() && deployment.source == Source::Missing;
    let rolls = cluster.is_rolling_out(deployment);
    let rolling = Some(deployment).filter(|_| rolls);
    let ends = rolling
        .and_then(|deployment| waits_since(cluster, deployment))
        .map(|at| at.plus(progress_deadline(deployment)));
    [
        waits.then(|| wait_end(deployment)),
        ends.filter(|_| deployment.rollout_started_at.is_some()),
        rolling.and_then(|deployment| eligible_until(cluster, deployment)),
        rolling.and_then(|deployment| canary::promoted_at(cluster, deployment)),
        retreat::deadline(cluster, deployment),
    ]
    .into_iter()
    .flatten()
    .filter(|at| *at > now)
    .min()
}
