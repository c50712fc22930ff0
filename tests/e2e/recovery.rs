//! `kill -9` of anything: tasks go on, nothing runs twice, nothing is lost.

use serde_json::{Value, json};
use std::{collections::BTreeSet, fs, time::Duration};
use zectre_e2e::{App, Daemons, Gate, server_program, tasks_of};
use zectre_testkit::wait_until;

#[tokio::test]
async fn every_daemon_may_be_killed_and_the_program_goes_on() {
    let mut platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "tough").await;
    let deployment = app
        .deploy_program(&server_program(), json!({"replicas": 2}))
        .await
        .succeeded();
    app.wait_running(deployment.id(), 2).await;
    let before: BTreeSet<_> = tasks_of(deployment.id()).into_iter().collect();
    assert_eq!(before.len(), 2);

    for service in [
        "zectre-agent",
        "zectre-scheduler",
        "zectre-api",
        "zectre-registry",
        "zectre-build",
    ] {
        platform.kill(service).await;
        // While it is away, what runs goes on being served.
        assert_eq!(
            http.app(&app.subdomain, "/").await.status,
            200,
            "while {service} is away"
        );
        platform.start_service(service);
        platform.wait_ready(service).await;
        assert_eq!(
            http.app(&app.subdomain, "/").await.status,
            200,
            "after {service} came back"
        );
    }
    platform.kill("zectre-proxy").await;
    platform.start_service("zectre-proxy");
    platform.wait_ready("zectre-proxy").await;
    assert_eq!(
        http.app(&app.subdomain, "/").await.status,
        200,
        "after the proxy came back"
    );

    let after: BTreeSet<_> = tasks_of(deployment.id()).into_iter().collect();
    assert_eq!(before, after, "the same two processes");
    // The platform still does its work: a new deployment takes over, and the old processes end.
    let next = app
        .deploy_program(&server_program(), json!({"env": {"GREETING": "next"}}))
        .await
        .succeeded();
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("next "));
    wait_until(Duration::from_secs(60), "the old processes end", async || {
        tasks_of(deployment.id()).is_empty().then_some(())
    })
    .await;
    assert_eq!(tasks_of(next.id()).len(), 1);
}

#[tokio::test]
async fn a_deploy_is_waited_for_through_a_restart_of_the_api() {
    let mut platform = Daemons::start().await;
    let (cli, gate) = (platform.cli(), Gate::open().await);
    let directory = platform.directory().join("gated");
    fs::create_dir(&directory).expect("it is ours");
    fs::write(directory.join("zectre.yaml"), "name: gated\n").expect("it is ours");
    cli.run(&directory, &["projects", "add"]).await.success();
    let variable = format!("GATE={}", gate.address());
    cli.run(&directory, &["env", "add", &variable]).await.success();
    let program = server_program();
    let program = program.to_str().expect("a plain path");
    let mut deploy = cli.command(&directory, &["deploy", "--artifact", program, "--wait", "--json"]);
    let deploy = tokio::task::spawn_blocking(move || deploy.output());
    // Its task waits at the gate, so the command waits for it.
    let mut held = gate.arrival().await;
    platform.kill("zectre-api").await;
    platform.start_service("zectre-api");
    platform.wait_ready("zectre-api").await;
    assert!(!deploy.is_finished(), "it waits on");
    held.pass();
    let output = deploy.await.expect("no panic").expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let shown: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(shown["status"], "succeeded", "{shown:#}");
}

/// Nobody who asks for a page has to wait for the API.
#[tokio::test]
async fn what_sleeps_wakes_without_an_api() {
    let mut platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "sleepy").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let sleep = format!("/deployments/{}/sleep", deployment.id());
    http.post(&sleep, json!({})).await.expect_ok();
    app.wait_asleep(deployment.id()).await;
    assert!(tasks_of(deployment.id()).is_empty());
    platform.kill("zectre-api").await;
    // A proxy that began before a leader was elected learns of it within two seconds.
    wait_until(Duration::from_secs(60), "it wakes", async || {
        let answer = http.app(&app.subdomain, "/").await;
        (answer.status == 200).then_some(())
    })
    .await;
    assert_eq!(tasks_of(deployment.id()).len(), 1, "it was started");
    platform.start_service("zectre-api");
    platform.wait_ready("zectre-api").await;
    app.wait_running(deployment.id(), 1).await;
}

#[tokio::test]
async fn a_lost_hint_only_delays() {
    let mut platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "patient").await;
    // The API's nudge goes nowhere: the scheduler finds the deployment when it comes back.
    platform.kill("zectre-scheduler").await;
    let artifact = app.upload(&server_program()).await;
    let id = app
        .deploy(json!({"artifact_id": artifact, "environment": "production"}))
        .await;
    platform.start_service("zectre-scheduler");
    app.outcome(&id).await.succeeded();
    assert_eq!(http.app(&app.subdomain, "/").await.status, 200);
}

#[tokio::test]
async fn a_crashing_program_is_restarted_with_growing_pauses() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "crashy").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    for crashes in 1..=3 {
        app.wait_running(deployment.id(), 1).await;
        let _ = http
            .app_request(reqwest::Method::POST, &app.subdomain, "/crash")
            .send()
            .await;
        wait_until(Duration::from_secs(60), "the crash is noticed", async || {
            // The next one may run before anybody has seen that there was none.
            let failed = app.tasks(deployment.id(), &["failed"]).await;
            (failed.len() == crashes).then_some(())
        })
        .await;
    }
    let running = app.wait_running(deployment.id(), 1).await;
    assert_eq!(running[0]["restarts"], 3, "{:#}", running[0]);
    assert_eq!(app.deployment(deployment.id()).await["status"], "succeeded");
}
