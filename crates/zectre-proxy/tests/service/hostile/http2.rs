//! HTTP/2 that breaks RFC 9113, in the manner of h2spec: the right party is told, and nothing of it reaches a program.

use super::{
    frames::{DATA, END_STREAM, Frame, GOAWAY, PREFACE, RST_STREAM, SETTINGS, frame, next, open},
    http2_cases::{
        Told::{self, Connection, Stream, Visitor},
        connection_cases, get, post, stream_cases,
    },
};
use crate::{
    client::full,
    origin::{Origin, text},
    world::{SOON, World},
};
use http_body_util::BodyExt;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::{io::AsyncReadExt, time::timeout};

pub(crate) fn fits(frame: &Frame, told: Told) -> bool {
    match told {
        Connection(codes) => frame.kind == GOAWAY && codes.contains(&frame.code()),
        Stream(codes) => {
            (matches!(frame.kind, GOAWAY | RST_STREAM) && codes.contains(&frame.code()))
                || frame.status() == Some(400)
        }
        Visitor => frame.status() == Some(400),
    }
}

/// A program that counts what came whole, and never answers `/wait`.
async fn counting() -> (Origin, Arc<AtomicUsize>) {
    let whole = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&whole);
    let origin = Origin::new(move |request| {
        let counts = Arc::clone(&counts);
        async move {
            let cookie = request
                .headers()
                .get_all("cookie")
                .iter()
                .map(|value| value.to_str().unwrap_or_default())
                .collect::<Vec<_>>()
                .join("|");
            let line = format!("{} {} {cookie}", request.method(), request.uri());
            match request.into_body().collect().await {
                Ok(body) => {
                    counts.fetch_add(1, SeqCst);
                    text(format!("{line} {}", body.to_bytes().escape_ascii()))
                }
                Err(_) => text("broken"),
            }
        }
    })
    .await;
    (origin, whole)
}

#[tokio::test]
async fn what_breaks_http_2_is_told_and_reaches_no_program() {
    let world = World::new().await;
    let (origin, whole) = counting().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let mut wrong = Vec::new();
    for (name, bytes, told) in connection_cases().into_iter().chain(stream_cases()) {
        let before = whole.load(SeqCst);
        let mut stream = open(proxy.address, &bytes).await;
        let mut seen = Vec::new();
        loop {
            match next(&mut stream).await {
                Some(frame) if fits(&frame, told) => break,
                Some(frame) => {
                    let over = frame.kind == GOAWAY || (frame.kind == DATA && frame.flags & END_STREAM != 0);
                    seen.push(frame);
                    if over {
                        wrong.push(format!("{name}: {told:?} expected, {seen:?} seen"));
                        break;
                    }
                }
                None => {
                    wrong.push(format!("{name}: {told:?} expected, the end after {seen:?}"));
                    break;
                }
            }
        }
        let first_is_good = name.contains("after the end") || name.contains("in the past");
        let reached = whole.load(SeqCst) - before;
        if reached > usize::from(first_is_good) {
            wrong.push(format!("{name}: it reached the program"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What is well-formed goes through: crumbs of a cookie are one header to a program of HTTP/1.1.
    let good = post(
        &[
            ("cookie", "a=b"),
            ("te", "trailers"),
            ("host", "victim-default.zectre.localhost"),
            ("cookie", "c=d"),
            ("content-length", "3"),
        ],
        &[frame(DATA, END_STREAM, 1, b"abc")],
    );
    let mut stream = open(proxy.address, &good).await;
    let mut body = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{frame:?}");
        if frame.kind == DATA {
            body.extend_from_slice(&frame.payload);
            if frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    assert_eq!(String::from_utf8_lossy(&body), "POST / a=b; c=d abc");
    drop(stream);
    assert_eq!(proxy.get(&full("victim-default")).await.status, 200);
    proxy.stop().await;
}

#[tokio::test]
async fn a_preface_that_is_none_is_not_answered() {
    let world = World::new().await;
    let (origin, whole) = counting().await;
    world.app_at("victim", &[&origin]).await;
    let proxy = world.start().await;
    let mut torn = PREFACE.to_vec();
    torn[18] = b'X';
    torn.extend(frame(SETTINGS, 0, 0, &[]));
    torn.extend(get(&[]));
    let (http1, half) = (
        b"PRI / HTTP/2.0\r\nHost: a\r\n\r\n".to_vec(),
        [b"GET / HTTP/1.1\r\nHost: ", PREFACE].concat(),
    );
    for bytes in [torn, http1, half] {
        let mut stream = tokio::net::TcpStream::connect(proxy.address)
            .await
            .expect("it listens");
        tokio::io::AsyncWriteExt::write_all(&mut stream, &bytes)
            .await
            .expect("it reads");
        let mut got = Vec::new();
        // A reset is an end, too.
        let _ = timeout(SOON, stream.read_to_end(&mut got))
            .await
            .expect("it closes");
        assert!(
            !got.windows(3).any(|window| window == b"200"),
            "{}",
            got.escape_ascii()
        );
    }
    assert_eq!(whole.load(SeqCst), 0);
    proxy.stop().await;
}
