//! HTTP/3 from a client's side, over real sockets: the same answers as by any other version, bodies that stream, and ends.

use crate::{
    client::{Got, full, metric},
    origin::{Origin, text},
    secure::{Secure, client_config},
    world::{Running, SOON, World},
};
use bytes::{Buf, Bytes};
use h3::{
    client::{RequestStream, SendRequest},
    error::{Code, StreamError},
};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use quinn::{Endpoint, VarInt, crypto::rustls::QuicClientConfig};
use std::{future::poll_fn, net::SocketAddr, sync::Arc};
use tokio::{sync::Notify, task::JoinSet, time::timeout};
use zectre_proxy::ingress::http3::transport::{BidiStream, Connection, Opener};
use zectre_testkit::wait_until;

pub(crate) const CONFIG: &str = "[proxy]\nhttp3_listen = \"127.0.0.1:0\"\n[proxy.tls]\nenabled = true";
/// More than all windows together.
const LARGE: usize = 4 * 1_024 * 1_024;

pub(crate) struct Client {
    pub(crate) quic: quinn::Connection,
    sender: SendRequest<Opener, Bytes>,
    /// Runs the connection, and keeps its socket.
    _driver: JoinSet<()>,
}

pub(crate) type Exchange = RequestStream<BidiStream, Bytes>;

/// A connection without any HTTP on it yet.
pub(crate) async fn quic(proxy: &Running, server_name: &str) -> (Endpoint, quinn::Connection) {
    let (endpoint, quic) = knock(proxy.http3.expect("it speaks HTTP/3"), server_name).await;
    (endpoint, quic.expect("a handshake"))
}

/// What comes of an attempt to connect.
pub(crate) async fn knock(
    address: SocketAddr,
    server_name: &str,
) -> (Endpoint, Result<quinn::Connection, quinn::ConnectionError>) {
    let config = QuicClientConfig::try_from(client_config(&["h3"])).expect("TLS 1.3");
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    let connecting = endpoint.connect(address, server_name).expect("a name");
    let quic = timeout(SOON, connecting).await.expect("in time");
    (endpoint, quic)
}

impl Client {
    pub(crate) async fn connect(proxy: &Running, server_name: &str) -> Self {
        Self::on(quic(proxy, server_name).await).await
    }

    pub(crate) async fn on((endpoint, quic): (Endpoint, quinn::Connection)) -> Self {
        let transport = Connection::unbounded(quic.clone(), 65_536);
        let (mut connection, sender) = h3::client::new(transport).await.expect("HTTP/3");
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            poll_fn(|cx| connection.poll_close(cx)).await;
            drop(endpoint);
        });
        Self {
            quic,
            sender,
            _driver: driver,
        }
    }

    /// Sends a head.
    pub(crate) async fn begin(&mut self, request: http::request::Builder) -> Result<Exchange, StreamError> {
        let request = request.body(()).expect("valid");
        let sent = timeout(SOON, self.sender.send_request(request)).await;
        sent.expect("in time")
    }

    /// A request without a body, and its answer.
    pub(crate) async fn ask(&mut self, request: http::request::Builder) -> Got {
        let mut exchange = self.begin(request).await.expect("sent");
        timeout(SOON, exchange.finish())
            .await
            .expect("in time")
            .expect("sent");
        hear(&mut exchange).await
    }
}

/// A whole answer.
pub(crate) async fn hear(exchange: &mut Exchange) -> Got {
    let hear = async {
        let response = exchange.recv_response().await.expect("an answer");
        let mut body = Vec::new();
        while let Some(mut data) = exchange.recv_data().await.expect("a whole body") {
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        (response, body)
    };
    let (response, body) = timeout(SOON, hear).await.expect("in time");
    Got {
        status: response.status(),
        headers: response.headers().clone(),
        body: String::from_utf8_lossy(&body).into_owned(),
    }
}

/// Tells when what holds it is dropped.
struct Held(Arc<Notify>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn a_request_goes_the_way_of_all_others() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let origin = Origin::new(|request| async move {
        let seen = |name: &str| request.headers()[name].to_str().expect("plain").to_owned();
        let chunked = request.headers().contains_key("transfer-encoding");
        text(format!(
            "{} {} {} {chunked}",
            seen("x-forwarded-proto"),
            seen("x-forwarded-for"),
            seen("cookie")
        ))
    })
    .await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("hello-default");
    let url = format!("https://{host}/a?b");
    let advertised = format!("h3=\":{}\"; ma=86400", proxy.http3.expect("on").port());
    for alpn in ["h2", "http/1.1"] {
        let secure = Secure::connect(proxy.secure(), &host, &[alpn]).await;
        let got = secure.get(&[&host]).await.remove(0);
        assert_eq!(got.header("alt-svc"), advertised, "{alpn}");
    }
    assert_eq!(
        proxy.get("hello-default").await.header("alt-svc"),
        "",
        "said in the clear"
    );
    let mut client = Client::connect(&proxy, &host).await;
    let crumbs = Request::get(&url).header("cookie", "a=1").header("cookie", "b=2");
    let got = client.ask(crumbs).await;
    assert_eq!(
        (got.status, got.body.as_str()),
        (StatusCode::OK, "https 127.0.0.1 a=1; b=2 false")
    );
    assert!(!got.header("x-request-id").is_empty() && !got.header("date").is_empty());
    let got = client.ask(Request::head(&url).header("cookie", "-")).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, ""));
    let got = client.ask(Request::get("https://nobody.zectre.localhost/")).await;
    assert_eq!(
        (got.status, got.problem().code.as_str()),
        (StatusCode::NOT_FOUND, "UNKNOWN_HOST")
    );
    let got = client.ask(Request::get("https://elsewhere.test/")).await;
    assert_eq!(got.problem().code, "UNKNOWN_HOST");
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("te", "gzip"),
        ("content-length", "+0"),
    ] {
        let got = client.ask(Request::get(&url).header(name, value)).await;
        assert_eq!(
            (got.status, got.problem().code.as_str()),
            (StatusCode::BAD_REQUEST, "BAD_REQUEST"),
            "{name}"
        );
    }
    let large = client.ask(Request::get(&url).header("x-large", "a".repeat(70_000)));
    assert_eq!(large.await.problem().code, "HEADERS_TOO_LARGE");
    let got = client.ask(Request::post(&url).header("content-length", "99999999999"));
    assert_eq!(got.await.problem().code, "BODY_TOO_LARGE");
    let done = metric(proxy.admin, "proxy_tls_handshakes_total{outcome=\"done\"}").await;
    assert!((done - 3.0).abs() < 1e-9, "{done}");
    proxy.stop().await;
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let origin = Origin::new(|request| async move { Response::new(request.into_body().boxed()) }).await;
    world.app_at("echo", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("echo-default");
    let mut client = Client::connect(&proxy, &host).await;
    let url = format!("https://{host}/");
    // Of a length that is known, and of one that isn't.
    for head in [
        Request::post(&url).header("content-length", LARGE),
        Request::post(&url),
    ] {
        let exchange = client.begin(head).await.expect("sent");
        let (mut send, mut recv) = exchange.split();
        send.send_data(Bytes::from_static(&[7; 1_000]))
            .await
            .expect("taken");
        let head = timeout(SOON, recv.recv_response()).await.expect("in time");
        assert_eq!(head.expect("an answer").status(), StatusCode::OK);
        let mut heard = 0;
        while heard < 1_000 {
            // It comes back before the rest is sent.
            let data = timeout(SOON, recv.recv_data()).await.expect("in time");
            heard += data.expect("whole").expect("more").remaining();
        }
        let say = async {
            let rest = Bytes::from(vec![7; LARGE - 1_000]);
            send.send_data(rest).await.expect("taken");
            send.finish().await.expect("sent");
        };
        let hear = async {
            let mut heard = 0;
            while let Some(mut data) = recv.recv_data().await.expect("whole") {
                let data = data.copy_to_bytes(data.remaining());
                assert!(data.iter().all(|byte| *byte == 7));
                heard += data.len();
            }
            heard
        };
        let ((), rest) = timeout(SOON, async { tokio::join!(say, hear) })
            .await
            .expect("in time");
        assert_eq!(heard + rest, LARGE);
    }
    proxy.stop().await;
}

#[tokio::test]
async fn trailers_end_a_call() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let origin = Origin::new(|request| async move {
        let body = request.into_body().collect().await.expect("whole");
        let said = body.trailers().expect("there")["x-sum"].clone();
        let told: HeaderMap = [("x-told".parse().expect("a name"), said)].into_iter().collect();
        Response::new(
            http_body_util::Full::new(body.to_bytes())
                .with_trailers(async { Some(Ok(told)) })
                .map_err(|never: std::convert::Infallible| match never {})
                .boxed(),
        )
    })
    .await;
    world.grpc_at("call", &[origin.address]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("call-default");
    let mut client = Client::connect(&proxy, &host).await;
    let head = Request::post(format!("https://{host}/")).header("te", "trailers");
    let mut exchange = client.begin(head).await.expect("sent");
    exchange
        .send_data(Bytes::from_static(b"words"))
        .await
        .expect("taken");
    let sum: HeaderMap = [("x-sum".parse().expect("a name"), 5.into())]
        .into_iter()
        .collect();
    exchange.send_trailers(sum).await.expect("taken");
    exchange.finish().await.expect("sent");
    let got = hear(&mut exchange).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "words"));
    let trailers = timeout(SOON, exchange.recv_trailers()).await.expect("in time");
    assert_eq!(trailers.expect("readable").expect("there")["x-told"], "5");
    proxy.stop().await;
}

#[tokio::test]
async fn what_a_client_takes_back_leaves_its_task() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let gone = Arc::new(Notify::new());
    let told = Arc::clone(&gone);
    let origin = Origin::new(move |_| {
        let held = Held(Arc::clone(&told));
        async move {
            std::future::pending::<()>().await;
            drop(held);
            text("never")
        }
    })
    .await;
    world.app_at("slow", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("slow-default");
    let mut client = Client::connect(&proxy, &host).await;
    let mut exchange = client
        .begin(Request::get(format!("https://{host}/")))
        .await
        .expect("sent");
    exchange.finish().await.expect("sent");
    origin.served(1).await;
    exchange.stop_sending(Code::H3_REQUEST_CANCELLED);
    timeout(SOON, gone.notified()).await.expect("its connection ends");
    wait_until(SOON, "it is counted no longer", || async {
        (metric(proxy.admin, "proxy_in_flight").await == 0.0).then_some(())
    })
    .await;
    proxy.stop().await;
}

/// A program that answers when it is let.
pub(crate) async fn patient() -> (Origin, Arc<Notify>) {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let origin = Origin::new(move |_| {
        let released = Arc::clone(&released);
        async move {
            released.notified().await;
            text("late")
        }
    })
    .await;
    (origin, release)
}

#[tokio::test]
async fn a_stop_lets_requests_finish_and_sends_back_the_next() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let (origin, release) = patient().await;
    world.app_at("slow", &[&origin]).await;
    world.raise().await;
    let mut proxy = world.start().await;
    let host = full("slow-default");
    let url = format!("https://{host}/");
    let mut client = Client::connect(&proxy, &host).await;
    let mut exchange = client.begin(Request::get(&url)).await.expect("sent");
    exchange.finish().await.expect("sent");
    origin.served(1).await;
    proxy.shutdown.request();
    // What crosses the word on its way is rejected; once that is here, nothing is sent.
    wait_until(SOON, "no further request is taken", || async {
        let mut sender = client.sender.clone();
        match sender
            .send_request(Request::get(&url).body(()).expect("valid"))
            .await
        {
            Ok(_) => None,
            Err(error) => matches!(error, StreamError::RemoteClosing { .. }).then_some(()),
        }
    })
    .await;
    release.notify_waiters();
    release.notify_one();
    let got = hear(&mut exchange).await;
    assert_eq!((got.status, got.body.as_str()), (StatusCode::OK, "late"));
    let closed = timeout(SOON, client.quic.closed()).await.expect("in time");
    let quinn::ConnectionError::ApplicationClosed(close) = closed else {
        panic!("{closed:?}");
    };
    assert_eq!(close.error_code.into_inner(), Code::H3_NO_ERROR.value());
    proxy.ended().await;
}

/// A head in QPACK without any compression but names of the static table: `first` is what comes before the authority.
pub(crate) fn head(first: &[u8], host: &str, rest: &[u8]) -> Vec<u8> {
    let mut block = [
        &[0, 0][..],
        first,
        &[0x50, host.len() as u8],
        host.as_bytes(),
        rest,
    ]
    .concat();
    let length = u16::try_from(block.len()).expect("short") | 0x4000;
    let mut frame = vec![1];
    frame.extend(length.to_be_bytes());
    frame.append(&mut block);
    frame
}

#[tokio::test]
async fn what_is_broken_is_no_request_and_no_whole_body() {
    // `:method: POST`, `:scheme: https`, `:path: /`
    const POST: [u8; 3] = [0xc0 | 0x14, 0xc0 | 0x17, 0xc0 | 0x01];
    /// `content-length: 5`
    const LENGTH: [u8; 3] = [0x50 | 0x04, 1, b'5'];
    let mut world = World::new().await;
    world.configure(CONFIG);
    let origin = Origin::new(|request| async move {
        let whole = request.into_body().collect().await;
        text(format!("{} bytes", whole.expect("whole").to_bytes().len()))
    })
    .await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("hello-default");
    let (_endpoint, quic) = quic(&proxy, &host).await;
    let say = async |bytes: &[u8]| {
        let (mut send, mut recv) = quic.open_bi().await.expect("open");
        send.write_all(bytes).await.expect("taken");
        send.finish().expect("open");
        let heard = timeout(SOON, recv.read_to_end(65_536)).await.expect("in time");
        heard.map(|heard| String::from_utf8_lossy(&heard).into_owned())
    };
    let whole = [
        head(&POST, &host, &LENGTH),
        b"\x21\x02zz\x00\x02ab\x00\x00\x00\x03cde".to_vec(),
    ]
    .concat();
    assert!(say(&whole).await.expect("an answer").ends_with("5 bytes"));
    // Cut within a frame, shorter and longer than said: the task never takes it for whole.
    for body in [&b"\x00\x05abc"[..], b"\x00\x03abc", b"\x00\x06abcdef", b""] {
        let request = [&head(&POST, &host, &LENGTH)[..], body].concat();
        let answer = say(&request).await.expect("an answer");
        assert!(answer.contains("BROKEN_BODY"), "{body:?}: {answer}");
    }
    let reset = async |bytes: &[u8]| match say(bytes).await {
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => code,
        other => panic!("{other:?}"),
    };
    // No path; a name in upper case; a head that is cut off.
    let malformed = VarInt::from_u64(Code::H3_MESSAGE_ERROR.value()).expect("small");
    assert_eq!(reset(&head(&POST[..2], &host, b"")).await, malformed);
    assert_eq!(reset(&head(&POST, &host, b"\x21A\x011")).await, malformed);
    reset(&head(&POST, &host, b"")[..9]).await;
    // A head that says that it is larger than any may be is not waited for.
    reset(b"\x01\x80\x10\x00\x00abc").await;
    // After all that the connection serves on.
    assert!(say(&whole).await.expect("an answer").ends_with("5 bytes"));
    wait_until(SOON, "it is counted", || async {
        let bad = metric(proxy.admin, "proxy_refused_total{code=\"BAD_REQUEST\"}").await;
        let large = metric(proxy.admin, "proxy_refused_total{code=\"HEADERS_TOO_LARGE\"}").await;
        (bad >= 2.0 && (large - 1.0).abs() < 1e-9).then_some(())
    })
    .await;
    proxy.stop().await;
}
