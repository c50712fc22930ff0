//! `zectre environments …`: the places of a project in which one deployment is current.

use crate::{
    args::{EnvironmentsCommand, OldEnvironmentArgs, ProjectArgs},
    context::Context,
    error::CliError,
    output::Shown,
    project::{self, full_name},
    prompt,
    table::{Table, age},
};
use zectre_common::{id::DeploymentId, spec::valid_slug, wire::app::Environment};

pub(crate) async fn run(command: &EnvironmentsCommand, context: &Context) -> Result<Shown, CliError> {
    match command {
        EnvironmentsCommand::List(project) => list(project, context).await,
        EnvironmentsCommand::Add { environment, project } => add(environment, project, context).await,
        EnvironmentsCommand::Rm(args) => remove(args, context).await,
    }
}

async fn list(args: &ProjectArgs, context: &Context) -> Result<Shown, CliError> {
    let app = project::find(context, args).await?;
    let all = context.client.environments(app.id).await?.data;
    if context.output.json {
        return Ok(context.output.value(&all, |_| ()));
    }
    let mut table = Table::new(["environment", "serves", "rolls out", "age"]);
    for one in &all {
        table.row([
            one.slug.clone(),
            version(one.current_deployment_id, context).await?,
            version(one.target_deployment_id, context).await?,
            age(one.created_at),
        ]);
    }
    Ok(context.output.value(&all, |_| table.print(context.output)))
}

async fn version(id: Option<DeploymentId>, context: &Context) -> Result<String, CliError> {
    let Some(id) = id else { return Ok("-".into()) };
    // It may be gone since the list was made.
    let found = project::absent_is_none(context.client.deployment(id).await)?;
    Ok(found.map_or_else(|| "-".into(), |one| format!("v{}", one.version)))
}

async fn add(slug: &str, args: &ProjectArgs, context: &Context) -> Result<Shown, CliError> {
    if !valid_slug(slug) {
        return Err(CliError::Usage(format!(
            "`{slug}` is no name for an environment: use lower case letters, digits and `-`, starting with a letter, at most \
             40 characters."
        )));
    }
    let app = project::find(context, args).await?;
    let made = context.client.create_environment(app.id, slug).await?;
    let remark = format!(
        "Made the environment {slug} of {}. Next: `zectre deploy --env {slug}`",
        full_name(&app)
    );
    Ok(context.output.done(&made, remark))
}

async fn remove(args: &OldEnvironmentArgs, context: &Context) -> Result<Shown, CliError> {
    let app = project::find(context, &args.project).await?;
    let (slug, full) = (&args.environment, full_name(&app));
    let all = context.client.environments(app.id).await?.data;
    let known = |one: &&Environment| one.slug == *slug;
    let environment = all.iter().find(known).ok_or_else(|| {
        CliError::NotFound(format!(
            "{full} has no environment `{slug}`. `zectre environments list --project {full}` shows those there are."
        ))
    })?;
    let question = format!("Delete {slug} of {full} with what runs in it and its variables?");
    if !args.yes && !prompt::confirm(&question).await? {
        return Err(CliError::Usage(format!(
            "{slug} was not deleted. Add --yes to delete it without a question."
        )));
    }
    context.client.delete_environment(app.id, slug).await?;
    Ok(context
        .output
        .done(environment, format!("Deleted {slug} of {full}")))
}
