//! The layers every daemon shares, over real sockets.

use axum::{
    Router,
    body::Bytes,
    routing::{get, post},
};
use http::{Method, StatusCode};
use serde::Deserialize;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};
use zectre_service::{
    call::{CallError, Caller},
    extract::{Json, Path},
    key::{KEY_BYTES, MetricsKey, ServiceKey, to_hex},
    listen, request_id,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token,
};

/// More than the buffers of two kernels hold.
static LARGE: &[u8] = &[b'x'; 32 << 20];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    count: u32,
}

struct Server {
    address: SocketAddr,
    shutdown: Shutdown,
    tasks: Tasks,
}

impl Server {
    async fn start(limits: Limits, release: Arc<Notify>) -> Self {
        let listener = listen::bind("zectre-test", "test", "127.0.0.1", 0)
            .await
            .expect("port 0 is free");
        let address = listener.local_addr().expect("it is bound");
        let router = Router::new()
            .route(
                "/json",
                post(async |Json(wanted): Json<Wanted>| wanted.count.to_string()),
            )
            .route("/bytes", post(async |body: Bytes| body.len().to_string()))
            .route(
                "/id/{number}",
                get(async |Path(number): Path<u32>| number.to_string()),
            )
            .route("/panic", get(async || -> &'static str { panic!("on purpose") }))
            .route("/large", get(async || Bytes::from_static(LARGE)))
            .route("/who", get(async || request_id::current().unwrap_or_default()))
            .route(
                "/wait",
                get(async move || {
                    release.notified().await;
                    "done"
                }),
            );
        let key = MetricsKey::from_bytes([7; KEY_BYTES]);
        let base = Base::new("zectre-test").readable_by(Some(key));
        base.health.check("always", || async { Ok(()) });
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("server", |stop| {
            server::serve(listener, base.wrap(router, limits), limits, stop)
        });
        Self {
            address,
            shutdown,
            tasks,
        }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn problem(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let problem: serde_json::Value = response.json().await.expect("JSON");
        assert!(problem["request_id"].is_string(), "{problem}");
        (status, problem["code"].as_str().expect("a code").to_owned())
    }
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let limits = Limits {
        body_bytes_max: 64,
        ..Limits::default()
    };
    let server = Server::start(limits, Arc::default()).await;
    let client = reqwest::Client::new();
    let json = |body: &'static str| {
        client
            .post(server.url("/json"))
            .header("content-type", "application/json")
            .body(body)
    };
    let told = async |request, status: u16, code: &str| {
        assert_eq!(server.problem(request).await, (status, code.to_owned()));
    };
    told(json("{"), 400, "MALFORMED_JSON").await;
    told(json(r#"{"count":1,"cuont":1}"#), 400, "INVALID_INPUT").await;
    told(json(r#"{"count":"many"}"#), 400, "INVALID_INPUT").await;
    told(
        client.post(server.url("/json")).body("{}"),
        415,
        "UNSUPPORTED_MEDIA_TYPE",
    )
    .await;
    told(
        client
            .post(server.url("/json"))
            .header("content-type", "application/json")
            .body(vec![b' '; 65]),
        413,
        "BODY_TOO_LARGE",
    )
    .await;
    told(client.get(server.url("/id/seven")), 400, "INVALID_PATH").await;
    told(client.get(server.url("/nowhere")), 404, "NOT_FOUND").await;
    told(client.get(server.url("/json")), 405, "METHOD_NOT_ALLOWED").await;
    told(client.get(server.url("/panic")), 500, "INTERNAL").await;
    assert_eq!(
        json(r#"{"count":7}"#)
            .send()
            .await
            .expect("an answer")
            .text()
            .await
            .expect("a body"),
        "7"
    );
}

#[tokio::test]
async fn too_long_and_too_many_are_bounded() {
    let limits = Limits {
        // The second request comes while the first one waits, also on a busy machine.
        request_timeout: Some(Duration::from_secs(8)),
        concurrency_max: 1,
        ..Limits::default()
    };
    let release = Arc::new(Notify::new());
    let server = Server::start(limits, release).await;
    let client = reqwest::Client::new();
    let slow = tokio::join!(
        server.problem(client.get(server.url("/wait"))),
        server.problem(client.get(server.url("/wait")))
    );
    let mut codes = [slow.0.1, slow.1.1];
    codes.sort();
    assert_eq!(codes, ["OVERLOADED", "TIMEOUT"]);
    assert_eq!(
        client
            .get(server.url("/ready"))
            .send()
            .await
            .expect("an answer")
            .status(),
        StatusCode::OK
    );
    for wrong in ["", "07", &to_hex(&[8; KEY_BYTES])] {
        let request = client.get(server.url("/metrics")).bearer_auth(wrong);
        assert_eq!(
            server.problem(request).await.0,
            StatusCode::UNAUTHORIZED,
            "{wrong}"
        );
    }
    let metrics = client
        .get(server.url("/metrics"))
        .bearer_auth(to_hex(&[7; KEY_BYTES]))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("a body");
    assert!(
        metrics.contains("zectre_http_requests_total{method=\"GET\",route=\"/wait\",status=\"504\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn the_request_id_is_kept_and_handed_on() {
    let server = Server::start(Limits::default(), Arc::default()).await;
    let key = ServiceKey::from_bytes([9; KEY_BYTES]);
    let caller = Caller::new(token::name::API, key);
    let response = request_id::scope("from-outside".into(), async {
        caller
            .request(Method::GET, &server.url("/who"), token::name::SCHEDULER)
            .send()
            .await
    })
    .await
    .expect("an answer");
    assert_eq!(response.headers()["x-request-id"], "from-outside");
    assert_eq!(response.text().await.expect("a body"), "from-outside");
    let refused = caller
        .post_json::<_, ()>(
            &server.url("/nowhere?secret=1"),
            token::name::SCHEDULER,
            &(),
            Duration::from_secs(60),
        )
        .await
        .expect_err("there is nothing");
    assert!(
        matches!(&refused, CallError::Refused { problem, .. } if problem.code == "NOT_FOUND"),
        "{refused}"
    );
    assert!(!refused.to_string().contains("secret"), "{refused}");
}

#[tokio::test]
async fn a_request_under_way_is_finished_at_shutdown() {
    let release = Arc::new(Notify::new());
    let server = Server::start(Limits::default(), release.clone()).await;
    let mut stream = TcpStream::connect(server.address).await.expect("it listens");
    stream
        .write_all(b"GET /wait HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .expect("it reads");
    // A second answered request proves that the first has been read: connections are served side by side.
    let client = reqwest::Client::new();
    assert_eq!(
        client
            .get(server.url("/id/1"))
            .send()
            .await
            .expect("an answer")
            .status(),
        200
    );
    server.shutdown.request();
    let stopping = server.tasks.stop(Duration::from_secs(60));
    let released = async {
        // New connections are refused once it drains.
        while TcpStream::connect(server.address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        release.notify_one();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the answer ends");
        answer
    };
    let ((), answer) = tokio::join!(stopping, released);
    assert!(
        answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"),
        "{answer}"
    );
}

/// Answers whose client takes nothing; then nobody else would ever be let in.
#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_gives_its_place_up() {
    let limits = Limits {
        connections_max: 1,
        write_timeout: Duration::from_millis(500),
        ..Limits::default()
    };
    let server = Server::start(limits, Arc::default()).await;
    let mut silent = TcpStream::connect(server.address).await.expect("it listens");
    let asks = b"GET /large HTTP/1.1\r\nhost: x\r\n\r\n".repeat(2);
    silent.write_all(&asks).await.expect("it reads");
    let next = reqwest::Client::new().get(server.url("/id/7")).send();
    let next = tokio::time::timeout(Duration::from_secs(60), next).await;
    let next = next.expect("a place is free in time").expect("an answer");
    assert_eq!(next.status(), 200);
    let mut rest = Vec::new();
    let end = silent.read_to_end(&mut rest).await;
    assert!(
        end.is_err() || rest.len() < LARGE.len(),
        "it was cut off, and not just late"
    );
}

/// The kernel takes more only when a good part of its buffer is free: for a slow client that is rarer than the time-out.
#[tokio::test]
async fn a_slow_client_of_which_something_moves_gets_all_of_its_answer() {
    let limits = Limits {
        write_timeout: Duration::from_secs(2),
        ..Limits::default()
    };
    let server = Server::start(limits, Arc::default()).await;
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(64 << 10).expect("before it connects");
    let mut slow = socket.connect(server.address).await.expect("it listens");
    slow.write_all(b"GET /large HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .expect("it reads");
    // So little that the kernel takes nothing more for three time-outs.
    let mut taken = Vec::with_capacity(LARGE.len() + 1_000);
    let mut pace = tokio::time::interval(Duration::from_millis(250));
    for _ in 0..30 {
        pace.tick().await;
        let mut some = vec![0; 32 << 10];
        let n = slow.read(&mut some).await.expect("it still writes");
        taken.extend_from_slice(&some[..n]);
    }
    slow.read_to_end(&mut taken).await.expect("it still writes");
    assert!(taken.len() > LARGE.len(), "{} bytes", taken.len());
}
