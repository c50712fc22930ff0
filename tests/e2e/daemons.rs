//! Separate daemons, each from its own program, talk only over HTTP and PostgreSQL.

use serde_json::json;
use std::process::Command;
use zectre_e2e::{App, Daemons, SERVICES, program, server_program};
use zectre_testkit::METRICS_TOKEN;

#[tokio::test]
async fn a_program_is_served_by_separate_daemons_that_all_tell_how_they_are() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "hello").await;
    app.deploy_program(&server_program(), json!({"env": {"GREETING": "hi"}}))
        .await
        .succeeded();
    let answer = http.app(&app.subdomain, "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.text().starts_with("hi task="), "{}", answer.text());

    zectre_testkit::wait_until(
        std::time::Duration::from_secs(60),
        "the series tell of it",
        async || {
            let series = http.get(&format!("/metrics/apps/{}", app.id)).await.expect(200);
            let points = series["points"].as_array().expect("points").clone();
            let sum = |field: &str| {
                points
                    .iter()
                    .filter_map(|point| point[field].as_f64())
                    .sum::<f64>()
            };
            let told = sum("requests") >= 1.0 && sum("replicas") > 0.0 && sum("memory_bytes") > 0.0;
            told.then_some(())
        },
    )
    .await;
    for service in SERVICES {
        let url = |path: &str| format!("http://127.0.0.1:{}{path}", platform.admin_port(service));
        for (path, marker) in [
            ("/health", "ok"),
            ("/ready", "\"ready\":true"),
            ("/metrics", "zectre_"),
        ] {
            let response = http
                .raw()
                .get(url(path))
                .bearer_auth(METRICS_TOKEN)
                .send()
                .await
                .expect("every daemon answers");
            assert_eq!(response.status(), 200, "{service}{path}");
            let body = response.text().await.expect("a body");
            assert!(body.contains(marker), "{service}{path}: {body}");
        }
        let closed = http.raw().get(url("/metrics")).send().await.expect("an answer");
        assert_eq!(closed.status(), 401, "{service}");
    }
}

#[tokio::test]
async fn a_request_id_follows_a_request_through_the_services() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "traced").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let path = format!("/api/v1/deployments/{}/sleep", deployment.id());
    let request = http
        .request(reqwest::Method::POST, &path)
        .header("x-request-id", "follow-me-1")
        .json(&json!({}));
    let response = request.send().await.expect("an answer");
    assert!(response.status().is_success());
    assert_eq!(response.headers()["x-request-id"], "follow-me-1");
    let services_that_logged_it = |logs: &str| {
        let lines = logs.lines().filter(|line| line.contains("follow-me-1"));
        ["zectre-api", "zectre-scheduler"]
            .iter()
            .filter(|name| lines.clone().any(|line| line.contains(**name)))
            .count()
    };
    zectre_testkit::wait_until(
        std::time::Duration::from_secs(60),
        "both services log the id",
        async || (services_that_logged_it(&platform.logs()) == 2).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_wrong_configuration_is_told_before_anything_is_opened() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let config = directory.path().join("config.toml");
    std::fs::write(&config, "[proxy]\nport = \"many\"\n").expect("it is ours");
    for service in SERVICES {
        let output = Command::new(program(service))
            .arg("--config")
            .arg(&config)
            .output()
            .expect("it was built");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{service}: {said}");
        assert!(
            said.contains("proxy.port") && said.contains("config.toml"),
            "{service}: {said}"
        );
    }
    let output = Command::new(program("zectre-api"))
        .args(["--config", "/nowhere.toml"])
        .output()
        .expect("it was built");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/nowhere.toml"));
}
