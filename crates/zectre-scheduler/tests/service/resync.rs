//! What a leader has in memory is what anyone reads from PostgreSQL: a full resync reproduces the same state.

use crate::support::{
    PATIENCE, Scheduler, World,
    agent::{Agent, Programs},
    rows::App,
};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    state::{DeploymentStatus, Eligibility, NodeStatus},
    time::Time,
    wire::node::Capacity,
};
use zectre_scheduler::{
    core::{Cluster, Deployment, Environment, NodeFacts, Settings, Task},
    store::Store,
};
use zectre_testkit::wait_until;

/// What decisions depend on, without what is found out anew: when something was last heard, how often it failed before.
#[derive(Debug, PartialEq)]
struct View {
    tasks: BTreeMap<TaskId, Task>,
    deployments: BTreeMap<DeploymentId, Deployment>,
    environments: BTreeMap<EnvironmentId, Environment>,
    nodes: BTreeMap<NodeId, (NodeFacts, NodeStatus, Eligibility, Capacity)>,
}

/// What rests is remembered by one who saw it, and read by others when it is asked for.
fn rests(cluster: &Cluster, deployment: &Deployment) -> bool {
    let environment = cluster.environment(deployment.environment_id);
    let served = environment.map_or(BTreeSet::new(), |e| {
        let current = e.current.and_then(|id| cluster.deployment(id));
        [e.current, e.target, current.and_then(|c| c.previous_id)].into()
    });
    let is_over = deployment.status.is_ended()
        && (deployment.asleep || deployment.status != DeploymentStatus::Succeeded);
    is_over && !served.contains(&Some(deployment.id)) && cluster.tasks_of(deployment.id).next().is_none()
}

fn view(cluster: &Cluster) -> View {
    let task = |task: &Task| {
        let task = Task {
            seen_at: None,
            ..task.clone()
        };
        (task.id, task)
    };
    let deployment = |deployment: &Deployment| {
        let environment = cluster.environment(deployment.environment_id);
        let is_target = environment.is_some_and(|e| e.target == Some(deployment.id));
        let deployment = Deployment {
            last_active_at: None,
            // Nobody asks for them once the rollout is over.
            rollout_failures: if is_target { deployment.rollout_failures } else { 0 },
            backoff: BTreeMap::new(),
            ..deployment.clone()
        };
        (deployment.id, deployment)
    };
    View {
        tasks: cluster.tasks().map(task).collect(),
        deployments: cluster
            .deployments()
            .filter(|deployment| !rests(cluster, deployment))
            .map(deployment)
            .collect(),
        environments: cluster.environments().map(|e| (e.id, e.clone())).collect(),
        nodes: cluster
            .nodes()
            .map(|node| {
                let told = (node.facts.clone(), node.status, node.eligibility, node.used);
                (node.id, told)
            })
            .collect(),
    }
}

/// What somebody who knows nothing makes of the rows.
async fn read(world: &World, app: &App) -> View {
    let snapshot = Store::new(app.pool.clone()).load_live().await.expect("read");
    let settings = Settings::from(&world.config("").scheduler);
    view(&Cluster::load(settings, 1, snapshot, Time::now()))
}

async fn agrees(world: &World, app: &App, scheduler: &Scheduler, when: &str) {
    // Agents speak all the time: the two looks may lie on both sides of a commit.
    wait_until(PATIENCE, when, async || {
        let (memory, rows) = (view(&scheduler.state().await), read(world, app).await);
        if memory != rows {
            eprintln!("{when}: in memory {memory:#?}\nin the rows {rows:#?}");
        }
        (memory == rows).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_resync_from_postgresql_reproduces_the_state() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let join = async |name| {
        let token = app.join_token().await;
        Agent::join(&world, name, &token, Programs::Serve, &[&scheduler]).await
    };
    let (one, two) = (join("one").await, join("two").await);
    let ask = async |kind, id| {
        app.ask(kind, id).await;
        scheduler.nudge().await;
    };
    let routed = async |id, count| {
        wait_until(PATIENCE, "as many as wanted", async || {
            (app.routed(id).await == count).then_some(())
        })
        .await;
    };
    let mut versions = Vec::new();
    for version in 1..=3 {
        let id = app.deploy(version, r#"{"replicas":3}"#).await;
        scheduler.nudge().await;
        agrees(&world, &app, &scheduler, "in the midst of a rollout").await;
        app.becomes(id, DeploymentStatus::Succeeded).await;
        versions.push(id);
    }
    agrees(&world, &app, &scheduler, "after rollouts").await;
    ask("rollback", versions[2]).await;
    routed(versions[1], 3).await;
    agrees(&world, &app, &scheduler, "after a rollback").await;
    let busy = if one.running() > 0 { &one } else { &two };
    busy.crash_one();
    routed(versions[1], 3).await;
    ask("restart", versions[1]).await;
    agrees(
        &world,
        &app,
        &scheduler,
        "after a crash, in the midst of a restart",
    )
    .await;
    one.vanish().await;
    wait_until(PATIENCE, "all of it runs on the other node", async || {
        (two.running() == 3 && app.routed(versions[1]).await == 3).then_some(())
    })
    .await;
    agrees(&world, &app, &scheduler, "after the loss of a node").await;
    ask("sleep", versions[1]).await;
    routed(versions[1], 0).await;
    agrees(&world, &app, &scheduler, "asleep").await;
    ask("wake", versions[1]).await;
    routed(versions[1], 3).await;
    agrees(&world, &app, &scheduler, "awake").await;
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_in_a_broken_rollout_counts_on_from_its_failures() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let mut config = world.config("");
    // So that the first failure is not followed by the next while it is looked at.
    config.scheduler.backoff_initial_ms = 200_000;
    let scheduler = world.scheduler_with(config).await;
    scheduler.leads().await;
    let token = app.join_token().await;
    let _agent = Agent::join(&world, "one", &token, Programs::Exit(3), &[&scheduler]).await;
    let id = app.deploy(1, "{}").await;
    scheduler.nudge().await;
    wait_until(PATIENCE, "it failed once", async || {
        let failures = view(&scheduler.state().await)
            .deployments
            .get(&id)?
            .rollout_failures;
        (failures == 1).then_some(())
    })
    .await;
    agrees(&world, &app, &scheduler, "in a broken rollout").await;
    assert_eq!(read(&world, &app).await.deployments[&id].rollout_failures, 1);
    scheduler.stop().await;
}
