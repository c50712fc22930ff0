//! Kept connections that a program closes without having said so, while requests come: none of them is an error, and none
//! reaches the program twice.

use crate::{
    client::{full, read_until, routes},
    program::Program,
    world::{Running, SOON, World},
};
use serde_json::Value;
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Barrier,
    task::JoinSet,
    time::{sleep, timeout},
};
use zectre_common::id::DeploymentId;
use zectre_testkit::wait_until;

const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const LAST: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

/// Reads a request that ends so; `false` when the connection ends before.
async fn read(stream: &mut TcpStream, end: &str) -> bool {
    let mut bytes = Vec::new();
    while !bytes.ends_with(end.as_bytes()) {
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            return false;
        }
    }
    true
}

/// Answers, and closes what rests for so long, without a word: by a reset, which does not tell what of a request was taken.
async fn close_after(rest: Duration, mut stream: TcpStream, had: Arc<AtomicUsize>) {
    if !read(&mut stream, "sized").await {
        return;
    }
    loop {
        had.fetch_add(1, SeqCst);
        if stream.write_all(OK).await.is_err() {
            return;
        }
        match timeout(rest, read(&mut stream, "sized")).await {
            Ok(true) => {}
            Ok(false) | Err(_) => break,
        }
    }
    stream.set_zero_linger().expect("an option");
}

async fn seen(proxy: &Running, world: &World, deployment: DeploymentId) -> Value {
    let routes = routes(proxy.admin, &world.key).await;
    routes["deployments"][deployment.to_string()]["backends"][0]["closes_idle_after_ms"].clone()
}

/// What a visitor that asks `times` times, and rests for so long between, is told: the answers that are none of 200.
async fn visit(address: SocketAddr, host: &'static str, times: usize, rest: Duration) -> Vec<String> {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\n\r\nsized",
        full(host)
    );
    let mut wrong = Vec::new();
    for _ in 0..times {
        stream.write_all(request.as_bytes()).await.expect("it reads");
        let mut answer = read_until(&mut stream, "\r\n\r\n").await;
        if answer.starts_with("HTTP/1.1 200") {
            if !answer.ends_with("ok") {
                read_until(&mut stream, "ok").await;
            }
        } else {
            // Where its body ends is nobody's matter here.
            answer.truncate(200);
            wrong.push(answer);
            stream = TcpStream::connect(address).await.expect("it listens");
        }
        if !rest.is_zero() {
            sleep(rest).await;
        }
    }
    wrong
}

/// POSTs that come when the program closes what has rested for `rest`, once the proxy has seen that it does.
async fn race(rest: Duration, between: Duration, times: usize) {
    const VISITORS: usize = 8;
    let world = World::new().await;
    let app = world.app("shop").await;
    let had = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&had);
    let program = Program::new(move |stream| close_after(rest, stream, Arc::clone(&counts))).await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    // What ends before it rests, on a busy machine, is seen by nobody, and what the program closes late looks like a longer rest; until
    // it is seen for about what it is, one may be lost.
    wait_until(SOON, "the proxy sees how soon it is closed", async || {
        visit(proxy.address, "shop-default", 1, 2 * rest).await;
        let seen_ms = seen(&proxy, &world, app.deployment).await.as_u64()?;
        (Duration::from_millis(seen_ms) <= 2 * rest).then_some(())
    })
    .await;
    had.store(0, SeqCst);
    let mut visitors = JoinSet::new();
    for _ in 0..VISITORS {
        visitors.spawn(visit(proxy.address, "shop-default", times, between));
    }
    let wrong: Vec<String> = visitors.join_all().await.concat();
    assert_eq!(wrong, Vec::<String>::new(), "of {}", VISITORS * times);
    assert_eq!(had.load(SeqCst), VISITORS * times);
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_closes_what_it_answered_loses_nothing_that_may_not_be_repeated() {
    race(Duration::from_millis(2), Duration::ZERO, 100).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_at_the_very_end_of_a_rest_is_not_lost() {
    // A quarter of it is trusted: with less, a machine that is busy for some milliseconds between an answer and the rest after it
    // would lose a request for the proxy.
    let rest = Duration::from_millis(250);
    race(rest, rest, 16).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_task_taught_is_known_of_its_successor() {
    let rest = Duration::from_millis(50);
    let world = World::new().await;
    let app = world.app("shop").await;
    let start = async || {
        let program = Program::new(move |stream| close_after(rest, stream, Arc::default())).await;
        (world.task(app.deployment, program.address).await, program)
    };
    let (first, _program) = start().await;
    let proxy = world.start().await;
    let is_seen = async || seen(&proxy, &world, app.deployment).await.is_u64();
    wait_until(SOON, "the proxy sees how soon it is closed", async || {
        visit(proxy.address, "shop-default", 1, 2 * rest).await;
        is_seen().await.then_some(())
    })
    .await;
    let (_second, _other) = start().await;
    world.unroute(first).await;
    world.publish().await;
    assert!(is_seen().await, "before it closed any");
    proxy.stop().await;
}

#[tokio::test]
async fn who_says_that_it_closes_is_not_doubted() {
    let world = World::new().await;
    let app = world.app("shop").await;
    let program = Program::new(async |mut stream| {
        if read(&mut stream, "sized").await {
            // Not answered whole: the proxy closes it, too.
            let _ = stream.write_all(LAST).await;
        }
    })
    .await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    let wrong = visit(proxy.address, "shop-default", 30, Duration::ZERO).await;
    assert_eq!(wrong, Vec::<String>::new());
    assert_eq!(seen(&proxy, &world, app.deployment).await, Value::Null);
    proxy.stop().await;
}

#[tokio::test]
async fn what_was_lost_on_a_kept_connection_goes_on_a_new_one() {
    const KEPT: usize = 6;
    let world = World::new().await;
    let app = world.app("shop").await;
    let all = Arc::new(Barrier::new(KEPT));
    // Of its connections each takes one request, though it doesn't say so; the first ones wait for each other.
    let program = Program::new(move |mut stream: TcpStream| {
        let all = Arc::clone(&all);
        async move {
            let first = read_until(&mut stream, "\r\n\r\n").await;
            if first.starts_with("GET /together ") {
                all.wait().await;
            }
            let _ = stream.write_all(OK).await;
            read(&mut stream, "\r\n\r\n").await;
        }
    })
    .await;
    world.task(app.deployment, program.address).await;
    let proxy = Arc::new(world.start().await);
    let mut clients = JoinSet::new();
    for _ in 0..KEPT {
        let request = crate::client::client()
            .get(proxy.url("/together"))
            .header("host", full("shop-default"));
        clients.spawn(crate::client::send(request));
    }
    for got in clients.join_all().await {
        assert_eq!(got.status, http::StatusCode::OK, "{}", got.body);
    }
    for _ in 0..KEPT {
        let got = proxy.get("shop-default").await;
        assert_eq!(got.status, http::StatusCode::OK, "{}", got.body);
    }
    Arc::into_inner(proxy).expect("no client is left").stop().await;
}

/// Answers a first request, and hangs up on the next one as soon as it has come, without reading any of it.
async fn hang_up_on_the_second(mut stream: TcpStream, had: Arc<AtomicUsize>) {
    if read(&mut stream, "sized").await {
        had.fetch_add(1, SeqCst);
        if stream.write_all(OK).await.is_ok() {
            let _ = stream.peek(&mut [0]).await;
        }
    }
}

#[tokio::test]
async fn a_program_that_hangs_up_on_what_has_come_to_a_kept_connection_loses_few_and_none_where_each_has_its_own()
 {
    const TIMES: usize = 20;
    for (configured, lost) in [("", 1..=6), ("[proxy]\nreuse_for_unrepeatable = false", 0..=0)] {
        let mut world = World::new().await;
        world.configure(configured);
        let app = world.app("shop").await;
        let had = Arc::new(AtomicUsize::new(0));
        let counts = Arc::clone(&had);
        let program = Program::new(move |stream| hang_up_on_the_second(stream, Arc::clone(&counts))).await;
        world.task(app.deployment, program.address).await;
        let proxy = world.start().await;
        let wrong = visit(proxy.address, "shop-default", TIMES, Duration::ZERO).await;
        assert!(
            wrong.iter().all(|answer| answer.starts_with("HTTP/1.1 502")),
            "{wrong:?}"
        );
        // Three, and some more where a busy machine makes a rest long.
        assert!(lost.contains(&wrong.len()), "{configured}: {wrong:?}");
        assert_eq!(had.load(SeqCst), TIMES - wrong.len(), "none of them twice");
        proxy.stop().await;
    }
}
