//! Wakes, as the API and proxies ask for them.

use crate::{
    cluster::cluster,
    support::{PATIENCE, Scheduler, World, agent::Programs},
};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, Eligibility},
    wire::{
        deployment::WakeResponse,
        scheduler::{SUPERSEDED, WakeRequest},
    },
};
use zectre_scheduler::core::Event;
use zectre_service::{
    call::{CallError, Caller},
    token::name,
};
use zectre_testkit::wait_until;

async fn wake(scheduler: &Scheduler, world: &World, id: DeploymentId) -> Result<WakeResponse, CallError> {
    let url = format!("{}/api/v1/scheduler/wake", scheduler.url);
    let body = WakeRequest {
        deployment_id: id,
        wait_ms: 10_000,
        unless_superseded: false,
    };
    world.api.post_json(&url, name::SCHEDULER, &body, PATIENCE).await
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_wake_a_sleeping_deployment_once() {
    let (world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let id = app.deploy(1, r#"{"replicas":0}"#).await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "asleep, as soon as it was seen to work", async || {
        (app.live(id).await == 0 && agent.running() == 0).then_some(())
    })
    .await;
    assert_eq!(agent.starts(), [1], "it was tried");
    let (a, b, c) = tokio::join!(
        wake(&scheduler, &world, id),
        wake(&scheduler, &world, id),
        wake(&scheduler, &world, id)
    );
    for answer in [a, b, c] {
        let backends = answer.expect("it wakes").backends;
        assert_eq!(backends.len(), 1);
        assert_eq!(backends[0].address, "127.0.0.1");
    }
    assert_eq!(agent.starts(), [1, 1], "one start more, however many requests");
    assert_eq!(app.wakes_of_nodes().await, [1], "and one wake of its node");
    app.ask("sleep", id).await;
    scheduler.nudge().await;
    wait_until(PATIENCE, "asleep", async || {
        (app.live(id).await == 0 && agent.running() == 0).then_some(())
    })
    .await;
    let unknown = wake(&scheduler, &world, DeploymentId::new())
        .await
        .expect_err("there is none");
    assert_eq!(unknown.problem().map(|problem| problem.status), Some(404));
    scheduler.stop().await;
}

/// That it counts from now on has to be written down first. A proxy may ask for wakes, and for nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxys_request_brings_no_superseded_version_back() {
    let (world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let mut versions = Vec::new();
    for version in 1..=2 {
        let id = app.deploy(version, "{}").await;
        scheduler.nudge().await;
        app.becomes(id, DeploymentStatus::Succeeded).await;
        versions.push(id);
    }
    let &[old, current] = &versions[..] else {
        unreachable!("two were made")
    };
    wait_until(PATIENCE, "the old one has no task", async || {
        (app.live(old).await == 0 && agent.running() == 1).then_some(())
    })
    .await;
    let proxy = Caller::new(name::PROXY, world.key.clone());
    let ask_for = async |deployment_id, wait_ms| {
        let url = format!("{}/api/v1/scheduler/wake", scheduler.url);
        let body = WakeRequest {
            deployment_id,
            wait_ms,
            unless_superseded: true,
        };
        let answer: Result<WakeResponse, _> = proxy.post_json(&url, name::SCHEDULER, &body, PATIENCE).await;
        answer
    };
    let ask = async |deployment_id| ask_for(deployment_id, 10_000).await;
    for wait_ms in [0, 10_000] {
        let refused = ask_for(old, wait_ms).await.expect_err("it is superseded");
        let problem = refused
            .problem()
            .map(|problem| (problem.status, problem.code.as_str()));
        assert_eq!(problem, Some((409, SUPERSEDED)), "waiting {wait_ms} ms");
    }
    assert_eq!(ask(current).await.expect("it serves").backends.len(), 1);
    assert_eq!(agent.starts(), [1, 1], "nothing was started for it");
    wake(&scheduler, &world, old).await.expect("the API may");
    assert_eq!(ask(old).await.expect("it is awake now").backends.len(), 1);
    let url = format!("{}/api/v1/scheduler/deploy", scheduler.url);
    let nudge: Result<serde_json::Value, _> = proxy
        .post_json(&url, name::SCHEDULER, &serde_json::json!({}), PATIENCE)
        .await;
    let refused = nudge.expect_err("that is not a proxy's to ask");
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403));
    scheduler.stop().await;
}

/// What it waited for serves no more, and nothing of it comes: its proxy goes by the API, as with whoever asks for that version now, and
/// what the API asks for comes back.
#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_what_is_superseded_meanwhile_is_told_so() {
    let (world, app, scheduler, _agent) = cluster(Programs::Serve).await;
    let old = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(old, DeploymentStatus::Succeeded).await;
    let use_nodes = async |eligibility: Eligibility| {
        sqlx::query("UPDATE nodes SET eligibility = $1")
            .bind(eligibility.as_str())
            .execute(&app.pool)
            .await
            .expect("it is there");
        let nodes: Vec<_> = scheduler.state().await.nodes().map(|node| node.id).collect();
        for id in nodes {
            let wanted = Event::NodeWanted { id, eligibility };
            scheduler.engine().apply(wanted).await.expect("it leads");
        }
    };
    // The old one makes room for the new one, which finds none.
    use_nodes(Eligibility::Cordoned).await;
    let new = app.deploy(2, r#"{"strategy":"recreate"}"#).await;
    scheduler.nudge().await;
    wait_until(PATIENCE, "the old one is gone", async || {
        (app.live(old).await == 0).then_some(())
    })
    .await;
    let proxy = Caller::new(name::PROXY, world.key.clone());
    let ask = async |caller: &Caller, unless_superseded| {
        let url = format!("{}/api/v1/scheduler/wake", scheduler.url);
        let body = WakeRequest {
            deployment_id: old,
            wait_ms: 30_000,
            unless_superseded,
        };
        let answer: Result<WakeResponse, _> = caller.post_json(&url, name::SCHEDULER, &body, PATIENCE).await;
        answer
    };
    let asked_at = async || {
        let state = scheduler.state().await;
        state.deployment(old).and_then(|old| old.last_active_at)
    };
    let is_asked = async |before| {
        wait_until(PATIENCE, "it is asked for", async || {
            let at = asked_at().await;
            (at > before).then_some(at)
        })
        .await
    };
    let before = asked_at().await;
    let others = async {
        let first = is_asked(before).await;
        let takes_over = async {
            is_asked(first).await;
            use_nodes(Eligibility::Eligible).await;
            app.becomes(new, DeploymentStatus::Succeeded).await;
        };
        tokio::join!(ask(&world.api, false), takes_over).0
    };
    let (refused, woken) = tokio::join!(ask(&proxy, true), others);
    let refused = refused.expect_err("it serves no more");
    let problem = refused
        .problem()
        .map(|problem| (problem.status, problem.code.as_str()));
    assert_eq!(problem, Some((409, SUPERSEDED)));
    assert_eq!(woken.expect("the API may").backends.len(), 1);
    assert_eq!(app.current().await, Some(new));
    scheduler.stop().await;
}
