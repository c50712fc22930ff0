//! `zectre scale`, `promote`, `rollback` and `restart`.

use crate::{
    args::{EnvironmentArgs, PickArgs, ScaleArgs},
    command::wait,
    context::Context,
    error::CliError,
    project,
};
use zectre_common::{
    id::DeploymentId,
    state::Health,
    wire::{
        app::{App, Environment},
        deployment::{Deployment, UpdateDeploymentRequest},
    },
};

pub(crate) async fn scale(args: &ScaleArgs, context: &Context) -> Result<(), CliError> {
    let (app, _, deployment) = project::serving(context, &args.environment).await?;
    let change = UpdateDeploymentRequest {
        replicas: Some(args.replicas),
        ..UpdateDeploymentRequest::default()
    };
    let changed = context.client.update_deployment(deployment.id, &change).await?;
    let mut progress = context
        .output
        .progress(format!("Scaling {} to {}", app.name, args.replicas));
    let wanted = if args.replicas == 0 {
        Health::Asleep
    } else {
        Health::Healthy
    };
    let changed = wait::until(context, changed, &mut progress, |now| now.health == wanted).await?;
    progress.done(&format!(
        "{} ({}) has {} replicas",
        app.name, changed.environment, changed.replicas
    ));
    show(context, &changed);
    Ok(())
}

pub(crate) async fn promote(args: &PickArgs, context: &Context) -> Result<(), CliError> {
    let (app, environment) = project::environment(context, &args.environment).await?;
    let id = match &args.deployment {
        Some(text) => project::deployment(context, &app, text).await?.id,
        None => environment.target_deployment_id.ok_or_else(|| {
            CliError::Usage(format!(
                "nothing waits for promotion in {} of {}. Name a deployment: `zectre promote VERSION`; `zectre status` \
                 shows them.",
                environment.slug, app.name
            ))
        })?,
    };
    let accepted = context.client.promote(id).await?;
    becomes_current(context, &app, accepted).await
}

pub(crate) async fn rollback(args: &PickArgs, context: &Context) -> Result<(), CliError> {
    let (app, environment) = project::environment(context, &args.environment).await?;
    if let Some(text) = &args.deployment {
        let target = project::deployment(context, &app, text).await?;
        let accepted = context.client.promote(target.id).await?;
        return becomes_current(context, &app, accepted).await;
    }
    let from = from(&app, &environment)?;
    let before = environment.current_deployment_id;
    let answer = context.client.rollback(from).await?;
    let mut progress = context.output.progress(format!("Rolling {} back", app.name));
    let target = if answer.id == from {
        previous(context, &app, &environment, before).await?
    } else {
        answer
    };
    let now = wait::until(context, target, &mut progress, |now| {
        now.current || now.status.is_ended() && before.is_none()
    })
    .await?;
    progress.done(&format!(
        "{} ({}) is back at version {}",
        app.name, now.environment, now.version
    ));
    show(context, &now);
    Ok(())
}

/// What a rollback starts from: the rollout under way, else what serves.
fn from(app: &App, environment: &Environment) -> Result<DeploymentId, CliError> {
    environment
        .target_deployment_id
        .or(environment.current_deployment_id)
        .ok_or_else(|| {
            CliError::NotFound(format!(
                "nothing is deployed to {} of {}. Run `zectre deploy`.",
                environment.slug, app.name
            ))
        })
}

/// The deployment that the environment goes back to, by now its target or its current one.
async fn previous(
    context: &Context,
    app: &App,
    environment: &Environment,
    before: Option<DeploymentId>,
) -> Result<Deployment, CliError> {
    let all = context.client.environments(app.id).await?.data;
    let now = all.into_iter().find(|one| one.slug == environment.slug);
    let target = now
        .and_then(|one| one.target_deployment_id.or(one.current_deployment_id))
        .or(before);
    match target {
        Some(id) => Ok(context.client.deployment(id).await?),
        None => Err(CliError::NotFound(format!(
            "{} of {} has nothing to go back to. `zectre status` shows its deployments.",
            environment.slug, app.name
        ))),
    }
}

async fn becomes_current(context: &Context, app: &App, accepted: Deployment) -> Result<(), CliError> {
    let mut progress = context
        .output
        .progress(format!("Switching {} to version {}", app.name, accepted.version));
    let now = wait::until(context, accepted, &mut progress, |now| now.current).await?;
    progress.done(&format!(
        "{} ({}) serves version {}",
        app.name, now.environment, now.version
    ));
    show(context, &now);
    Ok(())
}

pub(crate) async fn restart(args: &EnvironmentArgs, context: &Context) -> Result<(), CliError> {
    let (app, _, deployment) = project::serving(context, args).await?;
    let accepted = context.client.restart(deployment.id).await?;
    context.output.say(format!(
        "{} ({}) replaces its tasks one by one; `zectre ps` shows it.",
        app.name, accepted.environment
    ));
    show(context, &accepted);
    Ok(())
}

fn show(context: &Context, deployment: &Deployment) {
    context.output.value(deployment, |one| {
        context.output.data(one.url.as_ref().unwrap_or(&one.preview_url));
    });
}
