//! `zectre ps`: the tasks of a project.

use crate::{
    args::PsArgs,
    context::Context,
    error::CliError,
    project,
    table::{Table, age, or_dash, short},
};
use zectre_client::{Paging, collect};
use zectre_common::wire::{deployment::Deployment, task::Task};

/// How many deployments back ended tasks are looked for.
const DEPLOYMENTS: u32 = 20;

pub(crate) async fn run(args: &PsArgs, context: &Context) -> Result<(), CliError> {
    let app = project::find(context, &args.project).await?;
    let deployments = context
        .client
        .deployments(app.id, Paging::first(DEPLOYMENTS))
        .await?
        .data;
    let mut tasks: Vec<(Deployment, Task)> = Vec::new();
    for deployment in deployments {
        let of = collect(async |paging| context.client.deployment_tasks(deployment.id, paging).await).await?;
        let shown = of.into_iter().filter(|task| args.all || !task.state.is_ended());
        tasks.extend(shown.map(|task| (deployment.clone(), task)));
    }
    let only: Vec<_> = tasks.iter().map(|(_, task)| task).collect();
    context.output.value(&only, |_| {
        let mut table =
            Table::new(["task", "environment", "version", "slot", "state", "healthy", "node", "port", "restarts", "age"]);
        for (deployment, task) in &tasks {
            let state = task.reason.map_or_else(|| task.state.to_string(), |reason| format!("{} ({reason})", task.state));
            table.row([
                short(&task.id),
                deployment.environment.clone(),
                format!("v{}", deployment.version),
                task.slot.to_string(),
                state,
                if task.healthy { "yes" } else { "no" }.into(),
                or_dash(task.node.clone()),
                or_dash(task.port),
                task.restarts.to_string(),
                age(task.created_at),
            ]);
        }
        if table.is_empty() {
            context.output.say("No task runs. A request to its URL wakes a sleeping deployment; `zectre ps --all` shows ended tasks.");
        } else {
            table.print(context.output);
        }
    });
    Ok(())
}
