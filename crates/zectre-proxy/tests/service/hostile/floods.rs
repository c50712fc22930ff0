//! Floods: many connections, heads and frames that are there only to be many. The one who sends them is cut off or told
//! off, and everybody else is served meanwhile.

use super::frames::{
    CONTINUATION, DATA, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, SETTINGS, WHOLE, block, frame,
    headers, next, open,
};
use crate::{
    client::{full, metric, raw},
    origin::{Origin, text},
    world::{Running, SOON, World},
};
use http::StatusCode;
use http_body_util::BodyExt;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};
use zectre_testkit::wait_until;

const FIELDS: [(&str, &str); 4] = [
    (":method", "GET"),
    (":scheme", "http"),
    (":path", "/"),
    (":authority", "victim-default.zectre.localhost"),
];

async fn reading() -> Origin {
    Origin::new(|request| async {
        let _ = request.into_body().collect().await;
        text("hello")
    })
    .await
}

/// Others are served.
async fn serves(proxy: &Running) {
    let got = timeout(SOON, proxy.get("victim-default"))
        .await
        .expect("it answers");
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "hello"));
}

/// Writes `piece` over and over until the proxy ends the connection, whose other half is read or not.
async fn flood(proxy: &Running, piece: Vec<u8>, reads: bool) {
    let stream = open(proxy.address, &[]).await;
    let (mut from, mut to) = stream.into_split();
    let mut reader = JoinSet::new();
    let writes = async {
        if reads {
            reader.spawn(async move { while matches!(from.read(&mut [0; 16_384]).await, Ok(1..)) {} });
            while to.write_all(&piece).await.is_ok() {}
        } else {
            while to.write_all(&piece).await.is_ok() {}
            drop(from);
        }
    };
    timeout(SOON, writes).await.expect("it is cut off");
}

#[tokio::test]
async fn a_thousand_heads_that_drip_keep_nobody_waiting() {
    let mut world = World::new().await;
    world.configure("[proxy]\nheader_timeout_ms = 15000");
    let origin = reading().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let mut open = Vec::new();
    for _ in 0..1_000 {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        stream
            .write_all(b"GET / HTTP/1.1\r\nX: ")
            .await
            .expect("it reads");
        open.push(stream);
    }
    // Each of them says something all the time, until it is told that it took too long.
    let mut drips = JoinSet::new();
    for mut stream in open {
        drips.spawn(async move {
            let (mut beat, mut answer) = (tokio::time::interval(Duration::from_secs(1)), Vec::new());
            // One that can't write any more has still to read what it is told.
            let mut writes = true;
            loop {
                tokio::select! {
                    _ = beat.tick(), if writes => writes = stream.write_all(b"y").await.is_ok(),
                    read = stream.read_buf(&mut answer) => if !matches!(read, Ok(1..)) { break },
                }
            }
            String::from_utf8_lossy(&answer).starts_with("HTTP/1.1 408 ")
        });
    }
    let mut served = 0;
    let others = async {
        loop {
            serves(&proxy).await;
            served += 1;
        }
    };
    let all = async {
        tokio::select! {
            () = others => unreachable!("they come and come"),
            told = drips.join_all() => told,
        }
    };
    let told = timeout(2 * SOON, all).await.expect("all of them are told");
    assert_eq!((told.len(), told.iter().all(|told| *told)), (1_000, true));
    assert!(served > 20, "only {served} were served meanwhile");
    proxy.stop().await;
}

#[tokio::test]
async fn heads_without_end_are_not_gathered() {
    let world = World::new().await;
    let origin = reading().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let host = full("victim-default");
    // Many of them, large ones, and one that never ends: in HTTP/1.1,
    for filler in [
        "X: y\r\n".repeat(20_000),
        format!("X: {}\r\n", "y".repeat(4_000)).repeat(2_000),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: {host}\r\n{filler}\r\n");
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        let (mut from, mut to) = stream.split();
        let mut answer = Vec::new();
        // It is refused before all of it is written, and a reset may overtake the answer.
        let both = async { tokio::join!(to.write_all(head.as_bytes()), from.read_to_end(&mut answer)) };
        let _ = timeout(SOON, both).await.expect("it ends");
        let answer = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 431 "),
            "{answer}"
        );
        serves(&proxy).await;
    }
    let some = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{}\r\n",
        "X: y\r\n".repeat(99)
    );
    assert!(
        raw(proxy.address, some.as_bytes())
            .await
            .starts_with("HTTP/1.1 431 ")
    );
    // and in HTTP/2: many small ones,
    let many: Vec<_> = FIELDS
        .into_iter()
        .chain(std::iter::repeat_n(("x", "y"), 200))
        .collect();
    let refused = async |bytes: Vec<u8>| {
        let mut stream = open(proxy.address, &bytes).await;
        while let Some(frame) = next(&mut stream).await {
            // 431 has no index of its own, 0x48 begins a literal value for `:status`.
            let status = frame.kind == HEADERS && !matches!(frame.status(), Some(200));
            if status || frame.kind == GOAWAY || frame.kind == RST_STREAM {
                return;
            }
        }
    };
    refused(headers(1, WHOLE, &many)).await;
    // large ones,
    let value = "y".repeat(120);
    let mut large = vec![frame(HEADERS, END_STREAM, 1, &block(&FIELDS))];
    for _ in 0..20 {
        let fields = vec![("x", value.as_str()); 100];
        large.push(frame(CONTINUATION, 0, 1, &block(&fields)));
    }
    large.push(frame(CONTINUATION, 4, 1, &[]));
    refused(large.concat()).await;
    serves(&proxy).await;
    assert_eq!(origin.requests(), 3);
    proxy.stop().await;
}

#[tokio::test]
async fn blocks_that_never_end_end_their_connection() {
    let world = World::new().await;
    let origin = reading().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    for piece in [
        frame(CONTINUATION, 0, 1, &[]),
        frame(CONTINUATION, 0, 1, &block(&[("x", "y")])),
    ] {
        let mut stream = open(proxy.address, &frame(HEADERS, END_STREAM, 1, &block(&FIELDS))).await;
        let writes = async { while stream.write_all(&piece).await.is_ok() {} };
        timeout(SOON, writes).await.expect("it is cut off");
        serves(&proxy).await;
    }
    proxy.stop().await;
}

/// So many are taken back at a time: far fewer than the library's own bound, and not one by one, for every wait for an
/// answer costs a turn of a busy machine.
const FEW: usize = 12;

#[tokio::test]
async fn requests_that_are_taken_back_at_once_end_their_connection() {
    let world = World::new().await;
    let origin = reading().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    // All at once: the library's bound. One after the other, each of them begun with: ours.
    let pair = |stream: u32| {
        let cancel = frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
        [headers(stream, WHOLE, &FIELDS), cancel].concat()
    };
    let all: Vec<u8> = (0..5_000).flat_map(|at| pair(2 * at + 1)).collect();
    let mut stream = open(proxy.address, &all).await;
    let mut code = None;
    while let Some(frame) = next(&mut stream).await {
        if frame.kind == GOAWAY {
            code = Some(frame.code());
        }
    }
    // ENHANCE_YOUR_CALM, where a reset did not overtake it.
    assert!(matches!(code, None | Some(11)), "{code:?}");
    serves(&proxy).await;
    let begun = origin.requests();
    assert!(begun < 2_000, "{begun} of them reached the program");
    let mut stream = open(proxy.address, &[]).await;
    let slowly = async {
        for at in (0..100_000_u32).step_by(FEW) {
            let few = (at..).take(FEW).flat_map(|at| pair(2 * at + 1));
            let ping = frame(PING, 0, 0, &at.to_be_bytes().repeat(2));
            let sent = few.chain(ping).collect::<Vec<u8>>();
            if stream.write_all(&sent).await.is_err() {
                return at;
            }
            // What it answers to the ping comes after it has read them.
            loop {
                match next(&mut stream).await {
                    Some(frame) if frame.kind == PING => break,
                    Some(_) => {}
                    None => return at,
                }
            }
        }
        u32::MAX
    };
    let passed = timeout(3 * SOON, slowly).await.expect("it is cut off");
    assert!((100..20_000).contains(&passed), "{passed} requests passed");
    serves(&proxy).await;
    proxy.stop().await;
}

#[tokio::test]
async fn frames_that_carry_nothing_end_their_connection() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nwrite_timeout_ms = 3000");
    let origin = reading().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let many = |piece: Vec<u8>| piece.repeat(1_000);
    for piece in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 4, 0, 1, 0, 0]),
        frame(2, 0, 1, &[0, 0, 0, 0, 1]),
        frame(0x77, 0, 0, &[]),
    ] {
        flood(&proxy, many(piece.clone()), true).await;
        flood(&proxy, many(piece), false).await;
        serves(&proxy).await;
    }
    // Data that is none, for a request that waits for it.
    let mut fields = FIELDS;
    fields[0].1 = "POST";
    let mut stream = open(proxy.address, &headers(1, 4, &fields)).await;
    let writes = async { while stream.write_all(&many(frame(DATA, 0, 1, &[]))).await.is_ok() {} };
    timeout(SOON, writes).await.expect("it is cut off");
    serves(&proxy).await;
    wait_until(SOON, "the floods are counted", async || {
        let series = "proxy_connections_closed_total{reason=\"flood\"}";
        (metric(proxy.admin, series).await > 3.5).then_some(())
    })
    .await;
    proxy.stop().await;
}
