//! What a new agent makes of what an earlier one left.

use crate::{
    agent::{Agent, NOBODY, ask},
    world::{World, until},
};
use rustix::process::Signal;
use std::{
    fs,
    os::unix::fs::{PermissionsExt, chown},
};
use zectre_agent::shim::Started;
use zectre_common::{
    id::TaskId,
    spec::RestartPolicy,
    state::{Reason, TaskState},
};

#[tokio::test(flavor = "multi_thread")]
async fn tasks_outlive_a_killed_agent() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (serves, ends) = (world.guest("serve"), world.guest("serve"));
    let (serves_port, ends_port) = (serves.port, ends.port);
    let (serves, ends) = (world.start(serves).await, world.start(ends).await);
    for task in [serves, ends] {
        world.reported(task, TaskState::Running).await;
    }
    agent.kill();
    assert_eq!(ask(serves_port, "/").await, Some(serves.to_string()));
    // One of them ends while nobody watches.
    let started: serde_json::Value =
        serde_json::from_slice(&fs::read(world.task_dir(ends).join("started.json")).expect("a record"))
            .expect("JSON");
    let pid = i32::try_from(started["program"]["pid"].as_i64().expect("a pid")).expect("a pid");
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).expect("a pid"), Signal::TERM)
        .expect("it runs");
    until("its end is recorded", async || {
        world.task_dir(ends).join("exit.json").exists()
    })
    .await;
    assert_eq!(ask(ends_port, "/").await, None);

    let agent = Agent::start(&world);
    let report = world.failed(ends, Reason::Exited).await;
    assert_eq!(report.signal, Some(15), "known although nobody watched");
    let digest = world.fresh_digest().await;
    let report = digest
        .iter()
        .find(|report| report.task_id == serves)
        .expect("adopted");
    assert_eq!(
        (report.state, report.healthy, report.port),
        (TaskState::Running, true, Some(serves_port))
    );
    assert_eq!(ask(serves_port, "/").await, Some(serves.to_string()));

    // An orderly end leaves it running too, and the next agent can stop it.
    agent.terminate().await;
    assert_eq!(ask(serves_port, "/").await, Some(serves.to_string()));
    let _agent = Agent::start(&world);
    until("the third agent", async || world.registrations() == 3).await;
    world.stop(serves, 20_000).await;
    let report = world.reported(serves, TaskState::Stopped).await;
    assert_eq!(report.signal, Some(15));
    assert_eq!(ask(serves_port, "/").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_without_a_record_is_killed() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let order = world.guest("serve");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    agent.kill();
    fs::remove_dir_all(world.task_dir(task)).expect("removed");
    assert!(ask(port, "/").await.is_some(), "it serves");
    let _agent = Agent::start(&world);
    if node.enforcement.memory {
        until("it is gone", async || ask(port, "/").await.is_none()).await;
    }
    assert!(world.fresh_digest().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_ran_out_while_nobody_watched_is_told() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let order = world.guest("greedy");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    agent.kill();
    if !node.enforcement.memory {
        return;
    }
    ask(port, "/hog").await;
    until("its end is recorded", async || {
        world.task_dir(task).join("exit.json").exists()
    })
    .await;
    let record = fs::read(world.task_dir(task).join("started.json")).expect("a record");
    let started: Started = serde_json::from_slice(&record).expect("JSON");
    // The group needn't be there any more.
    for group in &started.groups {
        until("the supervisor is gone", async || fs::remove_dir(group).is_ok()).await;
    }
    let _agent = Agent::start(&world);
    let report = world.failed(task, Reason::OomKilled).await;
    assert!(report.message.is_some_and(|message| message.contains("64 MiB")));
}

/// Its first report is kept once there is something to tell; until then its order tells what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_has_told_nothing_yet_is_taken_up() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let task = world.start(world.guest("deaf")).await;
    let dir = world.task_dir(task);
    until("it runs", async || dir.join("started.json").exists()).await;
    agent.kill();
    assert!(!dir.join("report.json").exists(), "nothing was told");
    let _agent = Agent::start(&world);
    until("the second agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    let report = digest.iter().find(|report| report.task_id == task);
    let report = report.expect("it is known");
    assert_eq!((report.state, report.generation), (TaskState::Starting, 1));
    world.stop(task, 0).await;
    world.reported(task, TaskState::Stopped).await;
}

/// Whoever can't read what a task is must not end it, nor hide it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_records_are_broken_is_left_alone() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let (broken, torn) = (world.guest("serve"), world.guest("serve"));
    let ports = [broken.port, torn.port];
    let (broken, torn) = (world.start(broken).await, world.start(torn).await);
    for task in [broken, torn] {
        world.reported(task, TaskState::Running).await;
    }
    agent.kill();
    fs::write(world.task_dir(broken).join("order.json"), "{").expect("written");
    let agent = Agent::start(&world);
    until("the second agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    // Its order tells nothing, but it is there: nobody is to start another in its place.
    for task in [broken, torn] {
        let report = digest.iter().find(|report| report.task_id == task);
        assert_eq!(report.map(|report| report.state), Some(TaskState::Running));
    }
    assert_eq!(ask(ports[0], "/").await, Some(broken.to_string()));
    agent.kill();
    // Not even its group is known now.
    let record = world.task_dir(torn).join("started.json");
    let whole = fs::read(&record).expect("a record");
    fs::write(&record, "{").expect("written");
    let _agent = Agent::start(&world);
    until("the third agent", async || world.registrations() == 3).await;
    let known = world.fresh_digest().await;
    assert_eq!(
        known.iter().map(|report| report.task_id).collect::<Vec<_>>(),
        [broken]
    );
    for (port, task) in ports.into_iter().zip([broken, torn]) {
        assert_eq!(ask(port, "/").await, Some(task.to_string()));
    }
    world.stop(broken, 20_000).await;
    world.reported(broken, TaskState::Stopped).await;
    assert_eq!(ask(ports[0], "/").await, None);
    fs::write(&record, whole).expect("for the test to clear up by");
}

/// It serves, and who didn't know of it would start another in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_whose_output_can_not_be_followed_is_taken_up_all_the_same() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let order = world.guest("talk");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    ask(port, "/first").await;
    world.logged(task, "asked for /first").await;
    let state = world.task_dir(task).join("lines.json");
    until("that is noted", async || state.exists()).await;
    agent.kill();
    let whole = fs::read(&state).expect("a record");
    fs::write(&state, "{").expect("written");
    let _agent = Agent::start(&world);
    until("the second agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    let report = digest.iter().find(|report| report.task_id == task);
    let report = report.expect("it is known");
    assert_eq!(
        (report.state, report.healthy, report.port),
        (TaskState::Running, true, Some(port))
    );
    assert_eq!(ask(port, "/second").await, Some(task.to_string()));
    // From where it can be read again, it is followed.
    fs::write(&state, whole).expect("written");
    world.logged(task, "the output could not be kept for").await;
    world.logged(task, "asked for /second").await;
    world.stop(task, 20_000).await;
    world.reported(task, TaskState::Stopped).await;
}

/// That it ends with 0 when it is told to end is no word about its work, whoever hears it.
#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_time_was_over_is_no_success_for_the_next_agent() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    let mut order = world.guest("dutiful");
    order.restart = RestartPolicy::Never;
    // Long enough for a busy machine to start it: only then it doesn't mind being told to end.
    order.max_runtime_secs = Some(8);
    order.stop_grace_secs = 600;
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Stopping).await;
    agent.kill();
    until("its end is recorded", async || {
        ask(port, "/end").await;
        world.task_dir(task).join("exit.json").exists()
    })
    .await;
    let record = fs::read(world.task_dir(task).join("exit.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_slice(&record).expect("JSON");
    assert_eq!(record["code"], 0, "{record}");

    let _agent = Agent::start(&world);
    let report = world.failed(task, Reason::MaxRuntime).await;
    assert_eq!(
        report.exit_code, None,
        "how it ends when it is told to says nothing"
    );
}

/// A program may shut its directories, and what is nobody's may be somebody else's: no agent stays away for that.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_removed_keeps_no_agent_from_starting() {
    let world = World::new().await;
    let bin = tempfile::tempdir().expect("a directory");
    let owner = rustix::process::geteuid().is_root().then_some(NOBODY);
    let [shut, foreign] = [TaskId::new(), TaskId::new()].map(|task| world.task_dir(task));
    for dir in [&shut, &foreign] {
        fs::create_dir_all(dir.join("work/inside/deep")).expect("made");
    }
    for way in ["", "work", "work/inside", "work/inside/deep"] {
        chown(shut.join(way), owner, owner).expect("root may");
    }
    for dir in [world.data_dir.path().join("tasks"), foreign.clone()] {
        chown(dir, owner, owner).expect("root may");
    }
    for dir in [shut.join("work/inside"), shut.join("work"), foreign.join("work")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o000)).expect("ours");
    }
    let _agent = Agent::start_as_nobody(&world, bin.path());
    world.node().await;
    // Root owns it, where there is root.
    assert_eq!((shut.exists(), foreign.exists()), (false, owner.is_some()));
}
