//! Three hosts, separate daemons, one PostgreSQL, and every fault of the book, under a counting client and a counting
//! origin.
//!
//! Every request through any proxy is counted. None of them may fail, in flight or not, with two exceptions that no
//! proxy can take away (docs/PROXY_ERRORS.md tells them to users), each as narrow as it can be said:
//!
//! 1. *A POST that was cut off before its answer.* It was handed to a replica on a host which was then cut off, and may
//!    have been done, so it is not repeated; its client is told `BAD_GATEWAY`. It must have begun before the cut could be
//!    noticed and been under way at the cut or after it, and each connection can lose one at most. [`counted`] says so.
//! 2. *A request through a proxy while that is killed*: from the kill until it is ready again, at the killed proxy's own
//!    address only. `every_daemon_is_killed_in_turn_and_no_request_fails` says so. Nobody asks the proxy of a host that
//!    is cut off.
//!
//! No POST is ever done twice, and each that was answered with 200 was done. Nobody waits for long, either.

use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::{Duration, Instant},
};
use zectre_e2e::{
    ANSWER_DEADLINE, App, CONTROL, DAEMONS, DATABASE, Daemon, Failure, Hosts, Kind, Ledger, Load, NODE_LEASE,
    NODES, Outcome, STANDBY, Tally, processes_with, server_program,
};
use zectre_testkit::wait_until;

/// Connections of the counting client.
const CONNECTIONS: usize = 16;
/// How long a cut may go unnoticed: a proxy asks a silent replica after a second, and gives it two to answer; twice as long
/// on a busy machine.
const NOTICE: Duration = Duration::from_secs(8);
/// What is allowed beside the lease for noticing its end, placing and starting.
const REPLACE: Duration = Duration::from_secs(5);
/// What a request may take while nothing is cut off: programs answer in 0.1 s, the rest is the machine's. Less than a lease,
/// and far less than an outage: it waits for neither.
const PROMPT: Duration = Duration::from_secs(9);
/// Within how long another scheduler leads, once the database knows that the former one is gone.
const SUCCESSION: Duration = Duration::from_secs(5);
/// How long the database waits for a leader that it hears nothing of (`idle_session_timeout`).
const SILENCE: Duration = Duration::from_secs(3);
/// What the proxy says of a request that a task may have done.
const PERHAPS_DONE: &str = "BAD_GATEWAY";
/// An outage of the database.
const OUTAGE: Duration = Duration::from_secs(30);

/// A platform over three hosts with one application that runs three times, and the book of what it did.
struct Stage {
    hosts: Hosts,
    ledger: Ledger,
    app: App,
    deployment: String,
}

impl Stage {
    async fn set() -> Self {
        let hosts = Hosts::start().await;
        let ledger = Ledger::open(hosts.network(), &NODES);
        let app = App::create(&hosts.http(), "counted").await;
        let deployment = deploy(&app, 3).await.id().to_owned();
        app.wait_running(&deployment, 3).await;
        Self {
            hosts,
            ledger,
            app,
            deployment,
        }
    }

    /// Load through the proxies of these nodes.
    fn load(&self, nodes: &[&str]) -> Load {
        let proxies: Vec<_> = nodes
            .iter()
            .map(|node| SocketAddr::from(self.hosts.proxy(node)))
            .collect();
        Load::start(CONNECTIONS, &proxies, &self.app.subdomain)
    }

    /// How many tasks run on each node.
    async fn places(&self) -> BTreeMap<String, usize> {
        let mut places = BTreeMap::new();
        for task in self.app.tasks(&self.deployment, &["running"]).await {
            let node = task["node"].as_str().expect("a running task has a node");
            *places.entry(node.to_owned()).or_default() += 1;
        }
        places
    }

    /// A new deployment takes over: the platform still does its work.
    async fn expect_at_work(&mut self) {
        deploy(&self.app, 3).await.id().clone_into(&mut self.deployment);
        self.hosts.expect_settled().await;
    }

    /// Ids of the processes of the deployment.
    fn processes(&self) -> BTreeSet<i32> {
        processes_with(&format!("DEPLOYMENT_ID={}", self.deployment))
            .into_iter()
            .collect()
    }
}

async fn deploy(app: &App, replicas: u32) -> Outcome {
    let (ledger, book) = Ledger::variable();
    let env = json!({(ledger): book, "SLOW_MS": "100"});
    let request = json!({"replicas": replicas, "env": env, "stop_grace_secs": 1});
    app.deploy_program(&server_program(), request).await.succeeded()
}

/// The failures that count: all but the first POST of each connection that was on its way to a host when that was cut
/// off.
fn counted(tally: &Tally, cut: Instant) -> Vec<&Failure> {
    let mut have_lost = BTreeSet::new();
    let mut excused = |failure: &Failure| {
        failure.kind == Kind::Post
            && failure.code.as_deref() == Some(PERHAPS_DONE)
            && failure.began < cut + NOTICE
            && failure.began + failure.took >= cut
            && have_lost.insert(failure.connection)
    };
    let mut counted = Vec::new();
    for failure in &tally.failures {
        if !excused(failure) {
            counted.push(failure);
        }
    }
    counted
}

fn tell(what: &str, tally: &Tally) {
    eprintln!("{what}: {tally}");
}

#[tokio::test]
async fn a_node_that_is_cut_off_is_replaced_and_its_tasks_are_stopped_when_it_returns() {
    let stage = Stage::set().await;
    let lost = *NODES
        .iter()
        .max_by_key(|node| stage.hosts.network().processes(node).len())
        .expect("three");
    let others: Vec<_> = NODES.into_iter().filter(|node| *node != lost).collect();
    assert!(
        stage.places().await.keys().any(|node| node != lost),
        "a healthy replica remains"
    );
    let load = stage.load(&others);
    load.more(500).await;

    let cut = Instant::now();
    stage.hosts.network().cut(lost);
    expect_replaced(&stage, lost, cut).await;
    // So long that whatever was on its way to the lost node must have been answered from elsewhere.
    tokio::time::sleep(ANSWER_DEADLINE.saturating_sub(cut.elapsed())).await;
    load.more(500).await;
    stage.hosts.network().mend(lost);
    stage.hosts.wait_nodes_ready().await;
    stage.hosts.expect_settled().await;
    load.more(500).await;

    let tally = load.finish().await;
    tell("a node was cut off", &tally);
    let counted = counted(&tally, cut);
    assert!(
        counted.is_empty(),
        "{} requests failed, the first: {}",
        counted.len(),
        counted[0]
    );
    tally.expect_answers_within(NODE_LEASE + REPLACE);
    tally.expect_each_post_once(&stage.ledger);
}

#[tokio::test]
async fn a_node_that_only_the_platform_has_lost_goes_on_serving_until_it_is_replaced() {
    let stage = Stage::set().await;
    let lost = *NODES
        .iter()
        .max_by_key(|node| stage.hosts.network().processes(node).len())
        .expect("three");
    let load = stage.load(&NODES);
    load.more(500).await;

    let cut = Instant::now();
    for host in [CONTROL, STANDBY] {
        stage.hosts.network().part(lost, host);
    }
    expect_replaced(&stage, lost, cut).await;
    load.more(500).await;
    for host in [CONTROL, STANDBY] {
        stage.hosts.network().join(lost, host);
    }
    stage.hosts.wait_nodes_ready().await;
    stage.hosts.expect_settled().await;
    load.more(500).await;

    let tally = load.finish().await;
    tell("a node was lost to the platform only", &tally);
    tally.expect_none_failed();
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
}

async fn expect_replaced(stage: &Stage, lost: &str, cut: Instant) {
    let within = (NODE_LEASE + REPLACE).saturating_sub(cut.elapsed());
    wait_until(within, "the tasks of the lost node run elsewhere", async || {
        let places = stage.places().await;
        let elsewhere = places.values().sum::<usize>() == 3 && !places.contains_key(lost);
        elsewhere.then_some(())
    })
    .await;
    eprintln!("replaced {:?} after the cut", cut.elapsed());
}

#[tokio::test]
async fn every_daemon_is_killed_in_turn_and_no_request_fails() {
    let mut stage = Stage::set().await;
    let processes = stage.processes();
    let load = stage.load(&NODES);
    load.more(300).await;
    let mut killed = Vec::new();
    for daemon in DAEMONS {
        let led = stage.hosts.leader().await == daemon;
        let away = Instant::now();
        stage.hosts.kill(daemon).await;
        if led {
            expect_other_leader(&stage.hosts, daemon, SUCCESSION).await;
        }
        load.more(100).await;
        stage.hosts.start_daemon(daemon);
        stage.hosts.wait_ready(daemon).await;
        killed.push((daemon, away, Instant::now()));
        load.more(100).await;
    }
    stage.hosts.wait_nodes_ready().await;
    assert_eq!(stage.processes(), processes, "the same three processes");

    let tally = load.finish().await;
    tell("every daemon was killed in turn", &tally);
    let of_killed_proxy = |failure: &&Failure| {
        killed.iter().any(|((host, service), away, back)| {
            *service == "zectre-proxy"
                && SocketAddr::from(stage.hosts.proxy(host)) == failure.proxy
                && (*away..*back).contains(&(failure.began + failure.took))
        })
    };
    let counted: Vec<_> = tally
        .failures
        .iter()
        .filter(|failure| !of_killed_proxy(failure))
        .collect();
    assert!(
        counted.is_empty(),
        "{} requests failed, the first: {}",
        counted.len(),
        counted[0]
    );
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
    stage.expect_at_work().await;
}

/// A follower takes over soon.
async fn expect_other_leader(hosts: &Hosts, former: Daemon, within: Duration) {
    let began = Instant::now();
    wait_until(within, "another scheduler leads", async || {
        (hosts.leader().await != former).then_some(())
    })
    .await;
    eprintln!(
        "another scheduler led {:?} after {former:?} was gone",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_scheduler_that_stays_away_costs_no_node_and_no_wake() {
    let mut stage = Stage::set().await;
    let processes = stage.processes();
    let load = stage.load(&NODES);
    // The one that agents and the API ask first.
    let first = (CONTROL, "zectre-scheduler");
    stage.hosts.kill(first).await;
    expect_other_leader(&stage.hosts, first, SUCCESSION).await;
    tokio::time::sleep(2 * NODE_LEASE).await;
    stage.hosts.wait_nodes_ready().await;
    stage.hosts.expect_settled().await;
    assert_eq!(stage.processes(), processes, "no node was taken for lost");

    let http = stage.hosts.http();
    let sleepy = App::create(&http, "sleepy").await;
    let deployment = deploy(&sleepy, 1).await;
    let sleep = format!("/deployments/{}/sleep", deployment.id());
    http.post(&sleep, json!({})).await.expect_ok();
    sleepy.wait_asleep(deployment.id()).await;
    http.app(&sleepy.subdomain, "/").await.expect_ok();

    let tally = load.finish().await;
    tell("a scheduler stayed away", &tally);
    tally.expect_none_failed();
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
    stage.hosts.start_daemon(first);
    stage.hosts.wait_ready(first).await;
    stage.expect_at_work().await;
}

#[tokio::test]
async fn the_host_of_the_leader_is_cut_off_and_the_other_one_leads() {
    let mut stage = Stage::set().await;
    let load = stage.load(&NODES);
    // Agents and the API speak to the first scheduler; the leader is to be the other one.
    let first = (CONTROL, "zectre-scheduler");
    stage.hosts.kill(first).await;
    expect_other_leader(&stage.hosts, first, SUCCESSION).await;
    stage.hosts.start_daemon(first);
    stage.hosts.wait_ready(first).await;
    stage.hosts.wait_nodes_ready().await;

    stage.hosts.network().cut(STANDBY);
    expect_other_leader(&stage.hosts, (STANDBY, "zectre-scheduler"), SILENCE + SUCCESSION).await;
    deploy(&stage.app, 3).await.id().clone_into(&mut stage.deployment);
    stage.hosts.network().mend(STANDBY);
    stage.expect_at_work().await;
    assert_eq!(
        stage.hosts.leader().await,
        first,
        "the former leader is a follower"
    );
    let tally = load.finish().await;
    tell("the leader's host was cut off", &tally);
    tally.expect_none_failed();
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
}

/// How PostgreSQL goes away.
#[derive(Debug, Clone, Copy)]
enum Outage {
    /// Its processes end, and start again.
    Crashed,
    /// Its processes stand still.
    Frozen,
    /// Its host is cut off.
    CutOff,
}

#[tokio::test]
async fn postgresql_crashes_for_half_a_minute_and_no_request_fails() {
    outage(Outage::Crashed).await;
}

#[tokio::test]
async fn postgresql_stands_still_for_half_a_minute_and_no_request_fails() {
    outage(Outage::Frozen).await;
}

#[tokio::test]
async fn postgresql_is_cut_off_for_half_a_minute_and_no_request_fails() {
    outage(Outage::CutOff).await;
}

async fn outage(outage: Outage) {
    let mut stage = Stage::set().await;
    let processes = stage.processes();
    let load = stage.load(&NODES);
    load.more(300).await;
    let (postgres, network) = stage.hosts.postgres();
    match outage {
        Outage::Crashed => postgres.crash().await,
        Outage::Frozen => postgres.freeze(network),
        Outage::CutOff => network.cut(DATABASE),
    }
    tokio::time::sleep(OUTAGE).await;
    match outage {
        Outage::Crashed => postgres.start_again(network).await,
        Outage::Frozen => postgres.thaw(network),
        Outage::CutOff => network.mend(DATABASE),
    }
    load.more(300).await;
    stage.hosts.wait_nodes_ready().await;
    stage.hosts.expect_settled().await;
    assert_eq!(stage.processes(), processes, "the same three processes");
    stage.expect_at_work().await;

    let tally = load.finish().await;
    tell(&format!("PostgreSQL: {outage:?}"), &tally);
    tally.expect_none_failed();
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
}

#[tokio::test]
async fn everything_is_killed_at_once_and_the_programs_go_on() {
    let mut stage = Stage::set().await;
    let processes = stage.processes();
    expect_remembered(&stage).await;
    for daemon in DAEMONS {
        stage.hosts.kill(daemon).await;
    }
    let (postgres, _) = stage.hosts.postgres();
    postgres.crash().await;
    assert_eq!(stage.processes(), processes, "tasks need no platform");
    // Else a connection of the proxies that are about to start could get it.
    assert!(NODES.iter().all(|node| stage.hosts.keeps_agent_port(node)));

    // Proxies serve what they knew, before anything else is back.
    let (proxies, others): (Vec<Daemon>, Vec<Daemon>) = DAEMONS
        .into_iter()
        .partition(|(_, service)| *service == "zectre-proxy");
    for daemon in &proxies {
        stage.hosts.start_daemon(*daemon);
    }
    for daemon in &proxies {
        stage.hosts.wait_ready(*daemon).await;
    }
    let load = stage.load(&NODES);
    load.more(300).await;
    let (postgres, network) = stage.hosts.postgres();
    postgres.start_again(network).await;
    for daemon in &others {
        stage.hosts.start_daemon(*daemon);
    }
    for daemon in &others {
        stage.hosts.wait_ready(*daemon).await;
    }
    stage.hosts.wait_nodes_ready().await;
    stage.hosts.expect_settled().await;
    assert_eq!(stage.processes(), processes, "the same three processes");
    stage.expect_at_work().await;

    let tally = load.finish().await;
    tell("everything was killed at once", &tally);
    tally.expect_none_failed();
    tally.expect_answers_within(PROMPT);
    tally.expect_each_post_once(&stage.ledger);
}

/// Waits until every proxy has the three tasks on disk, which is at most a second after it routes to them.
async fn expect_remembered(stage: &Stage) {
    let tasks = stage.app.tasks(&stage.deployment, &["running"]).await;
    let tasks: Vec<_> = tasks.iter().filter_map(|task| task["id"].as_str()).collect();
    assert_eq!(tasks.len(), 3);
    for node in NODES {
        let snapshot = stage.hosts.snapshot(node);
        wait_until(Duration::from_secs(60), "the routes are on disk", async || {
            let written = std::fs::read_to_string(&snapshot).ok()?;
            tasks.iter().all(|task| written.contains(task)).then_some(())
        })
        .await;
    }
}
