//! Calls of gRPC end to end: HTTP/2 on both sides, streams both ways, trailers, and tasks that give calls back.

use crate::{
    client::{comes_to, full},
    h2c::{self, Call, Giving},
    hostile::frames::{self, ACK, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RST_STREAM, headers},
    origin::{Body, Origin, text},
    secure::Secure,
    world::{App, Running, SOON, World},
};
use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use zectre_testkit::wait_until;

/// Longer than the proxy would wait by itself.
const SLOW: Duration = Duration::from_millis(400);

fn trailers(status: u16) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.into());
    trailers
}

fn answer(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let kind = "application/grpc".parse().expect("a value");
    response.headers_mut().insert("content-type", kind);
    response
}

/// Answers each message of a call with itself, and its end with a status.
fn echoed(request: Request<Incoming>) -> Response<Body> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert_eq!(request.headers()["te"], "trailers");
    let authority = request.uri().authority().map(ToString::to_string);
    assert!(authority.is_some_and(|name| name.ends_with(".zectre.localhost")));
    answer(
        request
            .into_body()
            .with_trailers(async { Some(Ok(trailers(0))) })
            .boxed(),
    )
}

async fn echo() -> Origin {
    Origin::new(|request| async move { echoed(request) }).await
}

impl World {
    /// An application of which one task at each origin speaks gRPC.
    pub(crate) async fn grpc_at(&self, name: &str, origins: &[std::net::SocketAddr]) -> App {
        let app = self.app(name).await;
        for origin in origins {
            self.task(app.deployment, *origin).await;
        }
        sqlx::query!(
            r#"UPDATE deployments SET spec = '{"networking": {"protocol": "grpc"}}' WHERE id = $1"#,
            app.deployment as _
        )
        .execute(&self.pool)
        .await
        .expect("updated");
        app
    }
}

async fn h2(proxy: &Running) -> h2c::Client {
    h2c::Client::new(TcpStream::connect(proxy.address).await.expect("it listens")).await
}

#[tokio::test]
async fn messages_go_both_ways_as_they_come_and_trailers_end_them() {
    let mut world = World::new().await;
    world.configure("[proxy.tls]\nenabled = true\nredirect = false");
    let origin = echo().await;
    let app = world.grpc_at("call", &[origin.address]).await;
    let proxy = world.start().await;
    let host = full("call-default");
    let secure = Secure::connect(proxy.secure(), &host, &["h2"]).await;
    assert_eq!(secure.alpn(), "h2");
    for mut client in [h2(&proxy).await, h2c::Client::new(secure.stream).await] {
        let mut call = client.call(&host, &[]).await;
        for word in ["first", "second", "third"] {
            call.say(word).await;
            // Its echo is here before the next one is sent.
            assert_eq!(call.hear().await, word);
        }
        wait_until(SOON, "an open stream is activity", || async {
            (world.in_flight(app.deployment).await == Some(1)).then_some(())
        })
        .await;
        assert_eq!(call.end().await["grpc-status"], "0");
    }
    assert_eq!(
        origin.connections(),
        origin.connections().min(zectre_proxy::workers::count())
    );
    proxy.stop().await;
}

#[tokio::test]
async fn an_answer_of_trailers_only_stays_one() {
    let world = World::new().await;
    let origin = Origin::new(|_| async {
        let mut response = answer(text("").into_body());
        response.headers_mut().insert("grpc-status", 5.into());
        response
    })
    .await;
    world.grpc_at("none", &[origin.address]).await;
    let proxy = world.start().await;
    let response = h2(&proxy)
        .await
        .unary(&full("none-default"), Bytes::from_static(b"hi"))
        .await;
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(hyper::body::Body::is_end_stream(response.body()));
    proxy.stop().await;
}

/// Tells when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

#[tokio::test]
async fn a_call_that_is_cancelled_is_cancelled_at_the_task() {
    let world = World::new().await;
    let (began, gone) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(false)));
    let (begins, going) = (Arc::clone(&began), Arc::clone(&gone));
    let origin = Origin::new(move |request| {
        let (begins, going) = (Arc::clone(&begins), Dropped(Arc::clone(&going)));
        async move {
            if request.uri().path() == "/silent" {
                begins.notify_one();
                return std::future::pending().await;
            }
            let (says, body) = h2c::streamed();
            let _ = says.try_send(Frame::data(Bytes::from_static(b"one")));
            let mut tasks = JoinSet::new();
            tasks.spawn(async move {
                says.closed().await;
                drop(going);
            });
            tasks.detach_all();
            answer(body)
        }
    })
    .await;
    let app = world.grpc_at("cancel", &[origin.address]).await;
    let proxy = world.start().await;
    let host = full("cancel-default");
    let mut client = h2(&proxy).await;
    // Once while its answer comes, once before it has begun.
    let mut call = client.call(&host, &[]).await;
    assert_eq!(call.hear().await, "one");
    drop(call);
    let is_gone = || async { gone.swap(false, SeqCst).then_some(()) };
    wait_until(SOON, "the task hears of it", is_gone).await;
    let silent = client.send("/silent", &host, &[], h2c::whole(b"hi"));
    tokio::select! {
        _ = silent => panic!("nobody answers"),
        () = began.notified() => {}
    }
    wait_until(SOON, "the task hears of it", is_gone).await;
    wait_until(SOON, "nothing is under way", || async {
        (world.in_flight(app.deployment).await == Some(0)).then_some(())
    })
    .await;
    proxy.stop().await;
}

#[tokio::test]
async fn what_a_task_gave_back_is_sent_again_with_its_body() {
    let world = World::new().await;
    let goaway = h2c::Server::new(Giving::GoAway, 1).await;
    let refused = h2c::Server::new(Giving::Refused, 1).await;
    world.grpc_at("goaway", &[goaway.address]).await;
    world.grpc_at("refused", &[refused.address]).await;
    let proxy = world.start().await;
    for name in ["goaway", "refused"] {
        let response = h2(&proxy)
            .await
            .unary(&full(&format!("{name}-default")), Bytes::from_static(b"once"))
            .await;
        assert!(
            !response.headers().contains_key("grpc-status"),
            "{name}: {:?}",
            response.headers()
        );
        let body = response.into_body().collect().await.expect("a body");
        assert_eq!(body.trailers().expect("trailers")["grpc-status"], "0", "{name}");
        assert_eq!(body.to_bytes(), "once", "{name}");
    }
    proxy.stop().await;
}

/// Whoever is asked next has all the time that the first one had.
#[tokio::test]
async fn what_was_given_back_late_has_its_whole_time_again() {
    let mut world = World::new().await;
    world.configure("[proxy]\nresponse_timeout_ms = 2000");
    let (late, slow) = (Duration::from_millis(1_500), Duration::from_millis(1_200));
    let server = h2c::Server::slow(Giving::RefusedAfter(late), 1, slow).await;
    world.grpc_at("late", &[server.address]).await;
    let proxy = world.start().await;
    let response = h2(&proxy)
        .await
        .unary(&full("late-default"), Bytes::from_static(b"once"))
        .await;
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "once");
    proxy.stop().await;
}

#[tokio::test]
async fn a_body_too_long_to_be_kept_is_not_sent_twice() {
    let world = World::new().await;
    let server = h2c::Server::new(Giving::GoAway, 1).await;
    world.grpc_at("long", &[server.address]).await;
    let proxy = world.start().await;
    let mut client = h2(&proxy).await;
    let long = Bytes::from(vec![b'x'; 100 * 1024]);
    let response = client.unary(&full("long-default"), long.clone()).await;
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &"14".parse().expect("a value"))
    );
    // The next one finds the next connection.
    let body = client
        .unary(&full("long-default"), long.clone())
        .await
        .into_body()
        .collect()
        .await;
    assert_eq!(body.expect("a body").to_bytes(), long);
    proxy.stop().await;
}

#[tokio::test]
async fn a_task_that_goes_finishes_its_calls_while_new_ones_take_another_connection() {
    let world = World::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let (leave, connections) = (Arc::new(Notify::new()), Arc::new(AtomicUsize::new(0)));
    let (leaves, accepted) = (Arc::clone(&leave), Arc::clone(&connections));
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let first = accepted.fetch_add(1, SeqCst) == 0;
            let leaves = Arc::clone(&leaves);
            open.spawn(async move {
                let service =
                    hyper::service::service_fn(|request| async move { Ok::<_, Infallible>(echoed(request)) });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let mut connection = std::pin::pin!(server.serve_connection(TokioIo::new(stream), service));
                tokio::select! {
                    _ = connection.as_mut() => return,
                    () = leaves.notified(), if first => {}
                }
                connection.as_mut().graceful_shutdown();
                let _ = connection.await;
            });
        }
    });
    world.grpc_at("leave", &[address]).await;
    let proxy = world.start().await;
    let mut client = h2(&proxy).await;
    let host = full("leave-default");
    let mut old = client.call(&host, &[]).await;
    old.say("before").await;
    assert_eq!(old.hear().await, "before");
    leave.notify_one();
    // Each ends well, whichever connection it meets.
    wait_until(SOON, "a call goes on a new connection", || {
        let mut client = client.clone();
        let (host, connections) = (host.clone(), Arc::clone(&connections));
        async move {
            let body = client
                .unary(&host, Bytes::from_static(b"new"))
                .await
                .into_body()
                .collect()
                .await;
            assert_eq!(body.expect("a body").to_bytes(), "new");
            (connections.load(SeqCst) > 1).then_some(())
        }
    })
    .await;
    old.say("after").await;
    assert_eq!(old.hear().await, "after");
    assert_eq!(old.end().await["grpc-status"], "0");
    proxy.stop().await;
}

/// What a client hears that answers pings, as all do.
async fn hear(stream: &mut TcpStream) -> Option<frames::Frame> {
    let frame = frames::next(stream).await?;
    if frame.kind == PING && frame.flags & ACK == 0 {
        let pong = frames::frame(PING, ACK, 0, &frame.payload);
        stream.write_all(&pong).await.expect("it is open");
    }
    Some(frame)
}

async fn hear_until(stream: &mut TcpStream, is: impl Fn(&frames::Frame) -> bool) {
    loop {
        let frame = hear(stream).await.expect("it stays");
        assert_ne!(frame.kind, RST_STREAM, "{frame:?}");
        if is(&frame) {
            return;
        }
    }
}

#[tokio::test]
async fn a_stop_of_the_proxy_is_told_by_goaway_and_an_open_call_goes_on_to_its_end() {
    let world = World::new().await;
    let origin = echo().await;
    world.grpc_at("stop", &[origin.address]).await;
    let mut proxy = world.start().await;
    let host = full("stop-default");
    let fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/call"),
        (":authority", host.as_str()),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let says = |word: &str, flags| frames::frame(DATA, flags, 1, word.as_bytes());
    let begin = [headers(1, END_HEADERS, &fields), says("before", 0)];
    let mut stream = frames::open(proxy.address, &begin.concat()).await;
    hear_until(&mut stream, |frame| frame.payload == b"before").await;
    proxy.shutdown.request();
    hear_until(&mut stream, |frame| frame.kind == GOAWAY && frame.code() == 0).await;
    stream
        .write_all(&says("after", END_STREAM))
        .await
        .expect("it is open");
    hear_until(&mut stream, |frame| frame.payload == b"after").await;
    // The trailers, and then the end of the connection.
    let is_end = |frame: &frames::Frame| frame.kind == HEADERS && frame.flags & END_STREAM != 0;
    hear_until(&mut stream, is_end).await;
    while hear(&mut stream).await.is_some() {}
    proxy.ended().await;
}

#[tokio::test]
async fn calls_beyond_what_one_connection_may_carry_take_another() {
    let world = World::new().await;
    let server = h2c::limited(2, |request| async move { echoed(request) }).await;
    world.grpc_at("many", &[server.address]).await;
    let proxy = world.start().await;
    let mut client = h2(&proxy).await;
    let mut calls = Vec::new();
    for _ in 0..7 {
        let mut call: Call = client.call(&full("many-default"), &[]).await;
        call.say("here").await;
        assert_eq!(call.hear().await, "here");
        calls.push(call);
    }
    assert_eq!(server.connections(), 4);
    for call in calls {
        assert_eq!(call.end().await["grpc-status"], "0");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn refusals_are_told_in_the_words_of_grpc() {
    let world = World::new().await;
    let proxy = world.start().await;
    let response = h2(&proxy)
        .await
        .unary(&full("nobody-default"), Bytes::from_static(b"hi"))
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    let header = |name: &str| response.headers()[name].to_str().expect("plain text");
    assert_eq!(
        (header("grpc-status"), header("content-type")),
        ("12", "application/grpc")
    );
    assert!(
        header("grpc-message").starts_with("no application answers at"),
        "{}",
        header("grpc-message")
    );
    assert!(hyper::body::Body::is_end_stream(response.body()));
    comes_to(proxy.admin, "proxy_refused_total{code=\"UNKNOWN_HOST\"}", 1.0).await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_client_that_says_how_long_it_waits_is_taken_at_its_word() {
    let mut world = World::new().await;
    world.configure("[proxy]\nresponse_timeout_ms = 100");
    let slow = Origin::new(|request| async move {
        tokio::time::sleep(SLOW).await;
        echoed(request)
    })
    .await;
    world.grpc_at("slow", &[slow.address]).await;
    let proxy = world.start().await;
    let mut client = h2(&proxy).await;
    let host = full("slow-default");
    let mut patient = client
        .send("/call", &host, &[("grpc-timeout", "20S")], h2c::whole(b"hi"))
        .await;
    assert_eq!(patient.status(), StatusCode::OK);
    let body = timeout(SOON, patient.body_mut().collect())
        .await
        .expect("in time");
    assert_eq!(body.expect("a body").to_bytes(), "hi");
    for timeout in [&[][..], &[("grpc-timeout", "50m")]] {
        let hasty = client.send("/call", &host, timeout, h2c::whole(b"hi")).await;
        assert_eq!(hasty.headers()["grpc-status"], "4", "{timeout:?}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn a_stream_that_breaks_off_at_the_task_breaks_off_at_the_client() {
    let world = World::new().await;
    let (says, told) = (mpsc::channel(1), Arc::new(tokio::sync::Mutex::new(None)));
    let (tell, mut tells) = says;
    let told_by = Arc::clone(&told);
    let origin = Origin::new(move |_| {
        let (tell, told) = (tell.clone(), Arc::clone(&told_by));
        async move {
            let (says, body) = h2c::streamed();
            *told.lock().await = Some(says);
            let _ = tell.send(()).await;
            answer(body)
        }
    })
    .await;
    world.grpc_at("broken", &[origin.address]).await;
    let proxy = world.start().await;
    let mut call = h2(&proxy).await.call(&full("broken-default"), &[]).await;
    tells.recv().await.expect("it is called");
    let says = told.lock().await.take().expect("told");
    says.send(Frame::data(Bytes::from_static(b"half")))
        .await
        .expect("it is read");
    assert_eq!(call.hear().await, "half");
    drop(origin);
    assert!(call.breaks().await, "an end would be taken for success");
    proxy.stop().await;
}
