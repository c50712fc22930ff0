//! Every failure carries its code, a sentence, and what is at hand about it.

use super::{
    agents::report,
    world::{Program, World},
};
use crate::{Command, Event, Operation, Source, step};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, OperationKind, Reason, TaskState},
    time::Time,
    wire::{
        agent::TaskReport,
        log::{LogLine, Stream},
    },
};

fn last_line() -> LogLine {
    LogLine {
        seq: 1,
        time: Time::from_unix_ms(1),
        stream: Stream::Stderr,
        message: "the last line".into(),
    }
}

/// The only task of a deployment ends, or falls ill, with this report.
fn fails(json: &str, change: impl Fn(&mut TaskReport)) -> (World, DeploymentId) {
    let mut world = World::new(1, 1);
    let id = world.deploy(json, Program::Serves);
    world.calm(3);
    let task = world.cluster.tasks_of(id).next().expect("one").clone();
    let mut told = report(task.id, task.generation, TaskState::Failed);
    told.log_tail = vec![last_line()];
    change(&mut told);
    world.agents[0].held.insert(task.id, told.clone());
    let node_id = task.node_id.expect("placed");
    world.feed(Event::TaskReports {
        node_id,
        tasks: vec![told],
    });
    (world, id)
}

#[test]
fn a_run_to_completion_fails_with_what_its_agent_saw() {
    let reasons = [
        Reason::MaxRuntime,
        Reason::OomKilled,
        Reason::Exited,
        Reason::StartFailed,
        Reason::ImageNotFound,
        Reason::VolumeRefused,
        Reason::EngineFailed,
        Reason::ArtifactCorrupt,
    ];
    for reason in reasons {
        let (world, id) = fails(r#"{"restart":"never","max_runtime_secs":5}"#, |told| {
            (told.reason, told.signal) = (Some(reason), Some(9));
            told.message = Some(format!("it ended: {reason}"));
        });
        let row = &world.rows.deployments[&id];
        assert_eq!((row.status, row.reason), (DeploymentStatus::Failed, Some(reason)));
        assert_eq!(
            row.message.as_deref(),
            Some(format!("it ended: {reason}").as_str())
        );
        let evidence = row.evidence.clone().expect("it is known what happened");
        assert_eq!((evidence.signal, evidence.log_tail), (Some(9), vec![last_line()]));
        assert!(evidence.task_id.is_some());
    }
}

#[test]
fn a_lost_node_fails_a_run_to_completion_because_it_must_not_run_twice() {
    let mut world = World::new(2, 1);
    let id = world.deploy(r#"{"restart":"never"}"#, Program::Serves);
    world.calm(3);
    for agent in &mut world.agents {
        agent.up = false;
    }
    world.pass(11_000);
    let row = &world.rows.deployments[&id];
    assert_eq!(
        (row.status, row.reason),
        (DeploymentStatus::Failed, Some(Reason::NodeLost))
    );
    assert!(row.evidence.is_some());
    assert_eq!(world.rows.tasks.len(), 1, "it ran once");
}

#[test]
fn an_unhealthy_server_is_replaced_and_its_last_probe_is_kept() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"replicas":1,"idle_timeout_secs":0}"#, Program::Serves);
    world.calm(3);
    for _ in 0..3 {
        let ready = world.cluster.ready_tasks(id).next().cloned();
        let Some(task) = ready else {
            panic!("it was replaced")
        };
        let mut ill = report(task.id, task.generation, TaskState::Running);
        (ill.healthy, ill.last_probe) = (false, Some("HTTP 503".into()));
        let held = world.agents[0].held.get_mut(&task.id).expect("it runs");
        *held = ill.clone();
        let node_id = task.node_id.expect("placed");
        world.feed(Event::TaskReports {
            node_id,
            tasks: vec![ill],
        });
        world.calm(5);
    }
    let row = &world.rows.deployments[&id];
    assert_eq!(row.reason, Some(Reason::CrashLoop));
    let evidence = row.evidence.clone().expect("kept");
    assert_eq!(evidence.last_probe.as_deref(), Some("HTTP 503"));
    assert!(
        row.message
            .as_deref()
            .is_some_and(|said| said.contains("health_check_failed"))
    );
}

#[test]
fn a_server_that_may_not_run_longer_is_replaced_and_not_a_crash_loop() {
    let (mut world, id) = fails(r#"{"max_runtime_secs":100,"idle_timeout_secs":0}"#, |_| {});
    world.calm(5);
    for _ in 0..3 {
        world.calm(100);
        let task = world.cluster.ready_tasks(id).next().expect("one").clone();
        let mut told = report(task.id, task.generation, TaskState::Failed);
        told.reason = Some(Reason::MaxRuntime);
        world.agents[0].held.insert(task.id, told.clone());
        let node_id = task.node_id.expect("placed");
        world.feed(Event::TaskReports {
            node_id,
            tasks: vec![told],
        });
        world.calm(2);
        assert_eq!(world.ready(id), 1);
    }
    assert_eq!(world.rows.deployments[&id].reason, None);
    let ended = world
        .rows
        .tasks
        .values()
        .filter(|task| task.reason == Some(Reason::MaxRuntime));
    assert_eq!(ended.count(), 3);
}

#[test]
fn a_task_that_stops_with_its_nodes_agent_is_no_failure() {
    let stops = |told: &mut TaskReport| {
        (told.state, told.reason, told.signal) = (TaskState::Stopped, Some(Reason::Stopped), Some(15));
        told.message = Some("the platform stopped".into());
    };
    let (world, id) = fails("{}", stops);
    let deployment = world.cluster.deployment(id).expect("known");
    assert_eq!(deployment.reason, None);
    let next = world.cluster.tasks_of(id).next().expect("its successor");
    assert_eq!((next.restarts, next.not_before), (0, None));
    let ended: Vec<_> = world
        .rows
        .tasks
        .values()
        .filter(|task| task.state.is_ended())
        .collect();
    assert_eq!(ended.len(), 1);
    assert_eq!(
        (ended[0].state, ended[0].reason),
        (TaskState::Stopped, Some(Reason::Stopped))
    );
}

/// How the rollout of a deployment ended, and the words that go with it.
fn expect_end(world: &World, id: DeploymentId, end: (DeploymentStatus, Reason), words: &str) {
    let row = &world.rows.deployments[&id];
    assert_eq!((row.status, row.reason), (end.0, Some(end.1)));
    let said = row.message.as_deref().unwrap_or_default();
    assert!(said.contains(words), "{}: {said:?} lacks {words:?}", end.1);
}

#[test]
fn what_the_scheduler_itself_gives_up_says_why() {
    use DeploymentStatus::{Cancelled, Failed};
    let mut world = World::new(1, 1);
    let slow = world.deploy(r#"{"progress_deadline_secs":20}"#, Program::Hangs);
    world.calm(25);
    expect_end(
        &world,
        slow,
        (Failed, Reason::ProgressDeadline),
        "0 of 1 tasks were ready after 20 s",
    );
    let building = world.deploy_from("{}", Program::Serves, Source::Building);
    world.change(building, |row| {
        row.source = Source::BuildFailed {
            message: "main.tish:2: no".into(),
        };
    });
    expect_end(&world, building, (Failed, Reason::BuildFailed), "main.tish:2: no");
    let missing = world.deploy_from(
        r#"{"progress_deadline_secs":20}"#,
        Program::Serves,
        Source::Missing,
    );
    world.calm(25);
    expect_end(
        &world,
        missing,
        (Failed, Reason::ArtifactMissing),
        "no artifact was uploaded for it in time",
    );
    let older = world.deploy("{}", Program::Hangs);
    let newer = world.deploy("{}", Program::Hangs);
    world.calm(1);
    expect_end(&world, older, (Cancelled, Reason::Superseded), "version");
    world.ask(OperationKind::Cancel, newer);
    expect_end(&world, newer, (Cancelled, Reason::Cancelled), "test cancelled it");
}

#[test]
fn what_a_person_ends_names_the_person_and_an_accepted_deploy_is_no_news_again() {
    let mut world = World::new(1, 1);
    let old = world.deploy("{}", Program::Serves);
    world.calm(3);
    let canary = world.deploy(r#"{"strategy":{"type":"canary","weight":25}}"#, Program::Serves);
    world.calm(3);
    world.operations += 1;
    let number = world.operations;
    let operation = Operation {
        id: number,
        kind: OperationKind::Deploy,
        deployment_id: Some(canary),
        task_id: None,
        node_id: None,
        actor: "user:ann@example.org".into(),
        request_id: None,
    };
    let commands = step(&mut world.cluster, Event::Operation(operation), world.now);
    let is_news = |command: &Command| matches!(command, Command::Record(_));
    assert!(!commands.iter().any(is_news), "{commands:?}");
    assert!(commands.contains(&Command::OperationApplied(number)));
    world.ask(OperationKind::Rollback, canary);
    let (status, reason) = (DeploymentStatus::Cancelled, Reason::Cancelled);
    expect_end(&world, canary, (status, reason), "test rolled it back");
    assert!(world.rows.deployments[&old].status == DeploymentStatus::Succeeded);
}

#[test]
fn the_task_of_a_lost_node_names_it_and_one_that_was_idle_says_so() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"idle_timeout_secs":0}"#, Program::Serves);
    world.calm(3);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    world.agents[0].up = false;
    world.pass(11_000);
    let lost = &world.rows.tasks[&task];
    assert_eq!(
        (lost.state, lost.reason),
        (TaskState::Failed, Some(Reason::NodeLost))
    );
    assert_eq!(lost.message.as_deref(), Some("node n0 stopped answering"));

    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"idle_timeout_secs":10}"#, Program::Serves);
    world.calm(3);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    world.calm(20);
    let ended = &world.rows.tasks[&task];
    assert_eq!(
        (ended.state, ended.reason),
        (TaskState::Stopped, Some(Reason::Idle))
    );
}

#[test]
fn what_the_check_answers_of_a_start_that_lasts_too_long_is_told() {
    let mut world = World::new(1, 1);
    let id = world.deploy(r#"{"progress_deadline_secs":20}"#, Program::Hangs);
    world.calm(3);
    let task = world.cluster.tasks_of(id).next().expect("one").id;
    let answer = "GET /healthz answered 500 Internal Server Error";
    let starting = world.agents[0].held.get_mut(&task).expect("it is starting");
    starting.last_probe = Some(answer.into());
    world.calm(30);
    let row = &world.rows.deployments[&id];
    assert_eq!(row.reason, Some(Reason::ProgressDeadline));
    assert!(row.message.as_deref().is_some_and(|said| said.contains(answer)));
    let evidence = row.evidence.clone().expect("kept");
    assert_eq!(
        (evidence.task_id, evidence.last_probe.as_deref()),
        (Some(task), Some(answer))
    );
}
