//! The rules of rollout, replacement, sleep and loss, one test each.

use super::{
    agents::report,
    world::{Program, World},
};
use crate::{Command, Event, Source};
use std::time::Duration;
use zectre_common::{
    id::NodeId,
    state::{DeploymentStatus, Eligibility, Health, OperationKind, Reason, TaskState},
};

fn serving(replicas: u32, strategy: &str) -> (World, zectre_common::id::DeploymentId) {
    let mut world = World::new(3, 1);
    let id = world.deploy(
        &format!(r#"{{"replicas":{replicas},"strategy":{strategy}}}"#),
        Program::Serves,
    );
    world.calm(5);
    assert_eq!(
        (world.status(id), world.ready(id)),
        (DeploymentStatus::Succeeded, replicas as usize)
    );
    (world, id)
}

#[test]
fn every_strategy_takes_over_and_retires_the_old() {
    let strategies = [
        r#""rolling""#,
        r#"{"type":"rolling","max_surge":0,"max_unavailable":1}"#,
        r#"{"type":"rolling","max_surge":2,"max_unavailable":1}"#,
        r#""blue_green""#,
        r#""recreate""#,
        r#"{"type":"canary","weight":20,"auto_promote_secs":10}"#,
    ];
    for strategy in strategies {
        let (mut world, old) = serving(3, strategy);
        let new = world.deploy(
            &format!(r#"{{"replicas":3,"strategy":{strategy}}}"#),
            Program::Serves,
        );
        world.calm(60);
        assert_eq!(world.status(new), DeploymentStatus::Succeeded, "{strategy}");
        assert_eq!((world.current(), world.ready(new)), (Some(new), 3), "{strategy}");
        assert_eq!(world.cluster.tasks_of(old).count(), 0, "{strategy}");
        let old = world.cluster.deployment(old).expect("known");
        assert_eq!(
            (old.status, old.health),
            (DeploymentStatus::Succeeded, Health::Asleep),
            "{strategy}"
        );
    }
}

#[test]
fn a_smaller_version_shows_first_that_it_serves() {
    let (mut world, old) = serving(3, r#""rolling""#);
    let broken = world.deploy(r#"{"replicas":1,"progress_deadline_secs":60}"#, Program::Hangs);
    while !world.status(broken).is_ended() {
        world.calm(1);
        assert_eq!(
            world.ready(old),
            3,
            "it is not known yet whether the new one serves"
        );
    }
    let new = world.deploy(r#"{"replicas":1}"#, Program::Serves);
    world.calm(60);
    assert_eq!(
        (world.current(), world.ready(new), world.ready(old)),
        (Some(new), 1, 0)
    );
}

#[test]
fn a_broken_version_never_takes_over() {
    for (strategy, program) in [
        (r#""rolling""#, Program::Exits(1)),
        (r#""blue_green""#, Program::Exits(0)),
        (r#""recreate""#, Program::Exits(2)),
    ] {
        let (mut world, old) = serving(2, r#""rolling""#);
        let new = world.deploy(&format!(r#"{{"replicas":2,"strategy":{strategy}}}"#), program);
        world.calm(120);
        let failed = world.cluster.deployment(new).expect("known");
        assert_eq!(
            (failed.status, failed.reason),
            (DeploymentStatus::Failed, Some(Reason::Exited)),
            "{strategy}"
        );
        assert!(
            failed
                .evidence
                .as_ref()
                .is_some_and(|evidence| evidence.exit_code.is_some()),
            "{strategy}"
        );
        assert_eq!((world.current(), world.ready(old)), (Some(old), 2), "{strategy}");
        assert_eq!(world.cluster.tasks_of(new).count(), 0, "{strategy}");
    }
}

#[test]
fn a_start_that_never_ends_meets_a_deadline() {
    let mut world = World::new(1, 1);
    let hangs = world.deploy(r#"{"progress_deadline_secs":60}"#, Program::Hangs);
    world.calm(90);
    let failed = world.cluster.deployment(hangs).expect("known");
    assert_eq!(
        (failed.status, failed.reason),
        (DeploymentStatus::Failed, Some(Reason::ProgressDeadline))
    );
    // An agent that doesn't even say that it is starting.
    let mut world = World::new(1, 0);
    let silent = world.deploy("{}", Program::Hangs);
    for _ in 0..60 {
        world.pass(1_000);
        let node_id = world.agents[0].id;
        world.feed(Event::NodeRegistered {
            id: node_id,
            facts: super::world::facts("n0", 1_000, 1_280, 8),
        });
    }
    assert_eq!(
        world.cluster.deployment(silent).expect("known").reason,
        Some(Reason::PortNeverOpened)
    );
}

#[test]
fn waiting_for_a_build_or_an_upload_ends() {
    let mut world = World::new(1, 0);
    let building = world.deploy_from("{}", Program::Serves, Source::Building);
    world.calm(400);
    assert_eq!(
        world.status(building),
        DeploymentStatus::Pending,
        "its build has its own deadline"
    );
    world.change(building, |d| {
        d.source = Source::BuildFailed {
            message: "main.tish:2: no".into(),
        }
    });
    let failed = world.cluster.deployment(building).expect("known");
    assert_eq!(
        (failed.status, failed.reason),
        (DeploymentStatus::Failed, Some(Reason::BuildFailed))
    );
    let missing = world.deploy_from("{}", Program::Serves, Source::Missing);
    world.calm(301);
    assert_eq!(
        world.cluster.deployment(missing).expect("known").reason,
        Some(Reason::ArtifactMissing)
    );
    let arrives = world.deploy_from("{}", Program::Serves, Source::Missing);
    world.change(arrives, |d| d.source = Source::Ready);
    world.calm(3);
    assert_eq!(world.status(arrives), DeploymentStatus::Succeeded);
}

#[test]
fn a_newer_version_supersedes_an_unfinished_one() {
    let (mut world, old) = serving(1, r#""rolling""#);
    let hangs = world.deploy("{}", Program::Hangs);
    world.calm(2);
    let newest = world.deploy("{}", Program::Serves);
    world.calm(10);
    let superseded = world.cluster.deployment(hangs).expect("known");
    assert_eq!(
        (superseded.status, superseded.reason),
        (DeploymentStatus::Cancelled, Some(Reason::Superseded))
    );
    assert_eq!(
        (world.current(), world.cluster.tasks_of(hangs).count()),
        (Some(newest), 0)
    );
    assert_eq!(world.cluster.tasks_of(old).count(), 0);
}

#[test]
fn rollback_returns_at_once_and_promote_goes_forward_again() {
    let (mut world, first) = serving(2, r#""rolling""#);
    let second = world.deploy(r#"{"replicas":2}"#, Program::Serves);
    world.calm(20);
    world.ask(OperationKind::Rollback, second);
    world.calm(10);
    assert_eq!(
        (world.current(), world.ready(first), world.ready(second)),
        (Some(first), 2, 0)
    );
    world.ask(OperationKind::Promote, second);
    world.calm(10);
    assert_eq!((world.current(), world.ready(second)), (Some(second), 2));
    world.ask(OperationKind::Rollback, second);
    world.calm(10);
    assert_eq!(world.current(), Some(first));
}

#[test]
fn crashes_are_replaced_with_growing_pauses_and_named() {
    let (mut world, id) = serving(1, r#""rolling""#);
    let mut last = world.now;
    for expected_ms in [500, 1_000, 2_000, 4_000] {
        let index = (0..3)
            .find(|index| world.crash(*index).is_some())
            .expect("one runs");
        assert!(!world.agents[index].held.is_empty());
        let waiting = world.cluster.tasks_of(id).next().expect("its successor").clone();
        last = last.max(world.now);
        assert_eq!(
            waiting.not_before,
            Some(world.now.plus(std::time::Duration::from_millis(expected_ms)))
        );
        world.calm(5);
        assert_eq!(world.ready(id), 1);
    }
    let index = (0..3)
        .find(|index| world.crash(*index).is_some())
        .expect("one runs");
    let deployment = world.cluster.deployment(id).expect("known");
    assert_eq!(deployment.reason, Some(Reason::CrashLoop), "node {index}");
    let said = deployment.message.clone().unwrap_or_default();
    let waiting = world.cluster.tasks_of(id).next().expect("its successor").clone();
    let next = waiting.not_before.expect("it waits");
    assert!(
        said.contains("5 tasks of replica 0 failed one after the other, the last one with exited"),
        "{said}"
    );
    assert!(said.ends_with(&format!("the next starts at {next}")), "{said}");
    assert_eq!(waiting.reason, Some(Reason::CrashLoop));
    world.calm(20);
    let now_well = world.cluster.deployment(id).expect("known");
    assert_eq!(
        (now_well.health, now_well.reason),
        (Health::Healthy, Some(Reason::CrashLoop)),
        "it looks well between two crashes"
    );
    world.calm(70);
    assert_eq!(
        world.cluster.deployment(id).expect("known").reason,
        None,
        "it recovered"
    );
    (0..3)
        .find(|index| world.crash(*index).is_some())
        .expect("one runs");
    let waiting = world.cluster.tasks_of(id).next().expect("its successor");
    assert_eq!(waiting.restarts, 1, "running for long forgives");
    assert!(last <= world.now);
}

#[test]
fn idle_sleeps_requests_wake_and_a_task_that_only_drains_is_taken_back() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":2,"idle_timeout_secs":60}"#, Program::Serves);
    world.calm(30);
    world.feed(Event::Activity(vec![(id, world.now)]));
    world.calm(45);
    assert_eq!(world.ready(id), 2, "requests keep it awake");
    world.calm(30);
    assert_eq!(
        (
            world.cluster.deployment(id).expect("known").health,
            world.cluster.tasks_of(id).count()
        ),
        (Health::Asleep, 0)
    );
    world.feed(Event::Wake(id));
    world.feed(Event::Wake(id));
    assert_eq!(world.cluster.tasks_of(id).count(), 2, "each replica once");
    world.deliver();
    assert!(world.answers.contains(&Command::Ready(id)));
    // Asleep again, but the proxy has not acknowledged: the same tasks serve on.
    let before: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    world.ask(OperationKind::Sleep, id);
    assert_eq!(world.ready(id), 0);
    world.feed(Event::Wake(id));
    assert_eq!(world.ready(id), 2);
    assert_eq!(
        world.cluster.tasks_of(id).map(|task| task.id).collect::<Vec<_>>(),
        before
    );
}

#[test]
fn a_node_counts_the_wakes_that_brought_it_something_and_nothing_else() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":2,"idle_timeout_secs":60}"#, Program::Serves);
    world.calm(3);
    assert!(world.woken.is_empty(), "a rollout is no wake");
    world.ask(OperationKind::Sleep, id);
    world.calm(30);
    assert_eq!(world.cluster.tasks_of(id).count(), 0);
    world.feed(Event::Wake(id));
    world.feed(Event::Wake(id));
    world.calm(3);
    assert_eq!(world.ready(id), 2);
    let counts = |world: &World| world.woken.values().copied().collect::<Vec<_>>();
    assert_eq!(counts(&world), [1], "one, of however many replicas and requests");
    world.change(id, |d| d.replicas = 3);
    world.calm(3);
    assert_eq!(counts(&world), [1], "nor is one more replica a wake");
    assert!(world.cluster.waking.is_empty(), "it takes requests");
    // Asleep, and woken before its tasks were told to stop: nothing is started anywhere.
    world.ask(OperationKind::Sleep, id);
    world.feed(Event::Wake(id));
    world.calm(3);
    assert_eq!((world.ready(id), counts(&world)), (3, vec![1]));
    assert!(world.cluster.waking.is_empty());
}

#[test]
fn time_in_which_no_leader_could_listen_is_not_idle() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":1,"idle_timeout_secs":60}"#, Program::Serves);
    world.calm(30);
    // The database is away for long; what proxies have to tell of requests has not come when its first leader decides.
    world.now = world.now.plus(Duration::from_secs(600));
    world.reload();
    world.feed(Event::Tick);
    let is_awake = |world: &World| world.cluster.deployment(id).is_some_and(|known| !known.asleep);
    assert!(
        is_awake(&world),
        "the first act of a new leader puts nothing to sleep"
    );
    world.calm(45);
    assert!(is_awake(&world));
    world.calm(30);
    assert!(!is_awake(&world), "nobody asked since");
}

#[test]
fn without_replicas_it_sleeps_once_one_task_was_healthy_and_scaling_wakes() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":0}"#, Program::Serves);
    assert_eq!(
        (world.current(), world.rows.tasks.len()),
        (None, 1),
        "it is tried first"
    );
    world.calm(3);
    assert_eq!(
        (world.rows.tasks.len(), world.cluster.tasks_of(id).count()),
        (1, 0)
    );
    let asleep = world.cluster.deployment(id).expect("known");
    assert_eq!(
        (asleep.status, asleep.health, world.current()),
        (DeploymentStatus::Succeeded, Health::Asleep, Some(id))
    );
    world.change(id, |d| d.replicas = 3);
    world.calm(3);
    assert_eq!(world.ready(id), 3);
    world.change(id, |d| d.replicas = 1);
    world.calm(3);
    assert_eq!((world.ready(id), world.cluster.tasks_of(id).count()), (1, 1));
}

#[test]
fn a_run_to_completion_ends_as_its_tasks_end() {
    for (code, status) in [(0, DeploymentStatus::Succeeded), (4, DeploymentStatus::Failed)] {
        let mut world = World::new(2, 1);
        let id = world.deploy(r#"{"replicas":2,"restart":"never"}"#, Program::Exits(code));
        world.calm(30);
        assert_eq!(
            (world.status(id), world.cluster.tasks_of(id).count()),
            (status, 0)
        );
        assert!(world.rows.tasks.values().all(|task| !task.routed));
        assert!(world.rows.tasks.len() <= 2, "nothing of it runs twice");
    }
}

#[test]
fn a_run_to_completion_is_not_restarted_and_one_without_replicas_runs_once() {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"restart":"never"}"#, Program::Serves);
    world.calm(5);
    world.ask(OperationKind::Restart, id);
    world.ask(OperationKind::Sleep, id);
    // The API refuses this; a row of an earlier version may say so.
    world.change(id, |deployment| deployment.replicas = 0);
    world.calm(5);
    assert_eq!(
        world.cluster.tasks_of(id).count(),
        1,
        "a second one would run beside it"
    );
    assert_eq!(world.status(id), DeploymentStatus::Running);
    assert!(world.crash(0).or_else(|| world.crash(1)).is_some());
    world.calm(5);
    assert_eq!(
        (world.status(id), world.rows.tasks.len()),
        (DeploymentStatus::Failed, 1)
    );
}

#[test]
fn a_run_to_completion_of_which_a_task_is_stopped_is_over_and_not_repeated() {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"restart":"never","replicas":2}"#, Program::Serves);
    world.calm(5);
    let task = world.cluster.tasks_of(id).next().map(|task| task.id);
    world.ask_about(OperationKind::StopTask, id, task);
    world.calm(10);
    assert_eq!(world.status(id), DeploymentStatus::Cancelled);
    assert_eq!(
        (world.cluster.tasks_of(id).count(), world.rows.tasks.len()),
        (0, 2),
        "no other one was made"
    );
}

#[test]
fn a_lost_node_is_replaced_and_its_extra_tasks_stop_when_it_returns() {
    let (mut world, id) = serving(2, r#""rolling""#);
    let lost = world
        .agents
        .iter()
        .position(|agent| !agent.held.is_empty())
        .expect("one holds a task");
    world.agents[lost].up = false;
    for _ in 0..12 {
        world.pass(1_000);
        (0..3).for_each(|index| world.heartbeat(index));
        world.deliver();
        world.proxy_applies(0, true);
    }
    assert_eq!(world.ready(id), 2, "replaced elsewhere");
    let replacements: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    world.calm(10);
    assert_eq!(
        world.cluster.tasks_of(id).map(|task| task.id).collect::<Vec<_>>(),
        replacements,
        "they stay"
    );
    let running = world.agents.iter().flat_map(|agent| agent.held.values());
    assert_eq!(
        running
            .filter(|report| report.state == TaskState::Running)
            .count(),
        2,
        "the extra one was stopped"
    );
}

#[test]
fn a_draining_node_is_emptied_without_a_gap_and_restart_replaces_all() {
    let (mut world, id) = serving(3, r#""rolling""#);
    let node = world.agents[0].id;
    world.feed(Event::NodeWanted {
        id: node,
        eligibility: Eligibility::Draining,
    });
    for _ in 0..20 {
        world.calm(1);
        assert!(world.ready(id) >= 3, "the successor comes first");
    }
    assert_eq!(world.cluster.held(node).task_slots, 0);
    let before: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    world.ask(OperationKind::Restart, id);
    for _ in 0..20 {
        world.calm(1);
        assert!(world.ready(id) >= 3);
    }
    let after: Vec<_> = world.cluster.tasks_of(id).map(|task| task.id).collect();
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|id| !after.contains(id)), "every task is new");
}

#[test]
fn a_server_whose_time_is_nearly_over_is_replaced_in_order() {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"replicas":1,"max_runtime_secs":120}"#, Program::Serves);
    world.calm(5);
    let only = |world: &World| {
        let tasks: Vec<_> = world.cluster.tasks_of(id).cloned().collect();
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        tasks[0].clone()
    };
    let first = only(&world);
    world.calm(80);
    assert_eq!(
        only(&world).id,
        first.id,
        "a quarter of its time is left for its end"
    );
    // Whoever leads when its time comes knows of it.
    world.reload();
    for _ in 0..20 {
        world.calm(1);
        assert!(world.ready(id) >= 1, "the successor comes first");
    }
    let next = only(&world);
    assert!(
        next.id != first.id && next.restarts == 0,
        "it has not failed: {next:?}"
    );
    world.calm(60);
    assert_eq!(only(&world).id, next.id);
}

#[test]
fn a_server_is_relieved_also_when_fewer_are_wanted_meanwhile() {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"replicas":4,"max_runtime_secs":120}"#, Program::Serves);
    world.calm(5);
    world.change(id, |row| row.replicas = 1);
    let before: Vec<_> = world.cluster.ready_tasks(id).map(|task| task.id).collect();
    world.calm(110);
    assert_eq!(world.ready(id), 1);
    assert!(
        world
            .cluster
            .ready_tasks(id)
            .all(|task| !before.contains(&task.id)),
        "nobody serves until the end of its time"
    );
}

#[test]
fn a_server_that_is_relieved_again_and_again_sleeps_when_nobody_asks_for_it() {
    let mut world = World::new(2, 1);
    let spec = r#"{"replicas":1,"max_runtime_secs":60,"idle_timeout_secs":100}"#;
    let id = world.deploy(spec, Program::Serves);
    world.calm(5);
    world.calm(100);
    assert!(world.cluster.deployment(id).is_some_and(|d| d.asleep));
}

#[test]
fn what_strangers_and_the_past_say_changes_nothing() {
    let (mut world, id) = serving(1, r#""rolling""#);
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    let other = world
        .agents
        .iter()
        .map(|agent| agent.id)
        .find(|node| Some(*node) != task.node_id)
        .expect("three nodes");
    let rows = world.rows.tasks.clone();
    // Another node about this task, and an order number that was never given.
    let stranger = report(task.id, task.generation, TaskState::Failed);
    world.feed(Event::TaskReports {
        node_id: other,
        tasks: vec![stranger],
    });
    let future = report(task.id, task.generation + 5, TaskState::Failed);
    world.feed(Event::TaskReports {
        node_id: task.node_id.expect("placed"),
        tasks: vec![future],
    });
    let past = report(task.id, task.generation, TaskState::Starting);
    world.feed(Event::TaskReports {
        node_id: task.node_id.expect("placed"),
        tasks: vec![past],
    });
    let nobody = NodeId::from_uuid(uuid::Uuid::from_u128(77));
    world.digest(nobody, vec![report(task.id, 1, TaskState::Failed)]);
    assert_eq!(world.rows.tasks, rows);
}

#[test]
fn a_new_leader_finds_the_same_state_and_goes_on() {
    let (mut world, _) = serving(3, r#""rolling""#);
    let new = world.deploy(r#"{"replicas":3}"#, Program::Serves);
    for _ in 0..40 {
        world.reload();
        world.calm(1);
    }
    assert_eq!(
        (world.status(new), world.ready(new)),
        (DeploymentStatus::Succeeded, 3)
    );
    assert!(
        world
            .agents
            .iter()
            .all(|agent| agent.started.values().all(|starts| *starts == 1))
    );
}

#[test]
fn deletion_stops_everything() {
    let (mut world, id) = serving(2, r#""rolling""#);
    world.ask(OperationKind::Delete, id);
    world.calm(5);
    assert_eq!((world.current(), world.cluster.tasks_of(id).count()), (None, 0));
    world.feed(Event::DeploymentGone(id));
    assert!(world.cluster.deployment(id).is_none());
}
