//! Waiting for a rollout, and saying why one failed.

use crate::{context::Context, error::CliError, progress::Progress};
use std::time::Duration;
use tokio::time::Instant;
use zectre_common::{
    id::DeploymentId,
    spec::Strategy,
    state::{DeploymentStatus, Health},
    wire::deployment::Deployment,
};

/// How often a rollout is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// What a rollout may take beyond its own deadline: its build's queue, its drain, and the way here.
const MARGIN: Duration = Duration::from_secs(120);

/// Resolves at Ctrl-C.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        // Without a handler there is nothing to wait for.
        std::future::pending::<()>().await;
    }
}

/// Waits until the rollout of `deployment` has ended as wished.
pub(crate) async fn until_rolled_out(
    context: &Context,
    deployment: Deployment,
    progress: &mut Progress,
) -> Result<Deployment, CliError> {
    let is_done = |now: &Deployment| {
        let waits_for_people = matches!(
            now.spec.strategy,
            Strategy::Canary {
                auto_promote_secs: None,
                ..
            }
        );
        now.status.is_ended() || (waits_for_people && now.health == Health::Healthy)
    };
    let ended = until(context, deployment, progress, is_done).await?;
    match ended.status {
        DeploymentStatus::Failed | DeploymentStatus::Cancelled => {
            progress.clear();
            Err(CliError::DeploymentFailed(explain(context, &ended)))
        }
        _ => Ok(ended),
    }
}

/// Looks at a deployment until `is_done`, within the rollout's own deadline and a margin.
pub(crate) async fn until(
    context: &Context,
    mut deployment: Deployment,
    progress: &mut Progress,
    is_done: impl Fn(&Deployment) -> bool,
) -> Result<Deployment, CliError> {
    let id = deployment.id;
    let timeout = Duration::from_secs(deployment.spec.progress_deadline_secs.into()) + MARGIN;
    let deadline = Instant::now() + timeout;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    while !is_done(&deployment) {
        progress.update(doing(&deployment));
        tokio::select! {
            _ = ticks.tick() => {}
            () = interrupted() => return Err(goes_on(id)),
        }
        if Instant::now() >= deadline {
            return Err(CliError::DeploymentFailed(format!(
                "the deployment did not get there within {} s. It goes on; `zectre status` shows how it is, `zectre \
                 events` what happened.",
                timeout.as_secs()
            )));
        }
        deployment = tokio::select! {
            answer = context.client.deployment(id) => answer?,
            () = interrupted() => return Err(goes_on(id)),
        };
    }
    Ok(deployment)
}

fn goes_on(id: DeploymentId) -> CliError {
    CliError::Interrupted(format!(
        "The deployment {id} goes on without you; `zectre status` shows how it is."
    ))
}

fn doing(deployment: &Deployment) -> String {
    let what = match deployment.status {
        DeploymentStatus::Pending => "Waiting for a place",
        _ => "Rolling out",
    };
    let short = deployment
        .message
        .as_ref()
        .filter(|_| deployment.status == DeploymentStatus::Pending);
    let why = short.map_or_else(String::new, |message| format!(": {message}"));
    format!(
        "{what} (version {}, {}){why}",
        deployment.version, deployment.environment
    )
}

/// Code, sentence, what is known, the last lines, and what to do.
fn explain(context: &Context, deployment: &Deployment) -> String {
    let mut lines = Vec::new();
    let reason = deployment
        .reason
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    let message = deployment
        .message
        .clone()
        .unwrap_or_else(|| "no reason was given".into());
    lines.push(format!(
        "version {} {}{reason}: {message}",
        deployment.version, deployment.status
    ));
    if let Some(evidence) = &deployment.evidence {
        let mut known = Vec::new();
        known.extend(evidence.exit_code.map(|code| format!("exit code {code}")));
        known.extend(evidence.signal.map(|signal| format!("signal {signal}")));
        known.extend(
            evidence
                .last_probe
                .clone()
                .map(|probe| format!("last probe: {probe}")),
        );
        if !known.is_empty() {
            lines.push(format!("  {}", known.join(", ")));
        }
        if !evidence.log_tail.is_empty() {
            lines.push("  its last lines:".into());
            lines.extend(
                evidence
                    .log_tail
                    .iter()
                    .map(|line| format!("    {}", line.message)),
            );
        }
    }
    if context.output.json {
        context.output.value(deployment, |_| {});
    }
    lines.push(format!(
        "It never took over: whatever served before goes on serving. `zectre logs --deployment {}` shows all it printed.",
        deployment.version
    ));
    lines.join("\n")
}
