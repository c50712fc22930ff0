//! `zectre cancel`: gives up a rollout that is under way.

use crate::{
    args::PickArgs,
    command::{
        begun::{Begun, Work},
        wait,
    },
    context::Context,
    describe,
    error::CliError,
    output::Shown,
    project,
};
use zectre_common::{
    state::DeploymentStatus,
    wire::{
        app::{App, Environment},
        deployment::Deployment,
    },
};

pub(crate) async fn run(args: &PickArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let (app, environment) = project::environment(context, &args.environment).await?;
    let target = match &args.deployment {
        Some(text) => project::deployment(context, &app, text).await?,
        None => project::newest(context, &app, &environment, |one| !one.status.is_ended())
            .await?
            .ok_or_else(|| nothing_is_under_way(&app, &environment))?,
    };
    begun.asks(Work::Cancellation);
    let accepted = context.client.cancel_deployment(target.id).await?;
    begun.accepted(Work::Cancellation, &accepted);
    let name = format!("{} version {} ({})", app.name, target.version, target.environment);
    let mut progress = context.output.progress(format!("Cancelling {name}"));
    let has_ended = async |now: &Deployment| Ok(now.status.is_ended());
    let now = wait::until(context, accepted, &mut progress, has_ended).await?;
    if now.status != DeploymentStatus::Cancelled {
        progress.clear();
        return Err(CliError::Failed(format!(
            "{name} had ended before it could be cancelled: {}. `zectre status` shows what serves; `zectre rollback` goes back to \
             what did.",
            now.status
        )));
    }
    progress.done(&format!("{name} was cancelled"));
    // What was cancelled answers nowhere any more: shown is where its environment does.
    let serves = serving(context, &app, &now.environment).await?;
    Ok(context.output.value(&now, |_| {
        if let Some(url) = serves.as_ref().and_then(describe::url) {
            context.output.data(url);
        }
    }))
}

/// What the environment's requests go to; none where nothing has taken over there yet.
async fn serving(context: &Context, app: &App, slug: &str) -> Result<Option<Deployment>, CliError> {
    let all = context.client.environments(app.id).await?.data;
    let environment = all.iter().find(|one| one.slug == slug);
    match environment.and_then(|one| one.current_deployment_id) {
        Some(id) => project::absent_is_none(context.client.deployment(id).await),
        None => Ok(None),
    }
}

fn nothing_is_under_way(app: &App, environment: &Environment) -> CliError {
    CliError::Failed(format!(
        "nothing is being rolled out to {} of {}. `zectre status` shows every version and how it stands; `zectre rollback` goes \
         back from what serves.",
        environment.slug, app.name
    ))
}
