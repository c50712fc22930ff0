//! A program with one worker that reads a whole body before it does anything else, as Tish programs do: what one client
//! does to it, all others feel.

use super::servers::{Kind, Server};
use crate::{
    client::{full, metric, raw, read_until},
    world::{SOON, World},
};
use http::StatusCode;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};

#[tokio::test]
async fn one_client_holds_up_a_program_with_one_worker_for_a_moment_only() {
    let mut world = World::new().await;
    world.configure("[proxy.limits]\nbody_idle_timeout_ms = 1000");
    let server = Server::start(Kind::Tish).await;
    let app = world.app("victim").await;
    world.task(app.deployment, server.address).await;
    let proxy = world.start().await;
    let host = full("victim-default");
    let mut stalled = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
        let head = format!("POST / HTTP/1.1\r\nHost: {host}\r\nContent-Length: 100000\r\n\r\nabc");
        stream.write_all(head.as_bytes()).await.expect("it reads");
        stalled.push(stream);
    }
    // It is in the queue behind some of them.
    let got = timeout(SOON, proxy.get("victim-default"))
        .await
        .expect("it answers");
    assert_eq!(got.status, StatusCode::OK);
    for mut stream in stalled {
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    }
    // What it would allocate, or stumble over, does not reach it.
    let lost = metric(proxy.admin, "proxy_upstream_errors_total{kind=\"lost\"}").await;
    for length in [1_u64 << 30, 1 << 62] {
        let head = format!(
            "POST / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        let answer = raw(proxy.address, head.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    }
    let odd = [
        b"GET /\xc3\xa9 HTTP/1.1\r\nConnection: close\r\nHost: ",
        host.as_bytes(),
        b"\r\n\r\n",
    ]
    .concat();
    assert!(raw(proxy.address, &odd).await.starts_with("HTTP/1.1 400 "));
    let got = timeout(SOON, proxy.get("victim-default"))
        .await
        .expect("it answers");
    assert_eq!(got.status, StatusCode::OK);
    let after = metric(proxy.admin, "proxy_upstream_errors_total{kind=\"lost\"}").await;
    assert!((after - lost).abs() < 0.1, "a request was lost");
    proxy.stop().await;
}
