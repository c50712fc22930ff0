//! From source to program, and what is wrong with a source.

use crate::harness::{BUILD_MAX, Yard, archive, hello};
use http::StatusCode;
use std::{os::unix::fs::PermissionsExt, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use zectre_common::{
    id::BuildId,
    state::{BuildStatus, Reason},
    wire::{cluster::Readiness, problem::Problem},
};
use zectre_testkit::{free_port, wait_until};

#[tokio::test]
async fn a_source_of_two_files_becomes_a_program_that_answers() {
    let yard = Yard::new().await;
    let worker = yard.start("").await;
    *yard.shelf.failures.lock().expect("not poisoned") = 1;
    let id = yard.queue(hello()).await;
    let build = yard.ended(id).await;
    let log = yard.log_text(id).await;
    assert_eq!(build.status, BuildStatus::Succeeded, "{log}");
    for words in [
        "fetching the source",
        "compiling src/main.tish",
        "storing the program",
        "built: artifact",
    ] {
        assert!(log.contains(words), "{words} is missing in\n{log}");
    }
    assert!(build.started_at.is_some() && build.finished_at.is_some() && build.diagnostics.is_empty());
    assert_eq!(yard.events().await, ["build.succeeded"]);
    let (kind, organization): (String, String) = sqlx::query_as(
        "SELECT a.kind, o.slug FROM artifacts a JOIN organizations o ON o.id = a.organization_id WHERE a.id = $1",
    )
    .bind(build.artifact_id)
    .fetch_one(&yard.pool)
    .await
    .expect("it is there");
    assert_eq!((kind.as_str(), organization.as_str()), ("binary", "default"));

    let program = yard.dir.path().join("program");
    let content =
        yard.shelf.contents.lock().expect("not poisoned")[&build.artifact_id.expect("it has one")].clone();
    std::fs::write(&program, content).expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("ours");
    let port = free_port();
    let mut command = tokio::process::Command::new(&program);
    let mut running = command
        .env("PORT", port.to_string())
        .env("TISH_HTTP_WORKERS", "1")
        .kill_on_drop(true)
        .spawn()
        .expect("it starts");
    let answer = wait_until(Duration::from_secs(60), "the program answers", async || {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream
            .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            .await
            .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    })
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("hello"),
        "{answer}"
    );
    running.kill().await.expect("it ran");
    worker.stop().await;
    wait_until(
        Duration::from_secs(60),
        "the work directory is empty",
        async || (yard.left_in_work() == 0).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_program_that_its_organization_has_no_room_for_is_not_kept() {
    let yard = Yard::new().await;
    let worker = yard.start("[quotas]\nartifact_bytes_max = 1000").await;
    let build = yard.ended(yard.queue(hello()).await).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(Reason::QuotaExceeded))
    );
    let message = build.message.expect("it says why");
    assert!(message.contains("uses 0 of 1000 artifact_bytes"), "{message}");
    let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM artifacts WHERE kind = 'binary'")
        .fetch_one(&yard.pool)
        .await
        .expect("the database is there");
    assert_eq!(kept, 0);
    worker.stop().await;
}

#[tokio::test]
async fn mistakes_are_shown_with_the_users_file_and_line() {
    let yard = Yard::new().await;
    let worker = yard.start("").await;
    let id = yard
        .queue(archive(&[("src/main.tish", "let a = 1\nlet b = = 2\n")]))
        .await;
    let build = yard.ended(id).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(Reason::CompileError)),
        "{build:?}"
    );
    let first = &build.diagnostics[0];
    assert_eq!(
        (first.file.as_deref(), first.line),
        (Some("src/main.tish"), Some(2)),
        "{build:?}"
    );
    let log = yard.log_text(id).await;
    assert!(log.contains("src/main.tish:2:"), "{log}");
    assert!(build.message.expect("a sentence").starts_with("src/main.tish:2:"));

    let id = yard
        .queue(archive(&[("src/main.tish", "console.log(nothingLikeThis)\n")]))
        .await;
    let build = yard.ended(id).await;
    assert_eq!(build.reason, Some(Reason::CompileError), "{build:?}");
    assert!(build.message.expect("a sentence").contains("nothingLikeThis"));
    assert_eq!(yard.events().await, ["build.failed", "build.failed"]);
    worker.stop().await;
}

#[tokio::test]
async fn bad_sources_are_refused_with_a_sentence() {
    let yard = Yard::new().await;
    let worker = yard
        .start("unpacked_bytes_max = 100000\nsource_bytes_max = 50000")
        .await;
    let mut climbing = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..7].copy_from_slice(b"../evil");
    header.set_size(1);
    header.set_cksum();
    climbing.append(&header, &b"x"[..]).expect("in memory");
    let climbing = climbing.into_inner().expect("in memory");
    let bomb = archive(&[("src/main.tish", &"x".repeat(200_000))]);
    let cases = [
        (climbing, "`../evil` leads out of the project"),
        (bomb, "unpacks to more than 100000 bytes"),
        (vec![1; 60_000], "larger than 50000 bytes"),
        (b"not an archive".to_vec(), "not a whole tar archive"),
        (
            archive(&[
                ("zectre.yaml", "name: a\ndepoly:\n  replicas: 2\n"),
                ("src/main.tish", ""),
            ]),
            "zectre.yaml:2:1",
        ),
        (
            archive(&[("Dockerfile", "FROM scratch")]),
            "a Dockerfile isn't built here",
        ),
        (archive(&[("readme.txt", "")]), "there is no src/main.tish"),
    ];
    for (archive, words) in cases {
        let id = yard.queue(archive).await;
        let build = yard.ended(id).await;
        assert_eq!(
            (build.status, build.reason),
            (BuildStatus::Failed, Some(Reason::InvalidSource)),
            "{build:?}"
        );
        let message = build.message.expect("a sentence");
        assert!(message.contains(words), "{message}");
        assert!(yard.log_text(id).await.contains(words));
    }
    wait_until(
        Duration::from_secs(60),
        "the work directory is empty",
        async || (yard.left_in_work() == 0).then_some(()),
    )
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_build_sees_nothing_but_its_own() {
    let yard = Yard::new().await;
    let worker = yard.start("").await;
    // Whatever it tries, the program's text may come from its own project only.
    let outside = yard
        .queue(archive(&[(
            "src/main.tish",
            "import { x } from \"../../../../etc/passwd\"\n",
        )]))
        .await;
    assert_eq!(yard.ended(outside).await.reason, Some(Reason::CompileError));
    let native = archive(&[
        ("package.json", r#"{"tish": {"rustDependencies": {"evil": "1"}}}"#),
        ("src/main.tish", "console.log(1)\n"),
    ]);
    let native = yard.queue(native).await;
    let build = yard.ended(native).await;
    assert!(
        matches!(build.reason, Some(Reason::CompileError | Reason::InvalidSource)),
        "{build:?}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_missing_compiler_is_told_by_readiness_and_by_builds() {
    let yard = Yard::new().await;
    let worker = yard.start("compiler = \"/nowhere/zectre-tishc\"").await;
    let id = yard.queue(hello()).await;
    let build = yard.ended(id).await;
    assert_eq!(build.reason, Some(Reason::BuildWorkerFailed));
    assert!(build.message.expect("a sentence").contains("build.compiler"));
    let answer = worker.anonymous("/ready").send().await.expect("it answers");
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    let readiness: Readiness = answer.json().await.expect("json");
    assert!(
        readiness
            .reasons
            .iter()
            .any(|reason| reason.contains("build.compiler")),
        "{readiness:?}"
    );
    assert_eq!(
        worker
            .anonymous("/health")
            .send()
            .await
            .expect("it answers")
            .status(),
        StatusCode::OK
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_source_that_is_gone_is_named() {
    let yard = Yard::new().await;
    let id = yard.queue(hello()).await;
    yard.shelf.contents.lock().expect("not poisoned").clear();
    let worker = yard.start("").await;
    let build = yard.ended(id).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(Reason::ArtifactMissing)),
        "{build:?}"
    );
    worker.stop().await;
}

#[tokio::test]
async fn the_log_is_streamed_to_the_end_and_resumes() {
    let yard = Yard::new().await;
    let worker = yard.start("").await;
    let id = yard.queue(hello()).await;
    let path = format!("/api/v1/builds/{id}/logs/stream");
    let stream = worker.get(&path).send().await.expect("it answers");
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    let whole = tokio::time::timeout(BUILD_MAX, stream.text())
        .await
        .expect("it ends")
        .expect("whole");
    let ids: Vec<u64> = whole
        .lines()
        .filter_map(|line| line.strip_prefix("id: ")?.parse().ok())
        .collect();
    let log = yard.log(id).await;
    assert_eq!(
        ids,
        (1..=log.len() as u64).collect::<Vec<_>>(),
        "each line once, in order:\n{whole}"
    );
    assert!(
        whole.contains("event: end") && whole.contains("\"status\":\"succeeded\""),
        "{whole}"
    );

    let rest = worker
        .get(&path)
        .header("last-event-id", "2")
        .send()
        .await
        .expect("it answers");
    let rest = rest.text().await.expect("whole");
    assert_eq!(rest.lines().find_map(|line| line.strip_prefix("id: ")), Some("3"));
    worker.stop().await;
}

#[tokio::test]
async fn only_the_api_may_call_and_odd_ids_are_refused() {
    let yard = Yard::new().await;
    let worker = yard.start("").await;
    let unknown = BuildId::new();
    let path = format!("/api/v1/builds/{unknown}");
    let cases = [
        (
            worker.anonymous(&path),
            StatusCode::UNAUTHORIZED,
            "UNAUTHENTICATED",
        ),
        (worker.get(&path), StatusCode::NOT_FOUND, "BUILD_NOT_FOUND"),
        (
            worker.get("/api/v1/builds/odd"),
            StatusCode::BAD_REQUEST,
            "INVALID_PATH",
        ),
        (
            worker.post(&format!("{path}/cancel")),
            StatusCode::NOT_FOUND,
            "BUILD_NOT_FOUND",
        ),
        (
            worker.get(&format!("{path}/logs/stream")),
            StatusCode::NOT_FOUND,
            "BUILD_NOT_FOUND",
        ),
    ];
    for (request, status, code) in cases {
        let answer = request.send().await.expect("it answers");
        let got = answer.status();
        let problem: Problem = answer.json().await.expect("a problem");
        assert_eq!((got, problem.code.as_str()), (status, code));
    }
    assert_eq!(
        worker
            .post("/api/v1/builds")
            .send()
            .await
            .expect("it answers")
            .status(),
        StatusCode::ACCEPTED
    );
    worker.stop().await;
}
