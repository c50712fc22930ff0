//! `zectre sleep` and `zectre wake`: by hand what the idle time-out and the next request do by themselves.

use crate::{
    args::EnvironmentArgs,
    command::{
        begun::{Begun, Work},
        rollout::{refuse_job, show},
        wait,
    },
    context::Context,
    error::CliError,
    output::Shown,
    project,
};
use zectre_common::{state::Health, wire::deployment::Deployment};

pub(crate) async fn sleep(
    args: &EnvironmentArgs,
    context: &Context,
    begun: &Begun,
) -> Result<Shown, CliError> {
    let (app, _, serving) = project::serving(context, args).await?;
    refuse_job(&app, &serving, "It ends by itself")?;
    let name = format!("{} ({})", app.name, serving.environment);
    if serving.health == Health::Asleep {
        context.output.say(format!("{name} sleeps already"));
        return Ok(show(context, &serving));
    }
    begun.asks(Work::Sleep);
    let accepted = context.client.sleep(serving.id).await?;
    begun.accepted(Work::Sleep, &accepted);
    let mut progress = context.output.progress(format!("Putting {name} to sleep"));
    let is_asleep = async |now: &Deployment| Ok(now.health == Health::Asleep);
    let now = wait::until(context, accepted, &mut progress, is_asleep).await?;
    progress.done(&format!("{name} sleeps until the next request"));
    Ok(show(context, &now))
}

pub(crate) async fn wake(
    args: &EnvironmentArgs,
    context: &Context,
    begun: &Begun,
) -> Result<Shown, CliError> {
    let (app, _, serving) = project::serving(context, args).await?;
    refuse_job(&app, &serving, "`zectre deploy` runs it again")?;
    let name = format!("{} ({})", app.name, serving.environment);
    let progress = context.output.progress(format!("Waking {name}"));
    begun.asks(Work::Wake);
    context.client.wake(serving.id).await?;
    progress.done(&format!("{name} is awake"));
    Ok(show(context, &context.client.deployment(serving.id).await?))
}
