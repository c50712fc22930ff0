//! WebSockets and server-sent events, from a client's first byte to the proxy's last.

use crate::{
    client::{client, full, raw, read_until},
    h2c,
    origin::{Origin, text},
    secure::Secure,
    world::{App, SOON, World},
};
use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};
use zectre_testkit::wait_until;

/// A masked text frame (RFC 6455) with the word "hello".
const FRAME: &[u8] = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";

/// Changes to what the client wants and then sends back what comes; answers 426 to who wants nothing.
pub(crate) async fn echo() -> Origin {
    Origin::new(|mut request| async move {
        let Some(protocol) = request.headers().get(header::UPGRADE).cloned() else {
            let mut response = text("wants an upgrade");
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return response;
        };
        let upgrade = hyper::upgrade::on(&mut request);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let (mut from, mut to) = tokio::io::split(TokioIo::new(upgrade.await.expect("upgraded")));
            // Ends with the client's half, after all of it went back.
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        });
        tasks.detach_all();
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, "upgrade".parse().expect("a value"));
        headers.insert(header::UPGRADE, protocol);
        response
    })
    .await
}

fn head(host: &str) -> String {
    format!(
        "GET /chat HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        full(host)
    )
}

/// Makes a WebSocket of a connection.
pub(crate) async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, host: &str) {
    stream.write_all(head(host).as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let byte = timeout(SOON, stream.read_u8()).await.expect("in time");
        answer.push(byte.expect("an answer"));
    }
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
}

/// Sends a frame and gets it back.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S) {
    stream.write_all(FRAME).await.expect("it reads");
    let mut frame = [0; FRAME.len()];
    timeout(SOON, stream.read_exact(&mut frame))
        .await
        .expect("in time")
        .expect("a frame");
    assert_eq!(frame, FRAME);
}

async fn told(world: &World, app: App, in_flight: i32) {
    wait_until(SOON, "activity is told", || async {
        (world.in_flight(app.deployment).await == Some(in_flight)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_socket_over_tls_counts_and_is_let_finish_when_the_proxy_stops() {
    let mut world = World::new().await;
    world.configure("[proxy.tls]\nenabled = true");
    let origin = echo().await;
    let app = world.app_at("socket", &[&origin]).await;
    let mut proxy = world.start().await;
    let mut secure = Secure::connect(proxy.secure(), &full("socket-default"), &["http/1.1"])
        .await
        .stream;
    upgrade(&mut secure, "socket-default").await;
    exchange(&mut secure).await;
    told(&world, app, 1).await;
    proxy.shutdown.request();
    let address = proxy.address;
    wait_until(SOON, "the listener is closed", || async {
        TcpStream::connect(address).await.err()
    })
    .await;
    exchange(&mut secure).await;
    // Its half ends first; what was on its way back still comes.
    secure.write_all(FRAME).await.expect("it reads");
    secure.shutdown().await.expect("it listens");
    let mut rest = Vec::new();
    timeout(SOON, secure.read_to_end(&mut rest))
        .await
        .expect("in time")
        .expect("an end");
    assert_eq!(rest, FRAME);
    proxy.ended().await;
}

#[tokio::test]
async fn a_socket_is_cut_off_at_the_end_of_the_drain() {
    let mut world = World::new().await;
    world.configure("[proxy]\ndrain_timeout_ms = 100");
    let origin = echo().await;
    world.app_at("socket", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    upgrade(&mut stream, "socket-default").await;
    proxy.stop().await;
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("it ends");
    assert!(rest.is_empty());
}

#[tokio::test]
async fn frames_right_behind_either_head_arrive() {
    let world = World::new().await;
    // A task that says its first frame with its head and hangs up after the client's first.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_until(&mut stream, "\r\n\r\n").await;
        let answer =
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nfirst";
        stream.write_all(answer).await.expect("it reads");
        let mut frame = [0; FRAME.len()];
        stream.read_exact(&mut frame).await.expect("a frame");
        assert_eq!(frame, FRAME);
    });
    let app = world.app("eager").await;
    world.task(app.deployment, address).await;
    let proxy = world.start().await;
    let request = [head("eager-default").as_bytes(), FRAME].concat();
    let answer = raw(proxy.address, &request).await;
    assert!(
        answer.starts_with("HTTP/1.1 101") && answer.ends_with("\r\n\r\nfirst"),
        "{answer}"
    );
    tasks.join_next().await.expect("one").expect("it got the frame");
    proxy.stop().await;
}

#[tokio::test]
async fn an_upgrade_that_is_refused_is_an_answer_like_others() {
    let world = World::new().await;
    let origin = Origin::new(|_| async {
        let mut response = text("no sockets here");
        *response.status_mut() = StatusCode::FORBIDDEN;
        response
    })
    .await;
    world.app_at("none", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    for _ in 0..2 {
        stream
            .write_all(head("none-default").as_bytes())
            .await
            .expect("it reads");
        let answer = read_until(&mut stream, "no sockets here").await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{answer}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn an_open_socket_keeps_its_place_among_the_connections() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nconnections_per_client_max = 1");
    let origin = echo().await;
    world.app_at("socket", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    upgrade(&mut stream, "socket-default").await;
    exchange(&mut stream).await;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        full("socket-default")
    );
    let answer = raw(proxy.address, request.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    drop(stream);
    wait_until(SOON, "there is room again", || async {
        raw(proxy.address, request.as_bytes())
            .await
            .starts_with("HTTP/1.1 426")
            .then_some(())
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn events_come_as_they_are_sent_and_an_open_stream_is_let_finish() {
    let world = World::new().await;
    let (tell, mut streams) = mpsc::channel(2);
    let origin = Origin::new(move |_| {
        let tell = tell.clone();
        async move {
            let (says, body) = h2c::streamed();
            tell.send(says).await.expect("the test takes it");
            let mut response = Response::new(body);
            let kind = "text/event-stream".parse().expect("a value");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
    })
    .await;
    let app = world.app_at("events", &[&origin]).await;
    let mut proxy = world.start().await;
    let event = |text: &str| Frame::data(Bytes::from(format!("data: {text}\n\n")));

    // One that the client leaves: the task hears of it.
    let mut left = client()
        .get(proxy.url("/"))
        .header("host", full("events-default"))
        .send()
        .await
        .expect("a head");
    let says = streams.recv().await.expect("one");
    says.send(event("hello")).await.expect("it is read");
    assert_eq!(
        left.chunk().await.expect("readable").expect("an event"),
        "data: hello\n\n"
    );
    told(&world, app, 1).await;
    drop(left);
    timeout(SOON, says.closed()).await.expect("the task hears of it");
    told(&world, app, 0).await;

    // One that outlives the proxy's listener.
    let mut stays = client()
        .get(proxy.url("/"))
        .header("host", full("events-default"))
        .send()
        .await
        .expect("a head");
    assert_eq!(stays.headers()[header::CONTENT_TYPE], "text/event-stream");
    let says = streams.recv().await.expect("one");
    proxy.shutdown.request();
    let address = proxy.address;
    wait_until(SOON, "the listener is closed", || async {
        TcpStream::connect(address).await.err()
    })
    .await;
    for word in ["one", "two"] {
        says.send(event(word)).await.expect("it is read");
        assert_eq!(
            stays.chunk().await.expect("readable").expect("an event"),
            format!("data: {word}\n\n")
        );
    }
    drop(says);
    assert!(stays.chunk().await.expect("a whole answer").is_none());
    proxy.ended().await;
}

/// Far more than a proxy may take for all that it holds.
const LARGE_BYTES: usize = 256 << 20;
const CHUNK_BYTES: usize = 64 << 10;
/// What a process of that size may grow by.
const GROWTH_BYTES_MAX: u64 = 32 << 20;

#[tokio::test]
async fn large_bodies_pass_both_ways_in_flat_memory() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move {
        if request.method() == http::Method::GET {
            let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
            let chunks =
                std::iter::repeat_n(chunk, LARGE_BYTES / CHUNK_BYTES).map(|chunk| Ok(Frame::data(chunk)));
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(chunks));
            return Response::new(body.boxed());
        }
        let (mut body, mut bytes) = (request.into_body(), 0);
        while let Some(frame) = body.frame().await {
            bytes += frame.expect("readable").data_ref().map_or(0, Bytes::len);
        }
        text(bytes.to_string())
    })
    .await;
    world.app_at("large", &[&origin]).await;
    let site = world.site("large", "[proxy.limits]\nbody_bytes_max = 0");
    let process = site.ready().await;
    let url = format!("http://{}/", site.address);
    let host = full("large-default");
    let patient = reqwest::Client::builder().no_proxy().build().expect("a client");
    let small = patient
        .post(&url)
        .header("host", &host)
        .body("small")
        .send()
        .await
        .expect("an answer");
    assert_eq!(small.text().await.expect("a body"), "5");
    let before = process.peak_memory_bytes();

    let chunk = Bytes::from(vec![b'x'; CHUNK_BYTES]);
    let chunks = std::iter::repeat_n(chunk, LARGE_BYTES / CHUNK_BYTES).map(Ok::<_, std::io::Error>);
    let body = reqwest::Body::wrap_stream(futures_util::stream::iter(chunks));
    let up = patient
        .post(&url)
        .header("host", &host)
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(up.text().await.expect("a body"), LARGE_BYTES.to_string());
    let mut down = patient
        .get(&url)
        .header("host", &host)
        .send()
        .await
        .expect("an answer");
    let mut bytes = 0;
    while let Some(chunk) = down.chunk().await.expect("readable") {
        bytes += chunk.len();
    }
    assert_eq!(bytes, LARGE_BYTES);
    let growth = process.peak_memory_bytes().saturating_sub(before);
    assert!(growth < GROWTH_BYTES_MAX, "it grew by {growth} bytes");
    process.terminate();
    process.ended().await;
}
