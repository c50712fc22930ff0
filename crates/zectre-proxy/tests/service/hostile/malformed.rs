//! What could be read in two ways never reaches a task.

use crate::{
    client::{full, raw},
    origin::{Origin, text},
    world::{SOON, World},
};
use http_body_util::BodyExt;
use std::sync::{Arc, Mutex};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// Each ends where a second request would begin if someone read it the other way.
const BAD: &[&str] = &[
    "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 44\r\n\r\nSMUGGLED",
    "POST / HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\nSMUGGLED",
    "POST / HTTP/1.0\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nSMUGGLED",
    "GET / HTTP/1.1\nHost: HOST\n\nSMUGGLED",
    "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\nY: b\r\n\r\nSMUGGLED",
    "GET / HTTP/1.1\r\nHost: HOST\r\n\nSMUGGLED",
    "GET / HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\nSMUGGLED",
    "GET / HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\nHost: HOST, other.example\r\nConnection: close\r\n\r\n",
    "GET / HTTP/1.1\r\nConnection: close\r\n\r\n",
    "GET http://HOST/ HTTP/1.1\r\nHost: other.example\r\nConnection: close\r\n\r\n",
    "GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\nSMUGGLED",
    "GET / HTTP/1.2\r\nHost: HOST\r\n\r\nSMUGGLED",
    "\u{16}\u{3}\u{1}\u{2}\r\n\r\nSMUGGLED",
];

#[tokio::test]
async fn malformed_requests_are_refused_and_never_forwarded() {
    let world = World::new().await;
    let bodies = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&bodies);
    let origin = Origin::new(move |request| {
        let seen = Arc::clone(&seen);
        async move {
            let path = request.uri().path().to_owned();
            let whole = request
                .into_body()
                .collect()
                .await
                .map(http_body_util::Collected::to_bytes);
            // Only bodies that came to their end count as forwarded.
            if let Ok(body) = whole {
                seen.lock()
                    .expect("not poisoned")
                    .push(format!("{path} {}", String::from_utf8_lossy(&body)));
            }
            text("ok")
        }
    })
    .await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("victim-default");
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n";
    for bad in BAD {
        let bytes = bad.replace("SMUGGLED", smuggled).replace("HOST", &host);
        let answer = raw(proxy.address, bytes.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400"),
            "{bad:?} was answered with {answer:?}"
        );
        assert_eq!(
            answer.matches("HTTP/1.1").count(),
            1,
            "{bad:?} was answered twice: {answer:?}"
        );
    }
    // A chunk that lies about its size: what came before may have been streamed, the rest is never a request.
    let bytes = format!(
        "POST /cut HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n0\r\n\r\n{}",
        smuggled.replace("HOST", &host)
    );
    let answer = raw(proxy.address, bytes.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 400") && answer.contains("BROKEN_BODY"),
        "{answer}"
    );
    assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    assert_eq!(*bodies.lock().expect("not poisoned"), Vec::<String>::new());
    // And what is well-formed goes through, two in a row.
    let good = format!(
        "POST /one HTTP/1.1\r\nHost: {host}\r\nContent-Length: 3\r\n\r\nabc\
         POST /two HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\ndef\r\n0\r\n\r\n"
    );
    let answer = raw(proxy.address, good.as_bytes()).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert_eq!(*bodies.lock().expect("not poisoned"), ["/one abc", "/two def"]);
    proxy.stop().await;
}

#[tokio::test]
async fn heads_that_are_too_large_and_clients_that_are_too_slow_are_let_go() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_timeout_ms = 5000\nheader_bytes_max = 8192");
    let proxy = world.start().await;
    let large = format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\nX: {}\r\n\r\n",
        "a".repeat(20_000)
    );
    let answer = raw(proxy.address, large.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let many = format!(
        "GET / HTTP/1.1\r\nHost: a.example\r\n{}\r\n",
        "X: y\r\n".repeat(200)
    );
    assert!(
        raw(proxy.address, many.as_bytes())
            .await
            .starts_with("HTTP/1.1 431")
    );
    // Nothing at all, a beginning that could be HTTP/2, a head without an end.
    let slow = async |begun: &str| {
        let answer = raw(proxy.address, begun.as_bytes()).await;
        assert!(!answer.contains("200"), "{begun:?} was answered with {answer}");
    };
    tokio::join!(slow(""), slow("PRI"), slow("GET / HTTP/1.1\r\nHost: a.exam"));
    let connect = raw(
        proxy.address,
        b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(connect.starts_with("HTTP/1.1 405"), "{connect}");
    proxy.stop().await;
}

#[tokio::test]
async fn more_connections_than_allowed_wait_their_turn() {
    let mut world = World::new().await;
    world.configure("[proxy]\nconnections_max = 2");
    let proxy = world.start().await;
    let head = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n";
    let mut first = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        tokio::io::AsyncWriteExt::write_all(&mut stream, head)
            .await
            .expect("it reads");
        crate::client::read_until(&mut stream, "HTTP/1.1 404").await;
        first.push(stream);
    }
    let waited = async || crate::client::metric(proxy.admin, "proxy_connections_waited_total").await;
    assert!(waited().await < 0.5, "there was room for both");
    let mut third = TcpStream::connect(proxy.address)
        .await
        .expect("the kernel takes it");
    tokio::io::AsyncWriteExt::write_all(&mut third, head)
        .await
        .expect("it is kept");
    let mut byte = [0; 1];
    let early = timeout(std::time::Duration::from_millis(100), third.read(&mut byte)).await;
    assert!(early.is_err(), "it was served although two are open");
    zectre_testkit::wait_until(SOON, "it is counted", async || {
        (waited().await > 0.5).then_some(())
    })
    .await;
    drop(first);
    timeout(SOON, third.read_exact(&mut byte))
        .await
        .expect("its turn comes")
        .expect("and it is answered");
    proxy.stop().await;
}
