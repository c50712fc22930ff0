//! What the tasks of a deployment wait for, in the scheduler's words.

use crate::{context::Context, describe::counted, error::CliError};
use zectre_client::collect;
use zectre_common::{
    state::{DeploymentStatus, Reason, TaskState, Wanted},
    wire::{deployment::Deployment, task::Task},
};

/// What is waited for: a place, or the end of the pause after failures.
pub(crate) fn what(deployment: &Deployment) -> &'static str {
    match deployment.reason {
        Some(Reason::CrashLoop) => "Waiting for the next try",
        _ => "Waiting for a place",
    }
}

/// How many of its tasks have no place, and why the first has none; `None` when all have one.
pub(crate) async fn why(context: &Context, deployment: &Deployment) -> Result<Option<String>, CliError> {
    let id = deployment.id;
    let tasks: Vec<Task> = collect(async |paging| context.client.deployment_tasks(id, paging).await).await?;
    Ok(told(deployment, &tasks))
}

/// Whether what has no place finds none on the nodes as they are.
pub(crate) fn lacks_room(tasks: &[Task]) -> bool {
    let room = |task: &&Task| matches!(task.reason, Some(Reason::NoCapacity | Reason::NoEligibleNode));
    tasks.iter().filter(|task| waits(task)).any(|task| room(&task))
}

/// The same, of tasks that were looked at.
pub(crate) fn told(deployment: &Deployment, tasks: &[Task]) -> Option<String> {
    let waiting: Vec<&Task> = tasks.iter().filter(|task| waits(task)).collect();
    let message = waiting.iter().find_map(|task| task.message.as_deref())?;
    let count = waiting.len().max(missing(deployment, tasks));
    let wait = if count == 1 { "waits" } else { "wait" };
    Some(format!("{} {wait}: {message}", counted(count, "task")))
}

/// It has no place, and the scheduler has said why.
fn waits(task: &Task) -> bool {
    task.state == TaskState::Pending && task.message.is_some()
}

/// How many tasks of what serves have no place. Of those that find no room the scheduler makes one only, and the others once it has
/// its place; while a version is rolled out, its strategy has them made few at a time anyway.
fn missing(deployment: &Deployment, tasks: &[Task]) -> usize {
    if !deployment.current || deployment.status != DeploymentStatus::Succeeded {
        return 0;
    }
    let placed = tasks
        .iter()
        .filter(|task| task.wanted == Wanted::Run && !task.state.is_ended() && !waits(task));
    (deployment.replicas as usize).saturating_sub(placed.count())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::tests::{deployment, task};
    use serde_json::json;

    #[test]
    fn all_that_wait_are_counted_and_not_only_the_one_that_was_made() {
        let looping = json!({"status": "succeeded", "reason": "crash_loop"});
        assert_eq!(what(&deployment("always", &looping)), "Waiting for the next try");
        let mut waits = task("pending", "run", Some("no_capacity"), None);
        waits.message = Some("none of 1 suitable nodes has 100m cpu free".into());
        let mut tasks = vec![task("running", "run", None, None); 30];
        assert_eq!(
            told(&deployment("always", &json!({"replicas": 200})), &tasks),
            None
        );
        tasks.push(waits);
        tasks.push(task("failed", "run", Some("exited"), Some(1)));
        tasks.push(task("running", "stop", Some("superseded"), None));
        let said = |changes| told(&deployment("always", &changes), &tasks).expect("one waits");
        let why = "none of 1 suitable nodes has 100m cpu free";
        assert_eq!(said(json!({"replicas": 200})), format!("170 tasks wait: {why}"));
        // One that takes another's place, in a restart: all others are there.
        assert_eq!(said(json!({"replicas": 30})), format!("1 task waits: {why}"));
        let rolls_out = json!({"replicas": 200, "status": "running", "current": false});
        assert_eq!(said(rolls_out), format!("1 task waits: {why}"));
    }
}
