//! Orders for certificates against Pebble, with proxies and Pebble itself coming and going.

use crate::{
    client::{client, send},
    pebble::Pebble,
    secure::Secure,
    world::{Running, SOON, World},
};
use http::StatusCode;
use std::time::Duration;
use tokio::{net::TcpListener, task::JoinSet, time::timeout};
use zectre_common::id::ProxyId;
use zectre_testkit::wait_until;

/// Pebble looks at names after a pause of its own, and refuses some of what it is asked.
const LONG: Duration = Duration::from_secs(90);
const RESTARTS: usize = 20;

async fn world() -> World {
    let world = World::new().await;
    zectre_service::key::ensure_key_file(&world.directory.path().join("master.key")).expect("a key");
    world
}

/// Waits until `proxy` shows a certificate of Pebble's for `name`; its serial number.
async fn certified(proxy: &Running, name: &str) -> Vec<u8> {
    wait_until(LONG, name, || shown(proxy, name)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn three_proxies_restarted_twenty_times_order_once_a_name() {
    const NAMES: [&str; 3] = ["one.test", "two.test", "three.test"];
    let mut world = world().await;
    let pebble = Pebble::start(&world, 5, false).await;
    world.configure(&pebble.configuration("http-01", &NAMES));
    let site = world.app("shop").await;
    let mut names = NAMES.map(String::from).to_vec();
    let mut proxies = Vec::new();
    for _ in 0..3 {
        join(&world, &pebble, &mut proxies).await;
    }
    let mut left = 0;
    for round in 0..RESTARTS {
        // Every other time it is the one that has just taken an order.
        let (name, index) = if round % 2 == 0 {
            let name = format!("custom-{round}.test");
            world.claim(site.environment, &name, "token", true).await;
            let holder = wait_until(LONG, &name, || holder(&world, &name)).await;
            names.push(name.clone());
            let held = proxies.iter().position(|(id, _)| holder == Some(*id));
            (Some(name), held.unwrap_or(0))
        } else {
            (None, 0)
        };
        let (_, leaving) = proxies.remove(index);
        // As load balancers do: a proxy gets nothing new any more before it stops. Pebble looks at a name only once, and
        // an order whose name it could not see is lost.
        pebble
            .plain
            .lead_to(proxies.iter().map(|(_, proxy)| proxy.address).collect())
            .await;
        leaving.stop().await;
        if let Some(name) = name {
            left += usize::from(!is_stored(&world, &name).await);
        }
        join(&world, &pebble, &mut proxies).await;
    }
    assert!(left > 0, "no restart fell into an order");
    pebble
        .plain
        .lead_to(proxies.iter().map(|(_, proxy)| proxy.address).collect())
        .await;
    for (_, proxy) in &proxies {
        for name in &names {
            certified(proxy, name).await;
        }
    }
    assert_eq!(pebble.orders(), names.len(), "{}", pebble.complaints());
    for (_, proxy) in proxies {
        proxy.stop().await;
    }
}

/// One more proxy, with the id that it goes by.
async fn join(world: &World, pebble: &Pebble, proxies: &mut Vec<(ProxyId, Running)>) {
    let proxy = Running::start(&world.config()).await;
    // At once: it orders from its start on, and Pebble looks at a name only once.
    let all = proxies.iter().map(|(_, other)| other.address);
    pebble.plain.lead_to(all.chain([proxy.address]).collect()).await;
    let known: Vec<_> = proxies.iter().map(|(id, _)| *id).collect();
    let id = wait_until(SOON, "it is known", || async {
        let mut ids = world.proxies().await.into_iter();
        ids.find(|id| !known.contains(id))
    })
    .await;
    proxies.push((id, proxy));
}

/// Who carries out the order for `name`, once anybody does; nobody when it is done already.
async fn holder(world: &World, name: &str) -> Option<Option<ProxyId>> {
    let holder = sqlx::query_scalar("SELECT holder FROM acme_orders WHERE name = $1 AND holder IS NOT NULL")
        .bind(name)
        .fetch_optional(&world.pool)
        .await
        .expect("readable");
    if holder.is_none() && !is_stored(world, name).await {
        return None;
    }
    Some(holder)
}

async fn is_stored(world: &World, name: &str) -> bool {
    sqlx::query_scalar("SELECT count(*) > 0 FROM certificates WHERE name = $1")
        .bind(name)
        .fetch_one(&world.pool)
        .await
        .expect("readable")
}

/// Whoever is killed in the middle of an order, the next one goes on with it: a second one is never made.
#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_killed_in_any_step_of_an_order_leaves_it_to_the_next_one() {
    let mut world = world().await;
    let pebble = Pebble::start(&world, 5, false).await;
    // This one only answers: Pebble looks at a name once.
    world.configure(&pebble.configuration("http-01", &[]));
    let answering = world.start().await;
    pebble.plain.lead_to(vec![answering.address]).await;
    let site = world.site("ordering", &pebble.section("http-01", &["one.test"]));
    let mut killed = 0;
    for step in ["/order-plz", "/chalZ/", "/finalize-order/", "/certZ/"] {
        let process = site.start();
        wait_until(LONG, step, || async {
            (is_written_down(&world).await && pebble.said(&format!("POST {step}")) > 0).then_some(())
        })
        .await;
        process.kill().await;
        // As after the end of the lease.
        let left = sqlx::query("UPDATE acme_orders SET lease_until = now() WHERE holder IS NOT NULL")
            .execute(&world.pool)
            .await
            .expect("updated");
        killed += left.rows_affected();
    }
    assert!(killed >= 2, "{killed}");
    let process = site.start();
    certified(&answering, "one.test").await;
    assert_eq!(pebble.orders(), 1, "{}", pebble.complaints());
    process.kill().await;
    answering.stop().await;
}

/// Whether the order is known, or done with. (Before that nobody can know of it but the server.)
async fn is_written_down(world: &World) -> bool {
    sqlx::query_scalar(
        "SELECT count(*) > 0 FROM acme_orders WHERE order_url IS NOT NULL OR revision > 1 AND holder IS NULL",
    )
    .fetch_one(&world.pool)
    .await
    .expect("readable")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_server_loses_no_certificate_and_renewal_comes_ahead_of_the_end() {
    let mut world = world().await;
    let mut pebble = Pebble::start(&world, 50, true).await;
    world.configure(&pebble.configuration("tls-alpn-01", &["a.test"]));
    let config = world.config();
    let (one, two) = (Running::start(&config).await, Running::start(&config).await);
    pebble.secure.lead_to(vec![one.secure(), two.secure()]).await;
    // In the middle of the first order, all of it is lost: account, order and authorization.
    wait_until(LONG, "an order is under way", || async {
        (pebble.orders() > 0).then_some(())
    })
    .await;
    pebble.lose_everything().await;
    let first = certified(&one, "a.test").await;
    // No restart: the other proxy serves it, too.
    assert_eq!(certified(&two, "a.test").await, first);
    let ordered = pebble.orders();
    age(&world).await;
    wait_until(LONG, "a renewal is ordered", || async {
        (pebble.orders() > ordered).then_some(())
    })
    .await;
    wait_until(LONG, "the new one is served", || async {
        (certified(&two, "a.test").await != first).then_some(())
    })
    .await;
    assert_ne!(certified(&one, "a.test").await, first);
    one.stop().await;
    two.stop().await;
}

/// Of a certificate in use only the renewal suffers: whatever Pebble does, not one handshake is without it.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_that_keeps_failing_leaves_the_certificate_in_use() {
    let mut world = world().await;
    let mut pebble = Pebble::start(&world, 50, true).await;
    world.configure(&pebble.configuration("tls-alpn-01", &["a.test"]));
    let config = world.config();
    let (one, mut two) = (Running::start(&config).await, Running::start(&config).await);
    pebble.secure.lead_to(vec![one.secure(), two.secure()]).await;
    let first = certified(&one, "a.test").await;
    assert_eq!(certified(&two, "a.test").await, first);
    // From now on it sees the name nowhere, refuses half of what it is asked for anyhow, and is lost in the middle.
    pebble.secure.lead_to(Vec::new()).await;
    age(&world).await;
    for _ in 0..2 {
        let ordered = pebble.orders();
        wait_until(LONG, "a renewal is ordered", || async {
            for proxy in [&one, &two] {
                assert_eq!(shown(proxy, "a.test").await, Some(first.clone()));
            }
            (pebble.orders() > ordered).then_some(())
        })
        .await;
        pebble.lose_everything().await;
    }
    let failed = failures(&world).await;
    wait_until(LONG, "it fails twice more", || async {
        for proxy in [&one, &two] {
            assert_eq!(shown(proxy, "a.test").await, Some(first.clone()));
        }
        (failures(&world).await >= failed + 2).then_some(())
    })
    .await;
    // Nor is it lost with the proxies that know it.
    two.stop().await;
    two = Running::start(&config).await;
    assert_eq!(certified(&two, "a.test").await, first);
    pebble.secure.lead_to(vec![one.secure(), two.secure()]).await;
    for proxy in [&one, &two] {
        wait_until(LONG, "the new one is served", || async {
            let serial = shown(proxy, "a.test").await.expect("there is always one");
            (serial != first).then_some(())
        })
        .await;
    }
    one.stop().await;
    two.stop().await;
}

/// The serial number of the certificate that `proxy` shows at this moment, when it is for `name`.
async fn shown(proxy: &Running, name: &str) -> Option<Vec<u8>> {
    let secure = Secure::connect(proxy.secure(), name, &[]).await;
    let serial = || {
        let certificate = secure.certificate().tbs_certificate;
        certificate.serial_number.as_bytes().to_vec()
    };
    (secure.names() == [name]).then(serial)
}

/// The certificates that are stored are due.
async fn age(world: &World) {
    sqlx::query("UPDATE certificates SET not_before = now() - interval '80 days', not_after = now() + interval '1 day'")
        .execute(&world.pool)
        .await
        .expect("aged");
}

/// In a row, of the one order.
async fn failures(world: &World) -> i32 {
    sqlx::query_scalar("SELECT attempts FROM acme_orders")
        .fetch_one(&world.pool)
        .await
        .expect("readable")
}

/// A server that takes connections and never says a word holds up no stop.
#[tokio::test]
async fn a_silent_server_holds_up_no_stop() {
    let mut world = world().await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = silent.local_addr().expect("bound").port();
    let key = world.directory.path().join("master.key");
    world.configure(&format!(
        "[secrets]\nmaster_key_file = '{}'\n[proxy.tls]\nenabled = true\nport = 0\n[proxy.tls.acme]\n\
         directory_url = 'https://127.0.0.1:{port}/dir'\nnames = ['one.test', 'two.test', 'three.test']\n",
        key.display()
    ));
    let proxy = Running::start(&world.config()).await;
    let _asked = timeout(SOON, silent.accept()).await.expect("it is asked");
    // Far less than it waits for an answer while nobody stops it.
    timeout(Duration::from_secs(12), proxy.stop())
        .await
        .expect("it stops without one");
    let held: i64 =
        sqlx::query_scalar("SELECT count(*) FROM acme_orders WHERE holder IS NOT NULL OR attempts > 0")
            .fetch_one(&world.pool)
            .await
            .expect("readable");
    assert_eq!(held, 0, "another proxy may go on at once");
}

/// Whoever asks for what is not there, or all at once, takes the answer from nobody.
#[tokio::test]
async fn challenges_are_answered_however_many_ask() {
    let mut world = world().await;
    let key = world.directory.path().join("master.key");
    world.configure(&format!(
        "[secrets]\nmaster_key_file = '{}'\n[proxy.tls]\nenabled = true\nport = 0\n[proxy.tls.acme]\n\
         directory_url = 'https://127.0.0.1:1/dir'\n",
        key.display()
    ));
    let proxy = world.start().await;
    let ask = |host: String, token: &str| {
        let request = client().get(proxy.url(&format!("/.well-known/acme-challenge/{token}")));
        send(request.header("host", host))
    };
    assert_eq!(
        ask("one.test".into(), "token").await.problem().code,
        "UNKNOWN_HOST"
    );
    // Looked for at once: what was read before is not good enough.
    sqlx::query(
        "INSERT INTO acme_challenges VALUES ('one.test', 'token', 'proof', now() + interval '1 hour')",
    )
    .execute(&world.pool)
    .await
    .expect("inserted");
    let mut asked = JoinSet::new();
    for index in 0..100 {
        asked.spawn(ask(format!("other-{index}.test"), "token"));
        let one = ask("one.test".into(), "token");
        asked.spawn(async {
            let got = one.await;
            assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "proof"));
            got
        });
    }
    asked.join_all().await;
    assert_eq!(
        ask("one.test".into(), "another").await.problem().code,
        "UNKNOWN_HOST"
    );
    proxy.stop().await;
}
