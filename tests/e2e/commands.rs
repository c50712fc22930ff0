//! The command as people and scripts use it: what it prints, how it ends, what it says to do next.

use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    time::Duration,
};
use zectre_e2e::{Cli, Single, native_program, server_program};
use zectre_testkit::wait_until;

/// A program that runs to completion; with `CODE` it ends with that.
pub(crate) fn job_program() -> PathBuf {
    let source = "fn main() { println!(\"worked\"); let code = std::env::var(\"CODE\").ok().and_then(|code| code.parse().ok()); \
                  std::process::exit(code.unwrap_or(0)) }";
    native_program("job", source)
}

pub(crate) fn text(path: &Path) -> String {
    path.to_str().expect("a plain path").to_owned()
}

/// A project directory of a platform, with a manifest.
pub(crate) fn project(platform: &Single, name: &str, deploy: &str) -> PathBuf {
    let directory = platform.directory().join(name);
    fs::create_dir(&directory).expect("it is ours");
    fs::write(directory.join("zectre.yaml"), format!("name: {name}\n{deploy}")).expect("it is ours");
    directory
}

#[tokio::test]
async fn a_newcomer_is_told_what_happened_and_what_to_do_next() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let shop = project(&platform, "shop", "deploy:\n  replicas: 1\n");
    let zectre = async |arguments: &[&str]| cli.run(&shop, arguments).await;

    // Off a terminal it doesn't wait, and names no address that nothing answers at.
    let accepted = zectre(&["deploy", "--artifact", &server, "--prod"]).await;
    let id = accepted.success().to_owned();
    assert!(!accepted.stdout.contains("http"), "{}", accepted.stdout);
    assert!(
        accepted
            .stderr
            .contains("shop version 1 (production) was accepted")
            && accepted.stderr.contains("`zectre status`"),
        "{}",
        accepted.stderr
    );
    wait_until(Duration::from_secs(60), "it serves", async || {
        zectre(&["status"])
            .await
            .success()
            .contains("healthy")
            .then_some(())
    })
    .await;
    let status = zectre(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(status.success()).expect("JSON");
    assert_eq!(status["deployments"][0]["id"], id.as_str(), "{status:#}");

    let nothing_older = zectre(&["rollback", "--prod"]).await;
    assert_eq!(nothing_older.code, 1, "{}", nothing_older.stderr);
    assert!(
        nothing_older
            .failure()
            .contains("no version served before version 1")
            && nothing_older.stderr.contains("`zectre status`"),
        "{}",
        nothing_older.stderr
    );

    let scaled = zectre(&["scale", "2", "--prod"]).await;
    scaled.success();
    assert!(
        scaled.stderr.contains("has 2 replicas") && scaled.stderr.contains("zectre.yaml says `replicas: 1`"),
        "{}",
        scaled.stderr
    );
    assert_eq!(zectre(&["ps"]).await.success().matches(" running ").count(), 2);

    let events = zectre(&["events"]).await;
    let heading = events.success().lines().next().unwrap_or_default().to_owned();
    assert!(heading.contains("PROJECT"), "{heading}");
    assert!(events.stdout.contains("  default/shop  "), "{}", events.stdout);

    let never = zectre(&["deploy", "--artifact", &text(&job_program()), "--prod", "--wait"]).await;
    assert_eq!(never.code, 6, "{}", never.stderr);
    let why = "the program ended with code 0 before it was ready";
    assert_eq!(
        never.stderr.matches(why).count(),
        1,
        "said once: {}",
        never.stderr
    );
}

#[tokio::test]
async fn deploys_of_a_new_name_at_once_are_of_one_project_and_a_slip_makes_no_environment() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let places = ["a", "b", "c", "d", "e"].map(|name| {
        let place = platform.directory().join(name);
        fs::create_dir(&place).expect("it is ours");
        fs::write(place.join("zectre.yaml"), "name: shop\n").expect("it is ours");
        place
    });
    let deploy = async |place: &Path| {
        let deployed = cli
            .run(place, &["deploy", "--artifact", &server, "--no-wait"])
            .await;
        deployed.success();
        deployed.stderr.contains("Created the project default/shop")
    };
    let made = futures_util::future::join_all(places.iter().map(|place| deploy(place))).await;
    let [place, ..] = &places;
    assert_eq!(
        made.iter().filter(|made| **made).count(),
        1,
        "one of them made it"
    );
    let projects = cli.run(place, &["projects", "list", "--json"]).await;
    let projects: Value = serde_json::from_str(projects.success()).expect("JSON");
    assert_eq!(projects.as_array().map(Vec::len), Some(1), "{projects}");

    let slip = ["deploy", "--artifact", &server, "--env", "prodution"];
    let refused = cli.run(place, &slip).await;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains("`--env production`"),
        "{}",
        refused.stderr
    );
    let environments = cli.run(place, &["environments", "list"]).await;
    assert!(
        !environments.success().contains("prodution"),
        "{}",
        environments.stdout
    );

    cli.run(place, &["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    // Both are in use now: who names none is told which it is.
    let bare = cli.run(place, &["logs"]).await;
    bare.success();
    assert!(
        bare.stderr.contains("development of default/shop"),
        "{}",
        bare.stderr
    );
    let quiet = cli.run(place, &["logs", "--quiet"]).await;
    quiet.success();
    assert_eq!(quiet.stderr, "");
}

#[tokio::test]
async fn a_canary_is_told_as_what_it_is() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let deploy = "deploy:\n  replicas: 4\n  strategy: { type: canary, weight: 25 }\n  stop_grace: 5s\n  env: { MODE: stubborn }\n";
    let shop = project(&platform, "shop", deploy);
    let zectre = async |arguments: &[&str]| cli.run(&shop, arguments).await;
    for _ in 0..2 {
        zectre(&["deploy", "--artifact", &server, "--prod", "--wait"])
            .await
            .success();
    }
    let status = zectre(&["status"]).await;
    for says in ["canary, 25 %", "1 of 4"] {
        assert!(status.success().contains(says), "{}", status.stdout);
    }
    let events = zectre(&["events", "--limit", "100"]).await;
    let created = events.success().matches("deployment.created").count();
    assert_eq!(created, 2, "each is told of once: {}", events.stdout);

    zectre(&["rollback", "--prod"]).await.success();
    let status = zectre(&["status"]).await;
    assert!(
        status.success().contains("  cancelled  ")
            && status
                .stderr
                .contains("v2: admin@zectre.localhost rolled it back"),
        "{}\n{}",
        status.stdout,
        status.stderr
    );
    let nothing = zectre(&["promote", "--prod"]).await;
    assert_eq!(nothing.code, 1, "{}", nothing.stderr);
    let said = nothing.failure();
    assert!(
        said.contains("nothing waits for promotion") && said.contains("version 1 has all of the requests"),
        "{said}"
    );

    // Three of the four are on their way out, and take their time: only the one that stays is replaced.
    zectre(&["scale", "1", "--prod"]).await.success();
    let restarted = zectre(&["restart", "--prod"]).await;
    restarted.success();
    assert!(
        restarted.stderr.contains("has replaced 1 task"),
        "{}",
        restarted.stderr
    );

    // What is given up answers nowhere: the URL is that of what goes on serving.
    zectre(&["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    let cancelled = zectre(&["cancel", "--prod", "-q"]).await;
    assert_eq!(cancelled.success(), restarted.success());
}

#[tokio::test]
async fn the_doctor_and_a_stranger_are_told_what_is_wrong() {
    let platform = Single::start().await;
    let (cli, shop) = (platform.cli(), project(&platform, "shop", ""));
    let zectre = async |arguments: &[&str]| cli.run(&shop, arguments).await;
    let added = zectre(&["projects", "add"]).await;
    // As a README says it, wherever someone is.
    let again = zectre(&["projects", "add"]).await;
    assert_eq!(again.success(), added.success());
    assert!(
        again
            .stderr
            .contains("linked to default/shop already: nothing to do"),
        "{}",
        again.stderr
    );
    let elsewhere = project(&platform, "elsewhere", "");
    let taken = cli.run(&elsewhere, &["projects", "add", "shop"]).await;
    assert!(
        taken.failure().contains("`zectre link default/shop`"),
        "{}",
        taken.stderr
    );
    let refused = zectre(&["env", "add", "PORT=1"]).await;
    assert_eq!(refused.code, 2, "bad input: {}", refused.stderr);
    fs::write(shop.join("zectre.yaml"), "name: store\n").expect("it is ours");
    let renamed = zectre(&["deploy", "--artifact", "01900000-0000-7000-8000-000000000000"]).await;
    assert!(
        renamed
            .failure()
            .contains("names default/store, but this directory is linked to default/shop, and that is used")
            && renamed.stderr.contains("`zectre link default/store`"),
        "{}",
        renamed.stderr
    );

    let checked = zectre(&["doctor"]).await;
    assert!(
        checked.stdout.contains("ready and takes tasks"),
        "{}",
        checked.stdout
    );
    assert!(
        checked.stdout.contains("runs no containers"),
        "{}",
        checked.stdout
    );
    let nobody = format!("http://127.0.0.1:{}", zectre_testkit::free_port());
    let failed = zectre(&["doctor", "--api-url", &nobody]).await;
    assert_eq!(failed.code, 1, "{}\n{}", failed.stdout, failed.stderr);
    assert!(
        failed.stdout.contains("FAIL  no answer from"),
        "{}",
        failed.stdout
    );

    zectre(&["logout"]).await.success();
    let stranger = zectre(&["status"]).await;
    assert_eq!(stranger.code, 3, "{}", stranger.stderr);
    assert!(
        stranger.stderr.contains("not signed in to") && stranger.stderr.contains("`zectre login`"),
        "{}",
        stranger.stderr
    );
}

#[tokio::test]
async fn scaled_in_the_midst_of_a_rollout_it_is_the_new_version_that_is_scaled() {
    let platform = Single::start().await;
    let (cli, server) = (platform.cli(), text(&server_program()));
    let shop = project(&platform, "shop", "");
    let zectre = async |arguments: &[&str]| cli.run(&shop, arguments).await;
    zectre(&["deploy", "--artifact", &server, "--prod", "--wait"])
        .await
        .success();
    // It takes three seconds until it listens.
    let source = "use std::{env, io::{Read, Write}, net::TcpListener, thread, time::Duration};
                  fn main() {
                      thread::park_timeout(Duration::from_secs(3));
                      let port: u16 = env::var(\"PORT\").unwrap().parse().unwrap();
                      for stream in TcpListener::bind((\"0.0.0.0\", port)).unwrap().incoming() {
                          let Ok(mut stream) = stream else { continue };
                          let _ = stream.read(&mut [0; 4096]);
                          let _ = stream.write_all(b\"HTTP/1.1 200 OK\\r\\ncontent-length: 4\\r\\nconnection: close\\r\\n\\r\\nlate\");
                      }
                  }";
    let late = text(&native_program("late", source));
    zectre(&["deploy", "--artifact", &late, "--prod", "--no-wait"])
        .await
        .success();
    wait_until(Duration::from_secs(60), "it is being rolled out", async || {
        let status = zectre(&["status"]).await;
        status.stdout.contains("v2").then_some(())
    })
    .await;
    let scaled = zectre(&["scale", "2", "--prod"]).await;
    scaled.success();
    assert!(scaled.stderr.contains("has 2 replicas"), "{}", scaled.stderr);
    let status = zectre(&["status", "--json"]).await;
    let status: Value = serde_json::from_str(status.success()).expect("JSON");
    let serving = &status["deployments"][0];
    assert_eq!(
        (&serving["version"], &serving["replicas"], &serving["current"]),
        (&2.into(), &2.into(), &true.into()),
        "{status:#}"
    );
}

#[tokio::test]
async fn a_run_to_completion_is_spoken_of_as_a_run() {
    let platform = Single::start().await;
    let (cli, program) = (platform.cli(), text(&job_program()));
    let report = project(&platform, "report", "deploy:\n  restart: never\n");
    let zectre = async |arguments: &[&str]| cli.run(&report, arguments).await;

    let done = zectre(&["deploy", "--artifact", &program, "--prod", "--wait"]).await;
    assert!(
        !done.success().contains("http"),
        "a job has no address: {}",
        done.stdout
    );
    let mut said = done.stderr.clone();
    assert!(
        said.contains("report version 1 (production) ran to completion")
            && said.contains("`zectre logs --deployment 1`"),
        "{said}"
    );
    for arguments in [vec!["status"], vec!["ps"], vec!["ps", "--all"]] {
        let output = zectre(&arguments).await;
        output.success();
        said.push_str(&output.stdout);
        said.push_str(&output.stderr);
    }
    assert!(said.contains("completed"), "{said}");
    for wrong in ["serves", "asleep", "sleep", "down", "healthy  "] {
        assert!(!said.contains(wrong), "`{wrong}` in: {said}");
    }
    for refused in [
        vec!["open"],
        vec!["scale", "2"],
        vec!["restart"],
        vec!["sleep"],
        vec!["wake"],
        vec!["promote", "1"],
    ] {
        let output = zectre(&refused).await;
        assert_eq!(output.code, 2, "{refused:?}: {}", output.stderr);
        assert!(
            output.stderr.contains("is a job"),
            "{refused:?}: {}",
            output.stderr
        );
    }

    let env = zectre(&["env", "add", "CODE=3"]).await;
    env.success();
    let failed = zectre(&["deploy", "--artifact", &program, "--prod", "--wait"]).await;
    assert_eq!(failed.code, 6, "{}", failed.stderr);
    let why = "version 2 failed (exited): the program ended with code 3";
    assert!(failed.stderr.contains(why), "{}", failed.stderr);
    assert!(!failed.stderr.contains("took over"), "{}", failed.stderr);
    assert_eq!(
        failed.stderr.matches("with code 3").count(),
        1,
        "{}",
        failed.stderr
    );
}

#[tokio::test]
async fn an_admin_makes_accounts_while_nobody_else_may() {
    let platform = Single::start().await;
    let (cli, here) = (platform.cli(), platform.directory().to_owned());
    let asked = cli.run(&here, &["users", "add", "ann@example.org"]).await;
    assert_eq!(asked.code, 2, "nobody is there to type it: {}", asked.stderr);
    assert!(asked.stderr.contains("--password-stdin"), "{}", asked.stderr);

    let add = [
        "users",
        "add",
        "ann@example.org",
        "--admin",
        "--name",
        "Ann",
        "--password-stdin",
    ];
    let made = cli.run_with(&here, &add, "correct horse\n").await;
    made.success();
    assert!(made.stderr.contains("`zectre login"), "{}", made.stderr);
    let twice = cli.run_with(&here, &add, "correct horse\n").await;
    assert!(twice.failure().contains("exists"), "{}", twice.stderr);

    let ann = Cli::new(&here.join("ann")).env(
        "ZECTRE_API_URL",
        &format!("http://127.0.0.1:{}", platform.settings().api_port),
    );
    let login = ["login", "--email", "ann@example.org"];
    ann.run_with(&here, &login, "correct horse\n").await.success();
    assert!(
        ann.run(&here, &["whoami"])
            .await
            .success()
            .contains("admin of the cluster")
    );
    ann.run(&here, &["nodes", "list"]).await.success();

    // Who isn't an admin can't.
    let add = ["users", "add", "bob@example.org", "--password-stdin"];
    cli.run_with(&here, &add, "battery staple\n").await.success();
    let bob = Cli::new(&here.join("bob")).env(
        "ZECTRE_API_URL",
        &format!("http://127.0.0.1:{}", platform.settings().api_port),
    );
    let login = ["login", "--email", "bob@example.org"];
    bob.run_with(&here, &login, "battery staple\n").await.success();
    let add = ["users", "add", "eve@example.org", "--password-stdin"];
    let refused = bob.run_with(&here, &add, "let me in\n").await;
    assert_eq!(refused.code, 3, "{}", refused.stderr);

    // Shut out at once, and let in again.
    assert!(
        cli.run(&here, &["users", "list"])
            .await
            .success()
            .contains("bob@example.org")
    );
    cli.run(&here, &["users", "disable", "BOB@example.org"])
        .await
        .success();
    let out = bob.run(&here, &["whoami"]).await;
    assert_eq!(out.code, 3, "{}", out.stderr);
    assert!(out.stderr.contains("disabled"), "{}", out.stderr);
    cli.run(&here, &["users", "enable", "bob@example.org"])
        .await
        .success();
    bob.run_with(
        &here,
        &["login", "--email", "bob@example.org"],
        "battery staple\n",
    )
    .await
    .success();
    let unknown = cli.run(&here, &["users", "disable", "eve@example.org"]).await;
    assert_eq!(unknown.code, 4, "{}", unknown.stderr);
}

#[tokio::test]
async fn a_start_keeps_the_key_and_tells_of_an_earlier_start_in_its_way() {
    let mut platform = Single::start().await;
    let key = platform.http();
    let (cli, here) = (platform.cli(), platform.directory().to_owned());
    let names = async || cli.run(&here, &["tokens", "list"]).await.success().to_owned();
    let before = names().await;

    let other = here.join("other");
    let second = cli
        .run(
            &here,
            &["up", "--data-dir", other.to_str().expect("a plain path")],
        )
        .await;
    let said = second.failure();
    let data_dir = fs::canonicalize(platform.data_dir()).expect("it is there");
    let remedy = format!("`zectre down --data-dir {}`", data_dir.display());
    assert!(
        said.contains("an earlier `zectre up`") && said.contains(&remedy),
        "{said}"
    );
    assert!(said.contains(&format!("pid {}", platform.pid())), "{said}");

    platform.process_mut().end(Signal::SIGTERM).await;
    platform.settings_mut().task_slots = 77;
    platform.start_again().await;
    let nodes = key.get("/nodes").await.json();
    assert_eq!(
        nodes["data"][0]["capacity"]["task_slots"], 77,
        "what is ready has told what it has since this start"
    );
    assert_eq!(key.get("/user").await.status, 200, "the key of the first start");
    let (prefix, again) = (column(&before, 1), names().await);
    assert_eq!(
        column(&again, 1),
        prefix,
        "no other key was made:\n{before}\n{again}"
    );

    // An API leads to the directory of its platform, and only to that.
    let nobody = format!("http://127.0.0.1:{}", zectre_testkit::free_port());
    let refused = cli.run(&here, &["down", "--api-url", &nobody]).await;
    assert_eq!(refused.code, 2, "{}", refused.stderr);
    assert!(
        refused.stderr.contains(&nobody) && refused.stderr.contains("--data-dir"),
        "{}",
        refused.stderr
    );
    let api = format!("http://127.0.0.1:{}/", platform.settings().api_port);
    let stopped = cli.run(&here, &["down", "--api-url", &api]).await;
    stopped.success();
    let told = format!("Stopped the platform in {}", data_dir.display());
    assert!(stopped.stderr.contains(&told), "{}", stopped.stderr);
    let holder = TcpListener::bind(("127.0.0.1", platform.settings().api_port));
    holder.expect("it is gone");
}

/// One column of a table, without its heading.
fn column(table: &str, number: usize) -> Vec<&str> {
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            line.split("  ")
                .filter(|cell| !cell.trim().is_empty())
                .nth(number)
        })
        .map(str::trim)
        .collect()
}
