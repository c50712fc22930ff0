//! Replicas, rollouts, rollback, sleep and wake.

use serde_json::{Value, json};
use std::{collections::BTreeSet, time::Duration};
use zectre_common::time::Time;
use zectre_e2e::{App, Daemons, Gate, Held, Http, Settings, server_program, tasks_of};
use zectre_testkit::{METRICS_TOKEN, wait_until};

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
    wait_until(Duration::from_secs(60), "all three replicas answer", async || {
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
    let replaced = wait_until(Duration::from_secs(60), "the dead one is replaced", async || {
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
    wait_until(Duration::from_secs(60), "the first one answers", async || {
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
    // The node's cache is over its bound whatever it holds.
    let small_cache = [
        ("agent", "artifact_cache_bytes_max", "1".to_owned()),
        ("agent", "collect_interval_ms", "100".to_owned()),
    ];
    let platform = Daemons::start_with(Settings::default(), &small_cache).await;
    let http = platform.http();
    let app = App::create(&http, "sleepy").await;
    // Long enough that a busy machine answers all that waited for it before it sleeps again.
    let deployment = app
        .deploy_program(&server_program(), json!({"idle_timeout_secs": 8}))
        .await
        .succeeded();
    app.wait_for(deployment.id(), "it sleeps", |deployment| {
        deployment["health"] == "asleep"
    })
    .await;
    wait_until(Duration::from_secs(60), "its processes are gone", async || {
        tasks_of(deployment.id()).is_empty().then_some(())
    })
    .await;
    let stopped = wait_until(Duration::from_secs(60), "its task's end is told", async || {
        app.tasks(deployment.id(), &["stopped"]).await.pop()
    })
    .await;
    assert_eq!(stopped["reason"], "idle");

    what_nothing_needs_is_collected(&platform, &http).await;
    let sent = sent_bytes(&platform).await;
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
    assert_eq!(
        sent_bytes(&platform).await,
        sent,
        "its artifact was not fetched again"
    );
}

/// Two runs to completion, of which nothing will need the first one's artifact again: waits until the node has dropped it.
async fn what_nothing_needs_is_collected(platform: &Daemons, http: &Http) {
    let app = App::create(http, "job").await;
    let artifacts = platform.directory().join("agent/artifacts");
    let mut here = Vec::new();
    for number in 0..2 {
        let path = platform.directory().join("job");
        let mut program = std::fs::read(server_program()).expect("it was compiled");
        // Beyond what the kernel loads: the same program, of another hash.
        program.push(number);
        std::fs::write(&path, program).expect("the directory is ours");
        let request = json!({"restart": "never", "env": {"MODE": "complete"}});
        let done = app.deploy_program(&path, request).await.succeeded();
        let artifact = done.deployment["artifact_id"].as_str().expect("it has one");
        let artifact = http.get(&format!("/artifacts/{artifact}")).await.expect(200);
        let sha256 = artifact["sha256"].as_str().expect("it was uploaded").to_owned();
        here.push(artifacts.join(format!("{sha256}-binary")));
    }
    wait_until(
        Duration::from_secs(60),
        "the first one's artifact goes",
        async || (!here[0].exists()).then_some(()),
    )
    .await;
    assert!(here[1].exists(), "the environment points to the last one");
}

/// What the registry has sent to anybody.
async fn sent_bytes(platform: &Daemons) -> String {
    let port = platform.admin_port("zectre-registry");
    let http = platform.http();
    let request = http.raw().get(format!("http://127.0.0.1:{port}/metrics"));
    let answer = request
        .bearer_auth(METRICS_TOKEN)
        .send()
        .await
        .expect("it answers");
    let text = answer.text().await.expect("text");
    let mut lines = text.lines().filter(|line| !line.starts_with('#'));
    let line = lines.find(|line| line.contains("registry_sent_bytes"));
    line.unwrap_or_else(|| panic!("it counts what it sends: {text}"))
        .to_owned()
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

/// Longer than the replacement of a crashed task is waited for.
const SLOW_START: Duration = Duration::from_secs(7);

async fn arrives(gate: &Gate, after: Duration) -> Held {
    let mut held = gate.arrival().await;
    tokio::time::sleep(after).await;
    held.pass();
    held
}

#[tokio::test]
async fn a_request_waits_for_a_program_that_takes_its_time_to_start() {
    let platform = Daemons::start().await;
    let (http, gate) = (platform.http(), Gate::open().await);
    let app = App::create(&http, "slow").await;
    let request = json!({"env": {"GATE": gate.address()}});
    let program = server_program();
    let (deployment, _first) = tokio::join!(
        app.deploy_program(&program, request),
        arrives(&gate, Duration::ZERO)
    );
    let deployment = deployment.succeeded();
    let sleep = format!("/deployments/{}/sleep", deployment.id());
    http.post(&sleep, json!({})).await.expect_ok();
    app.wait_asleep(deployment.id()).await;
    let (answer, _second) = tokio::join!(http.app(&app.subdomain, "/"), arrives(&gate, SLOW_START));
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A person puts it to sleep while a request waits for its start.
#[tokio::test]
async fn who_waits_for_what_is_put_to_sleep_wakes_it_again() {
    let platform = Daemons::start().await;
    let (http, gate) = (platform.http(), Gate::open().await);
    let app = App::create(&http, "drowsy").await;
    let request = json!({"env": {"GATE": gate.address()}});
    let program = server_program();
    let (deployment, _first) = tokio::join!(
        app.deploy_program(&program, request),
        arrives(&gate, Duration::ZERO)
    );
    let deployment = deployment.succeeded();
    let sleep = format!("/deployments/{}/sleep", deployment.id());
    http.post(&sleep, json!({})).await.expect_ok();
    app.wait_asleep(deployment.id()).await;
    let put_to_sleep = async {
        let started = gate.arrival().await;
        http.post(&sleep, json!({})).await.expect_ok();
        // The one that was started before is told to stop, and never passes.
        (started, arrives(&gate, Duration::ZERO).await)
    };
    let (answer, _held) = tokio::join!(http.app(&app.subdomain, "/"), put_to_sleep);
    assert_eq!(answer.status, 200, "{}", answer.text());
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
    wait_until(Duration::from_secs(60), "one process is left", async || {
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
    let lines = wait_until(Duration::from_secs(60), "its output is stored", async || {
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
    what_ends_with_zero_is_done_and_what_fails_is_started_again(&http).await;
}

/// `restart: on_failure`.
async fn what_ends_with_zero_is_done_and_what_fails_is_started_again(http: &Http) {
    let app = App::create(http, "willing").await;
    let request = json!({"restart": "on_failure"});
    let deployment = app.deploy_program(&server_program(), request).await.succeeded();
    let id = deployment.id();
    // A POST: the proxy may send a GET again, and that would take the next one along.
    let tell = async |path: &str| {
        let request = http.app_request(reqwest::Method::POST, &app.subdomain, path);
        drop(request.send().await.expect("the proxy answers"));
    };
    tell("/end").await;
    app.wait_asleep(id).await;
    assert!(tasks_of(id).is_empty());

    // A request wakes it like any that sleeps; from here on it fails.
    answering_task(http, &app).await;
    for failures in 1..=3 {
        app.wait_running(id, 1).await;
        tell("/crash").await;
        wait_until(Duration::from_secs(60), "its failure is told", async || {
            (app.tasks(id, &["failed"]).await.len() == failures).then_some(())
        })
        .await;
    }
    app.wait_running(id, 1).await;
    let named = app.deployment(id).await;
    assert_eq!(
        (&named["status"], &named["reason"]),
        (&json!("succeeded"), &json!("crash_loop"))
    );

    let mut tasks = app.tasks(id, &["stopped", "failed", "running"]).await;
    let time = |task: &Value, field: &str| -> Time {
        serde_json::from_value(task[field].clone()).unwrap_or_else(|error| panic!("{field}: {error}: {task}"))
    };
    tasks.sort_by_key(|task| time(task, "created_at"));
    let ends: Vec<_> = tasks
        .iter()
        .map(|task| {
            (
                &task["state"],
                &task["reason"],
                &task["exit_code"],
                &task["restarts"],
            )
        })
        .collect();
    let [stopped, failed, running, exited] = ["stopped", "failed", "running", "exited"].map(Value::from);
    let failure = |restarts| (&failed, &exited, json!(9), json!(restarts));
    let expected = [
        (&stopped, &exited, json!(0), json!(0)),
        failure(0),
        failure(1),
        failure(2),
        (&running, &Value::Null, Value::Null, json!(3)),
    ];
    let expected: Vec<_> = expected.iter().map(|(a, b, c, d)| (*a, *b, c, d)).collect();
    assert_eq!(
        ends, expected,
        "none was started after the first but by a request"
    );
    for (number, pair) in tasks[1..].windows(2).enumerate() {
        let pause = time(&pair[1], "started_at").since(time(&pair[0], "finished_at"));
        assert!(
            pause >= Duration::from_millis(200 << number),
            "after failure {number}: {pause:?}"
        );
    }

    who_asks_in_the_pause_of_a_crash_loop_is_told(http, &app, id).await;
}

/// It has failed three times by now, and runs.
async fn who_asks_in_the_pause_of_a_crash_loop_is_told(http: &Http, app: &App, id: &str) {
    // The pauses double: on a machine that is too busy for one a later one will do.
    for failures in 4..=8 {
        let crash = http.app_request(reqwest::Method::POST, &app.subdomain, "/crash");
        drop(crash.send().await.expect("the proxy answers"));
        wait_until(Duration::from_secs(60), "its failure is told", async || {
            (app.tasks(id, &["failed"]).await.len() == failures).then_some(())
        })
        .await;
        let told = http.app(&app.subdomain, "/").await;
        if told.status == 503 && told.json()["code"] == "CRASH_LOOP" {
            return;
        }
        app.wait_running(id, 1).await;
    }
    panic!("who asked in a pause was never told");
}
