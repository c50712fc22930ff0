//! With `--json` every command prints one document: the whole command, as its own help lists it.

use crate::commands::{job_program, text};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{collections::BTreeSet, fs, os::unix::fs::PermissionsExt, path::Path};
use zectre_e2e::{Cli, Detached, Settings, server_program};
use zectre_testkit::TestDatabase;

/// The commands that do something, such as `env add`, as the command's own help lists them.
async fn leaves(cli: &Cli, directory: &Path) -> BTreeSet<String> {
    let (mut open, mut leaves) = (vec![String::new()], BTreeSet::new());
    while let Some(path) = open.pop() {
        let mut arguments: Vec<&str> = path.split_whitespace().collect();
        arguments.push("--help");
        let help = cli.run(directory, &arguments).await;
        let listed = help.success().split_once("Commands:\n");
        let commands = listed.map(|(_, rest)| rest.lines().take_while(|line| line.starts_with("  ")));
        let names: Vec<_> = commands
            .into_iter()
            .flatten()
            .filter_map(|line| line.strip_prefix("  ")?.split_whitespace().next())
            .filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase()))
            .map(|name| format!("{path} {name}").trim().to_owned())
            .collect();
        if names.is_empty() {
            leaves.insert(path);
        }
        open.extend(names);
    }
    leaves
}

/// Commands by the words that name them, with their arguments and their standard input, in an order in which each finds
/// what it needs. `SERVER` and `JOB` stand for programs, `NODE` for the machine's node, `DATA` for the platform's directory.
const WALK: &[(&str, &str, &str)] = &[
    ("init", "shop", ""),
    ("projects add", "shop", ""),
    ("projects create", "spare", ""),
    ("projects list", "", ""),
    ("link", "shop", ""),
    ("deploy", "--artifact SERVER --prod --wait", ""),
    ("deploy", "--artifact SERVER --prod --no-wait", ""),
    ("deploy", "--artifact SERVER --prod --wait", ""),
    ("status", "", ""),
    ("ps", "", ""),
    ("logs", "--prod", ""),
    ("open", "--print --prod", ""),
    ("scale", "2 --prod", ""),
    ("restart", "--prod", ""),
    ("sleep", "--prod", ""),
    ("wake", "--prod", ""),
    ("rollback", "--prod", ""),
    ("promote", "3 --prod", ""),
    ("env add", "GREETING=hi", ""),
    ("env add", "TOKEN --secret", "hunter2\n"),
    ("env list", "", ""),
    ("env pull", "pulled.env", ""),
    ("env rm", "GREETING", ""),
    ("domains add", "shop.example.com", ""),
    ("domains list", "", ""),
    ("domains verify", "shop.example.com", ""),
    ("domains rm", "shop.example.com", ""),
    ("webhooks add", "https://zectre.invalid/hook --event build.*", ""),
    ("build", "", ""),
    ("builds", "", ""),
    ("artifacts", "", ""),
    ("webhooks list", "", ""),
    ("webhooks deliveries", "https://zectre.invalid/hook", ""),
    ("webhooks redeliver", "https://zectre.invalid/hook", ""),
    ("webhooks enable", "https://zectre.invalid/hook", ""),
    ("webhooks rm", "https://zectre.invalid/hook", ""),
    ("events", "", ""),
    ("nodes list", "", ""),
    ("nodes cordon", "NODE", ""),
    // It finds no place there.
    ("deploy", "--artifact SERVER --prod --no-wait", ""),
    ("cancel", "--prod", ""),
    ("nodes drain", "NODE", ""),
    ("nodes uncordon", "NODE", ""),
    ("nodes join", "", ""),
    ("keys list", "--data-dir DATA", ""),
    ("keys add", "--data-dir DATA", ""),
    ("keys rotate", "--data-dir DATA", ""),
    ("doctor", "", ""),
    ("schema", "", ""),
    ("completion", "bash", ""),
    ("projects delete", "spare --yes", ""),
    ("environments add", "qa", ""),
    ("environments list", "", ""),
    ("environments rm", "qa --yes", ""),
    ("sleep", "--prod", ""),
    ("nodes drain", "NODE --wait", ""),
    ("nodes rm", "NODE --yes", ""),
    ("unlink", "", ""),
    ("orgs create", "acme", ""),
    ("orgs list", "", ""),
    ("namespaces add", "tools --org acme", ""),
    ("namespaces list", "", ""),
    ("users add", "ann@example.org --password-stdin", "correct horse\n"),
    ("users list", "", ""),
    ("members add", "ann@example.org --org acme", ""),
    ("members list", "--org acme", ""),
    ("members role", "ann@example.org viewer --org acme", ""),
    ("members rm", "ann@example.org --org acme", ""),
    ("invitations create", "bob@example.org --org acme", ""),
    ("invitations list", "--org acme", ""),
    ("invitations revoke", "bob@example.org --org acme", ""),
    ("users disable", "ann@example.org", ""),
    ("users enable", "ann@example.org", ""),
    ("users reset-password", "ann@example.org", ""),
    ("tokens create", "robot --scope deploy --days 30", ""),
    ("tokens list", "", ""),
    ("tokens revoke", "robot", ""),
    ("whoami", "", ""),
    ("login", "--email ann@example.org", "correct horse\n"),
    ("users set-password", "", "correct horse\nbattery staple\n"),
    ("logout", "", ""),
];

#[tokio::test]
async fn with_json_every_command_prints_one_document() {
    let directory = open_directory("zectre-json-");
    let platform = Detached::new(directory.path(), Settings::default());
    let data_dir = directory.path().join("platform");
    let data_dir = data_dir.to_str().expect("a plain path");
    // How a domain is verified is not the point here.
    let up = platform.cli().env("ZECTRE__DOMAINS__VERIFICATION", "off");
    let up = up
        .run(
            directory.path(),
            &["up", "--detach", "--json", "--data-dir", data_dir],
        )
        .await;
    let summary: Value = serde_json::from_str(up.success()).expect("one document");
    let (server, job) = (text(&server_program()), text(&job_program()));
    let project = directory.path().join("shop");
    fs::create_dir(&project).expect("it is ours");
    let cli = platform.cli();
    let nodes: Value =
        serde_json::from_str(cli.run(&project, &["nodes", "list", "--json"]).await.success()).expect("JSON");
    let node = nodes[0]["name"].as_str().expect("a node").to_owned();

    // Those of a catalog are walked where there is one, `invitations accept` by whom someone invites (`team.rs`).
    let elsewhere = crate::catalog::WALK.iter().map(|(name, ..)| *name);
    let elsewhere = elsewhere.chain(["up", "down", "bootstrap", "invitations accept"]);
    let mut walked: BTreeSet<String> = elsewhere.map(str::to_owned).collect();
    for (name, arguments, input) in WALK {
        let arguments: Vec<&str> = name
            .split(' ')
            .chain(arguments.split(' ').filter(|word| !word.is_empty()))
            .map(|word| match word {
                "SERVER" => server.as_str(),
                "JOB" => job.as_str(),
                "NODE" => node.as_str(),
                "DATA" => data_dir,
                word => word,
            })
            .chain(["--json"])
            .collect();
        let output = cli.run_with(&project, &arguments, input).await;
        assert!(
            serde_json::from_str::<Value>(&output.stdout).is_ok(),
            "{arguments:?} printed no single JSON document:\n{}\n{}",
            output.stdout,
            output.stderr
        );
        // What the doctor finds on this machine is not the point here.
        assert!(
            output.code == 0 || *name == "doctor",
            "{arguments:?} ended with {}:\n{}",
            output.code,
            output.stderr
        );
        walked.insert((*name).to_owned());
    }

    let database = TestDatabase::create().await;
    let bootstrap = cli
        .clone()
        .env("ZECTRE__DATABASE__URL", database.url().expose_secret());
    let bootstrap = bootstrap.run(&project, &["bootstrap", "--json"]).await;
    serde_json::from_str::<Value>(bootstrap.success()).expect("one document");

    goes_down(&platform, &summary).await;
    assert_eq!(
        walked,
        leaves(&cli, &project).await,
        "commands that this test knows, and those there are"
    );
}

/// `down` says what it stopped, and the second time that there was nothing to stop.
async fn goes_down(platform: &Detached, summary: &Value) {
    let down = platform.run(&["down", "--json"]).await;
    let stopped: Value = serde_json::from_str(down.success()).expect("one document");
    assert_eq!(stopped["data_dir"], summary["data_dir"]);
    assert_eq!(stopped["stopped"], true);
    let again = platform.run(&["down", "--json"]).await;
    let stopped: Value = serde_json::from_str(again.success()).expect("one document");
    assert_eq!(stopped["stopped"], false);
}

fn open_directory(prefix: &str) -> tempfile::TempDir {
    let directory = tempfile::Builder::new()
        .prefix(prefix)
        .tempdir()
        .expect("a directory can be made");
    // PostgreSQL and tasks run as other users and must reach what lies in it.
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    directory
}
