//! Programs whose answers are no HTTP, or two things at once. The client gets an honest result: the answer, a 502, or one
//! that visibly breaks off; and the next request, which would go on the same connection, gets its own answer.

use super::reading::{Answered, End, answers};
use crate::{
    client::full,
    program::Program,
    world::{Running, SOON, World},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// Times a case is tried: what comes too much races with the next request.
const ROUNDS: usize = 6;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Seen {
    /// The whole answer.
    Whole(&'static str),
    /// A 502.
    Gateway,
    /// It breaks off, and can be seen to.
    Cut,
}
use Seen::{Cut, Gateway, Whole};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Stay,
    Close,
}
use Then::{Close, Stay};

const EVIL: &str = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";

/// The request's method, the answer (`EVIL` stands for one that nobody asked for), what the program does then, and what the
/// client may see.
const CASES: &[(&str, &str, Then, Seen)] = &[
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        Stay,
        Whole("abc"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n",
        Stay,
        Whole("abc"),
    ),
    ("GET", "HTTP/1.1 200 OK\r\n\r\nabc", Close, Whole("abc")),
    ("GET", "HTTP/1.0 200 OK\r\n\r\nabc", Close, Whole("abc")),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nConnection: close, content-length\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Whole("abc"),
    ),
    (
        "GET",
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        Stay,
        Whole("abc"),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nContent-Length: 300\r\n\r\n",
        Stay,
        Whole(""),
    ),
    (
        "GET",
        "HTTP/1.1 304 Not Modified\r\nContent-Length: 300\r\n\r\n",
        Stay,
        Whole(""),
    ),
    // Two framings, or one that is none.
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabcdef\r\n0\r\n\r\n",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 300\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 6\r\n\r\nabcdef",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3, 3\r\n\r\nabc",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, identity\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Stay,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Close,
        Gateway,
    ),
    // More than was asked for.
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcEVIL",
        Stay,
        Whole("abc"),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nEVIL",
        Stay,
        Whole(""),
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\nEVIL",
        Stay,
        Whole("abc"),
    ),
    (
        "HEAD",
        "HTTP/1.1 200 OK\r\nContent-Length: 54\r\n\r\nEVIL",
        Stay,
        Whole(""),
    ),
    (
        "GET",
        "HTTP/1.1 204 No Content\r\nContent-Length: 54\r\n\r\nEVIL",
        Stay,
        Whole(""),
    ),
    ("GET", "HTTP/1.1 204 No Content\r\n\r\nEVIL", Stay, Whole("")),
    ("GET", "HTTP/1.1 304 Not Modified\r\n\r\nEVIL", Stay, Whole("")),
    // Less than was promised.
    (
        "GET",
        "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc",
        Close,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        Close,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nabc",
        Close,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nx\r\n",
        Stay,
        Cut,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        Close,
        Cut,
    ),
    ("POST", "", Close, Gateway),
    ("POST", "HTTP/1.1 200 OK\r\nContent-Le", Close, Gateway),
    // No HTTP.
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX: y\0z\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nX: y\rz: a\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 200 OK\r\nno colon\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 2x0 OK\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/1.1 099 OK\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    (
        "GET",
        "HTTP/2.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        Close,
        Gateway,
    ),
    ("GET", "ICY 200 OK\r\n\r\nabc", Close, Gateway),
    (
        "GET",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nEVIL",
        Stay,
        Gateway,
    ),
    ("GET", "\x16\x03\x01", Close, Gateway),
];

/// Answers `/N` with the bytes of case N, and everything else as it should.
async fn serve(mut stream: TcpStream) {
    let mut asked = Vec::new();
    loop {
        let Some(end) = asked.windows(4).position(|window| window == b"\r\n\r\n") else {
            match stream.read_buf(&mut asked).await {
                Ok(1..) => continue,
                _ => return,
            }
        };
        let head = String::from_utf8_lossy(&asked[..end]).into_owned();
        asked.drain(..end + 4);
        let target = head.split(' ').nth(1).unwrap_or_default();
        let case = target
            .trim_start_matches('/')
            .parse()
            .ok()
            .and_then(|index: usize| CASES.get(index));
        let (answer, then) = match case {
            Some((_, answer, then, _)) => (answer.replace("EVIL", EVIL), *then),
            None => (
                "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ngood".to_owned(),
                Stay,
            ),
        };
        if stream.write_all(answer.as_bytes()).await.is_err() || then == Close {
            return;
        }
    }
}

/// What comes back for a request for case `index` and one for something else right behind it.
async fn ask(proxy: &Running, index: usize) -> (Vec<Answered>, End) {
    let method = CASES[index].0;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let host = full("liar-default");
    let requests = format!(
        "{method} /{index} HTTP/1.1\r\nHost: {host}\r\n\r\nGET /good HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(requests.as_bytes()).await.expect("it reads");
    let mut got = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut got)).await;
    let _ = read.unwrap_or_else(|_| panic!("no end of {:?}: {}", CASES[index], got.escape_ascii()));
    answers(&got, &[method, "GET"])
}

#[tokio::test]
async fn a_wrong_answer_is_told_and_the_next_one_is_right() {
    let world = World::new().await;
    let program = Program::new(serve).await;
    let app = world.app("liar").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    let mut wrong = Vec::new();
    for (index, case) in CASES.iter().enumerate() {
        // One that is lost keeps its program out for a second.
        let rounds = if case.0 == "POST" { 1 } else { ROUNDS };
        for _ in 0..rounds {
            let (answered, end) = ask(&proxy, index).await;
            let first = answered.first();
            let right = match case.3 {
                Whole(body) => {
                    first.is_some_and(|answer| answer.status < 400 && answer.body == body.as_bytes())
                }
                Gateway => first
                    .is_some_and(|answer| answer.status == 502 && answer.header("x-error-detail").is_some()),
                Cut => first.is_none() && end == End::Cut,
            };
            let next = answered.get(1).is_some_and(|answer| answer.body == b"good");
            if !right || !(next || case.3 == Cut) {
                wrong.push(format!("{answered:?} {end:?} for {case:?}"));
                break;
            }
        }
        let next = proxy.get("liar-default").await;
        if next.body != "good" {
            wrong.push(format!("{next:?} after {case:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    proxy.stop().await;
}

#[tokio::test]
async fn a_flood_of_interim_answers_ends_with_the_clients_patience() {
    let mut world = World::new().await;
    world.configure("[proxy]\nresponse_timeout_ms = 500");
    let program = Program::new(async |mut stream| {
        // An answer before its request would be another thing.
        let _ = stream.read(&mut [0; 4_096]).await;
        let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(100);
        while stream.write_all(interim.as_bytes()).await.is_ok() {}
    })
    .await;
    let app = world.app("flood").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    // Slow without optimisation: hyper reads as much as a turn of its runtime allows before anybody looks at a clock.
    let got = timeout(SOON, proxy.get("flood-default")).await;
    assert_eq!(got.expect("it ends").problem().code, "UPSTREAM_TIMEOUT");
    proxy.stop().await;
}

#[tokio::test]
async fn an_endless_head_is_not_kept() {
    let world = World::new().await;
    let program = Program::new(async |mut stream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n").await;
        let line = format!("X: {}\r\n", "y".repeat(8_000));
        while stream.write_all(line.as_bytes()).await.is_ok() {}
    })
    .await;
    let app = world.app("long").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    let got = timeout(SOON, proxy.get("long-default")).await;
    assert_eq!(got.expect("it ends").problem().code, "BAD_GATEWAY");
    proxy.stop().await;
}
