//! How requests are shared out: between two deployments, to a replica that is new, and how many are tried again.

use crate::{
    client::{full, read_until, routes},
    origin::Origin,
    world::{App, Running, SOON, World},
};
use http::StatusCode;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use zectre_testkit::wait_until;

/// Of so many requests the target's share is off its weight by [`OFF_MAX`] less than once in 10⁹ times (Hoeffding's
/// bound: 2·e^(-2·t²/n)).
const REQUESTS: usize = 500;
const OFF_MAX: usize = 74;

fn get(host: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full(host)).into_bytes()
}

/// A second deployment that gets `weight` percent of the visitors of the first.
async fn target(world: &World, app: App, origin: SocketAddr, weight: i16) {
    sqlx::query(
        "WITH target AS (
             INSERT INTO deployments (id, application_id, environment_id, version, spec, preview_label, replicas,
                                      idle_timeout_secs, cold_start_enabled, status)
             SELECT gen_random_uuid(), application_id, environment_id, 2, '{}', 'shop-next', 1, 300, true, 'running'
             FROM deployments WHERE id = $1 RETURNING id, environment_id),
         task AS (
             INSERT INTO tasks (id, deployment_id, slot, state, wanted, address, port, healthy, routed)
             SELECT gen_random_uuid(), id, 0, 'running', 'run', '127.0.0.1', $2, true, true FROM target)
         UPDATE environments e SET target_deployment_id = t.id, target_weight = $3 FROM target t WHERE e.id = t.environment_id",
    )
    .bind(app.deployment)
    .bind(i32::from(origin.port()))
    .bind(weight)
    .execute(&world.pool)
    .await
    .expect("a rollout");
}

#[tokio::test]
async fn a_canary_gets_its_weight_of_the_visitors() {
    let world = World::new().await;
    let (old, new) = (Origin::saying("old").await, Origin::saying("new").await);
    let app = world.app_at("shop", &[&old]).await;
    target(&world, app, new.address, 0).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    for (weight, requests) in [(0, 50), (20, REQUESTS), (85, REQUESTS), (100, 50)] {
        sqlx::query("UPDATE environments SET target_weight = $1")
            .bind(weight)
            .execute(&world.pool)
            .await
            .expect("a weight");
        world.publish().await;
        let before = (old.requests(), new.requests());
        for _ in 0..requests {
            stream.write_all(&get("shop-default")).await.expect("it reads");
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            if !answer.ends_with("old") && !answer.ends_with("new") {
                read_until(&mut stream, "w").await;
            }
        }
        let (stayed, gone) = (old.requests() - before.0, new.requests() - before.1);
        assert_eq!(stayed + gone, requests);
        let expected = requests * usize::try_from(weight).expect("a percentage") / 100;
        let off_max = if requests == REQUESTS { OFF_MAX } else { 0 };
        assert!(gone.abs_diff(expected) <= off_max, "{gone} at {weight} %");
    }
    proxy.stop().await;
}

/// A program that reads a request and hangs up, and counts.
async fn hangs_up(lost: Arc<AtomicUsize>) -> (SocketAddr, JoinSet<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut running = JoinSet::new();
    running.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            read_until(&mut stream, "\r\n\r\n").await;
            lost.fetch_add(1, SeqCst);
        }
    });
    (address, running)
}

#[tokio::test]
async fn a_deployment_that_answers_nothing_is_asked_again_within_its_budget() {
    /// A burst of second tries that is saved up, and which part of the requests brings one more (`live::budget`).
    const SAVED: usize = 1_000;
    const ONE_OF: usize = 5;
    let world = World::new().await;
    let app = world.app("dead").await;
    let (lost, mut running) = (Arc::new(AtomicUsize::new(0)), Vec::new());
    // As many as one request is lost at: none of them waits for another one.
    for _ in 0..3 {
        let (address, program) = hangs_up(Arc::clone(&lost)).await;
        world.task(app.deployment, address).await;
        running.push(program);
    }
    let proxy = world.start().await;
    let ask = async || {
        let before = lost.load(SeqCst);
        let got = proxy.get("dead-default").await;
        assert_eq!(got.status, StatusCode::BAD_GATEWAY, "{}", got.body);
        (lost.load(SeqCst) - before, got.body)
    };
    let (mut asked, mut exhausted) = (0, false);
    while !exhausted {
        let (tries, body) = ask().await;
        asked += 1;
        assert!((1..=3).contains(&tries), "{tries}: {body}");
        exhausted = body.contains("not tried again");
        assert!(asked <= SAVED, "as many as ever are tried again");
    }
    let again = lost.load(SeqCst) - asked;
    assert!(
        (SAVED..=SAVED + asked / ONE_OF).contains(&again),
        "{again} of {asked}"
    );
    // From now on it is a part of the requests: neither all, nor none.
    let mut more = 0;
    for _ in 0..20 * ONE_OF {
        more += ask().await.0 - 1;
    }
    assert!(more.abs_diff(20) <= 1, "{more}");
    proxy.stop().await;
}

/// What the table tells of a replica: requests under way, and which part of its share it gets, in percent.
async fn look(proxy: &Running, world: &World, app: App, port: u16) -> (u64, u64) {
    let routes = routes(proxy.admin, &world.key).await;
    let backends = routes["deployments"][app.deployment.to_string()]["backends"].clone();
    let backends = backends.as_array().expect("a list");
    let found = backends.iter().find(|backend| backend["port"] == port);
    let number = |name: &str| found.map_or(0, |backend| backend[name].as_u64().expect("a number"));
    (number("in_flight"), number("slow_start_percent"))
}

#[tokio::test]
async fn a_new_replica_gets_less_than_one_that_is_not() {
    let world = World::new().await;
    let silent = async || Origin::new(|_| std::future::pending()).await;
    let (old, new) = (silent().await, silent().await);
    let app = world.app_at("shop", &[&old]).await;
    let proxy = world.start().await;
    let (a, b) = (old.address.port(), new.address.port());
    let mut open = Vec::new();
    let mut hang = async || {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        stream.write_all(&get("shop-default")).await.expect("it reads");
        open.push(stream);
        let requests = open.len() as u64;
        wait_until(SOON, "it has its place", async || {
            let (a, b) = (
                look(&proxy, &world, app, a).await,
                look(&proxy, &world, app, b).await,
            );
            (a.0 + b.0 == requests).then_some((a, b))
        })
        .await
    };
    // Its time begins with the first look at it.
    let mut before = hang().await;
    wait_until(SOON, "it is older", async || {
        (look(&proxy, &world, app, a).await.1 >= 40).then_some(())
    })
    .await;
    world.task(app.deployment, new.address).await;
    world.publish().await;
    before.0.1 = look(&proxy, &world, app, a).await.1;
    before.1.1 = look(&proxy, &world, app, b).await.1;
    // The one with fewer requests for its weight is taken; in the meantime both weights may have grown, as they do.
    while before.1.0 < 3 {
        let after = hang().await;
        let load = |(in_flight, _): (u64, u64), (_, other)| (in_flight + 1) * other;
        let (old, new) = (before.0, before.1);
        if after.1.0 > new.0 {
            assert!(
                load(old, after.1) >= load(new, old),
                "the new one, of {before:?} and {after:?}"
            );
        } else {
            assert!(
                load(new, after.0) >= load(old, new),
                "the old one, of {before:?} and {after:?}"
            );
        }
        before = after;
    }
    drop(open);
    proxy.stop().await;
}
