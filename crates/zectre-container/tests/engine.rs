//! Containers on a real Docker engine that the test starts itself.

use futures_util::StreamExt;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use zectre_common::id::TaskId;
use zectre_container::{ContainerSpec, Engine, Error, OutputStream};
use zectre_testkit::{DockerEngine, free_port, wait_until};

const DEADLINE: Duration = Duration::from_secs(30);
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
}

async fn serves_and_stops(engine: &Engine, docker: &DockerEngine) {
    assert!(
        !engine
            .pull_if_missing(IMAGE, DEADLINE)
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
    assert_eq!((ours[0].task_id, ours[0].running), (serves.task_id, true));
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
    let mut output = Vec::new();
    let mut stream = std::pin::pin!(engine.output(&exits.container_id, None));
    while let Some(chunk) = stream.next().await {
        output.push(chunk.expect("read"));
    }
    output.sort_by_key(|chunk| chunk.stream == OutputStream::Stderr);
    let texts: Vec<_> = output
        .iter()
        .map(|chunk| (chunk.stream, &chunk.bytes[..]))
        .collect();
    assert_eq!(
        texts,
        [
            (OutputStream::Stdout, &b"out\n"[..]),
            (OutputStream::Stderr, &b"err\n"[..])
        ]
    );
    let latest = output.iter().map(|chunk| chunk.at.clone()).max();
    let mut rest = std::pin::pin!(engine.output(&exits.container_id, latest));
    assert!(rest.next().await.is_none(), "nothing comes after the last");

    let hog = engine.start(&spec(&["hog"], None)).await.expect("started");
    let end = engine.wait(&hog.container_id).await.expect("ended");
    assert_eq!((end.exit_code, end.oom_killed), (137, true));
}

async fn failures_are_named(engine: &Engine) {
    let error = engine
        .pull_if_missing("localhost:1/no/such:image", DEADLINE)
        .await
        .expect_err("no such image");
    assert!(matches!(error, Error::ImageNotFound { .. }), "{error}");
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
            .all(|found| !found.running),
        "nothing is left behind"
    );
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_said_so() {
    let error = Engine::connect("/nowhere/docker.sock", "agent-a").expect_err("no socket");
    assert!(error.to_string().contains("/nowhere/docker.sock"), "{error}");
}
