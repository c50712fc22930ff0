//! Commands that wait, and Ctrl-C while they do: what was begun goes on, and the command says how to look at it.

use crate::commands::{project, text};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use zectre_e2e::{Cli, Single, server_program};
use zectre_testkit::wait_until;

/// A command whose output is read while it runs.
struct Running {
    child: Child,
    said: tokio::io::Lines<BufReader<tokio::process::ChildStdout>>,
}

impl Running {
    fn start(cli: &Cli, directory: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::from(cli.command(directory, arguments));
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("zectre was built");
        let stdout = child.stdout.take().expect("piped");
        Self {
            child,
            said: BufReader::new(stdout).lines(),
        }
    }

    /// Waits for a first line on standard output.
    async fn first_line(&mut self) -> String {
        let line = tokio::time::timeout(Duration::from_secs(60), self.said.next_line()).await;
        line.expect("in time").expect("readable").expect("a line")
    }

    /// Ctrl-C: the exit code and what was said on standard error.
    async fn interrupt(self) -> (Option<i32>, String) {
        let pid = self.child.id().expect("it runs").cast_signed();
        kill(nix::unistd::Pid::from_raw(pid), Signal::SIGINT).expect("it is ours");
        let ended = tokio::time::timeout(Duration::from_secs(60), self.child.wait_with_output()).await;
        let output = ended.expect("it ends").expect("it was started");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    }
}

#[tokio::test]
async fn ctrl_c_ends_what_waits_with_130_and_says_what_goes_on() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let shop = project(&platform, "shop", "");
    cli.run(&shop, &["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    wait_until(Duration::from_secs(60), "its log is stored", async || {
        (!cli.run(&shop, &["logs"]).await.stdout.is_empty()).then_some(())
    })
    .await;
    for arguments in [["logs", "-f"], ["events", "-f"]] {
        let mut following = Running::start(&cli, &shop, &arguments);
        following.first_line().await;
        let (code, said) = following.interrupt().await;
        assert_eq!((code, said.as_str()), (Some(130), ""), "{arguments:?}");
    }

    // A program that never opens its port keeps the rollout going.
    let stuck = project(&platform, "stuck", "deploy:\n  env:\n    MODE: never\n");
    let waiting = Running::start(
        &cli,
        &stuck,
        &["deploy", "--artifact", &server, "--prod", "--wait"],
    );
    wait_until(Duration::from_secs(60), "the deployment is there", async || {
        let status = cli.run(&stuck, &["status"]).await;
        status.stdout.contains("v1").then_some(())
    })
    .await;
    // It hears of it a moment after the platform has it.
    let (code, said) = interrupt_once(waiting, "Rolling out").await;
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("Version 1 goes on without you") && said.contains("`zectre status`"),
        "{said}"
    );
    assert!(!said.contains("error:"), "it was wished: {said}");

    // One that ignores SIGTERM keeps a restart going.
    let manifest = "deploy:\n  stop_grace: 60s\n  env:\n    MODE: stubborn\n";
    let stubborn = project(&platform, "stubborn", manifest);
    cli.run(&stubborn, &["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    let restarting = Running::start(&cli, &stubborn, &["restart", "--prod"]);
    let (code, said) = interrupt_once(restarting, "Restarting").await;
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("The restart of version 1 goes on without you"),
        "{said}"
    );
}

/// Ctrl-C once the command has said what it does.
async fn interrupt_once(mut waiting: Running, doing: &str) -> (Option<i32>, String) {
    let stderr = waiting.child.stderr.take().expect("piped");
    let mut lines = BufReader::new(stderr).lines();
    loop {
        let line = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
        let line = line.expect("in time").expect("readable").expect("it goes on");
        if line.starts_with(doing) {
            break;
        }
    }
    let reading = async {
        let mut said = String::new();
        while let Ok(Some(line)) = lines.next_line().await {
            said.push_str(&line);
            said.push('\n');
        }
        said
    };
    let (said, (code, _)) = tokio::join!(reading, waiting.interrupt());
    (code, said)
}
#[tokio::test]
async fn nodes_tell_what_they_take_and_a_drain_waits() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let shop = project(&platform, "shop", "");
    let zectre = async |arguments: &[&str]| cli.run(&shop, arguments).await;
    zectre(&["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    let nodes = zectre(&["nodes", "list", "--json"]).await;
    let nodes: Value = serde_json::from_str(nodes.success()).expect("JSON");
    let name = nodes[0]["name"].as_str().expect("a node");
    let gaps = nodes[0]["enforcement"]["gaps"].as_array().map_or(0, Vec::len);
    let listed = zectre(&["nodes", "list"]).await;
    assert!(listed.success().contains("GAPS"), "{}", listed.stdout);
    assert_eq!(
        listed.stderr.matches(&format!("{name}: ")).count(),
        gaps,
        "{}",
        listed.stderr
    );

    let cordoned = zectre(&["nodes", "cordon", name]).await;
    assert!(
        cordoned.success().contains("takes no new tasks and runs 1 task"),
        "{}",
        cordoned.stdout
    );
    assert!(zectre(&["nodes", "list"]).await.success().contains("cordoned"));
    let free = zectre(&["nodes", "uncordon", name]).await;
    assert!(free.success().contains("is eligible"), "{}", free.stdout);

    // With nowhere else to go the task stays; once it sleeps the node is empty.
    let waiting = Running::start(&cli, &shop, &["nodes", "drain", name, "--wait"]);
    wait_until(Duration::from_secs(60), "it drains", async || {
        zectre(&["nodes", "list"])
            .await
            .success()
            .contains("draining")
            .then_some(())
    })
    .await;
    let (code, said) = waiting.interrupt().await;
    assert_eq!(code, Some(130), "{said}");
    assert!(
        said.contains("goes on") && said.contains("`zectre nodes uncordon"),
        "{said}"
    );
    zectre(&["scale", "0", "--prod"]).await.success();
    let drained = zectre(&["nodes", "drain", name, "--wait"]).await;
    assert!(drained.success().contains("is drained"), "{}", drained.stdout);
}
