//! Starts, stops, and a database that goes away.

use crate::{
    client::{client, full, raw, read_until, send},
    origin::{Origin, text},
    world::{Running, SOON, World},
};
use http::StatusCode;
use std::sync::Arc;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use zectre_common::id::ProxyId;
use zectre_testkit::wait_until;

#[tokio::test]
async fn a_stop_lets_requests_finish_and_then_nobody_waits_for_the_proxy() {
    let world = World::new().await;
    let (began, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, finishes) = (Arc::clone(&began), Arc::clone(&finish));
    let origin = Origin::new(move |_| {
        let (begins, finishes) = (Arc::clone(&begins), Arc::clone(&finishes));
        async move {
            begins.notify_one();
            finishes.notified().await;
            text("finished")
        }
    })
    .await;
    world.app_at("slow", &[&origin]).await;
    let mut proxy = world.start().await;
    assert_eq!(world.proxies().await.len(), 1);
    let address = proxy.address;
    let mut clients = JoinSet::new();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("slow-default"));
    clients.spawn(async move { raw(address, request.as_bytes()).await });
    began.notified().await;
    proxy.shutdown.request();
    wait_until(SOON, "the listener is closed", || async {
        TcpStream::connect(address).await.err()
    })
    .await;
    assert_eq!(world.proxies().await.len(), 1, "it still serves");
    finish.notify_one();
    let answer = clients
        .join_next()
        .await
        .expect("one client")
        .expect("it did not panic");
    assert!(answer.ends_with("finished"), "{answer}");
    proxy.ended().await;
    assert!(world.proxies().await.is_empty());
}

/// The kernel makes connections whether or not anybody accepts them; those are not to be broken by a stop.
#[tokio::test]
async fn a_connection_that_came_before_the_stop_is_served() {
    let world = World::new().await;
    let origin = Origin::saying("served").await;
    world.app_at("steady", &[&origin]).await;
    let proxy = world.start().await;
    // On the one thread of this test nobody accepts meanwhile.
    let mut clients: Vec<_> = (0..8)
        .map(|_| std::net::TcpStream::connect(proxy.address).expect("it listens"))
        .collect();
    proxy.shutdown.request();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("steady-default")
    );
    // Nor does anybody grow tired of one that says nothing.
    for client in &mut clients {
        std::io::Write::write_all(client, request.as_bytes()).expect("the kernel keeps it");
    }
    for client in clients {
        client.set_nonblocking(true).expect("a socket");
        let mut client = TcpStream::from_std(client).expect("a socket");
        read_until(&mut client, "served").await;
    }
    proxy.stop().await;
}

#[tokio::test]
async fn requests_that_never_end_are_cut_off_at_the_end_of_the_drain() {
    let mut world = World::new().await;
    world.configure("[proxy]\ndrain_timeout_ms = 100");
    let began = Arc::new(Notify::new());
    let begins = Arc::clone(&began);
    let origin = Origin::new(move |_| {
        begins.notify_one();
        std::future::pending()
    })
    .await;
    world.app_at("stuck", &[&origin]).await;
    let proxy = world.start().await;
    let address = proxy.address;
    let mut clients = JoinSet::new();
    let request = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("stuck-default"));
    clients.spawn(async move { raw(address, request.as_bytes()).await });
    began.notified().await;
    proxy.stop().await;
    assert_eq!(
        clients
            .join_next()
            .await
            .expect("one client")
            .expect("it did not panic"),
        ""
    );
}

#[tokio::test]
async fn the_snapshot_serves_while_the_database_is_away() {
    let mut world = World::new().await;
    let origin = Origin::saying("remembered").await;
    world.app_at("memory", &[&origin]).await;
    world.configure(&format!(
        "[proxy]\nsnapshot_path = \"{}\"",
        world.snapshot_path().display()
    ));
    let proxy = world.start().await;
    wait_until(SOON, "the snapshot is written", || async {
        world.snapshot_path().is_file().then_some(())
    })
    .await;
    proxy.stop().await;

    let mut config = world.config();
    // Nobody listens there.
    config.database.url = "postgres://zectre@127.0.0.1:1/none".to_owned().into();
    let mut forgetful = config.clone();
    forgetful.proxy.snapshot_path = world.directory.path().join("none.json");
    // Each looks for the database for a while at its start and at its end: both at once.
    let (proxy, other) = tokio::join!(Running::start(&config), Running::start(&forgetful));
    assert_eq!(proxy.get("memory-default").await.body, "remembered");
    let ready = send(client().get(format!("http://{}/ready", proxy.admin))).await;
    assert_eq!(ready.status, StatusCode::OK);

    let got = other.get("memory-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "NO_ROUTES")
    );
    let ready = send(client().get(format!("http://{}/ready", other.admin))).await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    let health = send(client().get(format!("http://{}/health", other.admin))).await;
    assert_eq!(health.status, StatusCode::OK, "it is alive all the same");
    tokio::join!(proxy.stop(), other.stop());
}

#[tokio::test]
async fn a_lost_database_connection_is_made_again_and_changes_are_caught_up_with() {
    let world = World::new().await;
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    let app = world.app("catch").await;
    let task = world.task(app.deployment, one.address).await;
    let proxy = world.start().await;
    assert_eq!(proxy.get("catch-default").await.body, "one");
    // Every connection of the proxy is cut; the change is made while it listens to nobody.
    sqlx::query!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE application_name = 'zectre-proxy' AND datname = current_database()"
    )
    .fetch_all(&world.pool)
    .await
    .expect("terminated");
    world.unroute(task).await;
    world.task(app.deployment, two.address).await;
    let epoch = world.raise().await;
    world.applied(epoch).await;
    assert_eq!(proxy.get("catch-default").await.body, "two");
    proxy.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_a_sentence() {
    let world = World::new().await;
    let mut config = world.config();
    // None of those that the kernel gives to connections: it would be reserved on this machine.
    config.proxy.port = zectre_testkit::free_port();
    let held = TcpListener::bind((config.proxy.host.as_str(), config.proxy.port)).await;
    let held = held.expect("a free port");
    let error = zectre_proxy::Service::new(&config)
        .await
        .err()
        .expect("the port is taken")
        .to_string();
    assert!(error.contains("the port is taken"), "{error}");
    drop(held);
}

#[tokio::test]
async fn nobody_waits_for_a_killed_proxy_once_another_has_its_place() {
    let world = World::new().await;
    let more = format!("snapshot_path = \"{}\"", world.snapshot_path().display());
    let site = world.site("killed", &more);
    let killed = site.ready().await;
    let row = async |not: Option<ProxyId>| {
        wait_until(SOON, "one row, of another proxy", || async {
            let rows = world.proxies().await;
            (rows.len() == 1 && Some(rows[0]) != not).then(|| rows[0])
        })
        .await
    };
    let first = row(None).await;
    killed.kill().await;
    // So that it is not the end of its lease that takes the row away.
    sqlx::query("UPDATE proxies SET lease_expires_at = now() + interval '1 day'")
        .execute(&world.pool)
        .await
        .expect("written");
    let second = site.ready().await;
    row(Some(first)).await;
    second.kill().await;
}

/// What waits for others' locks, or for a disk, is not what keeps a proxy's row.
#[tokio::test]
async fn the_row_goes_though_the_last_words_find_no_ear() {
    let world = World::new().await;
    let origin = Origin::saying("served").await;
    world.app_at("steady", &[&origin]).await;
    let proxy = world.start().await;
    let mut deaf = world.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE deployment_activity IN ACCESS EXCLUSIVE MODE")
        .execute(&mut *deaf)
        .await
        .expect("locked");
    assert_eq!(proxy.get("steady-default").await.body, "served");
    proxy.stop().await;
    assert!(world.proxies().await.is_empty());
    deaf.rollback().await.expect("unlocked");
}

/// Whoever took its row away was mistaken.
#[tokio::test]
async fn a_proxy_without_a_row_makes_it_anew() {
    let world = World::new().await;
    let proxy = world.start().await;
    let its_row = async || (world.proxies().await.len() == 1).then_some(());
    wait_until(SOON, "its row is there", &its_row).await;
    let gone = sqlx::query("DELETE FROM proxies").execute(&world.pool);
    gone.await.expect("deleted");
    wait_until(SOON, "it is there again", its_row).await;
    proxy.stop().await;
    assert!(world.proxies().await.is_empty());
}

/// PostgreSQL carries out what it was sent, whoever has gone meanwhile.
#[tokio::test]
async fn a_renewal_that_comes_late_brings_no_proxy_back() {
    let world = World::new().await;
    // One connection beside the one that listens: it knows the statement of the renewal before, so that the next one is carried out where it
    // waits for a lock, and not only read.
    let site = world.site("late", "").but("late.toml", |text| {
        text.replace("connections_max = 4", "connections_max = 2")
    });
    let killed = site.ready().await;
    let lease = async || -> Option<String> {
        let lease =
            sqlx::query_scalar("SELECT lease_expires_at::text FROM proxies").fetch_optional(&world.pool);
        lease.await.expect("readable")
    };
    let first = wait_until(SOON, "its row is there", &lease).await;
    wait_until(SOON, "it is renewed", || async {
        (lease().await.as_ref() != Some(&first)).then_some(())
    })
    .await;
    let mut slow = world.pool.begin().await.expect("a transaction");
    sqlx::query("LOCK TABLE proxies IN EXCLUSIVE MODE")
        .execute(&mut *slow)
        .await
        .expect("locked");
    let waiting = async || {
        // What clears away others' rows is no renewal.
        let count: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'zectre-proxy' AND wait_event_type = 'Lock' AND query LIKE 'WITH %'",
        )
        .fetch_one(&world.pool)
        .await
        .expect("a number");
        count
    };
    wait_until(SOON, "a renewal is on its way", || async {
        (waiting().await == 1).then_some(())
    })
    .await;
    killed.kill().await;
    // As its goodbye, or that of whoever has its place, would do it.
    sqlx::query("DELETE FROM proxies")
        .execute(&mut *slow)
        .await
        .expect("deleted");
    slow.commit().await.expect("written");
    wait_until(SOON, "the renewal is done", || async {
        (waiting().await == 0).then_some(())
    })
    .await;
    // Whatever it wrote is written once its connection is gone.
    wait_until(SOON, "nothing of the proxy is left", || async {
        let left: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
             AND application_name = 'zectre-proxy'",
        )
        .fetch_one(&world.pool)
        .await
        .expect("a number");
        (left == 0).then_some(())
    })
    .await;
    assert!(world.proxies().await.is_empty());
}
