//! `zectre ps`: the tasks of a project.

use crate::{
    args::PsArgs,
    context::Context,
    describe,
    error::CliError,
    output::Shown,
    project::{self, absent_is_none},
    table::{Table, age, or_dash, short},
};
use std::collections::BTreeSet;
use zectre_client::{Paging, TaskFilter, collect};
use zectre_common::{
    id::DeploymentId,
    state::TaskState,
    wire::{app::App, deployment::Deployment, task::Task},
};

/// How many deployments back tasks that have ended are looked for.
const DEPLOYMENTS: u32 = 20;

pub(crate) async fn run(args: &PsArgs, context: &Context) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let environment = args.prod.then_some("production").or(args.env.as_deref());
    let mut deployments = of_interest(context, &app).await?;
    deployments.retain(|one| environment.is_none_or(|slug| one.environment == slug));
    let newest = deployments.first().cloned();
    let mut tasks: Vec<(Deployment, Task)> = Vec::new();
    for deployment in deployments {
        let of = collect(async |paging| context.client.deployment_tasks(deployment.id, paging).await).await?;
        let mut shown: Vec<Task> = of
            .into_iter()
            .filter(|task| args.all || !task.state.is_ended())
            .collect();
        // Those of a slot stay newest first.
        shown.sort_by_key(|task| task.slot);
        tasks.extend(shown.into_iter().map(|task| (deployment.clone(), task)));
    }
    let only: Vec<_> = tasks.iter().map(|(_, task)| task).collect();
    Ok(context.output.value(&only, |_| {
        if tasks.is_empty() {
            context.output.say(idle(args.all, newest.as_ref()));
        } else {
            table(&tasks).print(context.output);
        }
    }))
}

/// The newest deployments, then what serves, what is to serve and what runs, however old it is.
async fn of_interest(context: &Context, app: &App) -> Result<Vec<Deployment>, CliError> {
    let newest = Paging::first(DEPLOYMENTS);
    let mut deployments = context.client.deployments(app.id, newest).await?.data;
    for environment in context.client.environments(app.id).await?.data {
        let ids = [
            environment.target_deployment_id,
            environment.current_deployment_id,
        ];
        for id in ids.into_iter().flatten() {
            if deployments.iter().all(|one| one.id != id) {
                deployments.push(context.client.deployment(id).await?);
            }
        }
    }
    for id in running(context, app).await? {
        if deployments.iter().all(|one| one.id != id) {
            // It may have been deleted since.
            deployments.extend(absent_is_none(context.client.deployment(id).await)?);
        }
    }
    Ok(deployments)
}

/// What has tasks that have not ended: versions of which nobody speaks any more may run for their preview.
async fn running(context: &Context, app: &App) -> Result<BTreeSet<DeploymentId>, CliError> {
    let mut running = BTreeSet::new();
    for state in TaskState::ALL.iter().filter(|state| !state.is_ended()) {
        let filter = TaskFilter {
            application: Some(app.id),
            state: Some(*state),
        };
        let tasks = collect(async |paging| context.client.tasks(&filter, paging).await).await?;
        running.extend(tasks.iter().map(|task| task.deployment_id));
    }
    Ok(running)
}

fn table(tasks: &[(Deployment, Task)]) -> Table {
    let mut table = Table::new([
        "task",
        "environment",
        "version",
        "slot",
        "state",
        "healthy",
        "node",
        "port",
        "restarts",
        "age",
    ]);
    for (deployment, task) in tasks {
        let job = describe::is_job(deployment);
        let healthy = match (job || task.state.is_ended(), task.healthy) {
            (true, _) => "-",
            (false, true) => "yes",
            (false, false) => "no",
        };
        table.row([
            short(&task.id),
            deployment.environment.clone(),
            format!("v{}", deployment.version),
            task.slot.to_string(),
            describe::task_state(task, job),
            healthy.into(),
            or_dash(task.node.clone()),
            or_dash(task.port),
            task.restarts.to_string(),
            age(task.created_at),
        ]);
    }
    table
}

/// What it means that there is no task to show.
fn idle(all: bool, newest: Option<&Deployment>) -> &'static str {
    match newest {
        None => "Nothing is deployed yet. Run `zectre deploy`.",
        Some(_) if all => "No task was ever started. `zectre status` shows why.",
        Some(newest) if describe::is_job(newest) => {
            "No task runs now: the program runs to completion. `zectre ps --all` shows its runs, `zectre deploy` makes a new one."
        }
        Some(newest) if !newest.cold_start_enabled => {
            "No task runs, and requests do not start one (`cold_start` is off). `zectre scale 1` does; `zectre ps --all` shows ended tasks."
        }
        Some(_) => {
            "No task runs. A request to its URL wakes a sleeping deployment; `zectre ps --all` shows ended tasks."
        }
    }
}
