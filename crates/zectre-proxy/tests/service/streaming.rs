//! Bytes both ways, as they come.

use crate::{
    client::{full, raw, read_until},
    origin::{Origin, text},
    world::{App, SOON, World},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use zectre_testkit::wait_until;

/// Answers with the request's own body, as it comes.
async fn echo() -> Origin {
    Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await
}

#[tokio::test]
async fn a_body_streams_out_while_its_answer_streams_in() {
    let world = World::new().await;
    let origin = echo().await;
    world.app_at("echo", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
        full("echo-default")
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    for word in ["first", "second", "third"] {
        stream
            .write_all(format!("{:x}\r\n{word}\r\n", word.len()).as_bytes())
            .await
            .expect("it reads");
        // Its echo is here before the next word is sent: nobody waits for the whole.
        read_until(&mut stream, &format!("{word}\r\n")).await;
    }
    stream.write_all(b"0\r\n\r\n").await.expect("it reads");
    read_until(&mut stream, "0\r\n\r\n").await;
    proxy.stop().await;
}

#[tokio::test]
async fn expect_continue_head_and_early_answers_work() {
    let world = World::new().await;
    let origin = echo().await;
    let sized = Origin::new(|request| async move {
        let mut response = if request.method() == Method::HEAD {
            text("")
        } else {
            text("12345")
        };
        response.headers_mut().insert(header::CONTENT_LENGTH, 5.into());
        response
    })
    .await;
    world.app_at("echo", &[&origin]).await;
    world.app_at("sized", &[&sized]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n",
        full("echo-default")
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    // This origin begins its answer before it has the body: its head may come with the interim one.
    let mut answer = read_until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 100 Continue"), "{answer}");
    stream.write_all(b"body").await.expect("it reads");
    answer += &read_until(&mut stream, "body").await;
    assert!(answer.contains("\r\n\r\nHTTP/1.1 200"), "{answer}");
    // The same connection goes on, with a HEAD and then a GET.
    for (method, end) in [("HEAD", "\r\n\r\n"), ("GET", "12345")] {
        let head = format!("{method} / HTTP/1.1\r\nHost: {}\r\n\r\n", full("sized-default"));
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let answer = read_until(&mut stream, end).await.to_ascii_lowercase();
        assert!(
            answer.starts_with("http/1.1 200") && answer.contains("content-length: 5"),
            "{answer}"
        );
    }
    proxy.stop().await;
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel_that_counts() {
    let world = World::new().await;
    let origin = Origin::new(|mut request| async move {
        let protocol = request.headers()[header::UPGRADE].clone();
        let upgrade = hyper::upgrade::on(&mut request);
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut io = TokioIo::new(upgrade.await.expect("upgraded"));
            let mut bytes = [0; 64];
            loop {
                match io.read(&mut bytes).await {
                    Ok(count) if count > 0 => io.write_all(&bytes[..count]).await.expect("it reads"),
                    _ => return,
                }
            }
        });
        tasks.detach_all();
        let mut response = text("");
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response
            .headers_mut()
            .insert(header::CONNECTION, "upgrade".parse().expect("a value"));
        response.headers_mut().insert(header::UPGRADE, protocol);
        response
    })
    .await;
    let app = world.app_at("socket", &[&origin]).await;
    let proxy = world.start().await;
    let mut stream = TcpStream::connect(proxy.address).await.expect("it listens");
    let head = format!(
        "GET /chat HTTP/1.1\r\nHost: {}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n",
        full("socket-default")
    );
    stream.write_all(head.as_bytes()).await.expect("it reads");
    let answer = read_until(&mut stream, "\r\n\r\n").await.to_ascii_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("upgrade: websocket"),
        "{answer}"
    );
    // Bytes that are no HTTP at all, with everything that is refused in a head.
    for word in ["\u{1}frame\n", "\n folded\r\n\r\n", "PRI"] {
        stream.write_all(word.as_bytes()).await.expect("it reads");
        read_until(&mut stream, word).await;
    }
    told(&world, app, 1).await;
    drop(stream);
    told(&world, app, 0).await;
    proxy.stop().await;
}

/// Waits until the database has heard that so many requests are under way.
async fn told(world: &World, app: App, in_flight: i32) {
    wait_until(SOON, "activity is told", || async {
        (world.in_flight(app.deployment).await == Some(in_flight)).then_some(())
    })
    .await;
}

/// There are programs that take trailers for headers.
#[tokio::test]
async fn trailers_say_nothing_that_only_a_head_may() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move {
        let body = request.into_body().collect().await.expect("a body");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let mut names: Vec<_> = trailers.keys().map(ToString::to_string).collect();
        names.sort();
        text(names.join(" "))
    })
    .await;
    world.app_at("plain", &[&origin]).await;
    world.grpc_at("shared", &[origin.address]).await;
    let proxy = world.start().await;
    let names = [
        "x-forwarded-for",
        "x_forwarded_for",
        "forwarded",
        "x-real-ip",
        "x-request-id",
        "authorization",
        "keep-alive",
        "x-checksum",
    ];
    let trailers = names.map(|name| format!("{name}: 10.0.0.1\r\n")).concat();
    for app in ["plain-default", "shared-default"] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\nTransfer-Encoding: chunked\r\nTrailer: {}\r\n\r\n1\r\na\r\n0\r\n{trailers}\r\n",
            full(app),
            names.join(", ")
        );
        let answer = raw(proxy.address, request.as_bytes()).await;
        assert!(answer.contains("x-checksum"), "{app}: {answer}");
        for gone in &names[..names.len() - 1] {
            let (_, body) = answer.split_once("\r\n\r\n").expect("a head");
            assert!(!body.contains(gone), "{app}: {gone}: {answer}");
        }
    }
    proxy.stop().await;
}

#[tokio::test]
async fn http_2_without_tls_on_both_sides_with_trailers() {
    let world = World::new().await;
    let origin = Origin::new(|request| async move {
        assert_eq!(request.version(), Version::HTTP_2);
        let authority = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", 0.into());
        let body = http_body_util::Full::new(Bytes::from(authority))
            .with_trailers(async move { Some(Ok(trailers)) });
        Response::new(body.map_err(|never| match never {}).boxed())
    })
    .await;
    let app = world.app_at("grpc", &[&origin]).await;
    sqlx::query!(
        r#"UPDATE deployments SET spec = '{"networking": {"protocol": "grpc"}}' WHERE id = $1"#,
        app.deployment as _
    )
    .execute(&world.pool)
    .await
    .expect("updated");
    let proxy = world.start().await;
    let io = TokioIo::new(TcpStream::connect(proxy.address).await.expect("it listens"));
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let host = full("grpc-default");
    for _ in 0..3 {
        let request = Request::get(format!("http://{host}/call"))
            .header("te", "trailers")
            .body(Empty::<Bytes>::new());
        let response = sender
            .send_request(request.expect("valid"))
            .await
            .expect("an answer");
        assert_eq!(response.status(), StatusCode::OK);
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0");
        assert_eq!(body.to_bytes(), host);
    }
    assert_eq!(origin.connections(), 1);
    drop((sender, tasks));
    proxy.stop().await;
}
