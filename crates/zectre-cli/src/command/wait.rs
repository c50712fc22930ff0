//! Waiting for a rollout, and saying why one failed.

use super::{patience::Patience, waiting};
use crate::{context::Context, describe, error::CliError, progress::Progress};
use std::time::Duration;
use tokio::time::Instant;
use zectre_client::Paging;
use zectre_common::{
    id::{ApplicationId, DeploymentId},
    spec::Strategy,
    state::{DeploymentStatus, Health, Reason},
    time::Time,
    wire::{deployment::Deployment, event::Event},
};

/// How often a rollout is looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// Most end within this time; one that doesn't is looked at less often.
const SOON: Duration = Duration::from_secs(10);
/// How often then.
const POLL_INTERVAL_LATER: Duration = Duration::from_secs(1);
/// What a rollout may take beyond its own deadline: its build's queue, its drain, and the way here.
const MARGIN: Duration = Duration::from_secs(120);
/// How long something may wait until it is said what for.
const WHY_AFTER: Duration = Duration::from_secs(2);
/// How often the activity feed is asked whether a return was given up, and tasks what they wait for.
const FEED_INTERVAL: Duration = Duration::from_secs(1);
/// How many of the newest events are looked at.
const FEED_EVENTS: u32 = 5;
/// What the platform records when a deployment takes its environment over, again or for the first time.
const TOOK_OVER: &str = "deployment.succeeded";
/// What the platform records when it can't go back to a deployment.
const RETURN_FAILED: &str = "deployment.return_failed";
/// So many of a failed version's tasks are asked whether they were started.
const TASKS_LOOKED_AT: u32 = 20;

/// Waits until the rollout of `deployment` has ended as wished.
pub(crate) async fn until_rolled_out(
    context: &Context,
    deployment: Deployment,
    progress: &mut Progress,
) -> Result<Deployment, CliError> {
    let is_done = async |now: &Deployment| {
        let waits_for_people = matches!(
            now.spec.strategy,
            Strategy::Canary {
                auto_promote_secs: None,
                ..
            }
        );
        // A run to completion takes no requests: it has no share to wait with.
        let waits_for_people = waits_for_people && !describe::is_job(now);
        Ok(now.status.is_ended() || (waits_for_people && now.health == Health::Healthy))
    };
    let ended = until(context, deployment, progress, is_done).await?;
    if is_given_up(&ended) {
        progress.clear();
        return Err(CliError::DeploymentFailed(explain(context, &ended).await));
    }
    Ok(ended)
}

fn is_given_up(deployment: &Deployment) -> bool {
    matches!(
        deployment.status,
        DeploymentStatus::Failed | DeploymentStatus::Cancelled
    )
}

/// Waits until `deployment`, which was asked back, is the current one of its environment. `asked_at` is of before the platform was asked:
/// what happened to it after that ends the waiting, however soon it did. A rollout that was given up comes no more; what is
/// gone back to stays what it was.
pub(crate) async fn until_current(
    context: &Context,
    deployment: Deployment,
    asked_at: Option<Time>,
    progress: &mut Progress,
) -> Result<Deployment, CliError> {
    let mut asked_feed = Instant::now();
    let is_done = async |now: &Deployment| {
        if now.current || is_given_up(now) {
            return Ok(true);
        }
        if asked_feed.elapsed() >= FEED_INTERVAL {
            asked_feed = Instant::now();
            refuse_if_given_up(context, now, asked_at).await?;
        }
        Ok(false)
    };
    let now = until(context, deployment, progress, is_done).await?;
    if now.current {
        return Ok(now);
    }
    progress.clear();
    Err(CliError::DeploymentFailed(explain(context, &now).await))
}

/// When the newest event of a deployment happened, by the platform's clock.
pub(crate) async fn newest_event(context: &Context, id: DeploymentId) -> Result<Option<Time>, CliError> {
    let events = context.client.deployment_events(id, Paging::first(1)).await?.data;
    Ok(events.first().map(|event| event.time))
}

/// The same of a whole application.
pub(crate) async fn newest_event_of_app(
    context: &Context,
    id: ApplicationId,
) -> Result<Option<Time>, CliError> {
    let events = context.client.events(Some(id), Paging::first(1)).await?.data;
    Ok(events.first().map(|event| event.time))
}

async fn refuse_if_given_up(
    context: &Context,
    deployment: &Deployment,
    asked_at: Option<Time>,
) -> Result<(), CliError> {
    let events = context
        .client
        .deployment_events(deployment.id, Paging::first(FEED_EVENTS))
        .await?;
    match ended_otherwise(deployment, events.data, asked_at) {
        // It may have taken over since it was looked at.
        Some(_) if context.client.deployment(deployment.id).await?.current => Ok(()),
        Some(why) => Err(CliError::DeploymentFailed(why)),
        None => Ok(()),
    }
}

/// Why a deployment that is not current will not become so by what was asked, as its events since then tell.
fn ended_otherwise(deployment: &Deployment, events: Vec<Event>, asked_at: Option<Time>) -> Option<String> {
    let version = deployment.version;
    let mut told = events.into_iter().filter(|event| {
        Some(event.time) > asked_at && [TOOK_OVER, RETURN_FAILED].contains(&event.action.as_str())
    });
    told.next().map(|event| match event.action.as_str() {
        TOOK_OVER => format!(
            "version {version} served, and another version has taken its place since: somebody else is at it, too. `zectre status` shows \
             what serves, `zectre events` who asked for it."
        ),
        _ => format!(
            "version {version} could not come back: {}\nWhat serves goes on serving. `zectre logs --deployment {version}` shows all it \
             printed.",
            event.message
        ),
    })
}

/// Looks at a deployment until `is_done`, within the rollout's own deadline, the time of a canary that is promoted by
/// itself, and a margin.
pub(crate) async fn until(
    context: &Context,
    mut deployment: Deployment,
    progress: &mut Progress,
    mut is_done: impl AsyncFnMut(&Deployment) -> Result<bool, CliError>,
) -> Result<Deployment, CliError> {
    let by_itself_secs = match deployment.spec.strategy {
        Strategy::Canary {
            auto_promote_secs: Some(secs),
            ..
        } => secs,
        _ => 0,
    };
    let deadline_secs = u64::from(deployment.spec.progress_deadline_secs) + u64::from(by_itself_secs);
    let timeout = Duration::from_secs(deadline_secs) + MARGIN;
    let began = Instant::now();
    let deadline = began + timeout;
    let mut asked_why = began;
    let mut patience = Patience::default();
    let mut waits_for = None;
    loop {
        match is_done(&deployment).await {
            Ok(true) => return Ok(deployment),
            Ok(false) => {}
            Err(error) => bear(&mut patience, error, deployment.version, progress)?,
        }
        if patience.is_tried() {
            // Nothing that was known is news.
        } else if let Some(news) = doing(&deployment, began.elapsed()) {
            progress.update(news);
        } else if began.elapsed() >= WHY_AFTER && asked_why.elapsed() >= FEED_INTERVAL {
            asked_why = Instant::now();
            if let Ok(why) = waiting::why(context, &deployment).await {
                waits_for = why;
            }
            if let Some(why) = &waits_for {
                progress.update(format!("{}: {why}", waiting::what(&deployment)));
            }
        }
        let pause = if began.elapsed() < SOON {
            POLL_INTERVAL
        } else {
            POLL_INTERVAL_LATER
        };
        tokio::time::sleep(pause).await;
        if Instant::now() >= deadline {
            return Err(CliError::DeploymentFailed(format!(
                "version {} did not get there within {} s{}. It goes on; `zectre status` shows how it is, `zectre events` what \
                 happened.",
                deployment.version,
                timeout.as_secs(),
                waits_for.map(|why| format!(": {why}")).unwrap_or_default()
            )));
        }
        match context.client.deployment(deployment.id).await {
            Ok(now) => (deployment, patience) = (now, Patience::default()),
            Err(error) => bear(&mut patience, error.into(), deployment.version, progress)?,
        }
    }
}

/// Nothing yet, where the API is away: that passes.
fn bear(
    patience: &mut Patience,
    error: CliError,
    version: u32,
    progress: &mut Progress,
) -> Result<(), CliError> {
    let look = "`zectre status` shows how it is, `zectre events` what happened";
    let news = patience.spend(error, Instant::now(), &format!("version {version}"), look)?;
    progress.update(news);
    Ok(())
}

/// What the rollout is at; nothing once it has ended, when something else is waited for.
fn doing(deployment: &Deployment, waited: Duration) -> Option<String> {
    let job = describe::is_job(deployment);
    let place = format!("(version {}, {})", deployment.version, deployment.environment);
    match (deployment.status, &deployment.message) {
        // What fails at once says why in the end, and once is enough.
        (DeploymentStatus::Pending, Some(why))
            if waited >= WHY_AFTER || deployment.reason == Some(Reason::NoEligibleNode) =>
        {
            Some(format!("Waiting for a place {place}: {why}"))
        }
        (DeploymentStatus::Pending, _) => Some(format!("Waiting for a place {place}")),
        (DeploymentStatus::Running, Some(why))
            if waited >= WHY_AFTER && deployment.reason == Some(Reason::NoCapacity) =>
        {
            Some(format!("Rolling out {place}, and waiting for a place: {why}"))
        }
        (DeploymentStatus::Running, _) if job => Some(format!("Running {place}")),
        (DeploymentStatus::Running, _) => Some(match deployment.spec.strategy {
            Strategy::Canary {
                weight,
                auto_promote_secs: Some(secs),
            } if deployment.health == Health::Healthy => format!(
                "Takes {weight} % of the requests, all of them once {secs} s have gone well {place}; `zectre promote` gives \
                 it all at once"
            ),
            _ => format!("Rolling out {place}"),
        }),
        _ => None,
    }
}

/// Why it failed, and what to do.
async fn explain(context: &Context, deployment: &Deployment) -> String {
    // Whoever reads JSON gets the whole of it, failed or not.
    let _ = context.output.going_on().value(deployment, |_| {});
    let mut lines = describe::failure(deployment);
    let is_job = describe::is_job(deployment);
    let replaces = !is_job && serves_another(context, deployment).await;
    lines.extend(makes_room(deployment, replaces).map(str::to_owned));
    let before = if is_job {
        ""
    } else if replaces {
        "It never took over; what served before it goes on serving. "
    } else {
        "It never took over, and nothing served before it. "
    };
    let ran = ran(context, deployment).await;
    lines.push(if ran {
        format!(
            "{before}`zectre logs --deployment {}` shows all it printed.",
            deployment.version
        )
    } else {
        format!("{before}Nothing of it ran; `zectre status` shows how it stands.")
    });
    lines.join("\n")
}

/// What helps a version that found no room beside the one that serves.
fn makes_room(deployment: &Deployment, replaces: bool) -> Option<&'static str> {
    let is_beside = match deployment.spec.strategy {
        Strategy::Rolling { max_unavailable, .. } => max_unavailable == 0,
        Strategy::BlueGreen | Strategy::Canary { .. } => true,
        Strategy::Recreate => false,
    };
    (replaces && is_beside && deployment.reason == Some(Reason::NoCapacity)).then_some(
        "Its first task needs room beside those that serve: a node more, or something that sleeps or is smaller. Or have the old ones make \
         room first, with a moment in which fewer answer: `strategy: { type: rolling, max_surge: 0, max_unavailable: 1 }` in zectre.yaml.",
    )
}

/// Whether something of it was started, and so may have printed something.
async fn ran(context: &Context, deployment: &Deployment) -> bool {
    if let Some(evidence) = &deployment.evidence
        && evidence.task_id.is_some()
    {
        return true;
    }
    let newest = context
        .client
        .deployment_tasks(deployment.id, Paging::first(TASKS_LOOKED_AT));
    newest
        .await
        .is_ok_and(|tasks| tasks.data.iter().any(|task| task.started_at.is_some()))
}

/// Whether the environment of a failed deployment has one that serves. Without an answer it is taken for the usual: it does.
async fn serves_another(context: &Context, deployment: &Deployment) -> bool {
    let Ok(environments) = context.client.environments(deployment.application_id).await else {
        return true;
    };
    environments
        .data
        .iter()
        .find(|environment| environment.slug == deployment.environment)
        .is_none_or(|environment| environment.current_deployment_id.is_some())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::describe::tests::deployment;
    use serde_json::json;

    #[test]
    fn a_rollout_that_finds_no_room_says_so_once_it_lasts() {
        let full = deployment(
            "always",
            &json!({"status": "running", "reason": "no_capacity", "message": "1 task waits: no node has enough cpu left"}),
        );
        let said = |waited| doing(&full, waited).expect("it goes on");
        assert!(!said(Duration::ZERO).contains("no node has enough cpu left"));
        assert!(
            said(WHY_AFTER).contains("no node has enough cpu left"),
            "{}",
            said(WHY_AFTER)
        );
    }

    #[test]
    fn a_return_that_somebody_else_overtook_is_not_waited_for() {
        let event = |action: &str, time: &str| -> Event {
            let event = json!({"id": zectre_common::id::EventId::new(), "time": time, "actor": "user:ada@example.test",
                "action": action, "message": "its image is gone"});
            serde_json::from_value(event).expect("an event")
        };
        let [before, asked, after] =
            ["07:00:00.1", "07:00:00.2", "07:00:00.3"].map(|time| format!("2026-11-29T{time}Z"));
        let asked_at = Some(event("deployment.rollback_requested", &asked).time);
        let told_of = |actions: &[&str], time: &str| {
            let one = deployment("always", &json!({"current": false}));
            let events = actions.iter().map(|action| event(action, time)).collect();
            ended_otherwise(&one, events, asked_at)
        };
        let told = |actions: &[&str]| told_of(actions, &after);
        assert_eq!(
            told_of(&[TOOK_OVER, RETURN_FAILED], &before),
            None,
            "of earlier times"
        );
        assert_eq!(told(&["deployment.rollback", "deployment.awake"]), None);
        let overtaken = told(&["deployment.asleep", TOOK_OVER]).expect("it served");
        assert!(
            overtaken.contains("another version has taken its place"),
            "{overtaken}"
        );
        let gone = told(&[RETURN_FAILED]).expect("given up");
        assert!(gone.contains("could not come back: its image is gone"), "{gone}");
    }

    #[test]
    fn who_finds_no_room_beside_what_serves_is_told_how_to_make_it() {
        let failed = |reason, strategy: &serde_json::Value| {
            let mut one = deployment("always", &json!({"status": "failed", "reason": reason}));
            one.spec.strategy = serde_json::from_value(strategy.clone()).expect("a strategy");
            one
        };
        let rolling = json!("rolling");
        let told = |reason, strategy: &serde_json::Value, replaces| {
            makes_room(&failed(reason, strategy), replaces).is_some()
        };
        assert!(told("no_capacity", &rolling, true));
        assert!(told("no_capacity", &json!("blue_green"), true));
        assert!(
            !told("no_capacity", &rolling, false),
            "nothing is there to make room"
        );
        assert!(!told("exited", &rolling, true));
        assert!(!told("no_capacity", &json!("recreate"), true));
        let makes = json!({"type": "rolling", "max_surge": 0, "max_unavailable": 1});
        assert!(!told("no_capacity", &makes, true));
    }
}
