//! Who leads when leaders die, freeze, or lose the database: one takes over within seconds, and nothing is lost or
//! done twice.

use crate::support::{
    PATIENCE, Scheduler, World,
    agent::{Agent, Programs},
    line::{Line, State},
    rows::App,
};
use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};
use zectre_common::state::DeploymentStatus;
use zectre_testkit::{free_port, wait_until};

/// The longest that a cluster may be without a leader once the server knows that it lost one. A killed one is replaced within
/// half a second; the rest is for a machine that does much else.
const TAKE_OVER_MAX: Duration = Duration::from_secs(5);
/// The server waits so long for one that it hears nothing of: `idle_session_timeout`, within which it asks thrice.
const SILENCE: Duration = Duration::from_secs(3);

/// `zectre-scheduler` as a process; killed with the value.
struct Daemon {
    scheduler: Scheduler,
    child: Child,
}

fn launch(world: &World, port: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_zectre-scheduler"))
        .arg("--config")
        .arg(world.keys.path().join(format!("scheduler-{port}.toml")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program was built for this test")
}

fn kill(child: &mut Child) {
    child.kill().expect("the process is ours");
    child.wait().expect("the process is ours");
}

impl Daemon {
    fn start(world: &World) -> Self {
        let port = free_port();
        let config = world.keys.path().join(format!("scheduler-{port}.toml"));
        std::fs::write(&config, world.config_text(port)).expect("the directory is ours");
        let child = launch(world, &port.to_string());
        Self {
            scheduler: world.reach(format!("http://127.0.0.1:{port}")),
            child,
        }
    }

    /// Again, at the same address.
    fn restart(&mut self, world: &World) {
        let port = self.scheduler.url.rsplit_once(':').expect("a URL with a port").1;
        self.child = launch(world, port);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have been killed already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn took_over(since: Instant, most: Duration) {
    let took = since.elapsed();
    eprintln!("took over after {} ms", took.as_millis());
    assert!(took <= most, "{took:?} without a leader: more than {most:?}");
}

async fn answers(scheduler: &Scheduler) {
    wait_until(PATIENCE, "the scheduler answers", async || {
        scheduler.status().await.ok().map(drop)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_leaders_are_replaced_and_nothing_is_lost_or_doubled() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let mut leader = Daemon::start(&world);
    leader.scheduler.leads().await;
    let mut follower = Daemon::start(&world);
    answers(&follower.scheduler).await;
    let mut before = app.deploy(1, r#"{"replicas":3}"#).await;
    let schedulers = [&leader.scheduler, &follower.scheduler];
    let token = app.join_token().await;
    let agent = Agent::join(&world, "one", &token, Programs::Serve, &schedulers).await;
    leader.scheduler.nudge().await;
    app.becomes(before, DeploymentStatus::Succeeded).await;
    for version in 2..=4 {
        let next = app.deploy(version, r#"{"replicas":3}"#).await;
        // In the midst of the rollout; the call may die with the one that is called.
        let Daemon { scheduler, child } = &mut leader;
        let (_, ()) = tokio::join!(scheduler.try_nudge(), async {
            wait_until(PATIENCE, "it is under way", async || {
                (app.live(next).await > 0).then_some(())
            })
            .await;
            kill(child);
        });
        let killed = Instant::now();
        follower.scheduler.leads().await;
        took_over(killed, TAKE_OVER_MAX);
        app.becomes(next, DeploymentStatus::Succeeded).await;
        wait_until(PATIENCE, "only the new version runs", async || {
            (agent.running() == 3 && app.live(before).await == 0).then_some(())
        })
        .await;
        assert_eq!((app.current().await, app.routed(next).await), (Some(next), 3));
        // The one that was killed comes back and follows.
        leader.restart(&world);
        answers(&leader.scheduler).await;
        std::mem::swap(&mut leader, &mut follower);
        before = next;
    }
    assert!(
        agent.starts().iter().all(|starts| *starts == 1),
        "nothing was started twice"
    );
    assert_eq!(agent.starts().len(), 12, "and nothing more often than wanted");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_is_cut_off_is_replaced_and_changes_nothing_any_more() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let line = Line::to(&world.socket_directory());
    let cut = world.scheduler_over(&line).await;
    cut.leads().await;
    let other = world.scheduler().await;
    let token = app.join_token().await;
    let agent = Agent::join(&world, "one", &token, Programs::Serve, &[&other, &cut]).await;
    let first = app.deploy(1, "{}").await;
    other.nudge().await;
    app.becomes(first, DeploymentStatus::Succeeded).await;
    // The server hears nothing more of it, not even that it is gone.
    line.set(State::Silent);
    let since = Instant::now();
    other.leads().await;
    took_over(since, SILENCE + TAKE_OVER_MAX);
    let second = app.deploy(2, "{}").await;
    other.nudge().await;
    app.becomes(second, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "the old one steps down", async || {
        cut.ready_epoch().await.is_none().then_some(())
    })
    .await;
    line.set(State::Open);
    wait_until(PATIENCE, "it follows", async || {
        cut.status()
            .await
            .is_ok_and(|status| !status.leader)
            .then_some(())
    })
    .await;
    wait_until(PATIENCE, "one runs", async || {
        (agent.running() == 1).then_some(())
    })
    .await;
    assert!(
        agent.starts().iter().all(|starts| *starts == 1),
        "nothing was started twice"
    );
    assert_eq!(app.current().await, Some(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_without_a_database_steps_down_and_comes_back() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let line = Line::to(&world.socket_directory());
    let scheduler = world.scheduler_over(&line).await;
    scheduler.leads().await;
    let token = app.join_token().await;
    let agent = Agent::join(&world, "one", &token, Programs::Serve, &[&scheduler]).await;
    let first = app.deploy(1, r#"{"replicas":2}"#).await;
    scheduler.nudge().await;
    app.becomes(first, DeploymentStatus::Succeeded).await;
    let epoch = scheduler.status().await.expect("it leads").epoch;
    for state in [State::Closed, State::Silent] {
        line.set(state);
        wait_until(PATIENCE, "it no longer leads", async || {
            scheduler.ready_epoch().await.is_none().then_some(())
        })
        .await;
        assert_eq!(agent.running(), 2, "what runs goes on");
        line.set(State::Open);
        scheduler.leads().await;
    }
    let second = app.deploy(2, r#"{"replicas":2}"#).await;
    // Without a nudge: it looks by itself again.
    app.becomes(second, DeploymentStatus::Succeeded).await;
    wait_until(PATIENCE, "only the new version runs", async || {
        (agent.running() == 2 && app.live(first).await == 0).then_some(())
    })
    .await;
    assert!(
        agent.starts().iter().all(|starts| *starts == 1),
        "nothing was started twice"
    );
    assert!(scheduler.status().await.expect("it leads").epoch > epoch);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_keeps_its_lead_however_long_it_reads_the_state() {
    let world = World::new().await;
    let app = App::create(&world).await;
    // A state so large that reading it takes longer than the server lets the lock's session be silent.
    let mut slow = app.pool.begin().await.expect("the server runs");
    sqlx::query("LOCK TABLE nodes IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *slow)
        .await
        .expect("locked");
    let scheduler = world.scheduler().await;
    let elected = "SELECT epoch FROM scheduler_leader WHERE address IS NOT NULL AND elected_at < clock_timestamp() - $1 * interval '1 ms'";
    let epoch = async |for_ms: i64| {
        wait_until(PATIENCE, "it is elected, and stays so", async || {
            let row = sqlx::query_scalar::<_, i64>(elected).bind(for_ms);
            row.fetch_optional(&app.pool).await.expect("read")
        })
        .await
    };
    let first = epoch(0).await;
    let other = world.scheduler().await;
    // Twice as long as the silence that ends the lock's session, less what an election takes.
    let later = epoch(5_500).await;
    assert_eq!((later, scheduler.ready_epoch().await), (first, None));
    assert_eq!(other.ready_epoch().await, None, "it waits for its turn");
    slow.rollback().await.expect("the lock is ours");
    scheduler.leads().await;
    assert_eq!(scheduler.ready_epoch().await, u64::try_from(first).ok());
    scheduler.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_keeps_its_lead_however_long_it_decides() {
    let world = World::new().await;
    let app = App::create(&world).await;
    let scheduler = world.scheduler().await;
    scheduler.leads().await;
    let first = scheduler.ready_epoch().await;
    // Longer than the silence that ends the lock's session, counted from the election a moment ago.
    let elected = "SELECT epoch FROM scheduler_leader WHERE elected_at < clock_timestamp() - interval '5 s'";
    let later = wait_until(PATIENCE, "time has passed", async || {
        let row = sqlx::query_scalar::<_, i64>(elected);
        row.fetch_optional(&app.pool).await.expect("read")
    });
    let later = scheduler.busy_until(later).await;
    assert_eq!(u64::try_from(later).ok(), first);
    assert_eq!(scheduler.ready_epoch().await, first);
    scheduler.stop().await;
}
