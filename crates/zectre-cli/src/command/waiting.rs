//! What the tasks of a deployment wait for, in the scheduler's words.

use crate::{context::Context, error::CliError};
use zectre_client::collect;
use zectre_common::{id::DeploymentId, state::TaskState, wire::task::Task};

/// How many of its tasks have no place, and why the first has none; `None` when all have one.
pub(crate) async fn why(context: &Context, id: DeploymentId) -> Result<Option<String>, CliError> {
    let tasks: Vec<Task> = collect(async |paging| context.client.deployment_tasks(id, paging).await).await?;
    let told = tasks
        .iter()
        .filter(|task| task.state == TaskState::Pending && task.message.is_some());
    let count = told.clone().count();
    let message = told.into_iter().find_map(|task| task.message.as_deref());
    Ok(message.map(|message| {
        let wait = if count == 1 { "task waits" } else { "tasks wait" };
        format!("{count} {wait}: {message}")
    }))
}
