//! The heads of answers: as large as applications make them, and no larger.

use crate::{
    client::{full, raw, read_until},
    origin::{Origin, text},
    program::Program,
    world::{Running, World},
};
use tokio::io::AsyncWriteExt;

/// A program that answers the path `/N` with as many headers.
async fn many() -> Program {
    Program::new(async |mut stream| {
        let head = read_until(&mut stream, "\r\n\r\n").await;
        let path = head.split(' ').nth(1).expect("a target");
        let count: usize = path[1..].parse().expect("a number");
        let lines = "Set-Cookie: c=v\r\n".repeat(count - 2);
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n{lines}\r\nmany");
        // One that is too much may be hung up at.
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

async fn ask(proxy: &Running, method: &str, count: usize) -> String {
    let host = full("shop-default");
    let request = format!("{method} /{count} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    raw(proxy.address, request.as_bytes()).await
}

fn cookies(answer: &str) -> usize {
    answer
        .lines()
        .filter(|line| line.starts_with("set-cookie: c=v"))
        .count()
}

#[tokio::test]
async fn an_answer_may_have_many_headers_and_is_refused_in_words_beyond() {
    let mut world = World::new().await;
    let program = many().await;
    let app = world.app("shop").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    for (method, count) in [("GET", 101), ("POST", 300), ("GET", 512)] {
        let got = ask(&proxy, method, count).await;
        assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("many"), "{got}");
        assert_eq!(cookies(&got), count - 2);
    }
    let got = ask(&proxy, "GET", 513).await;
    assert!(
        got.starts_with("HTTP/1.1 502") && got.contains("more than 512 headers or 128 KiB of them"),
        "{got}"
    );
    proxy.stop().await;
    // Where more may come in, more may go out.
    world.configure("[proxy.limits]\nheader_count_max = 600");
    let proxy = world.start().await;
    let got = ask(&proxy, "GET", 600).await;
    assert_eq!(cookies(&got), 598);
    let got = ask(&proxy, "GET", 601).await;
    assert!(got.contains("more than 600 headers"), "{got}");
    proxy.stop().await;
}

#[tokio::test]
async fn over_http_2_a_head_may_be_as_large() {
    const LINE: usize = 1_000;
    let world = World::new().await;
    let origin = Origin::new(async |_| {
        let mut response = text("large");
        for _ in 0..100 {
            let value = "v".repeat(LINE).parse().expect("a value");
            response.headers_mut().append("x-many", value);
        }
        response
    })
    .await;
    world.grpc_at("call", &[origin.address]).await;
    let proxy = world.start().await;
    let host = full("call-default");
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let got = raw(proxy.address, request.as_bytes()).await;
    assert!(
        got.starts_with("HTTP/1.1 200") && got.len() > 100 * LINE,
        "{} bytes: {:.300}",
        got.len(),
        got
    );
    assert_eq!(origin.requests(), 1);
    proxy.stop().await;
}
