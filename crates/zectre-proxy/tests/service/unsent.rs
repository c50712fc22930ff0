//! An answer whose end waits for a client that pauses: the connection is at work until the last byte has left.

use crate::{
    client::{full, metric},
    origin::{Origin, text},
    world::{SOON, World},
};
use std::{net::SocketAddr, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use zectre_testkit::wait_until;

/// No connection holds more between a program and a client that does not read.
const MOST: usize = 16 << 20;
/// So near the size is found at which all of an answer is on its way and the end of it not yet sent: half of a buffer.
const NEAR: usize = 4 << 10;
/// For so long a client pauses: some looks at whether its connection is idle.
const PAUSE: Duration = Duration::from_millis(350);

/// From one look at the metrics to the next.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

async fn ask(address: SocketAddr, size: usize, rest: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the proxy listens");
    let head = format!(
        "GET /{size} HTTP/1.1\r\nHost: {}\r\n{rest}\r\n",
        full("large-default")
    );
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    stream
}

/// Whether the proxy has taken all of the answer to request number `count` from the program, though the client reads nothing.
async fn is_taken(origin: &Origin, count: usize, admin: SocketAddr) -> bool {
    wait_until(SOON, "the program is asked", async || {
        (origin.requests() == count).then_some(())
    })
    .await;
    // For long enough, and with as many looks as the proxy needs turns on a busy machine.
    let (until, mut looks) = (Instant::now() + Duration::from_secs(1), 0);
    while Instant::now() < until || looks < 20 {
        looks += 1;
        if metric(admin, "proxy_in_flight").await < 0.5 {
            return true;
        }
        sleep(LOOK_AGAIN).await;
    }
    false
}

async fn read_to_end(stream: &mut TcpStream) -> usize {
    let mut all = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut all)).await;
    let read = read
        .expect("after the answer the connection is closed")
        .expect("it is read");
    assert!(all.starts_with(b"HTTP/1.1 200 "));
    read
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_waits_for_its_client_ends_as_it_was_asked_to() {
    let origin = Origin::new(|request| async move {
        let size = request.uri().path()[1..].parse().expect("a size");
        text(vec![b'x'; size])
    })
    .await;
    let mut world = World::new().await;
    // Shorter than the pause: it begins when the client has read everything.
    world.configure("[proxy.limits]\nkeepalive_timeout_ms = 200");
    world.app_at("large", &[&origin]).await;
    let proxy = world.start().await;
    // The largest answer that the proxy takes whole: its end is in the proxy's own buffer.
    let (mut fits, mut does_not, mut asked) = (0, MOST, 0);
    while does_not - fits > NEAR {
        let size = usize::midpoint(fits, does_not);
        let mut stream = ask(proxy.address, size, "Connection: close\r\n").await;
        asked += 1;
        if is_taken(&origin, asked, proxy.admin).await {
            fits = size;
            sleep(PAUSE).await;
        } else {
            does_not = size;
        }
        assert!(read_to_end(&mut stream).await > size);
    }
    assert!(fits > 0 && does_not < MOST, "{fits}");
    // What comes meanwhile, and is kept for later, is answered, whole.
    for size in [fits, fits.saturating_sub(2 * NEAR)] {
        let mut stream = ask(proxy.address, size, "").await;
        sleep(PAUSE).await;
        let next = format!(
            "POST /5 HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nContent-Length: 4\r\n\r\nbody",
            full("large-default")
        );
        stream.write_all(next.as_bytes()).await.expect("it is sent");
        let mut all = Vec::new();
        let read = timeout(SOON, stream.read_to_end(&mut all)).await;
        read.expect("both are answered").expect("it is read");
        assert!(all.ends_with(b"\r\n\r\nxxxxx"), "{} bytes", all.len());
    }
    proxy.stop().await;
}
