//! What may not be repeated reaches a program once, whatever becomes of its connection.

use crate::{
    client::{full, read_until},
    program::Program,
    world::World,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

/// A program that answers, and says that it keeps the connection. At `/die` it hangs up instead, and after an answer to
/// `/last` it does so without a word, and tells `closed`.
struct Shop {
    program: Program,
    /// Requests that came whole.
    had: Arc<AtomicUsize>,
    closed: mpsc::UnboundedReceiver<()>,
}

async fn shop() -> Shop {
    let had = Arc::new(AtomicUsize::new(0));
    let (closing, closed) = mpsc::unbounded_channel();
    let counted = Arc::clone(&had);
    let program = Program::new(move |stream| serve(stream, Arc::clone(&counted), closing.clone())).await;
    Shop { program, had, closed }
}

async fn serve(mut stream: TcpStream, had: Arc<AtomicUsize>, closing: mpsc::UnboundedSender<()>) {
    let mut bytes = Vec::new();
    loop {
        // Each request of these tests ends so, whatever its framing.
        while !(bytes.ends_with(b"sized") || bytes.ends_with(b"chunk\r\n0\r\n\r\n")) {
            if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
                return;
            }
        }
        had.fetch_add(1, SeqCst);
        let target = String::from_utf8_lossy(&bytes)
            .split(' ')
            .nth(1)
            .map(str::to_owned);
        if target.as_deref() == Some("/die") {
            return;
        }
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer).await.expect("it reads");
        if target.as_deref() == Some("/last") {
            drop(stream);
            let _ = closing.send(());
            return;
        }
        bytes.clear();
    }
}

fn post(method: &str, target: &str, rest: &str) -> String {
    format!(
        "{method} {target} HTTP/1.1\r\nHost: {}\r\n{rest}",
        full("shop-default")
    )
}

/// With a body, of either framing.
const SIZED: &str = "Content-Length: 5\r\n\r\nsized";
const CHUNKED: &str = "Transfer-Encoding: chunked\r\n\r\n5\r\nchunk\r\n0\r\n\r\n";

#[tokio::test]
async fn a_request_that_may_not_be_repeated_is_sent_once_though_its_connection_breaks() {
    let world = World::new().await;
    let app = world.app("shop").await;
    let shops = [shop().await, shop().await];
    for shop in &shops {
        world.task(app.deployment, shop.program.address).await;
    }
    let had = || shops.iter().map(|shop| shop.had.load(SeqCst)).sum::<usize>();
    let proxy = world.start().await;
    for method in ["POST", "PATCH", "PURGE"] {
        // On a new connection, and on one that has just been used.
        for warm in [false, true] {
            let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
            for _ in 0..if warm { 4 } else { 0 } {
                stream
                    .write_all(post(method, "/", SIZED).as_bytes())
                    .await
                    .expect("it reads");
                read_until(&mut stream, "ok").await;
            }
            let before = had();
            stream
                .write_all(post(method, "/die", SIZED).as_bytes())
                .await
                .expect("it reads");
            let answer = read_until(&mut stream, "\r\n\r\n").await;
            assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
            assert_eq!(had() - before, 1, "{method}, warm: {warm}");
        }
    }
    proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_a_program_has_closed_is_no_error_of_what_may_not_be_repeated() {
    const ROUNDS: usize = 200;
    let world = World::new().await;
    let app = world.app("shop").await;
    let mut shop = shop().await;
    world.task(app.deployment, shop.program.address).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    for round in 0..ROUNDS {
        let body = if round % 2 == 0 { SIZED } else { CHUNKED };
        stream
            .write_all(post("POST", "/last", body).as_bytes())
            .await
            .expect("it reads");
        let answer = read_until(&mut stream, "\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "round {round}: {answer}");
        if !answer.ends_with("ok") {
            read_until(&mut stream, "ok").await;
        }
        shop.closed.recv().await.expect("it runs");
    }
    assert_eq!(shop.had.load(SeqCst), ROUNDS);
    proxy.stop().await;
}
