//! What clients send to programs: asked for before it is sent, bounded in length and in time, and legible.

use crate::{
    client::{client, comes_to, full, metric, raw, read_until, send},
    hostile::frames::{self, WHOLE, headers},
    origin::{Origin, nobody, text},
    world::{Running, SOON, World},
};
use http::StatusCode;
use http_body_util::BodyExt;
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
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, timeout},
};

/// As long as the proxy waits for a program to ask for a body.
const UNASKED: Duration = Duration::from_secs(1);

/// Reads heads and hangs up, as a program does that is killed at this moment.
struct Dying {
    address: SocketAddr,
    heads: Arc<AtomicUsize>,
    _running: JoinSet<()>,
}

impl Dying {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let heads = Arc::new(AtomicUsize::new(0));
        let (seen, mut running) = (Arc::clone(&heads), JoinSet::new());
        running.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let head = read_until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
                assert!(head.contains("\r\nexpect: 100-continue\r\n"), "{head}");
                seen.fetch_add(1, SeqCst);
            }
        });
        Self {
            address,
            heads,
            _running: running,
        }
    }
}

/// Answers with the length of the body.
async fn counter() -> Origin {
    Origin::new(|request| async move {
        let whole = request.into_body().collect().await;
        text(whole.map_or(0, |body| body.to_bytes().len()).to_string())
    })
    .await
}

/// POSTs four bytes once it has been told to.
async fn post_when_told(proxy: &Running, host: &str) -> String {
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        full(host)
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let mut answer = read_until(&mut stream, "\r\n\r\n").await;
    if answer.starts_with("HTTP/1.1 100 ") {
        stream.write_all(b"body").await.expect("it reads");
    }
    let mut rest = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut rest))
        .await
        .expect("it ends");
    answer.push_str(&String::from_utf8_lossy(&rest));
    answer
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_finds_another_replica() {
    let world = World::new().await;
    let (dying, origin) = (Dying::new().await, counter().await);
    let app = world.app_at("shop", &[&origin]).await;
    world.task(app.deployment, dying.address).await;
    let proxy = world.start().await;
    // Until the dying one has been asked, and never a failure.
    let asked = async {
        while dying.heads.load(SeqCst) < 2 {
            let began = Instant::now();
            let answer = post_when_told(&proxy, "shop-default").await;
            // A program that says nothing for so long is given the body unasked: nobody can tell what it did with it.
            assert!(
                answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
                    && answer.ends_with("\r\n\r\n4")
                    || began.elapsed() >= UNASKED,
                "{answer}"
            );
        }
    };
    timeout(SOON, asked).await.expect("both are asked");
    comes_to(proxy.admin, "proxy_upstream_errors_total{kind=\"lost\"}", 2.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_that_nobody_asked_for_is_sent_once_where_nothing_is_repeated() {
    let mut world = World::new().await;
    world.configure("[proxy]\nrepeat_lost_requests = false");
    let replicas = [Dying::new().await, Dying::new().await];
    let app = world.app("shop").await;
    for dying in &replicas {
        world.task(app.deployment, dying.address).await;
    }
    let proxy = world.start().await;
    let answer = post_when_told(&proxy, "shop-default").await;
    assert!(answer.contains("HTTP/1.1 502 "), "{answer}");
    let heads: usize = replicas.iter().map(|dying| dying.heads.load(SeqCst)).sum();
    assert_eq!(heads, 1, "{answer}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_of_which_no_byte_left_finds_another_replica_whatever_is_configured() {
    for configured in ["", "[proxy]\nrepeat_lost_requests = false"] {
        let mut world = World::new().await;
        world.configure(configured);
        let origin = counter().await;
        let app = world.app_at("shop", &[&origin]).await;
        world.task(app.deployment, nobody()).await;
        let proxy = world.start().await;
        // Until the one that is away was tried, and never a failure.
        let tried = async {
            let series = "proxy_upstream_errors_total{kind=\"connect\"}";
            while metric(proxy.admin, series).await < 0.5 {
                let request = client().post(proxy.url("/")).header("host", full("shop-default"));
                let got = send(request.body("x".repeat(100_000))).await;
                assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "100000"));
            }
        };
        timeout(SOON, tried).await.expect("both are tried");
        proxy.stop().await;
    }
}

#[tokio::test]
async fn a_program_may_refuse_a_body_before_it_is_sent_or_know_nothing_of_that() {
    let world = World::new().await;
    let refuses = Origin::new(|_| async {
        let mut response = text("too much");
        *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
        response
    })
    .await;
    world.app_at("refuses", &[&refuses]).await;
    let old = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let app = world.app("old").await;
    world.task(app.deployment, old.local_addr().expect("bound")).await;
    let proxy = world.start().await;
    let answer = post_when_told(&proxy, "refuses-default").await;
    assert!(
        answer.starts_with("HTTP/1.1 413 ") && answer.ends_with("too much"),
        "{answer}"
    );
    // One that waits for the body without a word gets it all the same.
    let mut serving = JoinSet::new();
    serving.spawn(async move {
        let (mut stream, _) = old.accept().await.expect("a connection");
        read_until(&mut stream, "\r\n\r\nbody").await;
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")
            .await
            .expect("it reads");
        let _ = stream.read(&mut [0]).await;
    });
    let answer = post_when_told(&proxy, "old-default").await;
    assert!(
        answer.starts_with("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ") && answer.ends_with("old"),
        "{answer}"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn without_configuration_a_body_has_a_bound() {
    let world = World::new().await;
    let origin = counter().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    for length in [16_777_217, u64::MAX / 2] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n",
            full("shop-default")
        );
        let answer = raw(proxy.address, head.as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 413 ") && answer.contains("BODY_TOO_LARGE"),
            "{answer}"
        );
    }
    assert_eq!(origin.requests(), 0);
    proxy.stop().await;
}

/// Most programs write all of a request before they look for an answer.
#[tokio::test]
async fn who_sends_all_of_what_is_refused_is_told_why() {
    const TOO_MANY: usize = 20_000_000;
    const MANY: usize = 15_000_000;
    let world = World::new().await;
    let origin = Origin::saying("no need to see all of it").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let send = async |host: &str, bytes: usize, more: &str, told: [&str; 2]| {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\n{more}\r\n",
            full(host)
        );
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        let exchange = async {
            stream.write_all(head.as_bytes()).await.expect("it reads");
            let piece = vec![b'x'; 100_000];
            for _ in 0..bytes / piece.len() {
                stream.write_all(&piece).await.expect("it is heard out");
            }
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("an answer");
            let [status, code] = told;
            assert!(answer.starts_with(status) && answer.contains(code), "{answer}");
        };
        timeout(SOON, exchange).await.expect("in time");
    };
    send("shop-default", TOO_MANY, "", ["HTTP/1.1 413 ", "BODY_TOO_LARGE"]).await;
    send("nobody-default", MANY, "", ["HTTP/1.1 404 ", "UNKNOWN_HOST"]).await;
    let two = "Transfer-Encoding: chunked\r\n";
    send("shop-default", MANY, two, ["HTTP/1.1 400 ", ""]).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_target_that_is_no_address_is_refused_at_once() {
    let world = World::new().await;
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("shop-default");
    for target in [
        &b"/caf\xc3\xa9"[..],
        b"/caf\xe9",
        b"/?q=\xff",
        b"http://HOST/\xc3\xa9",
    ] {
        let target = target.escape_ascii().to_string();
        let mut request = b"GET ".to_vec();
        let mut bytes = target.replace("HOST", &host).into_bytes();
        // Back from the escaped form, byte for byte.
        while let Some(at) = bytes.windows(2).position(|window| window == b"\\x") {
            let digits = String::from_utf8_lossy(&bytes[at + 2..at + 4]).into_owned();
            bytes.splice(at..at + 4, [u8::from_str_radix(&digits, 16).expect("two digits")]);
        }
        request.extend(bytes);
        request.extend(format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").into_bytes());
        let answer = raw(proxy.address, &request).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{target}: {answer}");
    }
    let fields = |path| {
        [
            (":method", "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", host.as_str()),
        ]
    };
    // As bytes: é is one of Latin-1 here.
    let mut stream = frames::open(proxy.address, &headers(1, WHOLE, &fields("/caf\u{e9}"))).await;
    let told = async {
        while let Some(frame) = frames::next(&mut stream).await {
            if frame.status() == Some(400) || frame.kind == frames::RST_STREAM || frame.kind == frames::GOAWAY
            {
                return true;
            }
        }
        false
    };
    assert!(told.await);
    assert_eq!(origin.requests(), 0);
    // Encoded, it is one.
    let good = format!("GET /caf%C3%A9 HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    assert!(raw(proxy.address, good.as_bytes()).await.ends_with("hello"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_cut_off_and_one_that_flows_is_not() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_idle_timeout_ms = 5000\nbody_bytes_per_sec_min = 2000");
    let origin = counter().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    // Bytes at each beat, how many of them, the status.
    let post = async |bytes: usize, beats: usize, status: &str| {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            full("shop-default"),
            bytes * beats
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let (mut answer, began) = (Vec::new(), Instant::now());
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        // A beat that was missed is none that is made up for.
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for _ in 0..beats {
            tokio::select! {
                _ = beat.tick() => {}
                _ = stream.read_buf(&mut answer) => break,
            }
            if stream.write_all(&vec![b'x'; bytes]).await.is_err() {
                break;
            }
        }
        let _ = timeout(SOON, stream.read_to_end(&mut answer))
            .await
            .expect("it ends");
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(began.elapsed() >= Duration::from_millis(4_990));
    };
    tokio::join!(post(10, 10_000, "408"), post(2_000, 80, "200"));
    proxy.stop().await;
}
