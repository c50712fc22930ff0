//! Native tasks: every way to run, to fail and to end.

use crate::{
    agent::{Agent, ask},
    world::{World, patient, until},
};
use rustix::process::Signal;
use std::{
    fs,
    time::{Duration, Instant},
};
use zectre_agent::shim::Started;
use zectre_common::{
    id::TaskId,
    quantity::{CpuMillis, DurationMs, MemoryBytes},
    spec::{RestartPolicy, Volume},
    state::{ArtifactKind, Reason, TaskState},
    wire::agent::{Action, ActionKind, ArtifactRef, TaskOrder},
};

#[tokio::test(flavor = "multi_thread")]
async fn each_way_to_fail_has_its_reason() {
    let world = World::new().await;
    let _agent = Agent::start(&world);

    let mut order = world.guest("exit");
    order.env.insert("CODE".into(), "3".into());
    let exits = world.start(order).await;
    let mut order = world.guest("deaf");
    order.health_check.start_timeout = patient(4_000);
    let deaf = world.start(order).await;
    // Long enough for a busy machine to start it: what never answered has another reason.
    let mut order = world.guest("sick");
    order.health_check.start_timeout = patient(12_000);
    order.health_check.path = Some("/health".into());
    let sick = world.start(order).await;
    let mut order = world.guest("serve");
    // It says that it serves before its time is over, also where that takes long.
    let limit_secs = patient(1_000).duration().as_secs();
    order.max_runtime_secs = Some(limit_secs as u32);
    let long = world.start(order).await;
    let mut order = world.guest("serve");
    order.volumes = vec![Volume {
        host_path: "/etc".into(),
        container_path: "/etc".into(),
    }];
    let volume = world.start(order).await;
    let script = world.artifact(ArtifactKind::Binary, b"neither a binary nor a script".to_vec());
    let nonsense = world.start(world.order(script)).await;

    let report = world.failed(exits, Reason::Exited).await;
    assert_eq!((report.exit_code, report.signal), (Some(3), None));
    let tail: Vec<_> = report.log_tail.iter().map(|line| line.message.as_str()).collect();
    assert!(
        tail.contains(&"about to end") && tail.contains(&"with code 3"),
        "{tail:?}"
    );
    assert!(
        tail.last()
            .is_some_and(|line| line.starts_with("the program ended with code 3")),
        "{tail:?}"
    );
    let report = world.failed(deaf, Reason::PortNeverOpened).await;
    assert!(report.last_probe.is_some_and(|probe| probe.contains("refused")));
    let report = world.failed(sick, Reason::HealthCheckFailed).await;
    assert_eq!(
        report.last_probe.as_deref(),
        Some("GET /health answered 500 Internal Server Error")
    );
    let report = world.failed(volume, Reason::VolumeRefused).await;
    assert!(report.message.is_some_and(|message| message.contains("/etc")));
    let report = world.failed(nonsense, Reason::StartFailed).await;
    assert!(
        report
            .message
            .as_ref()
            .is_some_and(|message| message.contains("is not an executable")),
        "{report:?}"
    );
    let report = world.failed(long, Reason::MaxRuntime).await;
    let overran = format!("the program ran longer than its {limit_secs} s and was stopped");
    assert_eq!(report.message.as_deref(), Some(overran.as_str()));
    let tail: Vec<_> = report.log_tail.iter().map(|line| line.message.as_str()).collect();
    assert!(tail.contains(&"serving"), "{tail:?}");
    assert_eq!(
        (report.exit_code, report.signal),
        (None, None),
        "the kill was ours"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn artifacts_are_fetched_once_and_verified() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let order = world.guest("serve");
    let artifact = order.artifact.clone().expect("native");
    let mut tasks = vec![];
    for _ in 0..4 {
        tasks.push(
            world
                .start(TaskOrder {
                    port: world.port(),
                    ..order.clone()
                })
                .await,
        );
    }
    for task in &tasks {
        world.reported(*task, TaskState::Running).await;
    }
    assert_eq!(world.fetches(&artifact), 1);

    let mut other = world.artifact(ArtifactKind::Binary, b"#!/bin/sh\n".to_vec());
    let claimed = "0".repeat(64);
    other.url = other.url.replace(&other.sha256, &claimed);
    other.sha256 = claimed;
    let missing = world.start(world.order(other)).await;
    let report = world.failed(missing, Reason::ArtifactMissing).await;
    assert!(
        !report.message.unwrap_or_default().contains("secret"),
        "a signature must not be shown"
    );
    let good = world.artifact(ArtifactKind::Binary, b"#!/bin/sh\n".to_vec());
    let corrupt = ArtifactRef {
        sha256: "1".repeat(64),
        ..good
    };
    let corrupt = world.start(world.order(corrupt)).await;
    let report = world.failed(corrupt, Reason::ArtifactCorrupt).await;
    assert!(
        report
            .message
            .is_some_and(|message| message.contains("is not what was announced"))
    );
    for task in tasks {
        world.stop(task, 1_000).await;
        world.reported(task, TaskState::Stopped).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_runs_its_command_in_its_directory() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let mut archive = tar::Builder::new(flate2::write::GzEncoder::new(
        Vec::new(),
        flate2::Compression::fast(),
    ));
    for (name, mode, body) in [
        ("bin/run", 0o755, "#!/bin/sh\ncat data.txt; echo \"$@\"\n"),
        ("data.txt", 0o644, "inside\n"),
    ] {
        let mut header = tar::Header::new_gnu();
        header.set_size(body.len() as u64);
        header.set_mode(mode);
        archive
            .append_data(&mut header, name, body.as_bytes())
            .expect("an entry");
    }
    let bytes = archive
        .into_inner()
        .and_then(flate2::write::GzEncoder::finish)
        .expect("an archive");
    let mut order = world.order(world.artifact(ArtifactKind::Bundle, bytes));
    order.restart = RestartPolicy::Never;
    order.command = Some(vec!["bin/run".into(), "one".into()]);
    order.args = vec!["two".into()];
    let mut lost = order.clone();
    let task = world.start(order).await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!((report.exit_code, report.port), (Some(0), None));
    let lines = world.logged(task, "one two").await;
    assert_eq!(lines[0].message, "inside");
    lost.command = Some(vec!["../../bin/sh".into()]);
    let lost = world.start(lost).await;
    world.failed(lost, Reason::StartFailed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_ignores_sigterm_is_killed_after_its_grace() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let script = b"#!/bin/sh\ntrap '' TERM\necho ready\nwhile :; do read -r line </dev/zero; done\n".to_vec();
    let mut order = world.order(world.artifact(ArtifactKind::Binary, script));
    order.restart = RestartPolicy::Never;
    let task = world.start(order).await;
    world.logged(task, "ready").await;
    let began = Instant::now();
    world.stop(task, 400).await;
    let report = world.reported(task, TaskState::Stopped).await;
    assert_eq!(report.signal, Some(9), "{report:?}");
    assert!(began.elapsed().as_millis() >= 400, "it had its grace");
    world
        .logged(task, "still running 0.4 s after SIGTERM: killed")
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn children_do_not_outlive_their_parent() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let order = world.guest("fork");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    assert!(ask(port, "/").await.is_some());
    let started: serde_json::Value =
        serde_json::from_slice(&fs::read(world.task_dir(task).join("started.json")).expect("a record"))
            .expect("JSON");
    let program = i32::try_from(started["program"]["pid"].as_i64().expect("a pid")).expect("a pid");
    let pid = rustix::process::Pid::from_raw(program).expect("a pid");
    rustix::process::kill_process(pid, Signal::KILL).expect("it runs");
    let report = world.failed(task, Reason::Exited).await;
    assert_eq!(report.signal, Some(9));
    assert_eq!(ask(port, "/").await, None, "the child still serves");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_needs_too_much_memory_is_named() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (_, node) = world.node().await;
    let mut order = world.guest("hog");
    order.resources.memory = MemoryBytes(24 << 20);
    let task = world.start(order).await;
    let report = world.reported(task, TaskState::Failed).await;
    if node.enforcement.memory {
        assert_eq!(
            (report.reason, report.signal),
            (Some(Reason::OomKilled), Some(9)),
            "{report:?}"
        );
        assert!(report.message.is_some_and(|message| message.contains("24 MiB")));
    } else {
        assert_eq!(report.reason, Some(Reason::Exited), "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_ill_after_as_many_failed_checks_as_it_is_allowed_and_serves_until_it_is_ordered_to_stop() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let mut order = world.guest("sickens");
    order.health_check.path = Some("/health".into());
    order.health_check.failures = 3;
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    let unwell = || {
        let seen = world.seen();
        let reports = seen.reports.iter().filter(|report| report.task_id == task);
        let mut unwell = reports.filter(|report| report.state == TaskState::Running && !report.healthy);
        unwell.next().cloned()
    };
    let checks = |status: &str| {
        let line = format!("/health: {status}");
        world
            .lines(task)
            .iter()
            .filter(|known| known.message.starts_with(&line))
            .count()
    };

    let passed = checks("200");
    ask(port, "/falter").await;
    until("it passes again", async || {
        checks("503") == 2 && checks("200") > passed + 3
    })
    .await;
    assert_eq!(unwell(), None, "two of three are no illness");

    ask(port, "/sicken").await;
    until("it is ill", async || unwell().is_some()).await;
    assert!(
        unwell()
            .and_then(|report| report.last_probe)
            .is_some_and(|probe| probe.contains("503"))
    );
    assert_eq!(
        ask(port, "/").await,
        Some(task.to_string()),
        "what goes to it yet is answered"
    );
    world.stop(task, 1_000).await;
    world.reported(task, TaskState::Stopped).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_task_uses_is_told() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (idle, mut busy) = (world.guest("serve"), world.guest("spin"));
    busy.restart = RestartPolicy::Never;
    busy.resources.cpu = CpuMillis(500);
    let (idle, busy) = (world.start(idle).await, world.start(busy).await);
    // The first sample holds what its start took.
    let mut seen = None;
    let told = async || {
        let digest = world.fresh_digest().await;
        let of = |task| digest.iter().find(|report| report.task_id == task)?.usage;
        seen = of(idle).zip(of(busy));
        seen.is_some_and(|(idle, busy)| busy.cpu_millis > 50.max(2 * idle.cpu_millis))
    };
    until("the busy one is seen to be busy", told).await;
    let (idle_used, _) = seen.expect("just seen");
    assert!(
        idle_used.memory_bytes > 16 << 10 && idle_used.memory_bytes < 64 << 20,
        "{idle_used:?}"
    );
    for task in [idle, busy] {
        world.stop(task, 1_000).await;
        assert_eq!(world.reported(task, TaskState::Stopped).await.usage, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_a_task_leaves_leads_nowhere() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let outside = tempfile::tempdir().expect("a directory");
    fs::write(outside.path().join("precious"), "kept").expect("written");
    let script = format!(
        "#!/bin/sh\nln -s {0} link && mkdir deep && ln -s {0} deep/link && ln -s {0}/precious file && echo linked\n",
        outside.path().display()
    );
    let mut order = world.order(world.artifact(ArtifactKind::Binary, script.into_bytes()));
    order.restart = RestartPolicy::Never;
    let task = world.start(order).await;
    world.reported(task, TaskState::Stopped).await;
    world.logged(task, "linked").await;
    let forget = Action {
        task_id: task,
        generation: 1,
        kind: ActionKind::Forget,
    };
    world.send(1, vec![forget]).await.expect("accepted");
    until("its directory goes", async || !world.task_dir(task).exists()).await;
    let kept = fs::read_to_string(outside.path().join("precious")).expect("untouched");
    assert_eq!(kept, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_held_is_refused() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    // Somebody who comes later, where the program leaves its port to others. Long enough for a busy machine to let that one in.
    let mut order = world.guest("deaf");
    order.health_check.start_timeout = patient(12_000);
    let (left, squatter) = start_and_take(&world, order).await;
    let order = world.guest("serve");
    let held = std::net::TcpListener::bind(("127.0.0.1", order.port)).expect("free");
    let task = world.start(order).await;
    let report = world.failed(task, Reason::PortTaken).await;
    assert!(
        report
            .message
            .is_some_and(|message| message.contains("held by something else"))
    );
    // Somebody who comes later, and first: the program's own bind fails, and the answer isn't its.
    let (beaten, thief) = start_and_take(&world, world.guest("beaten")).await;
    world.failed(beaten, Reason::Exited).await;
    let report = world.failed(left, Reason::PortTaken).await;
    assert!(
        report
            .message
            .is_some_and(|message| message.contains("something other than the program listens"))
    );
    assert!(
        report
            .last_probe
            .is_some_and(|probe| probe.contains("another process"))
    );
    drop((held, thief, squatter));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_held_by_somebody_who_lets_nobody_in_is_taken_all_the_same() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let mut order = world.guest("deaf");
    order.health_check.start_timeout = patient(6_000);
    order.health_check.timeout = patient(500);
    let (task, squatter) = start_and_take(&world, order).await;
    // Room for one connection that nobody accepts; each probe after it waits in vain.
    rustix::net::listen(&squatter, 0).expect("it listens already");
    let report = world.failed(task, Reason::PortTaken).await;
    assert!(
        report
            .last_probe
            .as_ref()
            .is_some_and(|probe| probe.contains("another process")),
        "{report:?}"
    );
}

/// Starts it, and takes its port as soon as it runs.
async fn start_and_take(world: &World, order: TaskOrder) -> (TaskId, std::net::TcpListener) {
    let port = order.port;
    let task = world.start(order).await;
    until("it is started", async || {
        world.task_dir(task).join("started.json").exists()
    })
    .await;
    (
        task,
        std::net::TcpListener::bind(("0.0.0.0", port)).expect("free"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_sees_what_it_should_and_nothing_else() {
    let world = World::new().await;
    let _agent = Agent::start_with(&world, &[("AGENT_ONLY", "secret")]);
    let mut order = world.guest("env");
    order.restart = RestartPolicy::Never;
    order.env.extend([
        ("PORT".to_owned(), "1".to_owned()),
        ("GREETING".to_owned(), "hello".to_owned()),
    ]);
    let (port, deployment) = (order.port, order.deployment_id);
    let task = world.start(order).await;
    world.reported(task, TaskState::Stopped).await;
    let lines = world.logged(task, "status=").await;
    let has = |text: &str| lines.iter().any(|line| line.message == text);
    for line in [
        format!("PORT={port}"),
        format!("TASK_ID={task}"),
        format!("DEPLOYMENT_ID={deployment}"),
        "ZECTRE_APP=guest".into(),
        "ZECTRE_NAMESPACE=default".into(),
        "ZECTRE_ENVIRONMENT=production".into(),
        "TISH_HTTP_WORKERS=1".into(),
        "GREETING=hello".into(),
    ] {
        assert!(has(&line), "{line} in {lines:?}");
    }
    assert!(!lines.iter().any(|line| line.message.contains("AGENT_ONLY")));
    let status = &lines
        .iter()
        .find(|line| line.message.starts_with("status="))
        .expect("a status")
        .message;
    assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    let (_, node) = world.node().await;
    if node.enforcement.users {
        assert!(
            status.contains("Uid:\t200000\t200000\t200000\t200000"),
            "{status}"
        );
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
    }
    // Its variables are not on disk.
    let kept = fs::read_to_string(world.task_dir(task).join("order.json")).expect("kept");
    assert!(!kept.contains("hello") && !kept.contains("signature"), "{kept}");
}

/// How long a start may use a core at least: the agent counts its 3 s from a moment after the order.
const BOOST: Duration = Duration::from_secs(3);

/// What a task's control group lets it use, as the kernel's files say.
fn share(world: &World, task: TaskId) -> String {
    let record = fs::read(world.task_dir(task).join("started.json")).expect("a record");
    let started: Started = serde_json::from_slice(&record).expect("JSON");
    let files = started.groups.iter().flat_map(|group| {
        ["cpu.cfs_quota_us", "cpu.max"].map(|name| fs::read_to_string(group.join(name)).ok())
    });
    files.flatten().next().expect("a limit")
}

/// A program that never gets ready has no claim to more than its share.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_takes_its_time_is_held_to_its_share() {
    let world = World::new().await;
    let _agent = Agent::start(&world);
    let (_, node) = world.node().await;
    if !node.enforcement.cpu {
        return;
    }
    let mut order = world.guest("deaf");
    order.resources.cpu = CpuMillis(200);
    order.health_check.start_timeout = DurationMs(60_000);
    let mut seen_early = false;
    // A look that came late on a busy machine says nothing about a start: the next one is looked at as well.
    while !seen_early {
        let mut order = order.clone();
        order.port = world.port();
        let began = Instant::now();
        let task = world.start(order).await;
        let record = world.task_dir(task).join("started.json");
        until("it is started", async || record.exists()).await;
        let early = share(&world, task);
        if began.elapsed() < BOOST {
            assert!(early.starts_with("100000"), "a start may use a core: {early}");
            seen_early = true;
        }
        until("it is held to its share", async || {
            share(&world, task).starts_with("20000")
        })
        .await;
        assert_eq!(world.states(task), [TaskState::Starting]);
        world.stop(task, 0).await;
        world.reported(task, TaskState::Stopped).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_its_own_node_reaches_is_not_ready() {
    let world = World::new().await;
    // An address for documentation: nobody has it, and orders come by heartbeat.
    let _agent = Agent::start_with(&world, &[("ZECTRE__AGENT__ADDRESS_OVERRIDE", "192.0.2.1")]);
    let open = world.want(world.guest("serve"));
    world.reported(open, TaskState::Running).await;
    let mut order = world.guest("local");
    order.health_check.start_timeout = patient(8_000);
    let local = world.want(order);
    let report = world.failed(local, Reason::PortNeverOpened).await;
    assert!(
        report
            .message
            .as_ref()
            .is_some_and(|message| message.contains("must listen on 0.0.0.0")),
        "{report:?}"
    );
    world.want_stopped(open);
    world.reported(open, TaskState::Stopped).await;
}
