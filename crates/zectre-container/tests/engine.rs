//! Containers on a real Docker engine that the test starts itself.

use futures_util::StreamExt;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use zectre_common::id::TaskId;
use zectre_container::{
    ContainerSpec, ContainerState, ContainerVolume, Engine, Error, Login, OutputStream, Progress,
};
use zectre_testkit::{
    DockerEngine, ImageRegistry, PodmanEngine, REGISTRY_PASSWORD, REGISTRY_USER, free_port, wait_until,
};

const DEADLINE: Duration = Duration::from_secs(60);
const IMAGE: &str = "zectre-test:1";

fn program(dir: &Path) -> PathBuf {
    let program = dir.join("server");
    let status = Command::new(std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into()))
        .args([
            "--edition",
            "2024",
            "-O",
            "-C",
            "target-feature=+crt-static",
            "-o",
        ])
        .arg(&program)
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/programs/server.rs"))
        .status()
        .expect("rustc is here: it built this test");
    assert!(status.success(), "the program compiles");
    program
}

fn spec(args: &[&str], ports: Option<(u16, u16)>) -> ContainerSpec {
    ContainerSpec {
        task_id: TaskId::new(),
        image: IMAGE.into(),
        command: Some(vec!["/program".into()]),
        args: args.iter().map(ToString::to_string).collect(),
        env: BTreeMap::from([("PORT".into(), "8080".into())]),
        host_address: "127.0.0.1".into(),
        ports,
        memory_bytes: 32 << 20,
        cpu_millis: 500,
        pids_max: 64,
        volumes: Vec::new(),
        labels: BTreeMap::from([("zectre.app".into(), "test".into())]),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_live_and_die_on_a_real_engine() {
    let docker = DockerEngine::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    docker.import_image(IMAGE, &program(dir.path())).await;
    let engine = Engine::connect(&docker.socket().display().to_string(), "agent-a").expect("a socket");
    engine.ping().await.expect("it answers");

    serves_and_stops(&engine, &docker).await;
    ends_are_told_apart(&engine).await;
    failures_are_named(&engine).await;
    what_never_started_is_no_success(&engine, &docker).await;
    volumes_are_shown(&engine).await;
    root_inside_is_less_than_root(&engine).await;
    private_images_are_pulled_with_a_login(&engine, &docker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_engine_runs_the_same_containers() {
    let podman = PodmanEngine::start().await;
    let dir = tempfile::tempdir().expect("a directory");
    podman.import_image(IMAGE, &program(dir.path()));
    let engine = Engine::connect(&podman.socket().display().to_string(), "agent-a").expect("a socket");
    engine.ping().await.expect("it answers");
    assert!(
        engine
            .image(IMAGE)
            .await
            .expect("asked")
            .is_some_and(|image| image.bytes > 0)
    );
    let serves = spec(&[], Some((8_081, 8_080)));
    let started = engine.start(&serves).await.expect("started");
    let body = wait_until(DEADLINE, "it answers", async || podman.get(8_081).await).await;
    assert!(body.ends_with("ok"), "{body}");
    let ours = engine.list_ours().await.expect("listed");
    assert_eq!(
        (ours[0].task_id, ours[0].state),
        (serves.task_id, ContainerState::Running)
    );
    let usage = wait_until(DEADLINE, "its usage", async || {
        engine.usage(&started.container_id).await.expect("asked")
    })
    .await;
    assert!(usage.memory_bytes > 0, "{usage:?}");
    let end = engine
        .stop(&started.container_id, Duration::from_millis(200))
        .await
        .expect("stopped");
    assert_eq!(end.exit_code, 137);
    engine.remove(&started.container_id).await.expect("removed");
    assert!(engine.list_ours().await.expect("listed").is_empty());

    let exits = engine.start(&spec(&["exit"], None)).await.expect("started");
    assert_eq!(
        engine.wait(&exits.container_id).await.expect("ended").exit_code,
        7
    );
    assert_eq!(written(&engine, &exits.container_id).await, ["out\n", "err\n"]);
    root_inside_is_less_than_root(&engine).await;
    assert!(!engine.remove_image(IMAGE).await.expect("asked"), "it is in use");
    engine.remove(&exits.container_id).await.expect("removed");
    assert!(engine.remove_image(IMAGE).await.expect("asked"));
    let error = engine
        .pull_if_missing("localhost:1/no/such:image", None, DEADLINE, |_| {})
        .await
        .expect_err("no such image");
    assert!(matches!(error, Error::RegistryUnreachable { .. }), "{error}");
}

async fn private_images_are_pulled_with_a_login(engine: &Engine, docker: &DockerEngine) {
    let registry = ImageRegistry::start().await;
    let image = format!("{}/team/app:1", registry.host());
    let tagged = docker
        .docker()
        .args(["tag", IMAGE, &image])
        .status()
        .await
        .expect("docker is installed");
    assert!(tagged.success());
    docker.push(&image, &registry).await;
    let login = |password: &str| Login {
        username: REGISTRY_USER.into(),
        password: password.into(),
    };
    for wrong in [None, Some(login("wrong"))] {
        let pulled = engine
            .pull_if_missing(&image, wrong.as_ref(), DEADLINE, |_| {})
            .await;
        let error = pulled.expect_err("refused");
        assert!(matches!(error, Error::ImageNotFound { .. }), "{error}");
        assert!(
            error.to_string().contains("agent.registries") && !error.to_string().contains("wrong"),
            "{error}"
        );
    }
    let login = login(REGISTRY_PASSWORD);
    let mut told: Vec<Progress> = Vec::new();
    let mut pull = async || {
        let progress = |progress| told.push(progress);
        engine
            .pull_if_missing(&image, Some(&login), DEADLINE, progress)
            .await
    };
    assert!(pull().await.expect("pulled"));
    assert!(!pull().await.expect("asked"), "it is there");
    let is_whole = |progress: &Progress| progress.current_bytes == progress.total_bytes;
    assert!(told.last().is_some_and(is_whole), "{told:?}");
    assert!(
        told.is_sorted_by_key(|progress| progress.current_bytes),
        "{told:?}"
    );
    let runs = ContainerSpec {
        image: image.clone(),
        ..spec(&[], None)
    };
    let started = engine.start(&runs).await.expect("started");
    limits_are_the_engines(docker, &runs, &started.container_id).await;
    let usage = wait_until(DEADLINE, "its usage", async || {
        engine.usage(&started.container_id).await.expect("asked")
    })
    .await;
    assert!(usage.memory_bytes > 0, "{usage:?}");
    // Its other name can go; the last one can't while a container needs it.
    assert!(engine.remove_image(IMAGE).await.expect("asked"));
    assert!(!engine.remove_image(&image).await.expect("asked"), "it is in use");
    engine.remove(&started.container_id).await.expect("removed");
    assert!(engine.remove_image(&image).await.expect("asked"));
    assert!(engine.image(&image).await.expect("asked").is_none());
}

/// What a container may use, as the engine has it.
async fn limits_are_the_engines(docker: &DockerEngine, spec: &ContainerSpec, container: &str) {
    let format = "{{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}} {{.HostConfig.Memory}} {{.HostConfig.MemorySwap}}";
    let inspect = ["inspect", "--format", format, container];
    let told = docker.docker().args(inspect).output().await;
    let told = String::from_utf8(told.expect("docker is installed").stdout).expect("text");
    let memory = spec.memory_bytes;
    let wanted = format!(
        "{} {} {memory} {memory}",
        u64::from(spec.cpu_millis) * 1_000_000,
        spec.pids_max
    );
    assert_eq!(told.trim(), wanted);
}

/// What a container wrote to each stream.
async fn written(engine: &Engine, container: &str) -> [String; 2] {
    let mut written = [String::new(), String::new()];
    let mut output = std::pin::pin!(engine.output(container, 0));
    while let Some(chunk) = output.next().await {
        let chunk = chunk.expect("read");
        written[usize::from(chunk.stream == OutputStream::Stderr)]
            .push_str(&String::from_utf8_lossy(&chunk.bytes));
    }
    written
}

async fn serves_and_stops(engine: &Engine, docker: &DockerEngine) {
    assert!(
        !engine
            .pull_if_missing(IMAGE, None, DEADLINE, |_| {})
            .await
            .expect("it is there")
    );
    let port = free_port();
    let serves = spec(&[], Some((port, 8_080)));
    let started = engine.start(&serves).await.expect("started");
    assert_eq!(started.host_port, Some(port));
    let url = format!("http://127.0.0.1:{port}/");
    let body = wait_until(DEADLINE, "it answers", async || {
        reqwest::get(&url).await.ok()?.text().await.ok()
    })
    .await;
    assert_eq!(body, "ok");

    let ours = engine.list_ours().await.expect("listed");
    assert_eq!(ours.len(), 1);
    assert_eq!(
        (ours[0].task_id, ours[0].state),
        (serves.task_id, ContainerState::Running)
    );
    let other = Engine::connect(&docker.socket().display().to_string(), "agent-b").expect("a socket");
    assert!(
        other.list_ours().await.expect("listed").is_empty(),
        "another agent's are not ours"
    );

    // The program doesn't handle SIGTERM, and as the first process of its container it doesn't even get it.
    let end = engine
        .stop(&started.container_id, Duration::from_millis(200))
        .await
        .expect("stopped");
    assert_eq!((end.exit_code, end.oom_killed), (137, false));
    engine
        .signal(&started.container_id, "SIGTERM")
        .await
        .expect("nothing to do");
    engine.remove(&started.container_id).await.expect("removed");
    assert!(matches!(
        engine.wait(&started.container_id).await,
        Err(Error::Gone(_))
    ));
    assert!(engine.list_ours().await.expect("listed").is_empty());
}

async fn ends_are_told_apart(engine: &Engine) {
    let exits = engine.start(&spec(&["exit"], None)).await.expect("started");
    assert_eq!(
        engine.wait(&exits.container_id).await.expect("ended").exit_code,
        7
    );
    assert_eq!(written(engine, &exits.container_id).await, ["out\n", "err\n"]);
    let later = i64::from(i32::MAX);
    let mut rest = std::pin::pin!(engine.output(&exits.container_id, later));
    assert!(rest.next().await.is_none(), "nothing comes after the last");

    let hog = engine.start(&spec(&["hog"], None)).await.expect("started");
    let end = engine.wait(&hog.container_id).await.expect("ended");
    assert_eq!((end.exit_code, end.oom_killed), (137, true));
    // Ended ones need their image as much as running ones.
    for ended in [exits, hog] {
        engine.remove(&ended.container_id).await.expect("removed");
    }
}

async fn root_inside_is_less_than_root(engine: &Engine) {
    let asks = engine.start(&spec(&["rights"], None)).await.expect("started");
    engine.wait(&asks.container_id).await.expect("ended");
    let [told, _] = written(engine, &asks.container_id).await;
    assert!(told.contains("NoNewPrivs:\t1"), "{told}");
    let bounding = told.lines().find_map(|line| line.strip_prefix("CapBnd:"));
    let bounding = u64::from_str_radix(bounding.expect("a line of it").trim(), 16).expect("hexadecimal");
    // linux/capability.h: NET_RAW, SYS_ADMIN, MKNOD, AUDIT_WRITE, SETFCAP; and SETUID, which servers need.
    for refused in [13, 21, 27, 29, 31] {
        assert_eq!(bounding >> refused & 1, 0, "capability {refused} of {bounding:x}");
    }
    assert_eq!(bounding >> 7 & 1, 1, "{bounding:x}");
    engine.remove(&asks.container_id).await.expect("removed");
}

/// Its maker died between the two steps. The engine says that it isn't running, with code 0.
async fn what_never_started_is_no_success(engine: &Engine, docker: &DockerEngine) {
    let task = TaskId::new();
    let created = docker
        .docker()
        .args(["create", "--label", &format!("zectre.task={task}")])
        .args(["--label", "zectre.agent=agent-a", IMAGE, "/program", "exit"])
        .output()
        .await
        .expect("docker is installed");
    let id = String::from_utf8(created.stdout)
        .expect("an id")
        .trim()
        .to_owned();
    let ours = engine.list_ours().await.expect("listed");
    let found = ours.iter().find(|found| found.task_id == task).expect("listed");
    assert_eq!(found.state, ContainerState::Created);
    assert_eq!(engine.state(&id).await.expect("asked"), ContainerState::Created);
    let error = engine.wait(&id).await.expect_err("it never ran");
    assert!(matches!(error, Error::NeverStarted(_)), "{error}");
    engine.remove(&id).await.expect("removed");
    assert!(matches!(engine.state(&id).await, Err(Error::Gone(_))));
}

/// Seen in its place, and not at all where the engine doesn't see it.
async fn volumes_are_shown(engine: &Engine) {
    let volume = tempfile::tempdir().expect("a directory");
    let with = |path: &Path| ContainerSpec {
        volumes: vec![ContainerVolume {
            host_path: path.display().to_string(),
            container_path: "/data".into(),
        }],
        ..spec(&["keep", "/data/file"], None)
    };
    let keeps = engine.start(&with(volume.path())).await.expect("started");
    assert_eq!(
        engine.wait(&keeps.container_id).await.expect("ended").exit_code,
        0
    );
    engine.remove(&keeps.container_id).await.expect("removed");
    assert_eq!(std::fs::read(volume.path().join("file")).expect("kept"), b"kept");
    let absent = volume.path().join("absent");
    engine.start(&with(&absent)).await.expect_err("nothing is there");
    assert!(!absent.exists(), "nothing is made up in its place");
}

async fn failures_are_named(engine: &Engine) {
    let error = engine
        .pull_if_missing("localhost:1/no/such:image", None, DEADLINE, |_| {})
        .await
        .expect_err("no such image");
    assert!(matches!(error, Error::RegistryUnreachable { .. }), "{error}");
    assert!(error.to_string().contains("localhost:1/no/such:image"), "{error}");
    let missing = ContainerSpec {
        image: "nowhere:1".into(),
        ..spec(&[], None)
    };
    assert!(matches!(
        engine.start(&missing).await,
        Err(Error::ImageNotFound { .. })
    ));
    let no_program = ContainerSpec {
        command: Some(vec!["/nothing".into()]),
        ..spec(&[], None)
    };
    let error = engine.start(&no_program).await.expect_err("no such program");
    assert!(matches!(error, Error::StartFailed(_)), "{error}");
    let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = held.local_addr().expect("bound").port();
    let error = engine
        .start(&spec(&[], Some((port, 8_080))))
        .await
        .expect_err("the port is held");
    assert!(
        matches!(error, Error::PortTaken(taken) if taken == port),
        "{error}"
    );
    assert!(
        engine
            .list_ours()
            .await
            .expect("listed")
            .iter()
            .all(|found| found.state == ContainerState::Ended),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_so() {
    let error = Engine::connect("/nowhere/docker.sock", "agent-a").expect_err("no socket");
    assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
}
