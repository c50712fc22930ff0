//! What is said of a failure: its code, a sentence, and what is at hand about it.

use super::state::Broken;
use crate::trace::short;
use zectre_common::state::{DeploymentStatus, Reason, TaskState};
use zectre_scheduler_core::{Command, Deployment, Task};

/// The promise.
const PROMISE: &str = "a failure has its code, its sentence and its evidence";

/// What a decision is about to save, and does not say.
pub(super) fn broken_words(commands: &[Command]) -> Broken {
    commands.iter().find_map(|command| match command {
        Command::SaveTask(task) => of_task(task),
        Command::SaveDeployment(deployment) => of_deployment(deployment),
        _ => None,
    })
}

fn is_said(message: Option<&str>) -> bool {
    message.is_some_and(|said| !said.is_empty())
}

fn of_task(task: &Task) -> Broken {
    // One that is stopped as wished needs no words; one that failed, or waits for a reason, does.
    let must_say =
        task.state == TaskState::Failed || (task.state == TaskState::Pending && task.reason.is_some());
    let says = task.reason.is_some() && is_said(task.message.as_deref());
    (must_say && !says).then(|| {
        let detail = format!(
            "task {} is {}: {:?}, {:?}",
            short(task.id.get()),
            task.state,
            task.reason,
            task.message
        );
        (PROMISE, detail)
    })
}

fn of_deployment(row: &Deployment) -> Broken {
    let has_ended = matches!(row.status, DeploymentStatus::Failed | DeploymentStatus::Cancelled);
    let must_say = has_ended || row.reason.is_some();
    let says = row.reason.is_some() && is_said(row.message.as_deref());
    let by_a_task = row.status == DeploymentStatus::Failed && row.reason.is_some_and(is_of_a_task);
    let shows = row.evidence.as_ref().is_some_and(|seen| seen.task_id.is_some());
    (must_say && !says || by_a_task && !shows).then(|| {
        let detail = format!(
            "{} is {}: {:?}, {:?}, {:?}",
            short(row.id.get()),
            row.status,
            row.reason,
            row.message,
            row.evidence
        );
        (PROMISE, detail)
    })
}

/// A task ended so, and there is something to be seen of it.
fn is_of_a_task(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::PortNeverOpened
            | Reason::HealthCheckFailed
            | Reason::Exited
            | Reason::MaxRuntime
            | Reason::NodeLost
    )
}
