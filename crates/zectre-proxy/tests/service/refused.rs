//! What never becomes a request is counted all the same.

use crate::{
    client::{metric, raw},
    h2c::whole,
    world::{Running, SOON, World},
};
use http::{Request, StatusCode};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpStream, task::JoinSet};
use zectre_testkit::wait_until;

/// Waits until so many were refused with `code`: a connection's end is seen before it is counted.
async fn refused(proxy: &Running, code: &str, times: f64) {
    wait_until(SOON, &format!("{times} times {code}"), || async {
        let counted = metric(proxy.admin, &format!("proxy_refused_total{{code=\"{code}\"}}")).await;
        assert!(counted < times + 0.1, "{code}: {counted}");
        (counted > times - 0.1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn heads_that_the_library_refuses_are_counted_once() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_bytes_max = 8192\nheader_timeout_ms = 5000");
    let proxy = world.start().await;
    for bad in [
        "GET / HTTP/1.1\nHost: a.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n folded\r\n\r\n",
        "not HTTP at all\r\n\r\n",
    ] {
        let answer = raw(proxy.address, bad.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert!(
            answer.contains("\r\nx-error-detail: the head of the request is not HTTP"),
            "{answer}"
        );
    }
    refused(&proxy, "BAD_REQUEST", 3.0).await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    let answer = raw(proxy.address, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(answer.contains("proxy.header_bytes_max"), "{answer}");
    refused(&proxy, "HEADERS_TOO_LARGE", 1.0).await;
    // The one before it has its own answer, whole.
    let behind = "GET / HTTP/1.1\r\nHost: a.example\r\n\r\nGET / HTTP/1.1\r\nHost : a.example\r\n\r\n";
    let answer = raw(proxy.address, behind.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 404 ") && answer.contains("HTTP/1.1 400 "),
        "{answer}"
    );
    // What only leaves, or is late, is not refused.
    drop(TcpStream::connect(proxy.address).await.expect("it listens"));
    raw(proxy.address, b"GET / HTTP/1.1\r\nHost: a.exam").await;
    let late = "proxy_connections_closed_total{reason=\"header_timeout\"}";
    wait_until(SOON, "the late one is counted", || async {
        (metric(proxy.admin, late).await > 0.9).then_some(())
    })
    .await;
    refused(&proxy, "BAD_REQUEST", 4.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_target_that_is_too_long_is_told_so() {
    let mut world = World::new().await;
    // Large enough for the target to be read at all.
    world.configure("[proxy]\nheader_bytes_max = 131072");
    let proxy = world.start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: a.example\r\n\r\n", "a".repeat(70_000));
    let answer = raw(proxy.address, long.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414"), "{answer}");
    refused(&proxy, "HEADERS_TOO_LARGE", 1.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn over_http_2_too() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_bytes_max = 8192");
    let proxy = world.start().await;
    let stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let ask = async |bytes: usize| {
        let request = Request::get("http://a.example/").header("x", "a".repeat(bytes));
        let answer = sender
            .clone()
            .send_request(request.body(whole("")).expect("a request"));
        answer.await.expect("an answer").status()
    };
    assert_eq!(ask(7_000).await, StatusCode::NOT_FOUND);
    assert_eq!(ask(8_100).await, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    refused(&proxy, "HEADERS_TOO_LARGE", 1.0).await;
    proxy.stop().await;
}
