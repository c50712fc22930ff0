//! Calls to the scheduler: nudges, whose loss only delays, and wakes.

use crate::{code, context::Context, error::Error, store};
use http::StatusCode;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use zectre_common::{
    id::DeploymentId,
    wire::{
        deployment::WakeResponse,
        problem::Problem,
        scheduler::{NudgeRequest, WakeRequest},
    },
};
use zectre_service::{call::CallError, token::name};

/// A nudge that takes longer is given up: the scheduler also looks by itself.
const NUDGE_DEADLINE: Duration = Duration::from_secs(2);
/// A wake that waits for nothing and takes longer has failed.
const WAKE_DEADLINE: Duration = Duration::from_secs(3);
/// The most by which each one gives up before whoever waits for its answer.
const WAKE_MARGIN_MAX: Duration = Duration::from_secs(1);
/// The pause before a wake asks again for a leader; doubled each time.
const LEADER_PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const LEADER_PAUSE_MAX: Duration = Duration::from_secs(1);
/// When a failed wake is worth another try.
const WAKE_RETRY_SECS: u32 = 5;

/// The scheduler that is asked: the configured one, until the database names another as the leader. Any scheduler
/// hands on to the leader, but one that is gone does not.
#[derive(Debug)]
pub(crate) struct Asked(Mutex<Arc<str>>);

impl Asked {
    /// Begins with the configured address.
    pub(crate) fn new(url: &str) -> Self {
        Self(Mutex::new(url.trim_end_matches('/').into()))
    }

    /// Where it answers, without a slash at the end.
    pub(crate) fn url(&self) -> Arc<str> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn turn_to(&self, url: Arc<str>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = url;
    }
}

/// Tells the scheduler that there are operations to apply.
pub(crate) async fn nudge(context: &Context, deployment_id: Option<DeploymentId>) {
    let body = NudgeRequest { deployment_id };
    let answer: Result<serde_json::Value, _> = ask(context, "deploy", &body, NUDGE_DEADLINE).await;
    if let Err(error) = answer {
        tracing::warn!(%error, "the scheduler was not nudged; it will look by itself");
    }
}

/// Wakes a deployment without waiting for it.
pub(crate) async fn wake(context: &Context, deployment_id: DeploymentId) -> Result<WakeResponse, Error> {
    wake_within(context, deployment_id, Duration::ZERO, WAKE_DEADLINE).await
}

/// Wakes a deployment and waits for a ready task.
pub(crate) async fn wake_and_wait(
    context: &Context,
    deployment_id: DeploymentId,
) -> Result<WakeResponse, Error> {
    let (wait, margin) = wait_and_margin(context.settings.wake_timeout);
    let began = Instant::now();
    let mut woken = wake_within(context, deployment_id, wait, margin).await?;
    let phases = &mut woken.phases;
    let explained = [phases.place_us, phases.fetch_us, phases.start_us, phases.ready_us];
    let explained_us: u64 = explained.iter().flatten().sum();
    // What no phase explains was waited.
    phases.queue_us = Some((began.elapsed().as_micros() as u64).saturating_sub(explained_us));
    Ok(woken)
}

/// How long the scheduler may wait, and how much longer its answer is waited for here, when the proxy holds a request
/// for `held`. Whoever is nearer to the cause gives up first, or its better reason would come too late to be told.
fn wait_and_margin(held: Duration) -> (Duration, Duration) {
    let margin = (held / 10).min(WAKE_MARGIN_MAX);
    (held.saturating_sub(2 * margin), margin)
}

/// Wakes a deployment and waits for at most `wait`, also for a scheduler to lead: whoever waits for a program has
/// no use for the news that one has just gone. Answers `margin` after that at the latest.
async fn wake_within(
    context: &Context,
    deployment_id: DeploymentId,
    wait: Duration,
    margin: Duration,
) -> Result<WakeResponse, Error> {
    let (ends, mut left, mut pause) = (Instant::now() + wait, wait, LEADER_PAUSE_MIN);
    loop {
        let body = WakeRequest {
            deployment_id,
            wait_ms: left.as_millis() as u64,
            unless_superseded: false,
        };
        match ask(context, "wake", &body, left + margin).await {
            Err(error) if is_elsewhere(&error) && pause < left => {
                tracing::warn!(%error, "no scheduler leads; a wake tries again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LEADER_PAUSE_MAX);
                left = ends.saturating_duration_since(Instant::now());
            }
            answer => return answer.map_err(not_woken),
        }
    }
}

/// Asks the scheduler that answered last, and the leader of the database when that one is gone or leads no more.
/// What is asked has the same effect once or twice.
async fn ask<T: DeserializeOwned>(
    context: &Context,
    path: &str,
    body: &(impl Serialize + Sync),
    deadline: Duration,
) -> Result<T, CallError> {
    let url = context.scheduler.url();
    let answer = post(context, &url, path, body, deadline).await;
    let Err(error) = &answer else { return answer };
    if !is_elsewhere(error) {
        return answer;
    }
    match store::leader::address(&context.pool).await {
        Ok(Some(leader)) if *leader != *url => {
            let leader: Arc<str> = leader.into();
            context.scheduler.turn_to(Arc::clone(&leader));
            post(context, &leader, path, body, deadline).await
        }
        _ => answer,
    }
}

async fn post<T: DeserializeOwned>(
    context: &Context,
    url: &str,
    path: &str,
    body: &(impl Serialize + Sync),
    deadline: Duration,
) -> Result<T, CallError> {
    let url = format!("{url}/api/v1/scheduler/{path}");
    context
        .caller
        .post_json(&url, name::SCHEDULER, body, deadline)
        .await
}

/// Whether another scheduler may do what this one can't.
fn is_elsewhere(error: &CallError) -> bool {
    match error {
        CallError::Unreachable { .. } => true,
        CallError::Refused { problem, .. } => problem.code == "NOT_LEADER",
        CallError::Nonsense { .. } => false,
    }
}

fn not_woken(error: CallError) -> Error {
    tracing::warn!(%error, "a wake failed");
    match error {
        CallError::Refused { problem, .. } if problem.status == 404 => Error::Passed {
            problem,
            retry_after_secs: None,
        },
        CallError::Refused { problem, .. }
            if problem.status == 401 || problem.status == 403 || problem.status == 500 =>
        {
            Error::Internal(format!("the scheduler refused a wake: {}", problem.detail))
        }
        CallError::Refused { problem, .. } => {
            let passed = Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                problem.code.to_uppercase(),
                problem.detail,
            );
            Error::Passed {
                problem: Box::new(passed),
                retry_after_secs: Some(WAKE_RETRY_SECS),
            }
        }
        CallError::Unreachable { .. } | CallError::Nonsense { .. } => Error::Refused {
            code: &code::SERVICE_UNAVAILABLE,
            detail: "the scheduler does not answer, so nothing can be woken; try again".into(),
            errors: Vec::new(),
            retry_after_secs: Some(WAKE_RETRY_SECS),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheduler_gives_up_before_the_api_and_that_before_the_proxy() {
        for held_ms in [100, 2_000, 30_000, 600_000] {
            let held = Duration::from_millis(held_ms);
            let (wait, margin) = wait_and_margin(held);
            assert!(
                wait < wait + margin && wait + margin < held,
                "{held:?}: {wait:?}, {margin:?}"
            );
            assert!(
                wait * 10 >= held * 8,
                "{held:?}: most of the time is left to the wake"
            );
        }
    }
}
