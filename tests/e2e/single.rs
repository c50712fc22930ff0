//! `zectre up`: one process, a private PostgreSQL, keys, a login; it stops in order and recovers from anything.

use nix::sys::signal::Signal;
use serde_json::json;
use std::{collections::BTreeSet, fs, net::TcpListener, os::unix::fs::PermissionsExt, time::Duration};
use zectre_e2e::{App, Settings, Single, is_alive, server_program, tasks_of};
use zectre_testkit::wait_until;

/// The private PostgreSQL's process.
fn postmaster(single: &Single) -> i32 {
    find_postmaster(single).expect("PostgreSQL runs")
}

/// The same where it may be away: the first line of its file is the process.
fn find_postmaster(single: &Single) -> Option<i32> {
    let pid_file = fs::read_to_string(single.data_dir().join("postgres/data/postmaster.pid")).ok()?;
    pid_file.lines().next()?.trim().parse().ok()
}

#[tokio::test]
async fn it_serves_stops_in_order_and_finds_its_data_again() {
    let settings = Settings {
        stop_timeout_ms: 12_000,
        ..Settings::default()
    };
    let mut single = Single::start_with(settings).await;
    let http = single.http();
    let app = App::create(&http, "kept").await;
    let deployment = app
        .deploy_program(&server_program(), json!({"env": {"GREETING": "kept"}}))
        .await
        .succeeded();
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("kept "));
    let whoami = single.cli().run(single.directory(), &["whoami"]).await;
    assert!(
        whoami.success().contains("admin"),
        "the CLI is logged in: {}",
        whoami.stdout
    );
    for key in ["service.key", "token.key", "master.key", "metrics.token"] {
        let mode = fs::metadata(single.data_dir().join("keys").join(key))
            .expect("a key")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600, "{key}");
    }

    // While one takes its time, the others must not be started anew.
    let slow = App::create(&http, "slow-to-go").await;
    let stubborn = json!({"env": {"MODE": "stubborn"}, "stop_grace_secs": 1});
    let slow = slow.deploy_program(&server_program(), stubborn).await.succeeded();
    let patient = App::create(&http, "patient").await;
    let stubborn = json!({"env": {"MODE": "stubborn"}, "stop_grace_secs": 600});
    let patient = patient
        .deploy_program(&server_program(), stubborn)
        .await
        .succeeded();

    let database = postmaster(&single);
    let status = single.process_mut().end(Signal::SIGTERM).await;
    assert!(status.success(), "{status}");
    let log = single.process_mut().log();
    assert!(
        log.contains("Killed default/slow-to-go (production): it still ran 1 s after SIGTERM."),
        "each has its own time: {log}"
    );
    assert!(
        log.contains("Killed default/patient (production): it still ran") && !log.contains("600 s"),
        "and all together have a bound: {log}"
    );
    assert!(!log.contains("Killed default/kept"), "{log}");
    assert!(!is_alive(database), "PostgreSQL was stopped too");
    assert!(tasks_of(deployment.id()).is_empty(), "no task is left");
    for stubborn in [slow, patient] {
        let left = tasks_of(stubborn.id());
        assert!(left.is_empty(), "not even one that does not want to go: {left:?}");
    }

    single.start_again().await;
    wait_until(Duration::from_secs(60), "the program answers again", async || {
        let answer = http.app(&app.subdomain, "/").await;
        (answer.status == 200 && answer.text().starts_with("kept ")).then_some(())
    })
    .await;
    assert_eq!(tasks_of(deployment.id()).len(), 1);
}

#[tokio::test]
async fn after_kill_9_nothing_is_orphaned_or_run_twice() {
    let mut single = Single::start().await;
    let http = single.http();
    let app = App::create(&http, "survivor").await;
    let deployment = app
        .deploy_program(&server_program(), json!({"replicas": 2}))
        .await
        .succeeded();
    app.wait_running(deployment.id(), 2).await;
    let before: BTreeSet<_> = tasks_of(deployment.id()).into_iter().collect();

    single.process_mut().end(Signal::SIGKILL).await;
    let data = single.data_dir();
    let down = ["down", "--data-dir", data.to_str().expect("plain")];
    let left = single.cli().run(single.directory(), &down).await;
    left.success();
    let told = "2 programs that it had started run on";
    assert!(left.stderr.contains(told), "{}", left.stderr);
    single.start_again().await;
    let http = single.http();
    let app = app.with(&http);
    app.wait_running(deployment.id(), 2).await;
    assert_eq!(http.app(&app.subdomain, "/").await.status, 200);
    let after: BTreeSet<_> = tasks_of(deployment.id()).into_iter().collect();
    assert_eq!(after.len(), 2, "two replicas, two processes");
    assert_eq!(before, after, "those that ran were adopted");
}

#[tokio::test]
async fn detached_it_returns_when_it_is_ready_and_down_ends_it() {
    let directory = tempfile::Builder::new()
        .prefix("zectre-detached-")
        .tempdir()
        .expect("a directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let single = zectre_e2e::Detached::new(directory.path(), Settings::default());
    single.run(&["up", "--detach"]).await.success();
    let again = single.run(&["up", "--detach"]).await;
    assert!(again.failure().contains("already"), "{}", again.stderr);
    let pid = single.pid();
    assert!(is_alive(pid));
    single.run(&["down"]).await.success();
    assert!(!is_alive(pid));
    let nothing = single.run(&["down"]).await;
    assert!(!nothing.stderr.contains("panicked"), "{}", nothing.stderr);
}

#[tokio::test]
async fn what_is_in_its_way_is_told_in_a_sentence() {
    let directory = tempfile::Builder::new()
        .prefix("zectre-errors-")
        .tempdir()
        .expect("a directory can be made");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("it is ours");
    let settings = Settings::default();
    let detached = zectre_e2e::Detached::new(directory.path(), settings.clone());

    let holder = TcpListener::bind(("127.0.0.1", settings.proxy_port)).expect("the port is ours");
    let taken = detached.run(&["up"]).await;
    assert!(
        taken.failure().contains(&settings.proxy_port.to_string()),
        "{}",
        taken.stderr
    );
    assert!(
        taken.stderr.contains("ZECTRE__PROXY__PORT"),
        "what to do: {}",
        taken.stderr
    );
    drop(holder);

    let no_shim = detached
        .cli()
        .env("ZECTRE__AGENT__SHIM", "/nonexistent/zectre-shim");
    let data_dir = directory.path().join("platform");
    let up = ["up", "--data-dir", data_dir.to_str().expect("a plain path")];
    let missing = no_shim.run(directory.path(), &up).await;
    assert!(
        missing.failure().contains("/nonexistent/zectre-shim is missing")
            && missing.stderr.contains("install"),
        "{}",
        missing.stderr
    );

    let foreign = directory.path().join("foreign");
    fs::create_dir(&foreign).expect("it is ours");
    fs::write(foreign.join("thesis.txt"), "precious").expect("it is ours");
    let refused = detached
        .command(&["up", "--data-dir", foreign.to_str().expect("a plain path")])
        .await;
    assert!(refused.failure().contains("foreign"), "{}", refused.stderr);
    assert_eq!(
        fs::read_dir(&foreign).expect("it is ours").count(),
        1,
        "nothing was touched"
    );
}

#[tokio::test]
async fn without_postgresql_it_says_what_to_install() {
    let directory = tempfile::Builder::new()
        .prefix("zectre-bare-")
        .tempdir()
        .expect("a directory can be made");
    let detached = zectre_e2e::Detached::new(directory.path(), Settings::default());
    let data_dir = directory.path().join("platform");
    // A view of the file system in which the packages' directory is empty; nothing leads to another place either.
    let hidden = "mount -t tmpfs none /usr/lib/postgresql && PATH= && exec \"$@\"";
    let mut command = tokio::process::Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", hidden, "sh"])
        .arg(zectre_e2e::program("zectre"))
        .args(["up", "--data-dir"])
        .arg(&data_dir)
        .current_dir(directory.path());
    detached.apply(command.as_std_mut());
    let output = command.output().await.expect("unshare is there");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(
        said.contains("PostgreSQL is not installed") && said.contains("apt-get install postgresql"),
        "{said}"
    );
}

#[tokio::test]
async fn ctrl_c_ends_everything_and_a_start_that_is_broken_off_leaves_nothing() {
    let mut single = Single::start().await;
    let http = single.http();
    let app = App::create(&http, "brief").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let database = postmaster(&single);
    let status = single.process_mut().end(Signal::SIGINT).await;
    assert!(status.success(), "{status}");
    assert!(!is_alive(database), "PostgreSQL was stopped too");
    assert!(tasks_of(deployment.id()).is_empty(), "no task is left");

    // In the midst of the next start, as soon as PostgreSQL has a process.
    single.launch_again();
    let pid_file = single.data_dir().join("postgres/data/postmaster.pid");
    wait_until(Duration::from_secs(60), "PostgreSQL starts", async || {
        pid_file.exists().then_some(())
    })
    .await;
    let database = find_postmaster(&single);
    let status = single.process_mut().end(Signal::SIGINT).await;
    assert_eq!(status.code(), Some(130), "{}", single.process_mut().log());
    assert!(!database.is_some_and(is_alive), "PostgreSQL was stopped too");
    assert!(!pid_file.exists(), "and in order");
}

#[tokio::test]
async fn a_dead_postgresql_is_started_again_while_programs_are_served_and_given_up_when_it_goes_on_dying() {
    let mut single = Single::start().await;
    let http = single.http();
    let app = App::create(&http, "unmoved").await;
    let deployment = app.deploy_program(&server_program(), json!({})).await.succeeded();
    let before = tasks_of(deployment.id());

    kill_postmaster(&single);
    assert_eq!(
        http.app(&app.subdomain, "/").await.status,
        200,
        "while PostgreSQL is away"
    );
    wait_until(Duration::from_secs(60), "the API works again", async || {
        (http.get("/apps").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(http.app(&app.subdomain, "/").await.status, 200);
    assert_eq!(
        tasks_of(deployment.id()),
        before,
        "the same process, all the time"
    );
    app.deploy_program(&server_program(), json!({"env": {"GREETING": "after"}}))
        .await
        .succeeded();
    assert!(http.app(&app.subdomain, "/").await.text().starts_with("after "));

    let last_words = "PostgreSQL ended again and again";
    for death in 2..=4 {
        wait_until(
            Duration::from_secs(60),
            "PostgreSQL is there to be killed",
            async || {
                // One that is killed while it starts is only tried again.
                let up = http.get("/apps").await.status == 200;
                find_postmaster(&single)
                    .filter(|pid| up && is_alive(*pid))
                    .map(drop)
            },
        )
        .await;
        kill_postmaster(&single);
        let told = "starting it again…";
        let process = single.process_mut();
        wait_until(Duration::from_secs(60), "it is noticed", async || {
            let log = process.log();
            (log.matches(told).count() >= death || log.contains(last_words)).then_some(())
        })
        .await;
    }
    let process = single.process_mut();
    wait_until(Duration::from_secs(60), "it ends by itself", async || {
        process.ended()
    })
    .await;
    assert!(process.log().contains(last_words), "{}", process.log());
    single.start_again().await;
    single.http().get("/apps").await.expect(200);
}

fn kill_postmaster(single: &Single) {
    let pid = nix::unistd::Pid::from_raw(postmaster(single));
    nix::sys::signal::kill(pid, Signal::SIGKILL).expect("it is ours");
}
