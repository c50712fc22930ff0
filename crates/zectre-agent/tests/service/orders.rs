//! Orders: carried out once, fenced, told about.

use crate::{
    agent::{Agent, ask, groups_left},
    world::{World, until},
};
use zectre_agent::Service;
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::DurationMs,
    spec::RestartPolicy,
    state::{ArtifactKind, Reason, TaskState},
    wire::{
        agent::{Action, ActionKind, ActionsResponse, TaskOrder},
        log::Stream,
    },
};
use zectre_service::{
    key::{KEY_BYTES, NodeKey},
    tasks::Shutdown,
    token::{self, name},
};

fn start(task_id: TaskId, generation: u64, order: TaskOrder) -> Action {
    Action {
        task_id,
        generation,
        kind: ActionKind::Start {
            order: Box::new(order),
        },
    }
}

fn stop(task_id: TaskId, generation: u64) -> Action {
    Action {
        task_id,
        generation,
        kind: ActionKind::Stop {
            grace: DurationMs(1_000),
        },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_started_watched_and_stopped() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    assert_eq!(
        (node.name.as_str(), node.address.as_str()),
        ("node-1", "127.0.0.1")
    );

    let order = world.guest("serve");
    let port = order.port;
    let task = world.start(order).await;
    let report = world.reported(task, TaskState::Running).await;
    assert!(report.healthy);
    assert_eq!(report.port, Some(port));
    assert!(
        report.phases.fetch_us.is_some()
            && report.phases.start_us.is_some()
            && report.phases.ready_us.is_some()
    );
    assert_eq!(ask(port, "/").await.as_deref(), Some(task.to_string().as_str()));
    let lines = world.logged(task, "serving").await;
    assert_eq!((lines[0].seq, lines[0].stream), (1, Stream::Stdout));

    world.stop(task, 20_000).await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!((report.signal, report.reason), (Some(15), None));
    // Reports that follow each other at once may be told as one.
    let states: Vec<_> = world
        .states(task)
        .into_iter()
        .filter(|state| *state != TaskState::Stopping)
        .collect();
    assert!(
        states.ends_with(&[TaskState::Running, TaskState::Stopped]),
        "{states:?}"
    );
    assert_eq!(ask(port, "/").await, None);

    let forget = Action {
        task_id: task,
        generation: 2,
        kind: ActionKind::Forget,
    };
    world.send(1, vec![forget]).await.expect("accepted");
    until("its files are gone", async || !world.task_dir(task).exists()).await;
    assert!(world.fresh_digest().await.is_empty());
    agent.terminate().await;
}

/// Whatever a program has started can end in order, too.
#[tokio::test(flavor = "multi_thread")]
async fn every_process_of_a_task_is_told_to_stop() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let script = b"#!/bin/sh\n\
        (trap 'echo child told; exit 0' TERM; echo child ready; while :; do sleep 1000 & wait; done) &\n\
        trap 'echo parent told; wait; exit 0' TERM; echo parent ready\n\
        while :; do wait; done\n";
    let mut order = world.order(world.artifact(ArtifactKind::Binary, script.to_vec()));
    order.restart = RestartPolicy::Never;
    let task = world.start(order).await;
    for ready in ["parent ready", "child ready"] {
        world.logged(task, ready).await;
    }
    world.stop(task, 20_000).await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!(
        (report.exit_code, report.signal),
        (Some(0), None),
        "it had its time: {report:?}"
    );
    for told in ["parent told", "child told"] {
        world.logged(task, told).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_fenced_and_repeated_without_effect() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let order = world.guest("serve");
    let task_id = TaskId::new();
    let start = start(task_id, 3, order);
    let both = world.send(5, vec![start.clone(), start.clone()]).await;
    assert_eq!(
        both,
        Ok(ActionsResponse {
            accepted: 1,
            ignored: 1
        })
    );
    world.reported(task_id, TaskState::Running).await;

    let stop = stop(task_id, 4);
    let (status, body) = world
        .send(4, vec![stop.clone()])
        .await
        .expect_err("an old leader");
    assert_eq!(status, 409);
    assert!(body.contains("STALE_EPOCH"), "{body}");
    let (_, node) = world.node().await;
    let forged = token::mint_node(
        &NodeKey::from_bytes([9; KEY_BYTES]),
        NodeId::new(),
        name::SCHEDULER,
        name::AGENT,
    );
    assert_eq!(
        world
            .send_as(&forged, &node, 5, vec![stop.clone()])
            .await
            .expect_err("forged")
            .0,
        401
    );
    let forget = Action {
        task_id,
        generation: 9,
        kind: ActionKind::Forget,
    };
    assert_eq!(
        world.send(5, vec![forget]).await,
        Ok(ActionsResponse {
            accepted: 0,
            ignored: 1
        })
    );
    assert_eq!(world.fresh_digest().await[0].state, TaskState::Running);

    assert_eq!(
        world.send(5, vec![stop]).await,
        Ok(ActionsResponse {
            accepted: 1,
            ignored: 0
        })
    );
    world.reported(task_id, TaskState::Stopped).await;
    assert_eq!(
        world.send(5, vec![start]).await,
        Ok(ActionsResponse {
            accepted: 0,
            ignored: 1
        })
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_may_overtake_its_start() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let late = TaskId::new();
    let stop = stop(late, 2);
    let start = start(late, 1, world.guest("serve"));
    assert_eq!(
        world.send(5, vec![stop, start]).await,
        Ok(ActionsResponse {
            accepted: 1,
            ignored: 1
        })
    );
    world.reported(late, TaskState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_also_comes_with_a_heartbeat() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let task_id = TaskId::new();
    let order = Box::new(world.guest("serve"));
    world.order_by_heartbeat(Action {
        task_id,
        generation: 1,
        kind: ActionKind::Start { order },
    });
    world.reported(task_id, TaskState::Running).await;
    world.stop(task_id, 1_000).await;
    world.reported(task_id, TaskState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_the_news_of_an_end_brings_the_next_start() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let task = world.start(world.guest("serve")).await;
    world.reported(task, TaskState::Running).await;
    let next = TaskId::new();
    let order = Box::new(world.guest("serve"));
    world.seen().successors.push(Action {
        task_id: next,
        generation: 1,
        kind: ActionKind::Start { order },
    });
    world.stop(task, 1_000).await;
    world.reported(next, TaskState::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_agents_do_not_share_a_directory() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    world.node().await;
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_zectre-agent"))
        .envs(world.settings())
        .output()
        .expect("it starts");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("in use by another agent"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_orderly_end_can_stop_the_tasks_too() {
    let world = World::new().await;
    // As `zectre up` does it: in its own process.
    let mut service = Service::new(&world.config()).await.expect("it starts");
    let killed = service.stop_tasks_on_shutdown();
    let shutdown = Shutdown::new();
    let operator = async {
        let order = world.guest("serve");
        let port = order.port;
        let task = world.start(order).await;
        world.reported(task, TaskState::Running).await;
        shutdown.request();
        (task, port)
    };
    let (ended, (task, port)) = tokio::join!(service.run(shutdown.clone()), operator);
    ended.expect("in order");
    assert_eq!(killed.get(), Some(&Vec::new()), "it went by itself");
    let groups = groups_left(&world.config().agent.data_dir);
    assert!(groups.is_empty(), "{groups:?}");
    assert_eq!(ask(port, "/").await, None);
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!((report.signal, report.reason), (Some(15), Some(Reason::Stopped)));
}
