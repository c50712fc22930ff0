//! The access log: every request that it promises, as one line, and no request that waits for it.

use crate::{
    client::{client, full, metric, raw, read_until, send},
    origin::{Origin, nobody, text},
    wake,
    world::{Running, SOON, World},
};
use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use std::{
    io::Read,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use zectre_testkit::wait_until;

/// What an application takes for a slow answer; the configuration of its test calls less than that slow.
const SLOW: Duration = Duration::from_millis(250);
/// What is not slow by that configuration.
const QUICK: Duration = Duration::from_millis(200);

/// A world whose proxies write down what `more` says, and where.
async fn logging(more: &str) -> (World, PathBuf) {
    let mut world = World::new().await;
    let path = world.directory.path().join("access.log");
    world.configure(&config(&path, more));
    (world, path)
}

fn config(path: &Path, more: &str) -> String {
    let path = path.display();
    format!("[proxy.access_log]\nenabled = true\ntarget = \"{path}\"\n{more}")
}

/// The lines so far; one that is being written is left out.
fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).expect("text");
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line of JSON"))
        .collect()
}

/// Waits for the line that `is` true of.
async fn line(path: &Path, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    wait_until(SOON, what, || async { lines(path).into_iter().find(&is) }).await
}

/// Of the request with this id.
async fn of(path: &Path, id: &str) -> Value {
    line(path, id, |line| line["request_id"] == id).await
}

async fn ask(proxy: &Running, host: &str, path: &str, id: &str) -> StatusCode {
    let request = client().get(proxy.url(path)).header("host", full(host));
    send(request.header("x-request-id", id)).await.status
}

#[tokio::test]
async fn a_request_is_told_from_its_first_word_to_its_last() {
    let (world, path) = logging("").await;
    let origin = Origin::new(|request| async move {
        let body = request.into_body().collect().await.expect("a body").to_bytes();
        text(format!("{} bytes", body.len()))
    })
    .await;
    let app = world.app("shop").await;
    let task = world.task(app.deployment, origin.address).await;
    let proxy = world.start().await;
    let request = client()
        .post(proxy.url("/a%0ab?token=s3cret"))
        .header("host", full("shop-default"))
        .header("x-request-id", "one")
        .body("x".repeat(1_234));
    assert_eq!(send(request).await.body, "1234 bytes");
    let line = of(&path, "one").await;
    let expected = [
        ("client", Value::from("127.0.0.1")),
        ("method", "POST".into()),
        ("scheme", "http".into()),
        ("host", full("shop-default").into()),
        ("path", "/a%0ab".into()),
        ("protocol", "HTTP/1.1".into()),
        ("status", 200.into()),
        ("bytes_in", 1_234.into()),
        ("bytes_out", 10.into()),
        ("app", "shop-default".into()),
        ("environment", "production".into()),
        ("deployment", app.deployment.to_string().into()),
        ("version", 1.into()),
        ("task", task.to_string().into()),
        ("retries", 0.into()),
    ];
    for (name, value) in expected {
        assert_eq!(line[name], value, "{name} of {line}");
    }
    assert!(
        line["duration_ms"].as_f64() >= line["first_byte_ms"].as_f64(),
        "{line}"
    );
    assert!(
        line["time"].as_str().is_some_and(|time| time.ends_with('Z')),
        "{line}"
    );
    assert!(
        line.get("error").is_none() && line.get("wake").is_none(),
        "{line}"
    );
    // What the proxy answers itself.
    assert_eq!(ask(&proxy, "nobody", "/x", "two").await, StatusCode::NOT_FOUND);
    let line = of(&path, "two").await;
    assert_eq!(
        (&line["status"], &line["code"]),
        (&404.into(), &"UNKNOWN_HOST".into())
    );
    assert!(
        line["error"]
            .as_str()
            .is_some_and(|error| error.contains("nobody")),
        "{line}"
    );
    assert!(
        line["bytes_out"].as_u64() > Some(0) && line.get("task").is_none(),
        "{line}"
    );
    let text = std::fs::read_to_string(&path).expect("text");
    assert!(!text.contains("s3cret"), "{text}");
    proxy.stop().await;
}

#[tokio::test]
async fn of_a_sample_slow_and_failed_requests_are_never_missing() {
    let (world, path) = logging("sample_rate = 0.0\nslow_ms = 200").await;
    let origin = Origin::new(|request| async move {
        match request.uri().path() {
            "/slow" => tokio::time::sleep(SLOW).await,
            "/broken" => {
                let mut answer = text("broken");
                *answer.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
                return answer;
            }
            _ => {}
        }
        text("hello")
    })
    .await;
    let app = world.app_at("shop", &[&origin]).await;
    // One of two is away: the request goes to the other one.
    world.task(app.deployment, nobody()).await;
    let proxy = world.start().await;
    // On a busy machine a refusal may be slow, too: one that was not is enough.
    let mut refused = String::new();
    wait_until(SOON, "one is refused quickly", async || {
        refused.push('r');
        let began = Instant::now();
        ask(&proxy, "nobody", "/", &refused).await;
        (began.elapsed() < QUICK).then_some(())
    })
    .await;
    ask(&proxy, "shop-default", "/slow", "slow").await;
    ask(&proxy, "shop-default", "/broken", "broken").await;
    let mut tries = 0;
    // Which of the two is tried first is chance; what is slow is written, and so the second try is seen.
    let retried = wait_until(SOON, "one is tried twice", || {
        tries += 1;
        let id = format!("try-{tries}");
        let (proxy, path) = (&proxy, &path);
        async move {
            assert_eq!(ask(proxy, "shop-default", "/slow", &id).await, StatusCode::OK);
            let line = of(path, &id).await;
            (line["retries"] == 1).then_some(line)
        }
    })
    .await;
    assert_eq!((&retried["status"], retried.get("error")), (&200.into(), None));
    assert_eq!(of(&path, "slow").await["status"], 200);
    assert_eq!(of(&path, "broken").await["status"], 500);
    let ids: Vec<_> = lines(&path)
        .iter()
        .map(|line| line["request_id"].clone())
        .collect();
    assert!(!ids.contains(&refused.into()), "{ids:?}");
    proxy.stop().await;
}

/// Waits forever at `/hang`, and answers anything else without an end.
async fn without_end() -> Origin {
    Origin::new(|request| async move {
        if request.uri().path() == "/hang" {
            std::future::pending::<()>().await;
        }
        let endless =
            futures_util::stream::repeat_with(|| Ok(http_body::Frame::data(Bytes::from(vec![b'x'; 65_536]))));
        Response::new(BodyExt::boxed(http_body_util::StreamBody::new(endless)))
    })
    .await
}

/// A request for `target`, which names it in the log, too.
async fn open(proxy: &Running, target: &str) -> TcpStream {
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "GET {target} HTTP/1.1\r\nHost: {}\r\nX-Request-Id: {}\r\n\r\n",
        full("shop-default"),
        &target[1..]
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    stream
}

fn says(line: &Value, words: &str) {
    let error = line["error"].as_str();
    assert!(error.is_some_and(|error| error.contains(words)), "{line}");
}

#[tokio::test]
async fn answers_that_nobody_took_and_that_broke_off_are_told_so() {
    let (world, path) = logging("sample_rate = 0.0").await;
    let origin = without_end().await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    let waits = open(&proxy, "/hang").await;
    origin.served(1).await;
    drop(waits);
    let line = of(&path, "hang").await;
    assert_eq!(line["status"], 499, "{line}");
    says(&line, "before an answer");
    assert!(
        line["app"] == "shop-default" && line.get("first_byte_ms").is_none(),
        "{line}"
    );
    let mut takes = open(&proxy, "/endless").await;
    // As much is read as is asserted below: what the proxy has sent before the client goes is a matter of who is faster.
    let mut taken = vec![0; 131_072];
    tokio::time::timeout(SOON, takes.read_exact(&mut taken))
        .await
        .expect("it goes on")
        .expect("it is sent");
    drop(takes);
    let line = of(&path, "endless").await;
    says(&line, "the client went away");
    assert!(
        line["status"] == 200 && line["bytes_out"].as_u64() >= Some(65_536),
        "{line}"
    );
    let mut takes = open(&proxy, "/cut").await;
    read_until(&mut takes, "xxxxxxxx").await;
    drop(origin);
    let mut rest = vec![0; 65_536];
    let reads = async { while takes.read(&mut rest).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(SOON, reads).await.expect("it ends");
    says(&of(&path, "cut").await, "broke off");
    proxy.stop().await;
}

#[tokio::test]
async fn a_wake_is_told_with_its_phases() {
    let (mut world, path) = logging("").await;
    let origin = Origin::saying("awake").await;
    let api = wake::api(world.key.clone(), origin.address, Arc::new(Semaphore::new(1))).await;
    let more = format!("[api]\npublic_url = \"http://{}\"", api.address);
    world.configure(&config(&path, &more));
    wake::asleep(&world, "sleeper").await;
    let proxy = world.start().await;
    assert_eq!(ask(&proxy, "sleeper-default", "/", "first").await, StatusCode::OK);
    let wake = of(&path, "first").await["wake"].clone();
    assert_eq!(
        (&wake["place_ms"], &wake["ready_ms"]),
        (&1.0.into(), &3.0.into()),
        "{wake}"
    );
    assert!(
        wake["waited_ms"].as_f64().is_some_and(|waited| waited > 0.0),
        "{wake}"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_tunnel_is_told_of_at_its_end() {
    let (world, path) = logging("").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let mut running = JoinSet::new();
    running.spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        read_until(&mut stream, "\r\n\r\n").await;
        let head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        stream.write_all(head).await.expect("it reads");
        read_until(&mut stream, "ping").await;
        stream.write_all(b"pong, pong").await.expect("it reads");
        // Until the other side ends.
        while stream.read(&mut [0; 64]).await.is_ok_and(|count| count > 0) {}
    });
    let app = world.app("socket").await;
    world.task(app.deployment, address).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "GET /chat HTTP/1.1\r\nHost: {}\r\nX-Request-Id: chat\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        full("socket-default")
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    read_until(&mut stream, "\r\n\r\n").await;
    stream.write_all(b"ping").await.expect("it reads");
    read_until(&mut stream, "pong, pong").await;
    assert!(lines(&path).is_empty(), "it has not ended");
    drop(stream);
    let line = of(&path, "chat").await;
    assert_eq!(
        (&line["status"], &line["bytes_in"], &line["bytes_out"]),
        (&101.into(), &4.into(), &10.into())
    );
    assert!(
        line.get("error").is_none() && line["app"] == "socket-default",
        "{line}"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_log_that_nobody_reads_costs_lines_and_no_request() {
    let mut world = World::new().await;
    let pipe = world.directory.path().join("access.pipe");
    let made = Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .expect("mkfifo of coreutils");
    assert!(made.success());
    // Both ends, so that opening waits for nobody. What comes is not read for now.
    let mut reader = std::fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(rustix::fs::OFlags::NONBLOCK.bits() as i32)
        .open(&pipe)
        .expect("opened");
    world.configure(&config(&pipe, "queue_lines_max = 4"));
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    // A pipe holds 64 KiB, a line some 300 bytes.
    let path = format!("/{}", "a".repeat(4_000));
    let dropped = || metric(proxy.admin, "proxy_access_log_dropped_total");
    let mut asked = 0_u64;
    while dropped().await < 5.0 {
        assert_eq!(ask(&proxy, "shop-default", &path, "same").await, StatusCode::OK);
        asked += 1;
        assert!(asked < 1_000, "nothing was dropped");
    }
    let mut text = String::new();
    let told = wait_until(SOON, "all lines are read", || {
        let mut bytes = vec![0; 65_536];
        while let Ok(count) = reader.read(&mut bytes) {
            text.push_str(std::str::from_utf8(&bytes[..count]).expect("text"));
        }
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let lines: Vec<Value> = whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line of JSON"))
            .collect();
        let written = lines.iter().filter(|line| line["request_id"] == "same").count() as u64;
        let dropped: u64 = lines
            .iter()
            .filter_map(|line| line["dropped_lines"].as_u64())
            .sum();
        std::future::ready((written + dropped == asked).then_some(dropped))
    })
    .await;
    assert!((dropped().await - told as f64).abs() < 0.1);
    proxy.stop().await;
}

#[tokio::test]
async fn what_is_left_is_written_when_the_proxy_stops_and_a_path_that_is_none_stops_it_at_once() {
    let (mut world, path) = logging("").await;
    let origin = Origin::saying("hello").await;
    world.app_at("shop", &[&origin]).await;
    let proxy = world.start().await;
    for at in 0..50 {
        ask(&proxy, "shop-default", "/", &format!("r-{at}")).await;
    }
    let nothing = raw(
        proxy.address,
        b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(nothing.starts_with("HTTP/1.1 404"), "{nothing}");
    proxy.stop().await;
    assert_eq!(lines(&path).len(), 51);
    let nowhere = world.directory.path().join("no/such/place");
    world.configure(&config(&nowhere, ""));
    let error = zectre_proxy::Service::new(&world.config())
        .await
        .err()
        .expect("it can't start");
    assert!(error.to_string().contains("proxy.access_log.target"), "{error}");
}
