//! The PROXY protocol: load balancers of ours say whom they bring, and nobody else may.

use crate::{
    client::{comes_to, full, read_until},
    origin::{Origin, text},
    secure::Secure,
    world::{Running, SOON, World},
};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// 203.0.113.7:4321 to 192.0.2.1:80.
const V4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0x10, 0xe1, 0, 80];

fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
    let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
    [SIGNATURE, &[command, family], &length, rest].concat()
}

/// Answers with what it was told of the client.
async fn teller() -> Origin {
    Origin::new(|request| async move {
        let told = request.headers().get("x-forwarded-for");
        text(told.map_or_else(Vec::new, |told| told.as_bytes().to_vec()))
    })
    .await
}

fn request(extra: &str) -> Vec<u8> {
    let host = full("shop-default");
    format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{extra}\r\n").into_bytes()
}

/// Everything that comes back for `pieces`, from a client at this address of ours.
async fn ask(proxy: SocketAddr, from: [u8; 4], pieces: &[&[u8]]) -> String {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((from, 0).into()).expect("it is this machine");
    let mut stream = socket.connect(proxy).await.expect("it listens");
    for piece in pieces {
        // It may hang up before all is written.
        let _ = stream.write_all(piece).await;
    }
    rest(&mut stream).await
}

async fn rest(stream: &mut TcpStream) -> String {
    let mut got = Vec::new();
    let _ = timeout(SOON, stream.read_to_end(&mut got))
        .await
        .expect("it ends");
    String::from_utf8_lossy(&got).into_owned()
}

const US: [u8; 4] = [127, 0, 0, 1];

async fn world(header_timeout_ms: u32, limits: &str) -> (World, Origin, Running) {
    let mut world = World::new().await;
    let config = "[proxy]\nproxy_protocol = true\ntrusted_peers = [\"127.0.0.1\"]\nheader_timeout_ms";
    world.configure(&format!(
        "{config} = {header_timeout_ms}\n[proxy.limits]\n{limits}"
    ));
    let origin = teller().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    (world, origin, proxy)
}

#[tokio::test]
async fn the_client_is_whom_a_load_balancer_brings() {
    let (_world, _origin, proxy) = world(6_000, "").await;
    let says = async |pieces: &[&[u8]], told: &str| {
        let answer = ask(proxy.address, US, pieces).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{told}")), "{told}: {answer}");
    };
    // What the client says of itself is its own word only.
    let claims = request("X-Forwarded-For: 10.1.1.1\r\n");
    let v4 = header(0x21, 0x11, &V4);
    says(&[&v4, &claims], "203.0.113.7").await;
    // In pieces, and with more behind the addresses.
    let more = header(0x21, 0x11, &[&V4[..], &[3, 0, 4, 1, 2, 3, 4], &[4; 200]].concat());
    let (first, second) = more.split_at(9);
    says(&[first, second, &request("")], "203.0.113.7").await;
    let mut v6 = [0; 36];
    (v6[0], v6[1], v6[2], v6[3], v6[15]) = (0x20, 1, 0x0d, 0xb8, 5);
    says(&[&header(0x21, 0x21, &v6), &request("")], "2001:db8::5").await;
    // The load balancer itself, or nobody in particular.
    says(&[&header(0x20, 0, &[]), &request("")], "127.0.0.1").await;
    says(&[&header(0x20, 0x11, &V4), &request("")], "127.0.0.1").await;
    says(&[&header(0x21, 0, &[7; 20]), &request("")], "127.0.0.1").await;
    proxy.stop().await;
}

#[tokio::test]
async fn over_tls_a_load_balancer_speaks_before_the_handshake() {
    let mut world = World::new().await;
    world.configure(
        "[proxy]\ntrusted_peers = [\"127.0.0.1\"]\n[proxy.tls]\nenabled = true\nproxy_protocol = true",
    );
    let origin = teller().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("shop-default");
    for alpn in ["h2", "http/1.1"] {
        let v4 = header(0x21, 0x11, &V4);
        let secure = Secure::introduced(proxy.secure(), &v4, &host, &[alpn]).await;
        let got = secure.get(&[&host]).await;
        assert_eq!(
            (got[0].status.as_u16(), got[0].body.as_str()),
            (200, "203.0.113.7")
        );
    }
    proxy.stop().await;
}

#[tokio::test]
async fn limits_are_those_of_the_client_that_is_brought() {
    let (_world, _origin, proxy) = world(60_000, "connections_per_client_max = 1").await;
    let v4 = header(0x21, 0x11, &V4);
    let mut held = TcpStream::connect(proxy.address).await.expect("it listens");
    let kept = format!("GET / HTTP/1.1\r\nHost: {}\r\n\r\n", full("shop-default"));
    let bytes = [&v4[..], kept.as_bytes()].concat();
    held.write_all(&bytes).await.expect("it reads");
    read_until(&mut held, "203.0.113.7").await;
    // It is kept, and the second one of the same client is one too many.
    let answer = ask(proxy.address, US, &[&v4, &request("")]).await;
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    let mut other = V4;
    other[3] = 8;
    let answer = ask(proxy.address, US, &[&header(0x21, 0x11, &other), &request("")]).await;
    assert!(answer.ends_with("203.0.113.8"), "{answer}");
    drop(held);
    proxy.stop().await;
}

#[tokio::test]
async fn without_a_header_a_load_balancer_is_not_heard_and_with_one_nobody_else_is() {
    let (_world, origin, proxy) = world(6_000, "").await;
    let cases: [Vec<u8>; 9] = [
        request(""),
        b"PROXY TCP4 203.0.113.7 192.0.2.1 4321 80\r\n".to_vec(),
        header(0x21, 0x11, &V4[..11]),
        header(0x21, 0x21, &V4),
        header(0x21, 0x12, &V4),
        header(0x2f, 0x11, &V4),
        header(0x11, 0x11, &V4),
        header(0x21, 0x11, &[0; 5_000]),
        // It says nothing, or not all.
        Vec::new(),
    ];
    let broken = cases.len() as f64;
    for case in cases {
        let with_request = if case.is_empty() {
            case
        } else {
            [case, request("")].concat()
        };
        let answer = ask(proxy.address, US, &[&with_request]).await;
        assert_eq!(answer, "", "{}", with_request.escape_ascii());
    }
    let half = &header(0x21, 0x11, &V4)[..20];
    assert_eq!(ask(proxy.address, US, &[half]).await, "");
    let series = "proxy_connections_closed_total{reason=\"proxy_protocol\"}";
    comes_to(proxy.admin, series, broken + 1.0).await;
    // Another address is believed nothing, and needs no header.
    let answer = ask(
        proxy.address,
        [127, 0, 0, 9],
        &[&header(0x21, 0x11, &V4), &request("")],
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert_eq!(origin.requests(), 0);
    let answer = ask(
        proxy.address,
        [127, 0, 0, 9],
        &[&request("X-Forwarded-For: 10.1.1.1\r\n")],
    )
    .await;
    assert!(answer.ends_with("\r\n\r\n127.0.0.9"), "{answer}");
    proxy.stop().await;
}
