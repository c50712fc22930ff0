//! Calls to the scheduler: nudges, whose loss only delays, and wakes.

use crate::{code, context::Context, error::Error};
use http::StatusCode;
use std::time::Duration;
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
/// What a call takes beyond the wait it asks for.
const WAKE_MARGIN: Duration = Duration::from_secs(3);
/// When a failed wake is worth another try.
const WAKE_RETRY_SECS: u32 = 5;

/// Tells the scheduler that there are operations to apply.
pub(crate) async fn nudge(context: &Context, deployment_id: Option<DeploymentId>) {
    let url = format!("{}/api/v1/scheduler/deploy", context.urls.scheduler);
    let body = NudgeRequest { deployment_id };
    let answer: Result<serde_json::Value, _> = context
        .caller
        .post_json(&url, name::SCHEDULER, &body, NUDGE_DEADLINE)
        .await;
    if let Err(error) = answer {
        tracing::warn!(%error, "the scheduler was not nudged; it will look by itself");
    }
}

/// Wakes a deployment and waits for at most `wait`.
pub(crate) async fn wake(
    context: &Context,
    deployment_id: DeploymentId,
    wait: Duration,
) -> Result<WakeResponse, Error> {
    let url = format!("{}/api/v1/scheduler/wake", context.urls.scheduler);
    let body = WakeRequest {
        deployment_id,
        wait_ms: wait.as_millis() as u64,
    };
    context
        .caller
        .post_json(&url, name::SCHEDULER, &body, wait + WAKE_MARGIN)
        .await
        .map_err(not_woken)
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
