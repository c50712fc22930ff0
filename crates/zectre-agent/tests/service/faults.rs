//! Faults that are not the program's: the node's own are told as such, with the sentence that says what it failed at.

use crate::{
    agent::{Agent, ask, groups_left},
    world::{World, patient, until},
};
use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    process::{Command, Stdio},
};
use zectre_common::{
    id::TaskId,
    quantity::MemoryBytes,
    state::{Reason, TaskState},
    wire::agent::{Action, ActionKind, TaskOrder, TaskReport},
};

/// What a failed task says.
fn said(report: &TaskReport) -> &str {
    report.message.as_deref().expect("every failure has its sentence")
}

fn start(task_id: TaskId, order: TaskOrder) -> Action {
    let order = Box::new(order);
    Action {
        task_id,
        generation: 1,
        kind: ActionKind::Start { order },
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_node_can_not_do_is_told_as_its_own_fault() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    // A port that isn't the node's to give.
    let mut order = world.guest("serve");
    order.port = 1;
    let strange = world.start(order).await;
    let report = world.failed(strange, Reason::Internal).await;
    assert!(
        said(&report).contains("port 1 is not one of this node's"),
        "{report:?}"
    );
    assert_eq!((report.exit_code, report.signal), (None, None), "nothing ran");

    // Something is in the place of its directory.
    let blocked = TaskId::new();
    fs::write(world.task_dir(blocked), "in the way").expect("written");
    world
        .send(1, vec![start(blocked, world.guest("serve"))])
        .await
        .expect("accepted");
    let report = world.failed(blocked, Reason::Internal).await;
    assert!(
        said(&report).starts_with("the node failed to make the task's directory: "),
        "{report:?}"
    );

    // One node's trouble with a task is not the next one's: others start.
    let other = world.start(world.guest("serve")).await;
    world.reported(other, TaskState::Running).await;
    world.stop(other, 1_000).await;
    world.reported(other, TaskState::Stopped).await;
    drop(agent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_can_not_be_started_is_told_as_the_nodes_fault() {
    let world = World::new().await;
    let shim = world.data_dir.path().join("shim");
    fs::copy(env!("CARGO_BIN_EXE_zectre-shim"), &shim).expect("copied");
    let _agent = Agent::start_with(&world, &[("ZECTRE__AGENT__SHIM", &shim.display().to_string())]);
    world.node().await;
    fs::remove_file(&shim).expect("it is there");
    // Some supervisors wait already, or are being started; those that follow can't be.
    let mut failed = None;
    for _ in 0..8 {
        let task = world.start(world.guest("serve")).await;
        let last = || {
            let seen = world.seen();
            let report = seen.reports.iter().rev().find(|report| report.task_id == task);
            report.cloned()
        };
        until("it runs or has failed", async || {
            last().is_some_and(|report| report.state != TaskState::Starting)
        })
        .await;
        failed = last().filter(|report| report.state == TaskState::Failed);
        if failed.is_some() {
            break;
        }
    }
    let report = failed.expect("at most a few supervisors were there");
    assert_eq!(report.reason, Some(Reason::Internal), "{report:?}");
    assert!(
        said(&report).starts_with("the node failed to start a supervisor: "),
        "{report:?}"
    );
    let last = report.log_tail.last().map(|line| line.message.as_str());
    assert_eq!(last, report.message.as_deref(), "its log ends with it, too");
}

/// What was made for a start that fails goes with it, not with the next start of the agent.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_whose_limits_can_not_be_set_leaves_nothing() {
    let world = World::new().await;
    let agent = Agent::start(&world);
    // Less than its supervisor has taken already.
    let mut order = world.guest("serve");
    order.resources.memory = MemoryBytes(1);
    let task = world.start(order).await;
    world.reported(task, TaskState::Failed).await;
    agent.terminate().await;
    assert_eq!(groups_left(world.data_dir.path()), Vec::<PathBuf>::new());
}

/// Nobody but its supervisor knows of a program that was just started.
#[tokio::test(flavor = "multi_thread")]
async fn a_supervisor_that_hangs_takes_along_what_it_started() {
    let world = World::new().await;
    let [shim, pid] = ["shim", "pid"].map(|name| world.data_dir.path().join(name));
    let script = format!(
        "#!/bin/sh\n[ $# -gt 0 ] && exec {} \"$@\"\nread -r prepare; echo '\"ready\"'; read -r run || exit\n\
         setsid sleep 1000 >/dev/null & echo $! >{}\nwait\n",
        env!("CARGO_BIN_EXE_zectre-shim"),
        pid.display()
    );
    fs::write(&shim, script).expect("written");
    fs::set_permissions(&shim, fs::Permissions::from_mode(0o755)).expect("ours");
    let _agent = Agent::start_with(&world, &[("ZECTRE__AGENT__SHIM", &shim.display().to_string())]);
    let task = world.start(world.guest("serve")).await;
    let report = world.failed(task, Reason::Internal).await;
    assert_eq!(
        said(&report),
        "the node failed to start the program: it did not answer in time"
    );
    let pid = fs::read_to_string(&pid).expect("it was started");
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|fields| fields.chars().next());
    assert!(matches!(state, None | Some('Z')), "it is gone: {stat}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_hangs_is_ill_and_goes_on_when_it_is_ordered_to_stop() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let mut order = world.guest("stalls");
    order.health_check.path = Some("/health".into());
    order.health_check.timeout = patient(2_000);
    order.health_check.failures = 2;
    let (port, allowed) = (order.port, order.health_check.timeout);
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    assert_eq!(ask(port, "/stall").await, Some(task.to_string()));
    let find = || {
        let seen = world.seen();
        let mut reports = seen.reports.iter().filter(|report| report.task_id == task);
        reports
            .find(|report| !report.healthy && report.state == TaskState::Running)
            .cloned()
    };
    until("it is ill", async || find().is_some()).await;
    let ill = find().expect("just seen");
    let silence = format!(
        "GET /health: no answer within {} s",
        allowed.duration().as_secs_f64()
    );
    assert_eq!(ill.last_probe, Some(silence));
    world.stop(task, 1_000).await;
    world.reported(task, TaskState::Stopped).await;
}

/// A program that no record tells of would be nobody's: the next agent could neither watch nor stop it.
#[test]
fn no_program_runs_on_whose_start_could_not_be_recorded() {
    let dir = tempfile::tempdir().expect("a directory");
    let program = dir.path().join("program");
    fs::write(&program, "#!/bin/sh\nsleep 1000 & wait\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("ours");
    // In the way of the record.
    fs::create_dir(dir.path().join("started.json.new")).expect("made");
    let run = serde_json::json!({
        "task_dir": dir.path(), "program": program, "artifact_dir": dir.path(), "arg0": "program", "args": [],
        "env": {"PATH": "/usr/bin:/bin"}, "work_dir": dir.path(), "scratch_dir": dir.path(), "scratch_bytes_max": 1, "volumes": [],
        "port": 1, "uid": null, "data_bytes_max": null, "processes_max": null, "output_bytes_max": 1_000,
    });
    let mut shim = Command::new(env!("CARGO_BIN_EXE_zectre-shim"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("started");
    let mut input = shim.stdin.take().expect("piped");
    writeln!(input, "{{\"groups\":[]}}\n{run}").expect("told");
    let session = shim.id().to_string();
    let told = shim.wait_with_output().expect("it ends by itself");
    let told = String::from_utf8_lossy(&told.stdout);
    assert!(told.contains("writing started.json"), "{told}");
    let left = fs::read_dir("/proc")
        .expect("mounted")
        .flatten()
        .filter(|process| {
            let stat = fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
            fields.get(3) == Some(&&*session) && fields[0] != "Z"
        });
    assert_eq!(left.count(), 0, "nothing of it runs on");
}
