//! Which replica gets a request, when some of them fail.

use crate::{
    client::{full, send},
    origin::{Origin, text},
    program::Program,
    world::World,
};
use http::StatusCode;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::watch,
};

/// Of an origin; few close connections sooner.
const IDLE_TIMEOUT: Duration = Duration::from_millis(1_100);

async fn failing() -> Origin {
    Origin::new(|_| async {
        let mut response = text("broken");
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await
}

#[tokio::test]
async fn a_replica_that_only_fails_is_passed_over_and_the_last_one_is_not() {
    let world = World::new().await;
    let (good, bad, only) = (Origin::saying("good").await, failing().await, failing().await);
    world.app_at("half", &[&good, &bad]).await;
    world.app_at("all", &[&only]).await;
    let proxy = world.start().await;
    let (began, mut failures) = (Instant::now(), 0);
    for _ in 0..60 {
        failures += usize::from(proxy.get("half-default").await.status.is_server_error());
    }
    // Five in a row, and again five each time that its pause is over: after one second, two more, four more.
    let pauses = (began.elapsed().as_secs() + 2).ilog2() as usize;
    assert!(
        (5..=5 + 5 * pauses).contains(&failures) && failures == bad.requests(),
        "{failures} with {pauses} pauses"
    );
    for _ in 0..20 {
        assert_eq!(proxy.get("all-default").await.body, "broken");
    }
    assert_eq!(only.requests(), 20, "its own answers are better than none");
    proxy.stop().await;
}

/// Keeps connections, says so, and closes those that are idle in the moment when the next request is on its way: `close`
/// counts up.
async fn fickle(close: watch::Receiver<u64>, served: Arc<AtomicUsize>) -> Program {
    Program::new(move |mut stream| {
        let (mut close, served) = (close.clone(), Arc::clone(&served));
        close.mark_unchanged();
        async move {
            let mut bytes = [0; 4_096];
            loop {
                let read = tokio::select! {
                    biased;
                    _ = close.changed() => return,
                    read = stream.read(&mut bytes) => read,
                };
                if !read.is_ok_and(|count| count > 0) {
                    return;
                }
                served.fetch_add(1, SeqCst);
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if stream.write_all(answer).await.is_err() {
                    return;
                }
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kept_connection_that_is_closed_as_the_request_comes_is_nobodys_error() {
    let world = World::new().await;
    let (close, closing) = watch::channel(0);
    let served = Arc::new(AtomicUsize::new(0));
    let program = fickle(closing, Arc::clone(&served)).await;
    let app = world.app("fickle").await;
    world.task(app.deployment, program.address).await;
    let proxy = world.start().await;
    let client = reqwest::Client::builder().no_proxy().build().expect("a client");
    for round in 0..300 {
        let request = client.get(proxy.url("/")).header("host", full("fickle-default"));
        let closes = async {
            // From before the request to after it, as it falls.
            for _ in 0..round {
                tokio::task::yield_now().await;
            }
            close.send_modify(|count| *count += 1);
        };
        let (got, ()) = tokio::join!(send(request), closes);
        assert_eq!(got.status, StatusCode::OK, "round {round}: {}", got.body);
    }
    // What may not be repeated goes only on connections that were in use a moment ago: this one was not.
    for _ in 0..2 {
        let idle = IDLE_TIMEOUT.saturating_sub(Duration::from_micros(200));
        tokio::time::sleep(idle).await;
        let request = client.post(proxy.url("/")).header("host", full("fickle-default"));
        // Right before it, so that the connection that is opened for it is none of those that are closed.
        close.send_modify(|count| *count += 1);
        let got = send(request.body("once")).await;
        assert_eq!(got.status, StatusCode::OK, "{}", got.body);
    }
    assert!(served.load(SeqCst) >= 300);
    proxy.stop().await;
}
