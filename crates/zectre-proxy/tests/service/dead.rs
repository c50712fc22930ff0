//! All that stands behind the proxy is dead, for longer than any of its timers takes: what it knew is served unchanged.
//!
//! For as long as somebody would be away in earnest: `ZECTRE_DEAD_SECS=600 cargo test -p zectre-proxy --test service dead`
//! (nextest ends a test after five minutes).

use crate::{
    origin::Origin,
    world::{SOON, World},
};
use http::StatusCode;
use sqlx::PgConnection;
use std::time::Duration;
use tokio::time::{Instant, interval, timeout};
use zectre_testkit::admit;

/// Longer than a lease, a look at the epoch, and a statement or a connection that never comes about.
const DEAD_SECS: u64 = 25;

fn dead_for() -> Duration {
    let secs = std::env::var("ZECTRE_DEAD_SECS").ok();
    Duration::from_secs(secs.map_or(DEAD_SECS, |secs| secs.parse().expect("seconds")))
}

/// Ends the proxy's connections to the database: how many there were.
async fn cut(line: &mut PgConnection) -> usize {
    let ended = sqlx::query!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'zectre-proxy' AND datname = current_database()"
    );
    ended.fetch_all(line).await.expect("terminated").len()
}

#[tokio::test]
async fn what_was_known_is_served_while_everything_behind_is_dead() {
    let mut world = World::new().await;
    // Nobody is the API, nor the scheduler behind it.
    world.configure("[api]\npublic_url = \"http://127.0.0.1:1\"\n[proxy]\nwake_timeout_ms = 2000");
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let app = world.app("shop").await;
    let task = world.task(app.deployment, one.address).await;
    world.app_at("blog", &[&two]).await;
    let asleep = world.app("asleep").await;
    world.sleep(asleep.deployment).await;
    let proxy = world.start().await;
    let mut line = world.pool.acquire().await.expect("a connection");
    admit(&world.pool, false).await;
    assert!(cut(&mut line).await > 0);
    let (until, mut served) = (Instant::now() + dead_for(), 0);
    let mut beat = interval(Duration::from_millis(50));
    // As long as that, and as much as shows it on a busy machine.
    while Instant::now() < until || served <= 30 {
        beat.tick().await;
        for (host, words) in [
            ("shop-default", "one"),
            ("blog-default", "two"),
            ("shop-preview", "one"),
        ] {
            let got = timeout(SOON, proxy.get(host)).await.expect("it answers");
            assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, words), "{host}");
            served += 1;
        }
        let got = timeout(SOON, proxy.get("asleep-default"))
            .await
            .expect("it answers");
        assert_eq!(got.problem().code, "WAKE_UNAVAILABLE", "{}", got.body);
        assert_eq!(proxy.get("nobody-default").await.problem().code, "UNKNOWN_HOST");
    }
    assert_eq!(cut(&mut line).await, 0, "it reached the database");
    // When that is back, so is the proxy: nothing has to be started again.
    admit(&world.pool, true).await;
    drop(line);
    world.unroute(task).await;
    world.task(app.deployment, two.address).await;
    let epoch = world.raise().await;
    world.applied(epoch).await;
    assert_eq!(proxy.get("shop-default").await.body, "two");
    proxy.stop().await;
}
