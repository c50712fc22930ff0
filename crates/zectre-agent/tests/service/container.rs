//! The agent with containers, on a real Docker engine that the test starts itself.

use crate::{
    agent::{Agent, ask, guest_program},
    world::{World, until},
};
use http::StatusCode;
use std::{
    fs,
    future::IntoFuture,
    os::unix::fs::symlink,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};
use zectre_common::{
    spec::{ProcessType, RestartPolicy, Volume},
    state::{Reason, TaskState},
    wire::agent::TaskOrder,
};
use zectre_service::tasks::{Shutdown, Tasks};
use zectre_testkit::{DockerEngine, ImageRegistry, REGISTRY_PASSWORD, REGISTRY_USER};

const IMAGE: &str = "zectre-guest:1";

fn container(world: &World, mode: &str) -> TaskOrder {
    let mut order = world.guest(mode);
    order.process_type = ProcessType::Docker;
    order.artifact = None;
    order.image = Some(IMAGE.into());
    order.command = Some(vec!["/program".into()]);
    order
}

/// Puts the image into a registry that wants a login; what it is called there.
async fn push_private(docker: &DockerEngine, registry: &ImageRegistry) -> String {
    let private = format!("{}/team/app:1", registry.host());
    let tagged = docker.docker().args(["tag", IMAGE, &private]).status().await;
    assert!(tagged.expect("docker is installed").success());
    docker.push(&private, registry).await;
    private
}

/// The agent's setting that tells it how to sign in there.
fn logins(world: &World, registry: &ImageRegistry) -> String {
    let password = world.data_dir.path().join("password");
    std::fs::write(&password, format!("{REGISTRY_PASSWORD}\n")).expect("written");
    let (host, password) = (registry.host(), password.display().to_string());
    format!("[{{host={host:?},username={REGISTRY_USER:?},password_file={password:?}}}]")
}

/// A tag that the registry hasn't got.
async fn an_absent_tag_is_told(world: &World, registry: &ImageRegistry) {
    let mut order = container(world, "serve");
    order.image = Some(format!("{}/team/app:absent", registry.host()));
    let absent = world.start(order).await;
    let report = world.failed(absent, Reason::ImageNotFound).await;
    let message = report.message.expect("it says why");
    assert!(message.contains("team/app:absent"), "{message}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_comes_goes_and_comes_again() {
    let mut docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let registry = ImageRegistry::start().await;
    let private = push_private(&docker, &registry).await;
    let world = World::new().await;
    let logins = logins(&world, &registry);
    let there = docker.socket().display().to_string();
    let socket = world.data_dir.path().join("engine.sock").display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
        ("ZECTRE__AGENT__REGISTRIES", &*logins),
        ("ZECTRE__AGENT__IMAGE_CACHE_BYTES_MAX", "1"),
        ("ZECTRE__AGENT__COLLECT_INTERVAL_MS", "200"),
    ];
    // The agent is there before its engine; native tasks run, and the scheduler knows that containers can't.
    let agent = Agent::start_with(&world, &settings);
    assert!(!world.node().await.1.container_enabled);
    let native = world.start(world.guest("serve")).await;
    world.reported(native, TaskState::Running).await;
    let early = world.start(container(&world, "serve")).await;
    let report = world.failed(early, Reason::EngineFailed).await;
    assert!(report.message.is_some_and(|message| message.contains("engine")));
    std::os::unix::fs::symlink(&there, &socket).expect("linked");
    until("the engine is told of", async || {
        world.node().await.1.container_enabled
    })
    .await;

    let mut order = container(&world, "serve");
    order.image = Some(private.clone());
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    assert_eq!(ask(port, "/").await, Some(task.to_string()));
    until("its usage", async || {
        let digest = world.fresh_digest().await;
        digest
            .iter()
            .any(|report| report.task_id == task && report.usage.is_some())
    })
    .await;

    an_absent_tag_is_told(&world, &registry).await;

    // The engine goes, and takes its containers along; the agent is killed meanwhile, and has to wait.
    let next = std::sync::Mutex::new(None);
    docker
        .restart(async || {
            until("it is told of", async || !world.node().await.1.container_enabled).await;
            agent.kill();
            let registrations = world.registrations();
            *next.lock().expect("not poisoned") = Some(Agent::start_with(&world, &settings));
            until("the next agent", async || world.registrations() > registrations).await;
            let digest = world.fresh_digest().await;
            assert!(digest.iter().any(|report| report.task_id == native), "{digest:?}");
        })
        .await;
    until("the engine is told of again", async || {
        world.node().await.1.container_enabled
    })
    .await;
    let report = world.reported(task, TaskState::Failed).await;
    assert!(
        matches!(report.reason, Some(Reason::Exited | Reason::HealthCheckFailed)),
        "{report:?}"
    );
    // The image that was pulled for it goes when nothing needs it any more; the one that others brought stays.
    let has = async |image: &str| {
        let found = docker.docker().args(["image", "inspect", image]).output().await;
        found.expect("docker is installed").status.success()
    };
    until("the image goes", async || !has(&private).await).await;
    assert!(has(IMAGE).await);
    world.stop(native, 1_000).await;
    world.reported(native, TaskState::Stopped).await;
}

/// An image that can't be brought, a program that isn't in it, and a port that something else holds.
async fn what_the_engine_refuses_is_told(world: &World) {
    let mut order = container(world, "serve");
    order.image = Some("localhost:1/no/such:image".into());
    let missing = world.start(order).await;
    world.failed(missing, Reason::ImagePullFailed).await;

    let mut order = container(world, "serve");
    order.command = Some(vec!["/nothing".into()]);
    let empty = world.start(order).await;
    let report = world.failed(empty, Reason::StartFailed).await;
    assert!(report.message.is_some_and(|message| message.contains("/nothing")));

    let order = container(world, "serve");
    let port = order.port;
    let held = std::net::TcpListener::bind(("0.0.0.0", port)).expect("free");
    let beaten = world.start(order).await;
    let report = world.failed(beaten, Reason::PortTaken).await;
    let told = format!("port {port} is held by something else");
    assert!(report.message.is_some_and(|message| message.contains(&told)));
    drop(held);
}

async fn expect_no_container(docker: &DockerEngine) {
    let left = docker.docker().args(["ps", "-aq"]).output().await;
    assert!(
        left.expect("docker is installed").stdout.is_empty(),
        "no container is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_go_the_way_of_all_tasks() {
    let docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let world = World::new().await;
    let socket = docker.socket().display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
    ];
    let agent = Agent::start_with(&world, &settings);
    assert!(world.node().await.1.container_enabled);

    // Served, logged, and adopted by the next agent.
    let late_ms = 3_000;
    let mut order = container(&world, "late");
    order.env.insert("LATE_MS".into(), late_ms.to_string());
    let port = order.port;
    let serves = world.start(order).await;
    let report = world.reported(serves, TaskState::Running).await;
    assert_eq!(report.port, Some(port));
    // Open before anybody listens behind it: the engine's own forwarder must not count. The program began within `start`.
    let phases = report.phases;
    let took_us = phases.start_us.unwrap_or_default() + phases.ready_us.unwrap_or_default();
    assert!(took_us >= late_ms * 1_000, "{report:?}");
    assert_eq!(ask(port, "/").await, Some(serves.to_string()));
    world.logged(serves, "serving").await;
    agent.kill();
    let _agent = Agent::start_with(&world, &settings);
    until("the next agent", async || world.registrations() == 2).await;
    let digest = world.fresh_digest().await;
    assert_eq!((digest[0].task_id, digest[0].state), (serves, TaskState::Running));
    world.stop(serves, 200).await;
    world.reported(serves, TaskState::Stopped).await;
    assert_eq!(ask(port, "/").await, None);
    assert_eq!(
        world
            .lines(serves)
            .iter()
            .filter(|line| line.message == "serving")
            .count(),
        1
    );

    let mut order = container(&world, "exit");
    order.env.insert("CODE".into(), "4".into());
    order.restart = RestartPolicy::Never;
    let exits = world.start(order).await;
    let report = world.reported(exits, TaskState::Failed).await;
    assert_eq!((report.reason, report.exit_code), (Some(Reason::Exited), Some(4)));
    assert!(
        report.log_tail.iter().any(|line| line.message == "with code 4"),
        "{report:?}"
    );

    what_the_engine_refuses_is_told(&world).await;

    let mut order = container(&world, "credentials");
    order.restart = RestartPolicy::Never;
    let credentials = world.start(order).await;
    let report = world.reported(credentials, TaskState::Stopped).await;
    assert_eq!(report.exit_code, Some(0), "{report:?}");

    let order = container(&world, "hog");
    let hog = world.start(order).await;
    assert_eq!(
        world.reported(hog, TaskState::Failed).await.reason,
        Some(Reason::OomKilled)
    );
    expect_no_container(&docker).await;
}

/// A registry that falters is no missing image.
#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_falters_is_asked_again() {
    let docker = DockerEngine::start().await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let registry = listener.local_addr().expect("bound");
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let answer = move || {
        count.fetch_add(1, Ordering::Relaxed);
        async { StatusCode::SERVICE_UNAVAILABLE }
    };
    let stop = Shutdown::new();
    let tasks = Tasks::new(stop.clone());
    let serve = axum::serve(listener, axum::Router::new().fallback(answer));
    tasks.spawn_brief("registry", async move {
        stop.or_requested(serve.into_future()).await;
    });
    let world = World::new().await;
    let socket = docker.socket().display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
    ];
    let _agent = Agent::start_with(&world, &settings);
    let mut order = container(&world, "serve");
    order.image = Some(format!("{registry}/team/app:1"));
    let task = world.start(order).await;
    let report = world.failed(task, Reason::ImagePullFailed).await;
    let message = report.message.unwrap_or_default();
    assert!(
        message.contains("could not be pulled") && message.contains("503"),
        "{message}"
    );
    assert!(asked.load(Ordering::Relaxed) >= 4, "only {asked:?} times");
}

/// The engine follows a path long after it was checked.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_gets_the_volume_that_was_checked() {
    let docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let world = World::new().await;
    let dir = tempfile::tempdir().expect("a directory");
    let root = dir.path().canonicalize().expect("there");
    let (allowed, prey) = (root.join("allowed"), root.join("prey"));
    for path in [&allowed, &prey, &allowed.join("volume")] {
        fs::create_dir(path).expect("made");
    }
    symlink(&prey, allowed.join("escape")).expect("linked");
    symlink(allowed.join("volume"), allowed.join("alias")).expect("linked");
    let socket = docker.socket().display().to_string();
    let paths = format!("[{:?}]", allowed.display().to_string());
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
        ("ZECTRE__AGENT__ALLOWED_VOLUME_PATHS", &*paths),
    ];
    let agent = Agent::start_with(&world, &settings);
    let (_, node) = world.node().await;
    assert!(
        !node
            .enforcement
            .gaps
            .iter()
            .any(|gap| gap.starts_with("containers")),
        "{:?}",
        node.enforcement
    );
    let gaps = &node.enforcement.gaps;
    assert!(
        gaps.iter().any(|gap| gap.starts_with("a container can fill")),
        "{gaps:?}"
    );
    let keeps = |name: &str, file: &str| {
        let mut order = container(&world, "keep");
        order.restart = RestartPolicy::Never;
        order.env.insert("FILE".into(), format!("/data/{file}"));
        order.volumes = vec![Volume {
            host_path: allowed.join(name).display().to_string(),
            container_path: "/data".into(),
        }];
        order
    };
    for (name, file) in [("volume", "one"), ("alias", "two")] {
        let task = world.start(keeps(name, file)).await;
        world.reported(task, TaskState::Stopped).await;
        let kept = fs::read(allowed.join("volume").join(file)).expect("kept");
        assert_eq!(kept, b"kept");
    }
    let escapes = world.start(keeps("escape", "three")).await;
    world.failed(escapes, Reason::VolumeRefused).await;
    assert_eq!(fs::read_dir(&prey).expect("there").count(), 0);
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("there is /proc");
    assert!(
        !mounts.contains("/run/zectre-agent/"),
        "no place is left: {mounts}"
    );
    drop(agent);
}

/// Its agent was killed between the two steps; a job that never ran has not succeeded.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_was_never_started_is_no_success() {
    let docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let world = World::new().await;
    let socket = docker.socket().display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
    ];
    let agent = Agent::start_with(&world, &settings);
    let mut order = container(&world, "serve");
    order.restart = RestartPolicy::Never;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    agent.kill();
    let run = async |arguments: &[&str]| {
        let output = docker
            .docker()
            .args(arguments)
            .output()
            .await
            .expect("docker is installed");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let name = format!("zectre-{task}");
    let owner = run(&[
        "inspect",
        "--format",
        "{{index .Config.Labels \"zectre.agent\"}}",
        &name,
    ])
    .await;
    run(&["rm", "--force", &name]).await;
    let labels = [format!("zectre.task={task}"), format!("zectre.agent={owner}")];
    let [task_label, owner_label] = &labels;
    run(&[
        "create",
        "--name",
        &name,
        "--label",
        task_label,
        "--label",
        owner_label,
        IMAGE,
        "/program",
    ])
    .await;
    let _agent = Agent::start_with(&world, &settings);
    until("the next agent", async || world.registrations() == 2).await;
    // It is as if it had never been here: the scheduler, which still wants it, says so again.
    assert!(world.fresh_digest().await.is_empty());
    assert!(
        !world.states(task).iter().any(|state| state.is_ended()),
        "{:?}",
        world.states(task)
    );
    assert_eq!(run(&["ps", "--all", "--quiet"]).await, "");
}

/// A disk that is full for a while, say: what it could not take is copied later.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_for_a_while_costs_a_container_no_output() {
    let docker = DockerEngine::start().await;
    docker.import_image(IMAGE, &guest_program()).await;
    let world = World::new().await;
    let log = world.data_dir.path().join("agent.log");
    let socket = docker.socket().display().to_string();
    let settings = [
        ("ZECTRE__AGENT__CONTAINER_ENABLED", "true"),
        ("ZECTRE__AGENT__CONTAINER_SOCKET", &*socket),
    ];
    let _agent = Agent::start_writing(&world, &log, &settings);
    until("the engine is told of", async || {
        world.node().await.1.container_enabled
    })
    .await;
    let order = container(&world, "talk");
    let port = order.port;
    let task = world.start(order).await;
    world.reported(task, TaskState::Running).await;
    // In the way of the record of how far the output is copied, which is kept once a second.
    let way = world.task_dir(task).join("output.json.new");
    fs::create_dir(&way).expect("made");
    let mut asked = 0;
    until("the disk fails", async || {
        assert!(ask(port, &format!("/{asked}/")).await.is_some(), "it serves");
        asked += 1;
        let said = fs::read_to_string(&log).expect("it writes");
        said.contains("the output of a container")
    })
    .await;
    fs::remove_dir(&way).expect("empty");
    ask(port, "/last/").await;
    let lines = world.logged(task, "/last/").await;
    for number in 0..asked {
        let wanted = format!("asked for /{number}/");
        let found = lines.iter().filter(|line| line.message == wanted).count();
        assert_eq!(found, 1, "{wanted}");
    }
    world.stop(task, 1_000).await;
    world.reported(task, TaskState::Stopped).await;
}
