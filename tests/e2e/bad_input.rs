//! Bad input ends in a clear 4xx, or in a deployment that has failed with its reason; nothing hangs.

use flate2::{Compression, write::GzEncoder};
use reqwest::Method;
use serde_json::json;
use std::{fs, path::Path};
use zectre_e2e::{App, Daemons, Http, Outcome, archive, server_program};

#[tokio::test]
async fn a_request_that_does_not_fit_is_told_why() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "strict").await;
    let raw = async |body: &str| {
        let request = http
            .request(Method::POST, "/api/v1/apps")
            .header("content-type", "application/json");
        let response = request.body(body.to_owned()).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    };
    let (status, text) = raw("{\"name\": ").await;
    assert!(
        status == 400 && text.contains("MALFORMED_JSON"),
        "{status} {text}"
    );
    let (status, text) = raw("{\"name\": \"a\", \"nmae\": 1}").await;
    assert!(status == 400 && text.contains("nmae"), "{status} {text}");
    let (status, text) = raw("{\"name\": 7}").await;
    assert!(status == 400 && text.contains("INVALID_INPUT"), "{status} {text}");
    assert_eq!(http.post("/apps", json!({"name": "strict"})).await.status, 409);
    assert_eq!(http.get("/apps/not-an-id").await.problem(400), "INVALID_PATH");
    assert_eq!(
        http.get("/apps/0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11")
            .await
            .problem(404),
        "APP_NOT_FOUND"
    );
    assert_eq!(http.get("/apps?sort_by=colour").await.status, 400);
    assert_eq!(http.get("/apps?page_size=1000").await.status, 400);
    assert_eq!(
        http.send(Method::DELETE, "/apps", json!({})).await.problem(405),
        "METHOD_NOT_ALLOWED"
    );
    assert_eq!(http.get("/nothing-here").await.problem(404), "NOT_FOUND");
    let deploy = async |body| http.post(&format!("/apps/{}/deployments", app.id), body).await;
    let answer = deploy(json!({"replicas": 5000, "environment": "NO"}))
        .await
        .expect(400);
    assert_eq!(answer["errors"].as_array().map(Vec::len), Some(2), "{answer}");
    let missing = json!({"artifact_id": "0198f2c4-7c3e-7a51-9d0e-3f6f2f4f8a11"});
    assert_eq!(deploy(missing).await.status.as_u16() / 100, 4);
}

#[tokio::test]
async fn an_artifact_with_another_hash_is_refused() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let artifact = http
        .post("/artifacts", json!({"name": "program"}))
        .await
        .expect(201);
    let path = format!(
        "/api/v1/artifacts/{}/upload",
        artifact["id"].as_str().expect("an id")
    );
    // SHA-256 of `the right bytes`, in base64.
    let digest = "sha-256=o1gEJc33UJfOIwCXGc38USK7EIvhHB7uiuyn3IoCcgQ=";
    let response = http
        .request(Method::POST, &path)
        .header("digest", digest)
        .body("others")
        .send()
        .await
        .expect("an answer");
    assert_eq!(
        response.status(),
        422,
        "{}",
        response.text().await.unwrap_or_default()
    );
    let response = http
        .request(Method::POST, &path)
        .header("digest", digest)
        .body("the right bytes")
        .send()
        .await
        .expect("an answer");
    assert!(
        response.status().is_success(),
        "the right bytes are still welcome: {}",
        response.text().await.unwrap_or_default()
    );
}

#[tokio::test]
async fn a_program_that_misbehaves_ends_its_deployment_with_the_reason() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "rude").await;
    let program = server_program();

    let exits = app
        .deploy_program(&program, json!({"env": {"MODE": "exit"}}))
        .await;
    assert_eq!(exits.failed(), "exited");
    let evidence = &exits.deployment["evidence"];
    assert_eq!(evidence["exit_code"], 3, "{evidence}");
    assert!(
        evidence["log_tail"]
            .to_string()
            .contains("the database is not configured"),
        "{evidence}"
    );

    // Long enough for a busy machine to start them.
    let patience = json!({"health_check": {"start_timeout": "3s"}});
    let never = app
        .deploy_program(
            &program,
            json!({"env": {"MODE": "never"}, "networking": patience}),
        )
        .await;
    assert_eq!(never.failed(), "port_never_opened");

    let health = json!({"health_check": {"path": "/health", "start_timeout": "8s"}});
    let sick = app
        .deploy_program(
            &program,
            json!({"env": {"MODE": "unhealthy"}, "networking": health}),
        )
        .await;
    assert_eq!(sick.failed(), "health_check_failed");
    assert!(
        sick.deployment["evidence"]["last_probe"]
            .to_string()
            .contains("500"),
        "{:#}",
        sick.deployment
    );

    rollouts_that_can_not_succeed_say_why(&http, &program).await;

    let stubborn = json!({"env": {"MODE": "stubborn"}, "stop_grace_secs": 1});
    let stubborn = app.deploy_program(&program, stubborn).await.succeeded();
    assert!(!zectre_e2e::tasks_of(stubborn.id()).is_empty());
    http.send(Method::DELETE, &format!("/apps/{}", app.id), json!({}))
        .await
        .expect(204);
    zectre_testkit::wait_until(
        std::time::Duration::from_secs(60),
        "even a stubborn program ends",
        async || zectre_e2e::tasks_of(stubborn.id()).is_empty().then_some(()),
    )
    .await;
}

/// What no node could ever hold or run, what takes too long, what is replaced and what is cancelled.
async fn rollouts_that_can_not_succeed_say_why(http: &Http, program: &Path) {
    let large = App::create(http, "large").await;
    let picky = App::create(http, "picky").await;
    let late = App::create(http, "late").await;
    let stuck = json!({
        "environment": "production", "progress_deadline_secs": 10, "env": {"MODE": "never"},
        "networking": {"health_check": {"start_timeout": "5m"}},
    });
    let (huge, nowhere, slow) = tokio::join!(
        large.deploy_program(program, json!({"resources": {"memory": "4Ti"}})),
        picky.deploy_program(program, json!({"constraints": ["gpu"]})),
        late.deploy_program(program, stuck.clone()),
    );
    // Long before its deadline of five minutes.
    assert_eq!(huge.failed(), "no_capacity");
    let why = huge.deployment["message"].to_string();
    assert!(
        why.contains("no node is large enough") && why.contains("memory; ask for less"),
        "{why}"
    );
    assert_eq!(nowhere.failed(), "no_eligible_node");
    let why = nowhere.deployment["message"].to_string();
    assert!(why.contains("meets the constraints gpu"), "{why}");
    assert_eq!(slow.failed(), "progress_deadline");
    let why = slow.deployment["message"].to_string();
    assert!(why.contains("0 of 1 tasks were ready after 10 s"), "{why}");

    let mut again = stuck;
    again["artifact_id"] = slow.deployment["artifact_id"].clone();
    again["progress_deadline_secs"] = 300.into();
    let replaced = late.deploy(again.clone()).await;
    let next = late.deploy(again).await;
    let end = |outcome: &Outcome| (outcome.status().to_owned(), outcome.deployment["reason"].clone());
    let cancelled = "cancelled".to_owned();
    let replaced = late.outcome(&replaced).await;
    assert_eq!(end(&replaced), (cancelled.clone(), json!("superseded")));
    http.post(&format!("/deployments/{next}/cancel"), json!({}))
        .await
        .expect_ok();
    let next = late.outcome(&next).await;
    assert_eq!(end(&next), (cancelled, json!("cancelled")));
}

/// An archive with one entry that `tar` itself would refuse to make.
fn hostile_entry(path: &str, kind: tar::EntryType, link: Option<&str>) -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(0);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    let name = &mut header.as_old_mut().name;
    name[..path.len()].copy_from_slice(path.as_bytes());
    if let Some(link) = link {
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    header.set_cksum();
    builder
        .append(&header, std::io::empty())
        .expect("memory can be written");
    builder
        .into_inner()
        .and_then(GzEncoder::finish)
        .expect("memory can be written")
}

/// 1 GiB of zeros in about 1 MiB.
fn bomb() -> Vec<u8> {
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    let mut header = tar::Header::new_gnu();
    header.set_size(1 << 30);
    header.set_mode(0o644);
    let zeros = std::io::Read::take(std::io::repeat(0), 1 << 30);
    builder
        .append_data(&mut header, "src/zeros", zeros)
        .expect("memory can be written");
    builder
        .into_inner()
        .and_then(GzEncoder::finish)
        .expect("memory can be written")
}

#[tokio::test]
async fn a_hostile_archive_is_refused_by_name() {
    // Made before anything listens: it takes seconds without optimisation.
    let bomb = bomb();
    let platform = Daemons::start().await;
    let app = App::create(&platform.http(), "hostile").await;
    let cases = [
        (
            "..",
            hostile_entry("../../etc/zectre-was-here", tar::EntryType::Regular, None),
        ),
        (
            "/etc",
            hostile_entry("/etc/zectre-was-here", tar::EntryType::Regular, None),
        ),
        (
            "src/main.tish",
            hostile_entry("src/main.tish", tar::EntryType::Symlink, Some("/etc/passwd")),
        ),
        (
            "src/main.tish",
            hostile_entry("src/main.tish", tar::EntryType::Link, Some("/etc/passwd")),
        ),
        ("", bomb),
        ("", b"this is no archive".to_vec()),
    ];
    for (named, bytes) in cases {
        let build = app.build(bytes).await;
        assert_eq!(
            (&build["status"], &build["reason"]),
            (&json!("failed"), &json!("invalid_source")),
            "{build:#}"
        );
        assert!(
            build["message"]
                .as_str()
                .is_some_and(|message| message.contains(named)),
            "{build:#}"
        );
    }
    assert!(!Path::new("/etc/zectre-was-here").exists());
}

#[tokio::test]
async fn mistakes_in_sources_and_manifests_are_shown_where_they_are() {
    let mut platform = Daemons::start().await;
    let app = App::create(&platform.http(), "typo").await;
    let good = "fn handleRequest(req) { return { status: 200, body: \"ok\" } }\nserve(parseInt(process.env.PORT), handleRequest)\n";
    let manifest = "name: typo\nbuild:\n  source: ./src/main.tish\ndeploy:\n  replica: 2\n";
    let build = app
        .build(archive(&[("zectre.yaml", manifest), ("src/main.tish", good)]))
        .await;
    assert_eq!(build["reason"], "invalid_source", "{build:#}");
    let message = build["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("zectre.yaml:5") && message.contains("replicas"),
        "{message}"
    );

    let broken = "import { greet } from \"./greet.tish\"\nconsole.log(greet())\n";
    let imported = "export fn greet() {\n  let x = = 2\n  return x\n}\n";
    let build = app
        .build(archive(&[
            ("src/main.tish", broken),
            ("src/greet.tish", imported),
        ]))
        .await;
    assert_eq!(build["reason"], "compile_error", "{build:#}");
    let diagnostic = &build["diagnostics"][0];
    assert_eq!(
        (&diagnostic["file"], &diagnostic["line"]),
        (&json!("src/greet.tish"), &json!(2)),
        "{build:#}"
    );

    // A deployment that waits for such a build fails with it.
    platform.kill("zectre-build").await;
    let queued = app
        .start_build(archive(&[("src/main.tish", "let x = = 2\n")]))
        .await;
    let waits = app
        .deploy(json!({"build_id": queued, "environment": "production"}))
        .await;
    assert_eq!(app.deployment(&waits).await["status"], "pending");
    platform.start_service("zectre-build");
    let outcome = app.outcome(&waits).await;
    assert_eq!(outcome.failed(), "build_failed");
    let why = outcome.deployment["message"].as_str().unwrap_or_default();
    assert!(why.contains("src/main.tish:1"), "{why}");
}

#[tokio::test]
async fn the_command_shows_a_broken_manifest_before_it_sends_anything() {
    let platform = Daemons::start().await;
    let project = platform.directory().join("broken");
    fs::create_dir_all(project.join("src")).expect("it is ours");
    fs::write(
        project.join("zectre.yaml"),
        "name: broken\nresources:\n  memory: lots\n",
    )
    .expect("it is ours");
    fs::write(project.join("src/main.tish"), "console.log(1)\n").expect("it is ours");
    let output = platform.cli().run(&project, &["deploy"]).await;
    let said = output.failure();
    assert!(said.contains("zectre.yaml:3") && said.contains("128Mi"), "{said}");
    assert!(
        platform.http().get("/apps").await.expect(200)["data"]
            .as_array()
            .is_some_and(Vec::is_empty)
    );
}
