//! `zectre status`: environment by environment, what serves and what is on its way.

use crate::{
    args::ProjectArgs,
    context::Context,
    error::CliError,
    project::{self, absent_is_none},
    table::{Table, age},
};
use serde::Serialize;
use zectre_client::Paging;
use zectre_common::{
    state::DeploymentStatus,
    wire::{
        app::{App, Environment},
        deployment::Deployment,
    },
};

/// What `--json` prints.
#[derive(Serialize)]
struct Status {
    project: App,
    environments: Vec<Environment>,
    /// Current ones, those on their way, and the newest.
    deployments: Vec<Deployment>,
}

/// How many of the newest deployments are shown beside those in use.
const NEWEST: u32 = 5;

pub(crate) async fn run(args: &ProjectArgs, context: &Context) -> Result<(), CliError> {
    let project = project::find(context, args).await?;
    let environments = context.client.environments(project.id).await?.data;
    let mut deployments = context
        .client
        .deployments(project.id, Paging::first(NEWEST))
        .await?
        .data;
    let used = environments
        .iter()
        .flat_map(|one| [one.current_deployment_id, one.target_deployment_id])
        .flatten();
    for id in used {
        if !deployments.iter().any(|one| one.id == id) {
            deployments.extend(absent_is_none(context.client.deployment(id).await)?);
        }
    }
    deployments.sort_by_key(|one| std::cmp::Reverse(one.version));
    let status = Status {
        project,
        environments,
        deployments,
    };
    context.output.value(&status, |status| show(context, status));
    Ok(())
}

fn show(context: &Context, status: &Status) {
    let output = context.output;
    output.data(format!(
        "{}/{}  {}",
        status.project.namespace, status.project.name, status.project.url
    ));
    if status.deployments.is_empty() {
        output.say("Nothing is deployed yet. Run `zectre deploy`.");
        return;
    }
    output.data("");
    let mut table = Table::new([
        "environment",
        "version",
        "status",
        "health",
        "replicas",
        "age",
        "url",
    ]);
    for one in &status.deployments {
        let url = one.url.as_ref().unwrap_or(&one.preview_url);
        table.row([
            one.environment.clone(),
            format!("v{}{}", one.version, if one.current { " current" } else { "" }),
            one.reason.map_or_else(
                || one.status.to_string(),
                |reason| format!("{} ({reason})", one.status),
            ),
            if one.status.is_ended() && !one.current {
                "-".into()
            } else {
                one.health.to_string()
            },
            one.replicas.to_string(),
            age(one.created_at),
            url.clone(),
        ]);
    }
    table.print(output);
    let failed = status
        .deployments
        .first()
        .filter(|newest| newest.status == DeploymentStatus::Failed);
    if let Some(newest) = failed {
        let message = newest.message.as_deref().unwrap_or("no reason was given");
        output.say(format!(
            "\nv{} failed: {message}\n`zectre logs --deployment {}` shows what it printed.",
            newest.version, newest.version
        ));
    }
}
