//! `zectre status`: environment by environment, what serves and what is on its way.

use super::waiting;
use crate::{
    args::StatusArgs,
    context::Context,
    describe,
    error::{CliError, sentence},
    output::Shown,
    project::{self, absent_is_none},
    table::{Table, age, or_dash},
};
use serde::Serialize;
use std::collections::BTreeSet;
use zectre_client::{Paging, collect};
use zectre_common::{
    state::{BuildStatus, Health},
    wire::{
        app::{App, Environment},
        build::Build,
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
    /// The newest build, while no deployment has come of it.
    build: Option<Build>,
}

/// How many of the newest deployments are shown beside those in use.
const NEWEST: u32 = 5;

pub(crate) async fn run(args: &StatusArgs, context: &Context) -> Result<Shown, CliError> {
    let project = project::find(context, &args.project).await?;
    let environments = context.client.environments(project.id).await?.data;
    let newest = context
        .client
        .deployments(project.id, Paging::first(NEWEST))
        .await?;
    let (total, mut deployments) = (newest.total, newest.data);
    if args.all {
        deployments = collect(async |paging| context.client.deployments(project.id, paging).await).await?;
    }
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
    let builds = context.client.builds(Some(project.id), Paging::first(1)).await?;
    let newest = deployments.iter().map(|one| one.created_at).max();
    let build = builds
        .data
        .into_iter()
        .find(|build| Some(build.created_at) > newest);
    let status = Status {
        project,
        environments,
        deployments,
        build,
    };
    let mut waits = Vec::new();
    let unwell = |one: &&Deployment| one.current && matches!(one.health, Health::Degraded | Health::Down);
    for one in status.deployments.iter().filter(unwell) {
        let why = waiting::why(context, one).await?;
        waits.extend(why.map(|why| format!("\nv{}: {}", one.version, sentence(&why))));
    }
    Ok(context.output.value(&status, |status| {
        show(context, status);
        if let Some(news) = status.build.as_ref().and_then(news_of) {
            context.output.say(news);
        }
        for why in &waits {
            context.output.say(why);
        }
        if let Some(more) = more(total, status.deployments.len()) {
            context.output.say(more);
        }
    }))
}

/// How to see what is not shown.
fn more(total: i64, shown: usize) -> Option<String> {
    let left = usize::try_from(total).unwrap_or_default().saturating_sub(shown);
    (left > 0).then(|| {
        format!(
            "\n`zectre status --all` shows {} more.",
            describe::counted(left, "version")
        )
    })
}

/// How a build stands of which nothing has come yet.
fn news_of(build: &Build) -> Option<String> {
    let stands = match build.status {
        BuildStatus::Queued => "is queued",
        BuildStatus::Running => "is under way",
        BuildStatus::Failed => "failed",
        BuildStatus::Cancelled => "was cancelled",
        BuildStatus::Succeeded => return None,
    };
    let why = match &build.message {
        Some(why) => format!(": {}", sentence(why)),
        None => ".".into(),
    };
    Some(format!(
        "\nThe newest build {stands}{why} `zectre builds` lists builds."
    ))
}

fn show(context: &Context, status: &Status) {
    let output = context.output;
    let name = project::full_name(&status.project);
    // A job has no address.
    let serves = status.deployments.is_empty() || status.deployments.iter().any(|one| !describe::is_job(one));
    output.data(if serves {
        format!("{name}  {}", status.project.url)
    } else {
        name
    });
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
        table.row([
            one.environment.clone(),
            format!("v{}{}", one.version, if one.current { " current" } else { "" }),
            describe::status(one),
            describe::health(one),
            describe::replicas(one),
            age(one.created_at),
            or_dash(describe::url(one)),
        ]);
    }
    table.print(output);
    for ended in newest_of_each(status).filter_map(describe::ending) {
        output.say(format!("\n{ended}"));
    }
}

/// The newest deployment of every environment, newest first.
fn newest_of_each(status: &Status) -> impl Iterator<Item = &Deployment> {
    let mut seen = BTreeSet::new();
    let all = status.deployments.iter();
    all.filter(move |one| seen.insert(one.environment.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_shown_is_told_of() {
        assert_eq!(more(5, 5), None);
        assert_eq!(more(5, 6), None, "one came meanwhile");
        assert_eq!(
            more(6, 5).expect("one more").trim(),
            "`zectre status --all` shows 1 version more."
        );
    }
}
