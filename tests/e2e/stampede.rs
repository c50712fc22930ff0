//! A thousand first requests at once for a sleeping deployment, through the proxies of three hosts: it is started once,
//! and everyone is answered.

use serde_json::json;
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
};
use zectre_e2e::{App, Hosts, NODES, processes_with, server_program};
use zectre_testkit::wait_until;

const REQUESTS: usize = 1_000;

#[tokio::test]
async fn a_thousand_first_requests_start_one_task_and_all_are_answered() {
    let hosts = Hosts::start().await;
    let app = App::create(&hosts.http(), "sleepy").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let sleep = format!("/deployments/{}/sleep", deployment.id());
    hosts.http().post(&sleep, json!({})).await.expect_ok();
    app.wait_for(deployment.id(), "it sleeps", |deployment| {
        deployment["health"] == "asleep"
    })
    .await;
    let marker = format!("DEPLOYMENT_ID={}", deployment.id());
    wait_until(Duration::from_secs(60), "its processes are gone", async || {
        processes_with(&marker).is_empty().then_some(())
    })
    .await;
    let before = tasks_ever(&app, deployment.id()).await;

    let (go, gate) = watch::channel(false);
    let mut clients = JoinSet::new();
    for number in 0..REQUESTS {
        let proxy = hosts.proxy(NODES[number % NODES.len()]);
        let stream = TcpStream::connect(proxy)
            .await
            .expect("the proxy takes connections");
        clients.spawn(first_request(stream, app.subdomain.clone(), gate.clone()));
    }
    let began = Instant::now();
    go.send_replace(true);
    let answers = clients.join_all().await;
    eprintln!("{REQUESTS} first requests were answered in {:?}", began.elapsed());
    let failed: Vec<_> = answers
        .iter()
        .filter(|answer| !answer.starts_with("HTTP/1.1 200 "))
        .collect();
    assert!(
        failed.is_empty(),
        "{} failed, the first: {}",
        failed.len(),
        failed[0]
    );
    assert_eq!(
        tasks_ever(&app, deployment.id()).await,
        before + 1,
        "one task for all of them"
    );
    assert_eq!(processes_with(&marker).len(), 1, "one process");
    hosts.expect_settled().await;
}

/// Waits for the gate; the whole answer as text, or what went wrong.
async fn first_request(mut stream: TcpStream, host: String, mut gate: watch::Receiver<bool>) -> String {
    let asked = async {
        gate.wait_for(|open| *open)
            .await
            .expect("the gate outlives its clients");
        let request = format!("GET / HTTP/1.1\r\nhost: {host}.zectre.localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer)
    };
    asked.await.unwrap_or_else(|error| error.to_string())
}

/// How many tasks there ever were.
async fn tasks_ever(app: &App, deployment: &str) -> usize {
    let states = ["pending", "starting", "running", "stopping", "stopped", "failed"];
    app.tasks(deployment, &states).await.len()
}
