//! A program of plain TCP, by the command: its port, its sleep, its restart.

use crate::commands::{project, text};
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zectre_e2e::{Cli, Single, native_program};

/// Greets with its variable `GREETING` and sends back what it is sent.
fn echo_program() -> PathBuf {
    let source = "use std::{env, io::{copy, Write}, net::TcpListener, thread};
        fn main() {
            let port: u16 = env::var(\"PORT\").unwrap().parse().unwrap();
            let greeting = env::var(\"GREETING\").unwrap_or_default();
            for stream in TcpListener::bind((\"0.0.0.0\", port)).unwrap().incoming().flatten() {
                let greeting = greeting.clone();
                thread::spawn(move || {
                    let mut to = stream.try_clone().unwrap();
                    let _ = to.write_all(greeting.as_bytes());
                    let _ = copy(&mut &stream, &mut to);
                });
            }
        }";
    native_program("echo", source)
}

async fn hears(stream: &mut TcpStream, words: &str) {
    let mut got = vec![0; words.len()];
    let read = timeout(Duration::from_secs(60), stream.read_exact(&mut got)).await;
    read.expect("in time").expect("it says something");
    assert_eq!(String::from_utf8_lossy(&got), words);
}

/// The ids of the tasks that run.
async fn running(cli: &Cli, directory: &Path) -> Vec<String> {
    let tasks = cli.run(directory, &["ps", "--prod", "--json"]).await;
    let tasks: Value = serde_json::from_str(tasks.success()).expect("JSON");
    let all = tasks.as_array().expect("a list").iter();
    all.filter(|task| task["state"] == "running")
        .map(|task| task["id"].to_string())
        .collect()
}

async fn restart_replaces_its_task(cli: &Cli, directory: &Path) {
    let before = running(cli, directory).await;
    let restarted = cli.run(directory, &["restart", "--prod"]).await;
    restarted.success();
    assert!(
        restarted.stderr.contains("has replaced 1 task"),
        "{}",
        restarted.stderr
    );
    let after = running(cli, directory).await;
    assert!(
        before.len() == 1 && after.len() == 1 && before != after,
        "{before:?}, {after:?}"
    );
}

#[tokio::test]
async fn a_program_of_plain_tcp_keeps_its_port_from_version_to_version_asleep_or_awake() {
    let platform = Single::start().await;
    let (cli, echo) = (platform.cli(), text(&echo_program()));
    let spec = |greeting: &str| format!("  env:\n    GREETING: {greeting}\nnetworking:\n  protocol: tcp\n");
    let directory = project(&platform, "echo", &format!("deploy:\n{}", spec("one")));
    let deploy = async || {
        let deployed = cli
            .run(&directory, &["deploy", "--artifact", &echo, "--prod", "--wait"])
            .await;
        deployed.success().to_owned()
    };
    let address = deploy().await;
    let (first, last) = platform.settings().tcp_ports;
    let port: u16 = address
        .strip_prefix("127.0.0.1:")
        .expect("an address")
        .parse()
        .expect("a port");
    assert!((first..=last).contains(&port), "{address}");
    let mut open = TcpStream::connect(&address).await.expect("it listens");
    hears(&mut open, "one").await;
    fs::write(
        directory.join("zectre.yaml"),
        format!("name: echo\ndeploy:\n{}", spec("two")),
    )
    .expect("ours");
    assert_eq!(deploy().await, address);
    // The old version stays with who has it, as long as draining takes.
    open.write_all(b"still here").await.expect("it reads");
    hears(&mut open, "still here").await;
    drop(open);
    let status = cli.run(&directory, &["status"]).await;
    assert!(status.success().contains(&address), "{}", status.stdout);
    let mut next = TcpStream::connect(&address).await.expect("it listens");
    hears(&mut next, "two").await;
    drop(next);
    let slept = cli.run(&directory, &["sleep"]).await;
    slept.success();
    assert!(
        slept.stderr.contains("sleeps until the next request"),
        "{}",
        slept.stderr
    );
    assert!(
        cli.run(&directory, &["status"])
            .await
            .success()
            .contains("asleep"),
        "it said so"
    );
    let mut first = TcpStream::connect(&address).await.expect("it listens");
    hears(&mut first, "two").await;
    drop(first);
    for (command, says) in [("sleep", "sleeps until"), ("wake", "is awake")] {
        let output = cli.run(&directory, &[command]).await;
        output.success();
        assert!(output.stderr.contains(says), "{}", output.stderr);
    }
    restart_replaces_its_task(&cli, &directory).await;
    let opened = cli.run(&directory, &["open", "--prod"]).await;
    assert!(opened.failure().contains("speaks plain TCP"), "{}", opened.stderr);
}
