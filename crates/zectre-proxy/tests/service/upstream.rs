//! Connections to tasks: kept, dead, and draining.

use crate::{
    client::{client, full, raw, read_until, routes, send},
    origin::{Origin, text},
    world::{SOON, World},
};
use http::StatusCode;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Instant,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinSet,
};
use zectre_testkit::wait_until;

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let world = World::new().await;
    let origin = Origin::saying("hello").await;
    world.app_at("hello", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("hello-default"));
    for _ in 0..20 {
        stream.write_all(head.as_bytes()).await.expect("it reads");
        read_until(&mut stream, "hello").await;
    }
    assert_eq!((origin.requests(), origin.connections()), (20, 1));
    proxy.stop().await;
}

#[tokio::test]
async fn a_kept_connection_that_died_is_nobodys_error() {
    let world = World::new().await;
    // Says that it keeps the connection, and closes it after each answer.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 4_096];
            if stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                let _ = stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
                    .await;
            }
        }
    });
    let app = world.app("fickle").await;
    world.task(app.deployment, address).await;
    let proxy = world.start().await;
    for _ in 0..200 {
        assert_eq!(proxy.get("fickle-default").await.status, StatusCode::OK);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_that_kills_its_task_kills_few() {
    kills("", 3, "3 times it was sent").await;
}

#[tokio::test]
async fn a_request_that_kills_its_task_kills_one_where_nothing_is_repeated() {
    kills("[proxy]\nrepeat_lost_requests = false", 1, "BAD_GATEWAY").await;
}

/// A GET that is the end of whatever serves it, and of how many.
async fn kills(configured: &str, times: usize, told: &str) {
    let mut world = World::new().await;
    world.configure(configured);
    let app = world.app("fragile").await;
    let (mut tasks, lost) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for _ in 0..6 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let lost = Arc::clone(&lost);
        // Reads the request and is gone, its listener with it.
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = [0; 4_096];
                if stream.read(&mut bytes).await.is_ok_and(|count| count > 0) {
                    lost.fetch_add(1, SeqCst);
                    return;
                }
            }
        });
        world.task(app.deployment, address).await;
    }
    let proxy = world.start().await;
    let got = proxy.get("fragile-default").await;
    assert_eq!(got.status, StatusCode::BAD_GATEWAY, "{}", got.body);
    assert!(got.body.contains(told), "{}", got.body);
    assert_eq!(lost.load(SeqCst), times, "the others live on");
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_that_a_program_hangs_up_at_is_nobody_elses_matter() {
    let mut world = World::new().await;
    // Nobody who finds no task would be served in this time.
    world.configure("[proxy]\nwake_timeout_ms = 100");
    let (mut tasks, lost) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
    for (name, replicas) in [("alone", 1), ("pair", 2)] {
        let app = world.app(name).await;
        for _ in 0..replicas {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
            world
                .task(app.deployment, listener.local_addr().expect("bound"))
                .await;
            tasks.spawn(hangs_up(listener, Arc::clone(&lost)));
        }
    }
    let proxy = Arc::new(world.start().await);
    for host in ["alone-default", "pair-default"] {
        lost.store(0, SeqCst);
        let mut fatal = JoinSet::new();
        let request = client().get(proxy.url("/x")).header("host", full(host));
        fatal.spawn(send(request));
        // While it is tried, and after that.
        let mut after = 0;
        while after < 5 {
            if let Some(got) = fatal.try_join_next() {
                let got = got.expect("it did not panic");
                assert_eq!(got.status, StatusCode::BAD_GATEWAY, "{}", got.body);
            }
            after += usize::from(fatal.is_empty());
            let got = proxy.get(host).await;
            assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "ok"), "{host}");
        }
        assert_eq!(lost.load(SeqCst), 3, "{host}: it may be the connection's fault");
    }
    Arc::into_inner(proxy).expect("no client is left").stop().await;
}

/// A program that answers one request a connection, and hangs up at any for `/x`.
async fn hangs_up(listener: TcpListener, lost: Arc<AtomicUsize>) {
    let mut open = JoinSet::new();
    while let Ok((mut stream, _)) = listener.accept().await {
        let lost = Arc::clone(&lost);
        open.spawn(async move {
            let head = read_until(&mut stream, "\r\n\r\n").await;
            if head.starts_with("GET /x ") {
                lost.fetch_add(1, SeqCst);
                return;
            }
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";
            stream.write_all(answer).await.expect("it reads");
        });
    }
}

#[tokio::test]
async fn a_killed_task_costs_no_request() {
    let world = World::new().await;
    let (one, two) = (Origin::saying("one").await, Origin::saying("two").await);
    world.app_at("pair", &[&one, &two]).await;
    let proxy = Arc::new(world.start().await);
    let killed = Arc::new(AtomicBool::new(false));
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (proxy, killed) = (Arc::clone(&proxy), Arc::clone(&killed));
        clients.spawn(async move {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            let mut after = 0;
            while after < 100 {
                after += usize::from(killed.load(SeqCst));
                let got = send(client.get(proxy.url("/")).header("host", full("pair-default"))).await;
                assert_eq!(got.status, StatusCode::OK, "{}", got.body);
            }
        });
    }
    wait_until(SOON, "both serve", || async {
        (one.requests() > 50 && two.requests() > 50).then_some(())
    })
    .await;
    drop(one);
    killed.store(true, SeqCst);
    while let Some(client) = clients.join_next().await {
        client.expect("every answer was a 200");
    }
    Arc::into_inner(proxy).expect("the clients are gone").stop().await;
}

#[tokio::test]
async fn a_removed_task_keeps_what_it_has_and_the_epoch_drains_with_it() {
    let world = World::new().await;
    let (began, finish) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (begins, finishes) = (Arc::clone(&began), Arc::clone(&finish));
    let slow = Origin::new(move |_| {
        let (begins, finishes) = (Arc::clone(&begins), Arc::clone(&finishes));
        async move {
            begins.notify_one();
            finishes.notified().await;
            text("slow")
        }
    })
    .await;
    let next = Origin::saying("next").await;
    let app = world.app("slow").await;
    let task = world.task(app.deployment, slow.address).await;
    let proxy = world.start().await;
    let address = proxy.address;
    let mut clients = JoinSet::new();
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("slow-default")
    );
    clients.spawn(async move { raw(address, request.as_bytes()).await });
    began.notified().await;

    world.unroute(task).await;
    world.task(app.deployment, next.address).await;
    let epoch = world.publish().await;
    assert_eq!(proxy.get("slow-default").await.body, "next");
    let (applied, drained) = world.acknowledged().await.expect("it lives");
    assert!(
        applied >= epoch && drained < epoch,
        "applied {applied}, drained {drained}, of {epoch}"
    );
    // A later epoch that removes nothing does not make it forget.
    let later = world.publish().await;
    assert!(world.acknowledged().await.expect("it lives").1 < epoch);
    finish.notify_one();
    let answer = clients
        .join_next()
        .await
        .expect("one client")
        .expect("it did not panic");
    assert!(answer.ends_with("slow"), "{answer}");
    wait_until(SOON, "the epoch drains", || async {
        world
            .acknowledged()
            .await
            .filter(|(_, drained)| *drained >= later)
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_request_between_two_replicas_waits_for_the_next_one() {
    let world = World::new().await;
    let origin = Origin::saying("here").await;
    let app = world.app("gap").await;
    let proxy = Arc::new(world.start().await);
    let waiting = Arc::clone(&proxy);
    let mut clients = JoinSet::new();
    clients.spawn(async move { waiting.get("gap-default").await });
    wait_until(SOON, "the request is held", || async {
        let routes = routes(proxy.admin, &world.key).await;
        (routes["deployments"][app.deployment.to_string()]["held"] == 1).then_some(())
    })
    .await;
    world.task(app.deployment, origin.address).await;
    world.publish().await;
    let got = clients
        .join_next()
        .await
        .expect("one client")
        .expect("it did not panic");
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "here"));
    assert_eq!(got.header("server-timing"), "");
    drop(clients);
    Arc::into_inner(proxy).expect("the client is gone").stop().await;
}

#[tokio::test]
async fn a_slow_task_is_knocked_at_and_not_left() {
    let world = World::new().await;
    let knocked = Arc::new(Notify::new());
    let slow = || async {
        let knocked = Arc::clone(&knocked);
        Origin::new(move |_| {
            let knocked = Arc::clone(&knocked);
            async move {
                knocked.notified().await;
                text("slow")
            }
        })
        .await
    };
    let (one, two) = (slow().await, slow().await);
    world.app_at("pair", &[&one, &two]).await;
    let proxy = world.start().await;
    let began = Instant::now();
    let hears = async {
        wait_until(SOON, "somebody knocks", || async {
            (one.connections() + two.connections() > 1).then_some(())
        })
        .await;
        knocked.notify_one();
    };
    let (got, ()) = tokio::join!(proxy.get("pair-default"), hears);
    assert_eq!(got.body, "slow");
    assert_eq!(one.requests() + two.requests(), 1, "nobody was asked twice");
    let (asked, other) = if one.requests() == 1 {
        (&one, &two)
    } else {
        (&two, &one)
    };
    assert_eq!(other.connections(), 0, "it was not left");
    // At most once a second, the connection of the request aside.
    let knocks = asked.connections() - 1;
    assert!(
        (1..=began.elapsed().as_secs() as usize).contains(&knocks),
        "{knocks} knocks in {:?}",
        began.elapsed()
    );
    proxy.stop().await;
}
