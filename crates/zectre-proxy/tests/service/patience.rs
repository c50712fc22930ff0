//! Clients that are slow with whatever it may be are let go, and those that are only quiet for a while are not.

use crate::{
    client::{comes_to, full, metric, raw, read_until},
    hostile::frames::{
        self, DATA, END_HEADERS, END_STREAM, GOAWAY, RST_STREAM, SETTINGS, WHOLE, frame, headers,
    },
    origin::{Origin, text},
    world::{Running, SOON, World},
};
use bytes::Bytes;
use http::Response;
use http_body_util::{BodyExt, StreamBody};
use std::{
    convert::Infallible,
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zectre_testkit::wait_until;

async fn connect(proxy: &Running) -> TcpStream {
    TcpStream::connect(proxy.address).await.expect("it listens")
}

/// What comes until the connection ends.
async fn rest(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let read = stream.read_to_end(&mut got);
    let _ = timeout(SOON, read).await.expect("it ends");
    String::from_utf8_lossy(&got).into_owned()
}

/// So many connections were closed for `reason`.
async fn closed(admin: SocketAddr, reason: &str, times: u32) {
    let series = format!("proxy_connections_closed_total{{reason=\"{reason}\"}}");
    wait_until(SOON, "the connections are closed and counted", || async {
        let counted = metric(admin, &series).await;
        ((counted - f64::from(times)).abs() < 0.1).then_some(())
    })
    .await;
}

/// An answer without end.
async fn endless() -> Origin {
    Origin::new(|_| async {
        let chunk = Bytes::from(vec![b'x'; 65_536]);
        let frames = futures_util::stream::repeat_with(move || {
            Ok::<_, Infallible>(http_body::Frame::data(chunk.clone()))
        });
        Response::new(StreamBody::new(frames).map_err(|never| match never {}).boxed())
    })
    .await
}

#[tokio::test]
async fn a_head_that_stalls_is_answered_and_a_connection_that_says_nothing_is_closed() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_timeout_ms = 6000");
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let whole = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("shop-default"));
    let begun = whole.replace("\r\n\r\n", "\r\nX: y");
    let stalls = async |part: &str| {
        let began = Instant::now();
        let answer = raw(proxy.address, part.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{part:?}: {answer:?}");
        assert!(answer.contains("connection: close\r\n"), "{answer}");
        assert!(began.elapsed() >= Duration::from_millis(5_990));
    };
    let says_nothing = async {
        assert_eq!(rest(&mut connect(&proxy).await).await, "");
    };
    // The second head of a connection has as long as the first, and no longer for what came in between.
    let second = async {
        let mut stream = connect(&proxy).await;
        for _ in 0..2 {
            stream.write_all(whole.as_bytes()).await.expect("it reads");
            read_until(&mut stream, "hello").await;
        }
        stream.write_all(b"GET / HTTP/1.1\r\n").await.expect("it reads");
        assert!(rest(&mut stream).await.starts_with("HTTP/1.1 408 "));
    };
    tokio::join!(
        stalls("G"),
        stalls("GET / HT"),
        stalls(&begun),
        says_nothing,
        second
    );
    closed(proxy.admin, "header_timeout", 5).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_is_kept_between_two_requests_and_not_for_ever() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_timeout_ms = 5000\n[proxy.limits]\nkeepalive_timeout_ms = 7000");
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("shop-default");
    let kept = async {
        let mut stream = connect(&proxy).await;
        let whole = format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n");
        stream.write_all(whole.as_bytes()).await.expect("it reads");
        let began = Instant::now();
        read_until(&mut stream, "hello").await;
        // Empty lines are no head.
        stream.write_all(b"\r\n").await.expect("it reads");
        assert_eq!(rest(&mut stream).await, "");
        let lasted = began.elapsed();
        assert!(lasted >= Duration::from_millis(6_990), "{lasted:?}");
    };
    // The same for HTTP/2, which is told.
    let fields = [
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", host.as_str()),
    ];
    let told = async {
        let mut stream = frames::open(proxy.address, &headers(1, WHOLE, &fields)).await;
        let (mut answered, mut told) = (false, false);
        while let Some(frame) = frames::next(&mut stream).await {
            answered |= frame.status() == Some(200);
            told |= frame.kind == GOAWAY && frame.code() == 0;
        }
        assert!(answered && told);
    };
    // One that never asks for anything is no better.
    let asks_nothing = async {
        let mut stream = frames::open(proxy.address, b"").await;
        while frames::next(&mut stream).await.is_some() {}
    };
    tokio::join!(kept, told, asks_nothing);
    closed(proxy.admin, "idle_timeout", 3).await;
    proxy.stop().await;
}

#[tokio::test]
async fn an_idle_connection_rests_and_is_served_again() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await;
    world.app_at("echo", &[&origin]).await;
    let proxy = world.start().await;
    let resting = async |count: f64| {
        wait_until(SOON, "so many connections rest", || async {
            let rest = metric(proxy.admin, "proxy_connections_resting").await;
            ((rest - count).abs() < 0.1).then_some(())
        })
        .await;
    };
    let mut stream = connect(&proxy).await;
    resting(1.0).await;
    let head = format!(
        "OST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 5\r\n\r\n",
        full("echo-default")
    );
    for word in ["first", "again", "third"] {
        // It could be the begin of HTTP/2's preface.
        stream.write_all(b"\r\nP").await.expect("it reads");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        resting(0.0).await;
        stream.write_all(word.as_bytes()).await.expect("it reads");
        let next = format!("P{head}after");
        stream.write_all(next.as_bytes()).await.expect("it reads");
        let answers = read_until(&mut stream, "after").await;
        assert!(answers.contains(word), "{answers}");
        resting(1.0).await;
    }
    stream.shutdown().await.expect("it is open");
    assert_eq!(rest(&mut stream).await, "");
    resting(0.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nwrite_timeout_ms = 4000");
    let origin = endless().await;
    let quiet = Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await;
    world.app_at("flood", &[&origin]).await;
    world.app_at("quiet", &[&quiet]).await;
    let proxy = world.start().await;
    let mut slow = connect(&proxy).await;
    let head = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("flood-default"));
    slow.write_all(head.as_bytes()).await.expect("it reads");
    // A client that is waited for by nobody may be as quiet as it likes.
    let mut patient = connect(&proxy).await;
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        full("quiet-default")
    );
    patient.write_all(head.as_bytes()).await.expect("it reads");
    read_until(&mut patient, "abc\r\n").await;
    closed(proxy.admin, "write_timeout", 1).await;
    // In HTTP/2 it is the window that a client may leave shut: for all of an answer, and for its rest.
    let fields = |path, host| {
        [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", host),
        ]
    };
    let host = full("flood-default");
    let shut = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    for settings in [shut, Vec::new()] {
        let ask = [settings, headers(1, WHOLE, &fields("/", &host))].concat();
        let mut stream = frames::open(proxy.address, &ask).await;
        while frames::next(&mut stream).await.expect("its end").kind != RST_STREAM {}
    }
    comes_to(proxy.admin, "proxy_streams_reset_total", 2.0).await;
    patient
        .write_all(b"3\r\ndef\r\n0\r\n\r\n")
        .await
        .expect("it reads");
    read_until(&mut patient, "def\r\n").await;
    wait_until(SOON, "nothing is under way", || async {
        (metric(proxy.admin, "proxy_in_flight").await < 0.5).then_some(())
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_that_is_not_taken_costs_the_others_of_its_connection_nothing() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nwrite_timeout_ms = 4000");
    let flood = endless().await;
    let echo = Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await;
    world.app_at("flood", &[&flood]).await;
    world.app_at("echo", &[&echo]).await;
    let proxy = world.start().await;
    let (flood, echo) = (full("flood-default"), full("echo-default"));
    let fields = |method, host| {
        [
            (":method", method),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", host),
        ]
    };
    // Each answer has room for so many bytes, and the first one gets no more.
    let ask = [
        frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 64]),
        headers(1, WHOLE, &fields("GET", &flood)),
        headers(3, END_HEADERS, &fields("POST", &echo)),
        frame(DATA, 0, 3, b"abc"),
    ];
    let mut stream = frames::open(proxy.address, &ask.concat()).await;
    while frames::next(&mut stream).await.expect("its end").kind != RST_STREAM {}
    let more = frame(DATA, END_STREAM, 3, b"def");
    stream.write_all(&more).await.expect("it is open");
    let data = async {
        loop {
            let frame = frames::next(&mut stream).await.expect("it stays");
            if frame.kind == DATA && !frame.payload.is_empty() {
                return frame.payload;
            }
        }
    };
    assert_eq!(data.await, b"def");
    comes_to(proxy.admin, "proxy_streams_reset_total", 1.0).await;
    drop(stream);
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_has_so_many_connections_and_a_trusted_peer_any() {
    let mut world = World::new().await;
    let origin = Origin::new(|_| async { text("hello") }).await;
    world.app_at("shop", &[&origin]).await;
    world.configure("[proxy.limits]\nconnections_per_client_max = 2");
    let proxy = world.start().await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("shop-default")
    );
    let open = [connect(&proxy).await, connect(&proxy).await];
    let answer = raw(proxy.address, b"").await;
    assert!(
        answer.starts_with("HTTP/1.1 429 ") && answer.contains("retry-after: 1\r\n"),
        "{answer}"
    );
    // Another address is another client.
    let other = tokio::net::TcpSocket::new_v4().expect("a socket");
    other
        .bind(([127, 0, 0, 2], 0).into())
        .expect("it is this machine");
    let mut other = other.connect(proxy.address).await.expect("it listens");
    other.write_all(request.as_bytes()).await.expect("it reads");
    assert!(rest(&mut other).await.ends_with("hello"));
    comes_to(
        proxy.admin,
        "proxy_refused_total{code=\"TOO_MANY_CONNECTIONS\"}",
        1.0,
    )
    .await;
    drop(open);
    wait_until(SOON, "there is room again", || async {
        raw(proxy.address, request.as_bytes())
            .await
            .ends_with("hello")
            .then_some(())
    })
    .await;
    proxy.stop().await;
    world.configure(
        "[proxy]\ntrusted_peers = [\"127.0.0.1\"]\n[proxy.limits]\nconnections_per_client_max = 2",
    );
    let proxy = world.start().await;
    let mut open = [
        connect(&proxy).await,
        connect(&proxy).await,
        connect(&proxy).await,
    ];
    for stream in &mut open {
        stream.write_all(request.as_bytes()).await.expect("it reads");
        assert!(rest(stream).await.ends_with("hello"));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_block_of_headers_that_never_ends_is_not_waited_for() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nkeepalive_timeout_ms = 3000");
    let proxy = world.start().await;
    let half = frame(
        frames::HEADERS,
        END_STREAM,
        1,
        &frames::block(&[(":method", "GET")]),
    );
    assert_eq!(half[4] & END_HEADERS, 0);
    let mut stream = frames::open(proxy.address, &half).await;
    while frames::next(&mut stream).await.is_some() {}
    closed(proxy.admin, "idle_timeout", 1).await;
    proxy.stop().await;
}
