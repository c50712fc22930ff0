//! How a new version takes over: `canary` by a share of the requests, `blue_green` at once, `recreate` after the old one.

use futures_util::{StreamExt, stream};
use reqwest::Method;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use zectre_e2e::{App, Daemons, Gate, Held, Http, server_program, tasks_of};
use zectre_testkit::wait_until;

/// An application with a program, and who asks it.
struct Scene {
    http: Http,
    app: App,
    artifact: String,
}

impl Scene {
    async fn create(http: &Http, name: &str) -> Self {
        let app = App::create(http, name).await;
        let artifact = app.upload(&server_program()).await;
        let http = http.clone();
        Self { http, app, artifact }
    }

    /// Deploys two replicas that greet with `greeting`; gives the deployment's id.
    async fn deploy(&self, greeting: &str, strategy: Value, env: Value) -> String {
        let mut request = json!({
            "artifact_id": self.artifact, "environment": "production", "replicas": 2, "strategy": strategy,
            "stop_grace_secs": 1, "env": env,
        });
        request["env"]["GREETING"] = greeting.into();
        self.app.deploy(request).await
    }

    /// Waits until the rollout has ended well.
    async fn serves(&self, deployment: &str) {
        self.app.outcome(deployment).await.succeeded();
    }

    /// Which version answers.
    async fn greeting(&self) -> String {
        let answer = self.http.app(&self.app.subdomain, "/").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        let text = answer.text();
        text.split(' ').next().unwrap_or_default().to_owned()
    }

    /// How many of so many requests each version answers.
    async fn greetings(&self, requests: usize) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        let mut answers = stream::iter((0..requests).map(|_| self.greeting())).buffer_unordered(8);
        while let Some(greeting) = answers.next().await {
            *counts.entry(greeting).or_default() += 1;
        }
        counts
    }

    async fn expect_only(&self, greeting: &str) {
        let counts = self.greetings(60).await;
        assert_eq!(counts, BTreeMap::from([(greeting.into(), 60)]));
    }
}

#[tokio::test]
async fn each_strategy_takes_over_as_it_says() {
    let platform = Daemons::start().await;
    let http = platform.http();
    tokio::join!(canary(&http), blue_green(&http), recreate(&http));
}

/// A canary answers its share until it is promoted; one that fails is taken back.
async fn canary(http: &Http) {
    let scene = Scene::create(http, "tried").await;
    let on_trial = json!({"type": "canary", "weight": 25});
    let old = scene.deploy("old", json!("rolling"), json!({})).await;
    scene.serves(&old).await;

    let new = scene.deploy("new", on_trial.clone(), json!({})).await;
    wait_until(Duration::from_secs(60), "the canary answers", async || {
        (scene.greeting().await == "new").then_some(())
    })
    .await;
    // A fair coin of 25 % is within these in all but one of 10^10 runs.
    let counts = scene.greetings(400).await;
    let share = counts.get("new").copied().unwrap_or_default();
    assert!((40..=170).contains(&share), "{counts:?}");
    assert_eq!(share + counts["old"], 400, "{counts:?}");
    let trial = scene.app.deployment(&new).await;
    assert_eq!(
        (&trial["status"], &trial["current"]),
        (&json!("running"), &json!(false))
    );
    assert_eq!(
        scene.app.tasks(&new, &["running"]).await.len(),
        1,
        "a quarter of two"
    );

    let promote = format!("/deployments/{new}/promote");
    http.post(&promote, json!({})).await.expect(202);
    scene.serves(&new).await;
    scene.expect_only("new").await;
    scene.app.wait_running(&new, 2).await;

    let broken = scene.deploy("broken", on_trial, json!({})).await;
    wait_until(Duration::from_secs(60), "the next canary answers", async || {
        (scene.greeting().await == "broken").then_some(())
    })
    .await;
    let failed = wait_until(Duration::from_secs(60), "the canary has failed", async || {
        for pid in tasks_of(&broken) {
            let pid = nix::unistd::Pid::from_raw(pid);
            // It may have ended meanwhile.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        let deployment = scene.app.deployment(&broken).await;
        (deployment["status"] != "running").then_some(deployment)
    })
    .await;
    assert_eq!(
        (&failed["status"], &failed["reason"]),
        (&json!("failed"), &json!("exited"))
    );
    wait_until(Duration::from_secs(60), "nothing of it is left", async || {
        tasks_of(&broken).is_empty().then_some(())
    })
    .await;
    scene.expect_only("new").await;
    assert_eq!(scene.app.deployment(&new).await["current"], true);
}

/// The old version alone serves until the new one is whole; then the new one alone does, and no request fails.
async fn blue_green(http: &Http) {
    let scene = Scene::create(http, "switched").await;
    let gate = Gate::open().await;
    let old = scene.deploy("old", json!("rolling"), json!({})).await;
    scene.serves(&old).await;
    let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let client = |_| {
        watch(
            http.clone(),
            scene.app.subdomain.clone(),
            stop.clone(),
            answered.clone(),
        )
    };
    let clients = futures_util::future::join_all((0..4).map(client));

    let switch = async {
        let env = json!({"GATE": gate.address()});
        let new = scene.deploy("new", json!("blue_green"), env).await;
        let (mut first, mut second) = (gate.arrival().await, gate.arrival().await);
        first.pass();
        scene.app.wait_running(&new, 1).await;
        scene.expect_only("old").await;
        second.pass();
        scene.serves(&new).await;
        scene.expect_only("new").await;
        let enough = answered.load(Relaxed) + 20;
        wait_until(Duration::from_secs(60), "the clients went on", async || {
            (answered.load(Relaxed) >= enough).then_some(())
        })
        .await;
        stop.store(true, Relaxed);
    };
    let (all_seen, ()) = tokio::join!(clients, switch);
    for seen in all_seen {
        assert_eq!(seen, ["old", "new"], "in this order, and nothing else");
    }
}

/// What one client in a loop got: each change of what it saw, failures too.
async fn watch(http: Http, host: String, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    while !stop.load(Relaxed) {
        let saw = match http.app_request(Method::GET, &host, "/").send().await {
            Ok(response) if response.status() == 200 => {
                let text = response.text().await.unwrap_or_else(|error| format!("{error:?}"));
                text.split(" task=").next().unwrap_or_default().to_owned()
            }
            Ok(response) => format!(
                "{}: {}",
                response.status(),
                response.text().await.unwrap_or_default()
            ),
            Err(error) => format!("{error:?}"),
        };
        if seen.last() != Some(&saw) {
            seen.push(saw);
        }
        answered.fetch_add(1, Relaxed);
    }
    seen
}

/// All of the old version has ended before any of the new one is started, also where it doesn't go when told.
async fn recreate(http: &Http) {
    let scene = Scene::create(http, "replaced").await;
    let gate = Gate::open().await;
    let env = |mode: &str| json!({"GATE": gate.address(), "MODE": mode});
    let old = scene.deploy("old", json!("rolling"), env("stubborn")).await;
    let mut olds = [gate.arrival().await, gate.arrival().await];
    for old in &mut olds {
        old.pass();
    }
    scene.serves(&old).await;
    scene.expect_only("old").await;
    assert!(olds.iter().all(Held::lives));

    let new = scene.deploy("new", json!("recreate"), env("")).await;
    for _ in 0..2 {
        let mut started = gate.arrival().await;
        assert_eq!(started.greeting, "new");
        assert!(
            !olds.iter().any(Held::lives),
            "one of the old version lives beside the new one"
        );
        started.pass();
    }
    scene.serves(&new).await;
    scene.expect_only("new").await;
    assert!(!olds.iter().any(Held::lives) && tasks_of(&old).is_empty());
    assert_eq!(tasks_of(&new).len(), 2);
}
