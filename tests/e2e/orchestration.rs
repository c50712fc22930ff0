//! Replicas, rollouts, rollback, sleep and wake.

use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use zectre_e2e::{App, Daemons, Http, server_program, tasks_of};
use zectre_testkit::wait_until;

/// Which task answered.
async fn answering_task(http: &Http, app: &App) -> String {
    let answer = http.app(&app.subdomain, "/").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let text = answer.text();
    text.split_once("task=")
        .expect("it says who it is")
        .1
        .split(' ')
        .next()
        .expect("an id")
        .to_owned()
}

#[tokio::test]
async fn replicas_share_the_load_and_a_dead_one_is_replaced() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "many").await;
    let deployment = app
        .deploy_program(&server_program(), json!({"replicas": 3}))
        .await
        .succeeded();
    app.wait_running(deployment.id(), 3).await;
    let mut seen = BTreeSet::new();
    wait_until(Duration::from_secs(20), "all three replicas answer", async || {
        seen.insert(answering_task(&http, &app).await);
        (seen.len() == 3).then_some(())
    })
    .await;

    // One dies by itself; nobody else notices, and there are three again, one of them new.
    // (A POST: the proxy may send a GET again, and that would take the next one along.)
    let _ = http
        .app_request(reqwest::Method::POST, &app.subdomain, "/crash")
        .send()
        .await;
    let replaced = wait_until(Duration::from_secs(30), "the dead one is replaced", async || {
        let running = app.tasks(deployment.id(), &["running"]).await;
        let ids: BTreeSet<_> = running
            .iter()
            .map(|task| task["id"].as_str().unwrap_or_default().to_owned())
            .collect();
        (ids.len() == 3 && ids != seen).then_some(ids)
    })
    .await;
    let dead: Vec<_> = seen.difference(&replaced).collect();
    assert_eq!(dead.len(), 1, "only the one that crashed was replaced");
    let task = http.get(&format!("/tasks/{}", dead[0])).await.expect(200);
    assert_eq!(
        (&task["state"], &task["reason"], &task["exit_code"]),
        (&json!("failed"), &json!("exited"), &json!(9))
    );
    for _ in 0..30 {
        answering_task(&http, &app).await;
    }
    assert_eq!(tasks_of(deployment.id()).len(), 3, "three processes, no more");
}

#[tokio::test]
async fn a_broken_deployment_never_takes_over_and_rollback_goes_back() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "careful").await;
    let program = server_program();
    let greeting = async || {
        http.app(&app.subdomain, "/")
            .await
            .text()
            .split(' ')
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    let first = app
        .deploy_program(&program, json!({"env": {"GREETING": "one"}}))
        .await
        .succeeded();
    assert_eq!(greeting().await, "one");

    let broken = app
        .deploy_program(&program, json!({"env": {"GREETING": "broken", "MODE": "exit"}}))
        .await;
    assert_eq!(broken.failed(), "exited");
    assert_eq!(greeting().await, "one");
    assert_eq!(app.deployment(first.id()).await["current"], true);

    let second = app
        .deploy_program(&program, json!({"env": {"GREETING": "two"}}))
        .await
        .succeeded();
    assert_eq!(greeting().await, "two");
    assert_eq!(app.deployment(second.id()).await["current"], true);

    http.post(&format!("/deployments/{}/rollback", second.id()), json!({}))
        .await
        .json();
    app.wait_for(first.id(), "the first one is current again", |deployment| {
        deployment["current"] == true
    })
    .await;
    wait_until(Duration::from_secs(10), "the first one answers", async || {
        (greeting().await == "one").then_some(())
    })
    .await;
    assert_eq!(
        app.deployment(second.id()).await["status"],
        "succeeded",
        "a superseded deployment stays what it was"
    );
}

#[tokio::test]
async fn no_request_is_dropped_while_deployments_follow_each_other() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "busy").await;
    let program = server_program();
    app.deploy_program(&program, json!({"replicas": 2, "env": {"GREETING": "v0"}}))
        .await
        .succeeded();
    let stop = tokio_stop();
    let clients: Vec<_> = (0..4)
        .map(|_| load(http.clone(), app.subdomain.clone(), stop.clone()))
        .collect();
    let load = futures_util::future::join_all(clients);
    let deploys = async {
        for version in 1..=3 {
            // The last one does not go when asked: it is stopped the hard way, and still nothing is lost.
            let mode = if version == 2 { "stubborn" } else { "" };
            let env = json!({"GREETING": format!("v{version}"), "MODE": mode});
            app.deploy_program(&program, json!({"replicas": 2, "stop_grace_secs": 1, "env": env}))
                .await
                .succeeded();
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let (counts, ()) = tokio::join!(load, deploys);
    let (answered, failed): (usize, Vec<String>) =
        counts
            .into_iter()
            .fold((0, Vec::new()), |(sum, mut all), (count, failed)| {
                all.extend(failed);
                (sum + count, all)
            });
    assert!(
        failed.is_empty(),
        "{} of {answered} requests failed, the first: {}",
        failed.len(),
        failed[0]
    );
    assert!(answered > 100, "the clients were at work: {answered} answers");
}

fn tokio_stop() -> std::sync::Arc<std::sync::atomic::AtomicBool> {
    std::sync::Arc::default()
}

/// One client in a loop: how many answers it got, and what each failure said.
async fn load(
    http: Http,
    host: String,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
) -> (usize, Vec<String>) {
    let (mut answered, mut failed) = (0, Vec::new());
    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
        match http.app_request(reqwest::Method::GET, &host, "/").send().await {
            Ok(response) if response.status() == 200 => answered += 1,
            Ok(response) => failed.push(format!(
                "{}: {}",
                response.status(),
                response.text().await.unwrap_or_default()
            )),
            Err(error) => failed.push(error.to_string()),
        }
    }
    (answered, failed)
}

#[tokio::test]
async fn an_idle_deployment_sleeps_and_the_next_request_wakes_it_once() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "sleepy").await;
    let deployment = app
        .deploy_program(&server_program(), json!({"idle_timeout_secs": 1}))
        .await
        .succeeded();
    app.wait_for(deployment.id(), "it sleeps", |deployment| {
        deployment["health"] == "asleep"
    })
    .await;
    wait_until(Duration::from_secs(10), "its processes are gone", async || {
        tasks_of(deployment.id()).is_empty().then_some(())
    })
    .await;

    let before = started(&app, deployment.id()).await;
    let requests = (0..200).map(|_| http.app(&app.subdomain, "/"));
    let answers = futures_util::future::join_all(requests).await;
    for answer in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert!(
        answers
            .iter()
            .any(|answer| answer.headers.contains_key("server-timing")),
        "the wake is shown"
    );
    assert_eq!(
        started(&app, deployment.id()).await,
        before + 1,
        "one start for all of them"
    );
}

/// How many tasks there ever were.
async fn started(app: &App, deployment: &str) -> usize {
    app.tasks(
        deployment,
        &["pending", "starting", "running", "stopping", "stopped", "failed"],
    )
    .await
    .len()
}

#[tokio::test]
async fn scaling_goes_up_and_down_and_to_zero() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "elastic").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let scale = async |replicas: u32| -> Value {
        let path = format!("/deployments/{}", deployment.id());
        http.send(reqwest::Method::PATCH, &path, json!({"replicas": replicas}))
            .await
            .expect(200)
    };
    assert_eq!(scale(3).await["replicas"], 3);
    app.wait_running(deployment.id(), 3).await;
    scale(1).await;
    app.wait_running(deployment.id(), 1).await;
    wait_until(Duration::from_secs(20), "one process is left", async || {
        (tasks_of(deployment.id()).len() == 1).then_some(())
    })
    .await;
    scale(0).await;
    app.wait_for(deployment.id(), "it sleeps", |deployment| {
        deployment["health"] == "asleep"
    })
    .await;
}

#[tokio::test]
async fn a_program_that_runs_to_completion_succeeds_with_zero_and_fails_otherwise() {
    let platform = Daemons::start().await;
    let http = platform.http();
    let app = App::create(&http, "job").await;
    let program = server_program();
    let done = app
        .deploy_program(&program, json!({"restart": "never", "env": {"MODE": "complete"}}))
        .await
        .succeeded();
    let lines = wait_until(Duration::from_secs(20), "its output is stored", async || {
        let lines = http
            .get(&format!("/deployments/{}/logs", done.id()))
            .await
            .expect(200);
        lines.to_string().contains("all work done").then_some(lines)
    })
    .await;
    assert!(lines.is_array());
    let failed = app
        .deploy_program(&program, json!({"restart": "never", "env": {"MODE": "exit"}}))
        .await;
    assert_eq!(failed.failed(), "exited");
}
