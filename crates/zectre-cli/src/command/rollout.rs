//! `zectre scale`, `promote` and `rollback`.

use crate::{
    args::{EnvironmentArgs, PickArgs, ScaleArgs},
    command::{
        begun::{Begun, Work},
        wait, waiting,
    },
    context::Context,
    describe,
    error::CliError,
    link::Link,
    output::Shown,
    project,
};
use std::{path::Path, time::Duration};
use tokio::time::Instant;
use zectre_client::collect;
use zectre_common::{
    id::DeploymentId,
    manifest::Manifest,
    spec::Strategy,
    state::{DeploymentStatus, Health, TaskState},
    wire::{
        app::{App, Environment},
        deployment::{Deployment, UpdateDeploymentRequest},
        task::Task,
    },
};

/// How long the platform may take to begin a rollback that it has accepted.
const ROLLBACK_TIMEOUT: Duration = Duration::from_secs(30);
/// A scaling of which nothing came up for so long, for want of room, is not waited for any longer.
const STANDSTILL: Duration = Duration::from_secs(30);
/// How often it is looked whether it has.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) async fn scale(args: &ScaleArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let (app, environment, serving) = project::serving(context, &args.environment).await?;
    refuse_job(
        &app,
        &serving,
        "`zectre deploy --replicas N` runs it as often as you like",
    )?;
    let before = about_to_serve(context, &environment).await?.unwrap_or(serving);
    let change = UpdateDeploymentRequest {
        replicas: Some(args.replicas),
        ..UpdateDeploymentRequest::default()
    };
    begun.asks(Work::Scaling);
    let changed = context.client.update_deployment(before.id, &change).await?;
    begun.accepted(Work::Scaling, &changed);
    let mut progress = context
        .output
        .progress(format!("Scaling {} to {}", app.name, args.replicas));
    let mut rest = Rest::new(before.replicas, args.replicas);
    let mut standstill = Standstill::new(Instant::now());
    let is_done = async |now: &Deployment| {
        refuse_if_left(&app, &before, now)?;
        if rest.is_final(now.health) {
            return Ok(true);
        }
        let tasks = collect(async |paging| context.client.deployment_tasks(now.id, paging).await).await?;
        let running = running(&tasks);
        if waiting::lacks_room(&tasks)
            && standstill.is_seen(running, Instant::now())
            && let Some(why) = waiting::told(now, &tasks)
        {
            return Err(CliError::DeploymentFailed(no_room(
                &app,
                running,
                args.replicas,
                &why,
            )));
        }
        Ok(now.health == Health::Healthy && args.replicas > 0 && running == args.replicas as usize)
    };
    let now = wait::until(context, changed, &mut progress, is_done).await?;
    let name = format!("{} ({})", app.name, now.environment);
    progress.done(&match args.replicas {
        0 => format!("{name} sleeps until the next request"),
        count if now.health == Health::Asleep => {
            format!("{name} has {} and sleeps until the next request", replicas(count))
        }
        count => format!("{name} has {}", replicas(count)),
    });
    if let Some(warning) = reset_by_deploy(args, &next_deploy(&args.environment, context.api_url())) {
        context.output.say(warning);
    }
    Ok(show(context, &now))
}

/// Whether sleep is where a scaling leads: what sleeps until a request goes on sleeping, and anything may be put to sleep meanwhile; but
/// what had no replicas wakes first.
#[derive(Debug)]
struct Rest {
    may_be_final: bool,
}

impl Rest {
    fn new(before: u32, wanted: u32) -> Self {
        Self {
            may_be_final: before > 0 || wanted == 0,
        }
    }

    /// By what is seen next.
    fn is_final(&mut self, health: Health) -> bool {
        let asleep = health == Health::Asleep;
        let is_final = asleep && self.may_be_final;
        self.may_be_final |= !asleep;
        is_final
    }
}

/// A version that is being rolled out and takes over by itself: what is asked of the program now is asked of that one.
async fn about_to_serve(
    context: &Context,
    environment: &Environment,
) -> Result<Option<Deployment>, CliError> {
    let Some(target) = environment.target_deployment_id else {
        return Ok(None);
    };
    let target = context.client.deployment(target).await?;
    let by_itself = !target.status.is_ended() && !matches!(target.spec.strategy, Strategy::Canary { .. });
    Ok(Some(target).filter(|_| by_itself))
}

/// The version that was scaled failed meanwhile, or another one took its place.
pub(super) fn refuse_if_left(app: &App, before: &Deployment, now: &Deployment) -> Result<(), CliError> {
    let (failed, superseded) = (
        matches!(now.status, DeploymentStatus::Failed | DeploymentStatus::Cancelled),
        before.current && !now.current,
    );
    if failed || superseded {
        return Err(CliError::DeploymentFailed(format!(
            "version {} of {} no longer serves: another one took its place, or its rollout failed. `zectre status` shows what does; \
             run the command again for that.",
            now.version, app.name
        )));
    }
    Ok(())
}

fn replicas(count: u32) -> String {
    describe::counted(count as usize, "replica")
}

/// The tasks that take requests.
fn running(tasks: &[Task]) -> usize {
    tasks
        .iter()
        .filter(|task| task.state == TaskState::Running && task.healthy && task.routed)
        .count()
}

/// A scaling that has come as far as the nodes have room.
#[derive(Debug)]
struct Standstill {
    running: usize,
    since: Instant,
}

impl Standstill {
    fn new(now: Instant) -> Self {
        Self {
            running: 0,
            since: now,
        }
    }

    /// Whether so many have been running for [`STANDSTILL`].
    fn is_seen(&mut self, running: usize, now: Instant) -> bool {
        if running != self.running {
            *self = Self { running, since: now };
        }
        now.duration_since(self.since) >= STANDSTILL
    }
}

fn no_room(app: &App, running: usize, wanted: u32, why: &str) -> String {
    let fewer = match running {
        0 => String::new(),
        some => format!("; `zectre scale {some}` asks for no more than there are"),
    };
    format!(
        "{} has {running} of {}: {why}\nThe others start as soon as there is room (`zectre nodes list` shows it){fewer}.",
        app.name,
        replicas(wanted)
    )
}

/// What the next `zectre deploy` here will ask for; none where it isn't known.
#[derive(Debug, PartialEq, Eq)]
enum NextDeploy {
    /// This directory's manifest, with its `deploy.replicas`.
    Manifest(Option<u32>),
    /// Another project was named, whose manifest isn't here.
    Unknown,
}

/// A manifest that can't be read is the next deploy's trouble, not this command's.
fn next_deploy(args: &EnvironmentArgs, api_url: &str) -> NextDeploy {
    if args.project.project.is_some() {
        return NextDeploy::Unknown;
    }
    let here = Path::new(".");
    let directory = Link::root(here, api_url).unwrap_or_else(|| here.to_owned());
    Manifest::load_dir(&directory).map_or(NextDeploy::Unknown, |manifest| {
        NextDeploy::Manifest(manifest.deployment_request().replicas)
    })
}

/// A deploy makes a new version from the manifest, and so takes a scaling back.
fn reset_by_deploy(args: &ScaleArgs, next: &NextDeploy) -> Option<String> {
    let wanted = args.replicas;
    match next {
        NextDeploy::Manifest(Some(named)) if *named != wanted => Some(format!(
            "The next `zectre deploy` starts with {} again: zectre.yaml says `replicas: {named}`. To keep {wanted}, write it \
             there.",
            replicas(*named)
        )),
        NextDeploy::Manifest(None) if wanted != 1 => Some(format!(
            "The next `zectre deploy` starts with 1 replica again. To keep {wanted}, write `replicas: {wanted}` under `deploy:` \
             in zectre.yaml."
        )),
        NextDeploy::Manifest(_) | NextDeploy::Unknown => None,
    }
}

/// A job serves nothing: what is asked makes no sense for it; `instead` says what does.
pub(super) fn refuse_job(app: &App, deployment: &Deployment, instead: &str) -> Result<(), CliError> {
    if !describe::is_job(deployment) {
        return Ok(());
    }
    Err(CliError::Usage(format!(
        "{} version {} is a job: it runs to completion and serves nothing. {instead}.",
        app.name, deployment.version
    )))
}

pub(crate) async fn promote(args: &PickArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let (app, environment) = project::environment(context, &args.environment).await?;
    let target = match &args.deployment {
        Some(text) => project::deployment(context, &app, text).await?,
        None => {
            let Some(waiting) = environment.target_deployment_id else {
                return Err(nothing_waits(context, &app, &environment).await);
            };
            context.client.deployment(waiting).await?
        }
    };
    make_current(context, &app, &target, (begun, Work::Promotion)).await
}

/// There is no canary, and no other version on its way.
async fn nothing_waits(context: &Context, app: &App, environment: &Environment) -> CliError {
    let serves = match environment.current_deployment_id {
        // Without an answer it is said without its version.
        Some(id) => context.client.deployment(id).await.map_or_else(
            |_| "what serves has all of the requests".into(),
            |current| format!("version {} has all of the requests", current.version),
        ),
        None => "nothing serves there".into(),
    };
    CliError::Failed(format!(
        "nothing waits for promotion in {} of {}: {serves}. `zectre status` shows every version and how it stands.",
        environment.slug, app.name
    ))
}

async fn make_current(
    context: &Context,
    app: &App,
    target: &Deployment,
    (begun, work): (&Begun, Work),
) -> Result<Shown, CliError> {
    refuse_job(app, target, "`zectre deploy` runs it again")?;
    let asked_at = wait::newest_event(context, target.id).await?;
    begun.asks(work);
    let accepted = context.client.promote(target.id).await?;
    begun.accepted(work, &accepted);
    let mut progress = context
        .output
        .progress(format!("Switching {} to version {}", app.name, accepted.version));
    let now = wait::until_current(context, accepted, asked_at, &mut progress).await?;
    progress.done(&format!(
        "{} ({}) serves version {}",
        app.name, now.environment, now.version
    ));
    Ok(show(context, &now))
}

pub(crate) async fn rollback(args: &PickArgs, context: &Context, begun: &Begun) -> Result<Shown, CliError> {
    let (app, environment) = project::environment(context, &args.environment).await?;
    if let Some(text) = &args.deployment {
        let target = project::deployment(context, &app, text).await?;
        return make_current(context, &app, &target, (begun, Work::Rollback)).await;
    }
    let from = from(&app, &environment)?;
    let serving = context.client.deployment(from).await?;
    refuse_job(&app, &serving, "`zectre deploy` runs it again")?;
    // Where it leads isn't known yet; and what comes of it may be over by the time that it is.
    let asked_at = wait::newest_event_of_app(context, app.id).await?;
    begun.asks(Work::Rollback);
    let accepted = context.client.rollback(from).await?;
    begun.accepted(Work::Rollback, &accepted);
    let mut progress = context.output.progress(format!("Rolling {} back", app.name));
    let Destination::Deployment(target) = begun_rollback(context, &app, &environment, from).await? else {
        let left = context.client.deployment(from).await?;
        progress.done(&format!(
            "The rollout of {} version {} was given up; nothing serves {}",
            app.name, left.version, left.environment
        ));
        return Ok(show(context, &left));
    };
    let target = context.client.deployment(target).await?;
    let now = wait::until_current(context, target, asked_at, &mut progress).await?;
    progress.done(&format!(
        "{} ({}) is back at version {}",
        app.name, now.environment, now.version
    ));
    Ok(show(context, &now))
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

/// Where a rollback leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Destination {
    Deployment(DeploymentId),
    /// A first rollout was given up: nothing served before it.
    Nothing,
}

/// Waits until the platform has begun it.
async fn begun_rollback(
    context: &Context,
    app: &App,
    before: &Environment,
    from: DeploymentId,
) -> Result<Destination, CliError> {
    let deadline = Instant::now() + ROLLBACK_TIMEOUT;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        ticks.tick().await;
        let all = context.client.environments(app.id).await?.data;
        if let Some(now) = all.iter().find(|one| one.slug == before.slug)
            && let Some(destination) = destination(from, before, now)
        {
            return Ok(destination);
        }
        if Instant::now() >= deadline {
            return Err(CliError::DeploymentFailed(format!(
                "the rollback was accepted, and nothing has come of it within {} s. `zectre events` shows why; `zectre status` \
                 shows what serves.",
                ROLLBACK_TIMEOUT.as_secs()
            )));
        }
    }
}

/// Where a rollback leads, as its environment shows it; none while it hasn't begun.
fn destination(from: DeploymentId, before: &Environment, now: &Environment) -> Option<Destination> {
    let (target, serves) = (now.target_deployment_id, now.current_deployment_id);
    if target == Some(from) {
        return None;
    }
    if serves == Some(from) {
        // Also where it was a rollout, which ended well before it could be given up.
        return target.map(Destination::Deployment);
    }
    let was_given_up = before.target_deployment_id == Some(from) && serves == before.current_deployment_id;
    let leads_to = if was_given_up {
        // What served goes on.
        serves
    } else {
        target.or(serves)
    };
    Some(leads_to.map_or(Destination::Nothing, Destination::Deployment))
}

/// The deployment: its URL, or the whole as JSON.
pub(super) fn show(context: &Context, deployment: &Deployment) -> Shown {
    context.output.value(deployment, |one| {
        if let Some(url) = describe::url(one) {
            context.output.data(url);
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::id::EnvironmentId;

    #[test]
    fn a_scaling_ends_with_what_sleeps_unless_that_is_about_to_wake() {
        let ends = |before, wanted, seen: &[Health]| {
            let mut rest = Rest::new(before, wanted);
            seen.iter()
                .map(|health| rest.is_final(*health))
                .collect::<Vec<_>>()
        };
        let (asleep, awake) = (Health::Asleep, Health::Healthy);
        assert_eq!(ends(2, 5, &[asleep]), [true]);
        assert_eq!(ends(2, 5, &[awake, asleep]), [false, true]);
        assert_eq!(ends(0, 5, &[asleep, awake, asleep]), [false, false, true]);
        assert_eq!(ends(2, 0, &[awake, asleep]), [false, true]);
        assert_eq!(ends(0, 0, &[asleep]), [true]);
    }

    #[test]
    fn a_scaling_is_waited_for_as_long_as_something_comes_up() {
        let start = Instant::now();
        let at = |secs| start + Duration::from_secs(secs);
        let mut standstill = Standstill::new(start);
        assert!(!standstill.is_seen(0, at(29)));
        assert!(!standstill.is_seen(1, at(29)));
        assert!(!standstill.is_seen(1, at(58)));
        assert!(standstill.is_seen(1, at(59)));
        assert!(!standstill.is_seen(2, at(60)), "one more has come up after all");
    }

    #[test]
    fn a_scaling_that_the_next_deploy_takes_back_is_told() {
        let told = |replicas, next: &NextDeploy| {
            let args = ScaleArgs {
                replicas,
                environment: EnvironmentArgs::default(),
            };
            reset_by_deploy(&args, next).unwrap_or_default()
        };
        assert!(told(3, &NextDeploy::Manifest(Some(2))).contains("says `replicas: 2`"));
        assert!(told(3, &NextDeploy::Manifest(None)).contains("write `replicas: 3`"));
        assert_eq!(told(3, &NextDeploy::Manifest(Some(3))), "");
        assert_eq!(told(1, &NextDeploy::Manifest(None)), "");
        assert_eq!(told(3, &NextDeploy::Unknown), "");
    }

    #[test]
    fn a_rollback_leads_to_what_served_before() {
        let [old, new] = [(); 2].map(|()| DeploymentId::new());
        let environment = |current, target| Environment {
            id: EnvironmentId::new(),
            slug: "production".into(),
            current_deployment_id: current,
            target_deployment_id: target,
            created_at: zectre_common::time::Time::now(),
        };
        let served = environment(Some(new), None);
        assert_eq!(destination(new, &served, &served), None, "not begun yet");
        let going = environment(Some(new), Some(old));
        let back = Some(Destination::Deployment(old));
        assert_eq!(destination(new, &served, &going), back);
        let gone = environment(Some(old), None);
        assert_eq!(destination(new, &served, &gone), back);
        let rollout = environment(Some(old), Some(new));
        assert_eq!(destination(new, &rollout, &rollout), None, "not given up yet");
        assert_eq!(destination(new, &rollout, &gone), back);
        // It took over before it could be given up, or was about to be told of as succeeded: what it leads to is yet to come.
        let confirming = environment(Some(new), Some(new));
        let further = DeploymentId::new();
        for before in [&rollout, &confirming] {
            assert_eq!(destination(new, before, &served), None);
            for now in [
                environment(Some(new), Some(further)),
                environment(Some(further), None),
            ] {
                let back = Some(Destination::Deployment(further));
                assert_eq!(destination(new, before, &now), back);
            }
        }
        let first = environment(None, Some(new));
        let none = environment(None, None);
        assert_eq!(destination(new, &first, &none), Some(Destination::Nothing));
    }
}
