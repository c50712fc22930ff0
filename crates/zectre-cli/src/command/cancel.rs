//! `zectre cancel`: gives up a rollout that is under way.

use crate::{
    args::PickArgs,
    command::{
        begun::{Begun, Work},
        rollout::show,
        wait,
    },
    context::Context,
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
    Ok(show(context, &now))
}

fn nothing_is_under_way(app: &App, environment: &Environment) -> CliError {
    CliError::Failed(format!(
        "nothing is being rolled out to {} of {}. `zectre status` shows every version and how it stands; `zectre rollback` goes \
         back from what serves.",
        environment.slug, app.name
    ))
}
