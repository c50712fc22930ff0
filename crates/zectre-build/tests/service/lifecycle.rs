//! Builds that are cancelled, take too long, or lose their worker; and the walls around them.

use crate::harness::{Yard, hello};
use http::StatusCode;
use std::{os::unix::fs::PermissionsExt, time::Duration};
use zectre_common::{
    state::{BuildStatus, Reason},
    wire::build::Build,
};
use zectre_testkit::wait_until;

/// What a compiler does that writes down what it may do, and then waits to be killed.
const WAITS: &str = "\
    echo \"uid $(id -u)\" >&2\ntouch /build/project/x 2>/dev/null || echo read-only >&2\n\
    echo \"init $(cat /proc/1/comm)\" >&2\necho \"devices $(grep -c : /proc/net/dev)\" >&2\n\
    [ -e /root ] && echo root-is-there >&2\ntouch /build/output/mark && echo writable >&2\n\
    echo waiting >&2\nsleep 1000 & wait\n";
/// What one does that needs more memory than any build may have; it has a bound of its own, where this machine has none.
const SWELLS: &str = "ulimit -v 1000000\ntail /dev/zero >/dev/null\nexit 1\n";

/// A worker's settings with a compiler that does this.
fn compiler(yard: &Yard, does: &str) -> String {
    let under = |name: &str| yard.dir.path().join(name);
    let (path, cache, sysroot) = (under("slow-tishc"), under("empty-cache"), under("sysroot"));
    for directory in [&cache, &sysroot] {
        std::fs::create_dir(directory).expect("made");
    }
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = warm ]; then echo '{{\"ok\":true,\"sysroot\":\"{}\"}}'; exit 0; fi\n{does}",
        sysroot.display()
    );
    std::fs::write(&path, script).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("ours");
    format!(
        "compiler = '{}'\ncache_dir = '{}'",
        path.display(),
        cache.display()
    )
}

fn prepared(yard: &Yard) -> String {
    compiler(yard, WAITS)
}

/// Waits until no process of this test's compiler is left.
async fn all_gone(yard: &Yard) {
    let marker = yard.dir.path().join("slow-tishc").display().to_string();
    wait_until(
        Duration::from_secs(60),
        "every process of the build is gone",
        async || {
            let processes = std::fs::read_dir("/proc").expect("Linux has it").flatten();
            let mut lines = processes.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            (!lines.any(|line| String::from_utf8_lossy(&line).contains(&marker))).then_some(())
        },
    )
    .await;
}

#[tokio::test]
async fn the_sandbox_holds_and_a_cancelled_build_is_killed() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let worker = yard.start(&compiler).await;
    let id = yard.queue(hello()).await;
    yard.says(id, "waiting").await;
    let log = yard.log_text(id).await;
    let lines: Vec<&str> = log.lines().collect();
    assert!(lines.contains(&"uid 65534"), "it must run as nobody:\n{log}");
    assert!(
        lines.contains(&"read-only") && lines.contains(&"writable"),
        "{log}"
    );
    assert!(!log.contains("root-is-there"), "{log}");
    assert!(
        lines.contains(&"init bwrap"),
        "it must see no other process:\n{log}"
    );
    assert!(
        lines.contains(&"devices 1"),
        "it must have no network but its own loopback:\n{log}"
    );

    let answer = worker
        .post(&format!("/api/v1/builds/{id}/cancel"))
        .send()
        .await
        .expect("it answers");
    // 200 where the build was gone before the answer was.
    let status = answer.status();
    assert!(
        [StatusCode::ACCEPTED, StatusCode::OK].contains(&status),
        "{status}"
    );
    let build = yard.ended(id).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Cancelled, Some(Reason::Cancelled))
    );
    all_gone(&yard).await;
    let again = worker
        .post(&format!("/api/v1/builds/{id}/cancel"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(again.status(), StatusCode::OK, "cancelling twice is harmless");
    assert_eq!(yard.events().await, ["build.cancelled"]);
    worker.stop().await;
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_killed() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let worker = yard.start(&format!("{compiler}\ntimeout_secs = 2")).await;
    let id = yard.queue(hello()).await;
    let build = yard.ended(id).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(Reason::BuildTimeout)),
        "{build:?}"
    );
    all_gone(&yard).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_build_that_needs_too_much_memory_is_told_how_much_it_may_have() {
    const LIMIT: u64 = 256 << 20;
    let yard = Yard::new().await;
    let settings = format!("{}\nmemory_bytes_max = {LIMIT}", compiler(&yard, SWELLS));
    let worker = yard.start(&settings).await;
    let build = yard.ended(yard.queue(hello()).await).await;
    // Where no group can be made the worker says so at its start, and the compiler just ends.
    let is_limited = zectre_build::cgroup::Parent::open(LIMIT).is_ok();
    let reason = if is_limited {
        Reason::OomKilled
    } else {
        Reason::BuildWorkerFailed
    };
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(reason)),
        "{build:?}"
    );
    let message = build.message.expect("a sentence");
    assert!(!is_limited || message.contains("256 MiB of memory"), "{message}");
    worker.stop().await;
}

#[tokio::test]
async fn a_stopping_worker_gives_its_build_back_and_another_finishes_it() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let slow = yard.start(&compiler).await;
    let id = yard.queue(hello()).await;
    yard.says(id, "waiting").await;
    slow.stop().await;
    all_gone(&yard).await;
    let build = yard.build(id).await;
    assert_eq!(build.status, BuildStatus::Queued);
    let attempts: i32 = sqlx::query_scalar("SELECT attempts FROM builds")
        .fetch_one(&yard.pool)
        .await
        .expect("readable");
    assert_eq!(attempts, 0, "an interruption doesn't count");
    let is_fresh: Option<bool> =
        sqlx::query_scalar("SELECT lease_expires_at > created_at AND lease_owner IS NULL FROM builds")
            .fetch_one(&yard.pool)
            .await
            .expect("readable");
    assert_eq!(
        is_fresh,
        Some(true),
        "whoever fails what no worker takes counts from now"
    );
    let quick = yard.start("").await;
    assert_eq!(yard.ended(id).await.status, BuildStatus::Succeeded);
    let log = yard.log_text(id).await;
    assert!(
        log.contains("the worker is stopping") && log.contains("built: artifact"),
        "{log}"
    );
    quick.stop().await;
}

#[tokio::test]
async fn a_lease_that_ran_out_is_taken_and_the_old_holder_changes_nothing() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let slow = yard.start(&compiler).await;
    let id = yard.queue(hello()).await;
    yard.says(id, "waiting").await;
    // As if another worker had taken it after a silence: the old one must let go, and write nothing.
    yard.execute("UPDATE builds SET lease_owner = gen_random_uuid(), lease_expires_at = now() + interval '1 hour' WHERE id = $1", id).await;
    let lines = yard.log(id).await.len();
    all_gone(&yard).await;
    slow.stop().await;
    assert_eq!(yard.build(id).await.status, BuildStatus::Running);
    assert_eq!(yard.log(id).await.len(), lines);

    // That other worker was killed: its lease runs out, and the build is taken again.
    yard.execute(
        "UPDATE builds SET lease_expires_at = now() - interval '1 second' WHERE id = $1",
        id,
    )
    .await;
    let quick = yard.start("").await;
    assert_eq!(yard.ended(id).await.status, BuildStatus::Succeeded);
    assert!(yard.log_text(id).await.contains("trying again (attempt 2)"));
    quick.stop().await;
}

#[tokio::test]
async fn a_killed_worker_takes_its_build_along_and_the_next_one_finishes_it() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let mut daemon = yard.daemon(&compiler);
    let id = yard.queue(hello()).await;
    yard.says(id, "waiting").await;
    daemon.kill().await.expect("it ran");
    all_gone(&yard).await;
    assert_eq!(yard.left_in_work(), 1, "nobody could clear it");
    assert_eq!(yard.build(id).await.status, BuildStatus::Running);
    // Another worker's, who may be alive.
    let foreign = yard.queue(hello()).await;
    yard.execute(
        "UPDATE builds SET status = 'running', lease_owner = gen_random_uuid() WHERE id = $1",
        foreign,
    )
    .await;
    for build in [id, foreign] {
        yard.execute(
            "UPDATE builds SET lease_expires_at = now() + interval '1 hour' WHERE id = $1",
            build,
        )
        .await;
    }
    // The next one of its place knows what that one had, and waits for no lease.
    let next = yard.start(&compiler).await;
    let anew = wait_until(Duration::from_secs(60), "another one takes it", async || {
        yard.build(id).await.message
    })
    .await;
    assert!(anew.contains("its worker is gone"), "{anew}");
    next.stop().await;
    assert_eq!(yard.build(foreign).await.status, BuildStatus::Running);
    assert_eq!(yard.build(foreign).await.message, None, "nobody took it");
    let message = yard.build(id).await.message.expect("it waits again");
    assert!(message.contains("gave it back"), "{message}");
    let next = yard.start("").await;
    let ended = yard.ended(id).await;
    assert_eq!((ended.status, ended.message), (BuildStatus::Succeeded, None));
    next.stop().await;
    wait_until(
        Duration::from_secs(60),
        "the work directory is empty",
        async || (yard.left_in_work() == 0).then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_build_that_workers_die_of_is_given_up() {
    let yard = Yard::new().await;
    let id = yard.queue(hello()).await;
    yard.execute("UPDATE builds SET status = 'running', attempts = 3, lease_owner = gen_random_uuid(), lease_expires_at = now() WHERE id = $1", id).await;
    let worker = yard.start("").await;
    let build = yard.ended(id).await;
    assert_eq!(
        (build.status, build.reason),
        (BuildStatus::Failed, Some(Reason::BuildWorkerFailed))
    );
    worker.stop().await;
}

#[tokio::test]
async fn a_queued_build_is_cancelled_at_once() {
    let yard = Yard::new().await;
    let compiler = prepared(&yard);
    let worker = yard.start(&compiler).await;
    let first = yard.queue(hello()).await;
    yard.says(first, "waiting").await;
    // The one slot is taken.
    let waiting = yard.queue(hello()).await;
    let answer = worker
        .post(&format!("/api/v1/builds/{waiting}/cancel"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(
        answer.json::<Build>().await.expect("json").status,
        BuildStatus::Cancelled
    );
    worker
        .post(&format!("/api/v1/builds/{first}/cancel"))
        .send()
        .await
        .expect("it answers");
    assert_eq!(yard.ended(first).await.status, BuildStatus::Cancelled);
    worker.stop().await;
}
