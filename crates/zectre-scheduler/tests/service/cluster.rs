//! A cluster of its own, led by one scheduler: what agents report becomes what they are told.

use crate::support::{
    PATIENCE, Scheduler, World,
    agent::{Agent, Programs, report},
    rows::App,
};
use zectre_common::{
    id::{NodeId, TaskId},
    state::{DeploymentStatus, NodeStatus, TaskState},
    time::Time,
    wire::{
        problem::Problem,
        scheduler::{NeededRequest, NeededResponse, RegisterResponse},
    },
};
use zectre_scheduler::{
    core::{Command, Event},
    store::{Batch, CommitError, Store, Writer},
};
use zectre_service::{
    call::{CallError, Caller, Identity},
    key::{ensure_key_file, node_key},
    token::{self, name},
};
use zectre_testkit::wait_until;

/// A cluster of one scheduler and one node.
pub(crate) async fn cluster(programs: Programs) -> (World, App, Scheduler, Agent) {
    let world = World::new().await;
    let app = App::create(&world).await;
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let agent = Agent::join(&world, "one", &app.join_token().await, programs, &[&scheduler]).await;
    (world, app, scheduler, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_placed_started_routed_and_succeeds() {
    let (_world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let id = app.deploy(1, r#"{"replicas":2,"env":{"OWN":"1"}}"#).await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    assert_eq!(app.current().await, Some(id));
    assert_eq!((app.routed(id).await, agent.running()), (2, 2));
    assert_eq!(agent.starts(), [1, 1], "each replica is started once");
    let order = agent.any_order();
    assert_eq!(
        (order.env["GREETING"].as_str(), order.env["OWN"].as_str()),
        ("hello", "1")
    );
    assert_eq!(
        (order.application.as_str(), order.namespace.as_str()),
        ("hello", "default")
    );
    let url = order.artifact.expect("it runs an artifact").url;
    assert!(
        url.contains("/artifacts/abab") && url.contains("&signature="),
        "{url}"
    );
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_deployment_fails_with_its_reason_and_never_takes_over() {
    let (_world, app, scheduler, _agent) = cluster(Programs::Exit(3)).await;
    let id = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Failed).await;
    let (_, reason, message) = app.status(id).await;
    assert_eq!(reason.as_deref(), Some("exited"));
    assert!(message.is_some_and(|message| message.contains("exit code 3")));
    assert_eq!((app.current().await, app.live(id).await), (None, 0));
    assert_eq!(
        app.ended_with(id, "exited").await,
        3,
        "as often as rollout_failures_max says"
    );
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn variables_that_the_scheduler_cannot_open_are_a_fault_of_the_platform() {
    let world = World::new().await;
    let app = App::create(&world).await;
    // The scheduler has another master key than the one under which the variables were sealed.
    let master = world.keys.path().join("master");
    std::fs::remove_file(&master).expect("it was there");
    ensure_key_file(&master).expect("the directory is writable");
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let token = app.join_token().await;
    let agent = Agent::join(&world, "one", &token, Programs::Serve, &[&scheduler]).await;
    let id = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Failed).await;
    let (_, reason, message) = app.status(id).await;
    assert_eq!(reason.as_deref(), Some("internal"));
    assert!(message.is_some_and(|message| message.contains("GREETING")));
    assert!(app.ended_with(id, "internal").await > 0 && agent.starts().is_empty());
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_runs_to_completion_succeeds_without_being_routed() {
    let (_world, app, scheduler, agent) = cluster(Programs::Exit(0)).await;
    let id = app.deploy(1, r#"{"restart":"never"}"#).await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    assert_eq!((agent.starts(), app.live(id).await), (vec![1], 0));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_task_is_replaced_and_a_newer_version_takes_over_and_back() {
    let (_world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let first = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(first, DeploymentStatus::Succeeded).await;
    agent.crash_one();
    wait_until(PATIENCE, "replaced", async || {
        (agent.starts().len() == 2 && app.routed(first).await == 1).then_some(())
    })
    .await;
    let second = app.deploy(2, "{}").await;
    scheduler.nudge().await;
    app.becomes(second, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "the old one stops", async || {
        (app.live(first).await == 0).then_some(())
    })
    .await;
    assert_eq!(app.current().await, Some(second));
    app.ask("rollback", second).await;
    scheduler.nudge().await;
    wait_until(PATIENCE, "rolled back", async || {
        (app.current().await == Some(first)).then_some(())
    })
    .await;
    wait_until(PATIENCE, "served", async || {
        (app.routed(first).await == 1).then_some(())
    })
    .await;
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tasks_of_a_lost_node_move() {
    let (world, app, scheduler, first) = cluster(Programs::Serve).await;
    let id = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    let second = Agent::join(
        &world,
        "two",
        &app.join_token().await,
        Programs::Serve,
        &[&scheduler],
    )
    .await;
    first.vanish().await;
    wait_until(PATIENCE, "moved", async || {
        (second.running() == 1 && app.routed(id).await == 1).then_some(())
    })
    .await;
    assert_eq!(app.ended_with(id, "node_lost").await, 1);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_the_other_takes_over_and_an_old_epoch_writes_nothing() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let first = world.scheduler().await;
    first.leads().await;
    let second = world.scheduler().await;
    assert!(
        !second.status().await.expect("it answers").leader,
        "one leads at a time"
    );
    let agent = Agent::join(
        &world,
        "one",
        &app.join_token().await,
        Programs::Serve,
        &[&first, &second],
    )
    .await;
    let id = app.deploy(1, "{}").await;
    // A follower hands on.
    second.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    let old = first.status().await.expect("it answers").epoch;
    drop(first);
    second.leads().await;
    let new = second.status().await.expect("it answers").epoch;
    assert!(new > old);
    let options = app.pool.connect_options();
    let mut writer = Writer::connect(&options, old).await.expect("the server runs");
    let refused = writer.commit(&Batch::default()).await;
    assert!(matches!(refused, Err(CommitError::Fenced(_))));
    let next = app.deploy(2, "{}").await;
    second.nudge().await;
    app.becomes(next, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "only the new one runs", async || {
        (agent.running() == 1).then_some(())
    })
    .await;
    assert!(
        agent.starts().iter().all(|starts| *starts == 1),
        "nothing was started twice"
    );
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_database_only_delays() {
    let (_world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let id = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    app.becomes(id, DeploymentStatus::Succeeded).await;
    // Of this database only: other tests run schedulers on the same server.
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
          WHERE application_name = 'zectre-scheduler' AND datname = current_database()",
    )
    .execute(&app.pool)
    .await
    .expect("the server is ours");
    // No nudge: the level-triggered look finds it.
    let next = app.deploy(2, "{}").await;
    app.becomes(next, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "converged", async || {
        (agent.running() == 1 && app.live(id).await == 0).then_some(())
    })
    .await;
    assert!(agent.starts().iter().all(|starts| *starts == 1));
    scheduler.stop().await;
}

/// What an agent says of its machine.
fn machine(name: &str, address: &str) -> serde_json::Value {
    serde_json::json!({
        "name": name, "address": address, "actions_port": 1, "labels": {}, "port_min": 1, "port_max": 2,
        "capacity": {"cpu": "1", "memory": "1Gi", "task_slots": 1}, "container_enabled": false,
        "enforcement": {"cgroups": "none", "memory": false, "cpu": false, "pids": false, "users": false},
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_the_name_of_another_is_kept_out_until_that_node_is_deleted() {
    let (world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let url = format!("{}/api/v1/nodes/register", scheduler.url);
    let register = async |token: &str, name, address| {
        let body = machine(name, address);
        let sent: Result<RegisterResponse, CallError> =
            world.api.post_json_as(&url, token, &body, PATIENCE).await;
        sent.map(|answer| answer.node_id)
            .map_err(|error| error.problem().expect("it answers").clone())
    };
    let is_kept_out = |problem: Problem| {
        let (code, detail) = (problem.code.as_str(), &problem.detail);
        assert_eq!((problem.status, code), (409, "NODE_NAME_TAKEN"));
        assert!(
            detail.contains("127.0.0.1") && detail.contains("agent.name"),
            "{detail}"
        );
    };
    let token = app.join_token().await;
    is_kept_out(
        register(&token, "one", "127.0.0.2")
            .await
            .expect_err("a namesake"),
    );
    // Its token is still good: for a name of its own, with which it does not take the other one later either.
    let two = register(&token, "two", "127.0.0.2")
        .await
        .expect("a name of its own");
    assert_ne!(two, agent.id());
    let key = zectre_service::key::node_key(&world.key, two);
    let own = zectre_service::token::mint_node(&key, two, name::AGENT, name::SCHEDULER);
    is_kept_out(register(&own, "one", "127.0.0.2").await.expect_err("a namesake"));
    // The same machine, whose agent lost its credential.
    let token = app.join_token().await;
    let again = register(&token, "one", "127.0.0.1").await;
    assert_eq!(again.expect("it is the same machine"), agent.id());
    let id = agent.id();
    agent.vanish().await;
    // A lost one may be back in a moment, and both would speak for it.
    wait_until(PATIENCE, "it counts as lost", async || {
        let lost = scheduler
            .state()
            .await
            .nodes()
            .any(|node| node.id == id && node.status == NodeStatus::Lost);
        lost.then_some(())
    })
    .await;
    let token = app.join_token().await;
    is_kept_out(
        register(&token, "one", "127.0.0.3")
            .await
            .expect_err("a namesake"),
    );
    sqlx::query("DELETE FROM nodes WHERE id = $1")
        .bind(id.get())
        .execute(&app.pool)
        .await
        .expect("deleted");
    let next = register(&token, "one", "127.0.0.3")
        .await
        .expect("its name is free");
    assert_ne!(next, id);
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_are_refused() {
    let (world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let url = format!("{}/api/v1/scheduler/status", scheduler.url);
    let anonymous: Result<serde_json::Value, _> = world.api.get_json(&url, name::REGISTRY, PATIENCE).await;
    assert_eq!(
        anonymous.expect_err("wrong audience").problem().map(|p| p.status),
        Some(401)
    );
    let token = app.join_token().await;
    Agent::join(&world, "two", &token, Programs::Serve, &[&scheduler]).await;
    let url = format!("{}/api/v1/nodes/register", scheduler.url);
    let body = machine("three", "127.0.0.1");
    let again: Result<serde_json::Value, _> = world.api.post_json_as(&url, &token, &body, PATIENCE).await;
    assert_eq!(
        again
            .expect_err("a token admits one node once")
            .problem()
            .map(|p| p.status),
        Some(401)
    );
    // A node speaks for itself only.
    let key = zectre_service::key::node_key(&world.key, agent.id());
    let own = zectre_service::token::mint_node(&key, agent.id(), name::AGENT, name::SCHEDULER);
    let url = format!("{}/api/v1/nodes/heartbeat", scheduler.url);
    let other = serde_json::json!({ "node_id": zectre_common::id::NodeId::new(), "tasks": [] });
    let forged: Result<serde_json::Value, _> = world.api.post_json_as(&url, &own, &other, PATIENCE).await;
    assert_eq!(
        forged.expect_err("another node's id").problem().map(|p| p.status),
        Some(403)
    );
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rollback_needs_is_not_dropped() {
    let (world, app, scheduler, agent) = cluster(Programs::Serve).await;
    let images = ["first:1", "second:1", "third:1", "foreign:1"].map(str::to_owned);
    for (version, image) in (1..).zip(&images[..3]) {
        let id = app.deploy(version, "{}").await;
        sqlx::query("UPDATE deployments SET image = $2 WHERE id = $1")
            .bind(id.get())
            .bind(image)
            .execute(&app.pool)
            .await
            .expect("updated");
        scheduler.nudge().await;
        app.becomes(id, DeploymentStatus::Succeeded).await;
    }
    let url = format!("{}/api/v1/nodes/needed", scheduler.url);
    let ask = async |node_id| -> Result<NeededResponse, CallError> {
        let token = token::mint_node(
            &node_key(&world.key, agent.id()),
            agent.id(),
            name::AGENT,
            name::SCHEDULER,
        );
        let request = NeededRequest {
            node_id,
            artifacts: vec!["ab".repeat(32), "cd".repeat(32)],
            images: images.to_vec(),
        };
        let caller = Caller::with_identity(Identity::Anonymous);
        caller.post_json_as(&url, &token, &request, PATIENCE).await
    };
    // The first one's task goes once the second serves; from then on only a rollback's rollback would need it.
    wait_until(PATIENCE, "the first is not needed", async || {
        let needed = ask(agent.id()).await.expect("answered");
        (needed.images == ["second:1", "third:1"] && needed.artifacts == ["ab".repeat(32)]).then_some(())
    })
    .await;
    let refused = ask(NodeId::new()).await.expect_err("another node's name");
    assert_eq!(refused.problem().map(|problem| problem.status), Some(403));
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_another_transaction_waits_for_and_holds_up_is_tried_again() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let id = app.deploy(1, "{}").await;
    let loaded = Store::new(app.pool.clone()).load_deployments(&[id]).await;
    let (_, mut rows) = loaded.expect("read").pop().expect("it has a row");
    let mut batch = Batch::default();
    for command in [
        Command::SaveDeployment(Box::new(rows.pop().expect("one"))),
        Command::RaiseEpoch,
    ] {
        assert!(batch.absorb(command, Time::now()).is_none());
    }
    let epoch = sqlx::query_scalar::<_, i64>("SELECT epoch FROM scheduler_leader");
    let epoch = epoch.fetch_one(&app.pool).await.expect("read") as u64;
    let options = app.pool.connect_options();
    let mut writer = Writer::connect(&options, epoch).await.expect("the server runs");
    // It takes the rows in the other order, and is not the one that the server ends.
    let mut other = app.pool.begin().await.expect("the server runs");
    for statement in [
        "SET LOCAL deadlock_timeout = '1min'",
        "SELECT 1 FROM deployments FOR UPDATE",
    ] {
        sqlx::query(statement).execute(&mut *other).await.expect("done");
    }
    let held_up = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()";
    let (committed, ()) = tokio::join!(writer.commit(&batch), async {
        wait_until(PATIENCE, "the commit waits", async || {
            let waiting = sqlx::query_scalar::<_, i64>(held_up).fetch_one(&app.pool).await;
            (waiting.expect("read") == 1).then_some(())
        })
        .await;
        sqlx::query("SELECT raise_routing_epoch()")
            .execute(&mut *other)
            .await
            .expect("the other one goes on");
        other.commit().await.expect("committed");
    });
    assert!(committed.expect("tried again").is_some_and(|raised| raised >= 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_spares_a_silent_proxy_but_not_one_whose_row_is_gone() {
    let world = World::new().await;
    let app = App::create(&world).await;
    sqlx::query("INSERT INTO proxies (id, name, lease_expires_at) VALUES (gen_random_uuid(), 'gone', now() - interval '1 minute')")
        .execute(&app.pool)
        .await
        .expect("inserted");
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let state = scheduler.state().await;
    let spared: Vec<_> = state.proxies().collect();
    assert_eq!(spared.len(), 1);
    sqlx::query("WITH gone AS (DELETE FROM proxies) SELECT pg_notify($1, '')")
        .bind(zectre_common::db::channel::PROXY)
        .execute(&app.pool)
        .await
        .expect("deleted");
    wait_until(PATIENCE, "nobody waits for it", async || {
        (scheduler.state().await.proxies().count() == 0).then_some(())
    })
    .await;
    assert!(
        Time::now() < spared[0].lease_expires_at,
        "it was its lease that ended"
    );
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_whose_caller_gave_up_is_sent_all_the_same() {
    let (_world, _app, scheduler, agent) = cluster(Programs::Serve).await;
    // A task that the agent never speaks of again: nothing but this answer brings the order to stop it.
    let stranger = TaskId::new();
    let heartbeat = Event::Heartbeat {
        node_id: agent.id(),
        heard_at: zectre_common::time::Time::now(),
        tasks: vec![report(stranger, 1, TaskState::Running)],
    };
    let engine = scheduler.engine();
    let given_up = async { engine.submit(heartbeat).await.map(drop) };
    scheduler.busy_until(given_up).await.expect("there is room");
    wait_until(PATIENCE, "it is told to stop", async || {
        agent.has_stopped(stranger).then_some(())
    })
    .await;
    scheduler.stop().await;
}
