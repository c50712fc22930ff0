//! Two hundred deploys, rollbacks and drains in a row, on three hosts, under a counting client and a counting origin:
//! not one request fails, and no POST is done twice.

use reqwest::Method;
use serde_json::json;
use std::{collections::BTreeMap, net::SocketAddr, time::Duration, time::Instant};
use zectre_e2e::{App, Hosts, Http, Ledger, Load, NODES, server_program};
use zectre_testkit::wait_until;

/// Connections of the counting client.
const CONNECTIONS: usize = 32;
/// What a slow request takes, in milliseconds: a task that is told to stop has something to finish.
const SLOW_MS: &str = "1000";
/// Changes in a row.
const CHANGES: usize = 200;
/// How long a drained node may take to be empty.
const DRAIN_DEADLINE: Duration = Duration::from_secs(30);

/// One of the two hundred.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// A version whose program ends as soon as it is told to.
    Prompt,
    /// A version whose program ignores that it is told to.
    Stubborn,
    /// Back to the version before.
    Rollback,
    /// A node is emptied, and used again.
    Drain,
}

/// A round of changes: each kind follows each other kind.
const ROUND: [Change; 10] = [
    Change::Prompt,
    Change::Stubborn,
    Change::Rollback,
    Change::Drain,
    Change::Stubborn,
    Change::Prompt,
    Change::Drain,
    Change::Prompt,
    Change::Rollback,
    Change::Stubborn,
];

struct Churn {
    hosts: Hosts,
    http: Http,
    app: App,
    artifact: String,
    current: String,
    previous: String,
    drains: usize,
}

impl Churn {
    async fn change(&mut self, change: Change) {
        match change {
            Change::Prompt => self.deploy("").await,
            Change::Stubborn => self.deploy("stubborn").await,
            Change::Rollback => self.roll_back().await,
            Change::Drain => self.drain().await,
        }
    }

    async fn deploy(&mut self, mode: &str) {
        let (ledger, book) = Ledger::variable();
        let env = json!({(ledger): book, "SLOW_MS": SLOW_MS, "MODE": mode});
        let request = json!({
            "artifact_id": self.artifact, "environment": "production", "replicas": 2, "stop_grace_secs": 1, "env": env,
        });
        let id = self.app.deploy(request).await;
        self.app.outcome(&id).await.succeeded();
        self.previous = std::mem::replace(&mut self.current, id);
    }

    async fn roll_back(&mut self) {
        let path = format!("/deployments/{}/rollback", self.current);
        self.http.post(&path, json!({})).await.expect(202);
        self.app
            .wait_for(&self.previous, "the version before is current", |deployment| {
                deployment["current"] == true
            })
            .await;
        std::mem::swap(&mut self.current, &mut self.previous);
    }

    async fn drain(&mut self) {
        let node = NODES[self.drains % NODES.len()];
        self.drains += 1;
        let nodes = self.http.get("/nodes").await.expect(200);
        let found = nodes["data"]
            .as_array()
            .and_then(|nodes| nodes.iter().find(|known| known["name"] == node));
        let id = found
            .and_then(|node| node["id"].as_str())
            .expect("the node has joined")
            .to_owned();
        self.http
            .post(&format!("/nodes/{id}/drain"), json!({}))
            .await
            .expect_ok();
        wait_until(DRAIN_DEADLINE, &format!("node {node} is empty"), async || {
            self.hosts.tasks_on(node).await.is_empty().then_some(())
        })
        .await;
        self.http
            .send(Method::POST, &format!("/nodes/{id}/uncordon"), json!({}))
            .await
            .expect_ok();
    }
}

#[tokio::test]
async fn two_hundred_deploys_rollbacks_and_drains_fail_no_request() {
    let hosts = Hosts::start().await;
    let ledger = Ledger::open(hosts.network(), &NODES);
    let http = hosts.http();
    let app = App::create(&http, "churned").await;
    let artifact = app.upload(&server_program()).await;
    let mut churn = Churn {
        hosts,
        http,
        app,
        artifact,
        current: String::new(),
        previous: String::new(),
        drains: 0,
    };
    churn.deploy("").await;
    let proxies = NODES.map(|node| SocketAddr::from(churn.hosts.proxy(node)));
    let load = Load::start(CONNECTIONS, &proxies, &churn.app.subdomain);
    load.more(300).await;

    let began = Instant::now();
    let mut times: BTreeMap<String, Duration> = BTreeMap::new();
    for number in 0..CHANGES {
        let (change, began) = (ROUND[number % ROUND.len()], Instant::now());
        churn.change(change).await;
        *times.entry(format!("{change:?}")).or_default() += began.elapsed();
    }
    let took = began.elapsed();
    churn.hosts.expect_settled().await;
    load.more(300).await;
    let tally = load.finish().await;
    eprintln!("{CHANGES} changes in {took:?} ({times:?}): {tally}");
    tally.expect_none_failed();
    tally.expect_each_post_once(&ledger);
}
