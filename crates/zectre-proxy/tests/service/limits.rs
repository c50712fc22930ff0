//! What is too much is refused with its own status and counted, and nobody else notices.

use crate::{
    client::{Got, client, comes_to, full, metric, raw, read_until, send},
    origin::{Origin, text},
    program::Program,
    world::{Running, SOON, World},
};
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Asks until the answer is a 429: how many passed before it, and the answer.
async fn until_refused(ask: impl AsyncFn(usize) -> Got) -> (usize, Got) {
    for passed in 0..1_000 {
        let got = ask(passed).await;
        if got.status == StatusCode::TOO_MANY_REQUESTS {
            return (passed, got);
        }
    }
    panic!("it was never refused");
}

/// So many were refused with `code`.
async fn refused(proxy: &Running, code: &str, times: u32) {
    let series = format!("proxy_refused_total{{code=\"{code}\"}}");
    comes_to(proxy.admin, &series, times.into()).await;
    let counted = metric(proxy.admin, &series).await;
    assert!((counted - f64::from(times)).abs() < 0.1, "{code}: {counted}");
}

/// Reads the whole body, then answers with its length.
async fn counter() -> Origin {
    Origin::new(|request| async move {
        let whole = request.into_body().collect().await;
        text(whole.map_or(0, |body| body.to_bytes().len()).to_string())
    })
    .await
}

#[tokio::test]
async fn a_client_has_its_rate_and_is_told_when_to_come_back() {
    let mut world = World::new().await;
    world.configure(
        "[proxy]\ntrusted_peers = [\"127.0.0.1\"]\n[proxy.limits]\nrequests_per_sec_per_client = 1\nrequests_burst_per_client = 3",
    );
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let get = |from: String| {
        let request = client()
            .get(proxy.url("/"))
            .header("host", full("shop-default"))
            .header("x-forwarded-for", from);
        send(request)
    };
    let (passed, got) = until_refused(async |_| get("198.51.100.1".into()).await).await;
    assert!(passed >= 3, "only {passed} passed");
    assert_eq!(
        (got.status, got.problem().code.as_str(), got.header("retry-after")),
        (StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", "1")
    );
    // Another client has its own, also one of IPv6; each address of one subscriber has not.
    for from in ["198.51.100.2", "2001:db8:1::1"] {
        assert_eq!(get(from.into()).await.status, StatusCode::OK, "{from}");
    }
    let (passed, _) = until_refused(async |at| get(format!("2001:db8:2::{at:x}")).await).await;
    assert!(passed >= 3, "only {passed} passed");
    refused(&proxy, "RATE_LIMITED", 2).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_route_has_its_rate() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nrequests_per_sec_per_route = 1\nrequests_burst_per_route = 2");
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    world.app_at("blog", &[&origin]).await;
    let proxy = world.start().await;
    let (passed, got) = until_refused(async |_| proxy.get("shop-default").await).await;
    assert!(passed >= 2, "only {passed} passed");
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::TOO_MANY_REQUESTS, "APPLICATION_RATE_LIMITED")
    );
    assert_eq!(proxy.get("blog-default").await.status, StatusCode::OK);
    refused(&proxy, "APPLICATION_RATE_LIMITED", 1).await;
    proxy.stop().await;
}

#[tokio::test]
async fn more_requests_than_may_be_under_way_are_shed() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nin_flight_max = 2\nin_flight_per_route_max = 1");
    let silent = Origin::new(|_| std::future::pending()).await;
    let origin = Origin::saying("hello").await;
    for name in ["silent", "quiet"] {
        world.app_at(name, &[&silent]).await;
    }
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let hang = async |host: &str, requests: usize| {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full(host));
        stream.write_all(head.as_bytes()).await.expect("it reads");
        silent.served(requests).await;
        stream
    };
    let first = hang("silent-default", 1).await;
    let got = proxy.get("silent-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str(), got.header("retry-after")),
        (StatusCode::SERVICE_UNAVAILABLE, "APPLICATION_OVERLOADED", "1")
    );
    assert_eq!(proxy.get("shop-default").await.status, StatusCode::OK);
    zectre_testkit::wait_until(SOON, "its place is free again", || async {
        (metric(proxy.admin, "proxy_in_flight").await < 1.5).then_some(())
    })
    .await;
    let second = hang("quiet-default", 2).await;
    let got = proxy.get("shop-default").await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED")
    );
    refused(&proxy, "APPLICATION_OVERLOADED", 1).await;
    refused(&proxy, "OVERLOADED", 1).await;
    drop((first, second));
    zectre_testkit::wait_until(SOON, "there is room again", || async {
        (proxy.get("shop-default").await.status == StatusCode::OK).then_some(())
    })
    .await;
    proxy.stop().await;
}

/// The head of a request whose body comes in chunks.
fn head(host: &str) -> String {
    format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n",
        full(host)
    )
}

/// Answers with the request's own body, as it comes.
async fn echo() -> Origin {
    Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await
}

#[tokio::test]
async fn bodies_are_bounded_in_length() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_bytes_max = 1000");
    let origin = counter().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let post = |length: usize| {
        let request = client()
            .post(proxy.url("/"))
            .header("host", full("shop-default"))
            .body("x".repeat(length));
        send(request)
    };
    let got = post(1_000).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "1000"));
    let got = post(1_001).await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::PAYLOAD_TOO_LARGE, "BODY_TOO_LARGE")
    );
    // Without a length it is found out on the way.
    let chunks = format!(
        "{}3e9\r\n{}\r\n0\r\n\r\n",
        head("shop-default"),
        "x".repeat(1_001)
    );
    let answer = raw(proxy.address, chunks.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 413") && answer.contains("BODY_TOO_LARGE"),
        "{answer}"
    );
    refused(&proxy, "BODY_TOO_LARGE", 2).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_lets_its_body_hang_is_let_go_and_one_in_a_conversation_is_not() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_idle_timeout_ms = 5000\nbody_bytes_per_sec_min = 40");
    let (origin, echo) = (counter().await, echo().await);
    world.app_at("shop", &[&origin]).await;
    world.app_at("echo", &[&echo]).await;
    let proxy = world.start().await;
    let open = async || TcpStream::connect(proxy.address).await.expect("it listens");
    // It hangs after its beginning.
    let hangs = async {
        let slow = format!("{}3\r\nabc\r\n", head("shop-default"));
        let answer = raw(proxy.address, slow.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 408") && answer.contains("BODY_TIMEOUT"),
            "{answer}"
        );
    };
    // A trickle, that never stands still for as long as the time-out.
    let trickles = async {
        let mut trickle = open().await;
        let head = head("shop-default");
        trickle.write_all(head.as_bytes()).await.expect("it reads");
        while trickle.write_all(b"1\r\nx\r\n").await.is_ok() {
            // The answer comes before the connection ends.
            let answer = timeout(Duration::from_millis(50), trickle.read(&mut [0; 1])).await;
            if answer.is_ok() {
                return;
            }
        }
    };
    // Once the task answers, both may be quiet.
    let converses = async {
        let mut both = open().await;
        both.write_all(format!("{}3\r\nabc\r\n", head("echo-default")).as_bytes())
            .await
            .expect("it reads");
        read_until(&mut both, "abc\r\n").await;
        let early = timeout(Duration::from_secs(8), both.read(&mut [0; 1])).await;
        assert!(early.is_err(), "it was cut off");
        both.write_all(b"3\r\ndef\r\n0\r\n\r\n").await.expect("it reads");
        read_until(&mut both, "0\r\n\r\n").await;
    };
    let all = async { tokio::join!(hangs, trickles, converses) };
    timeout(SOON, all).await.expect("the slow ones are cut off");
    refused(&proxy, "BODY_TIMEOUT", 2).await;
    proxy.stop().await;
}

#[tokio::test]
async fn headers_are_counted() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nheader_count_max = 5");
    let proxy = world.start().await;
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{}\r\n",
        "X: y\r\n".repeat(4)
    );
    let answer = raw(proxy.address, many.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 431") && answer.contains("HEADERS_TOO_LARGE"),
        "{answer}"
    );
    refused(&proxy, "HEADERS_TOO_LARGE", 1).await;
    proxy.stop().await;
}

#[tokio::test]
async fn bytes_of_a_head_are_counted() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_bytes_max = 65536");
    let proxy = world.start().await;
    for (bytes, status) in [(64_000, 404), (66_000, 431), (100_000, 431), (140_000, 431)] {
        for name in ["x", "cookie"] {
            let value = "y".repeat(bytes);
            let head =
                format!("GET / HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{name}: {value}\r\n\r\n");
            let answer = raw(proxy.address, head.as_bytes()).await;
            let line = answer.lines().next().unwrap_or_default();
            assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{bytes}: {line}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn as_many_headers_pass_as_may_and_no_more() {
    const MAX: usize = 300;
    let mut world = World::new().await;
    world.configure(&format!("[proxy.limits]\nheader_count_max = {MAX}"));
    // How many lines it is sent that clients sent.
    let program = Program::new(async |mut stream| {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let count = head.lines().filter(|line| line.starts_with("x-many")).count();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{count}");
        stream.write_all(answer.as_bytes()).await.expect("it reads");
    })
    .await;
    let app = world.app("shop").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    let ask = async |count: usize| {
        let host = full("shop-default");
        // Host and Connection are headers, too.
        let many = "x-many: y\r\n".repeat(count - 2);
        let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{many}\r\n");
        raw(proxy.address, request.as_bytes()).await
    };
    let passed = ask(MAX).await;
    assert!(
        passed.starts_with("HTTP/1.1 200") && passed.ends_with("298"),
        "{passed}"
    );
    let refused_one = ask(MAX + 1).await;
    assert!(refused_one.starts_with("HTTP/1.1 431"), "{refused_one}");
    refused(&proxy, "HEADERS_TOO_LARGE", 1).await;
    proxy.stop().await;
}
