//! TLS from a client's side: which certificate, which protocol, and what plain HTTP is told.

use crate::{
    client::{metrics, raw, send},
    origin::{Origin, text},
    secure::{Pair, Secure, with_files},
    world::{SOON, World},
};
use std::time::{Duration, Instant};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};
use zectre_testkit::wait_until;

const BOTH: [&str; 2] = ["h2", "http/1.1"];

/// Answers with what it was told about the client's side.
async fn telling() -> Origin {
    Origin::new(|request| async move {
        let said = |name: &str| {
            let value = request.headers().get(name);
            value
                .map_or("-", |value| value.to_str().expect("plain"))
                .to_owned()
        };
        text(format!(
            "{} {}",
            said("x-forwarded-proto"),
            said("x-forwarded-host")
        ))
    })
    .await
}

#[tokio::test]
async fn a_self_signed_certificate_serves_the_platforms_names_over_both_protocols() {
    let mut world = World::new().await;
    world.configure("[proxy.tls]\nenabled = true");
    let origin = telling().await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = "hello-default.zectre.localhost";
    for (offer, agreed) in [(&BOTH[..], "h2"), (&BOTH[1..], "http/1.1"), (&[], "")] {
        let secure = Secure::connect(proxy.secure(), host, offer).await;
        assert_eq!(secure.alpn(), agreed);
        assert_eq!(secure.names(), ["zectre.localhost", "*.zectre.localhost"]);
        let got = secure.get(&[host]).await.remove(0);
        assert_eq!((got.status.as_u16(), got.body), (200, format!("https {host}")));
        assert_eq!(got.headers.get("strict-transport-security"), None);
    }
    // Plain HTTP goes on as before.
    let got = proxy.get("hello-default").await;
    assert_eq!((got.status.as_u16(), got.body), (200, format!("http {host}")));
    let metrics = metrics(proxy.admin).await;
    assert!(
        metrics.contains("proxy_tls_handshakes_total{outcome=\"done\"} 3"),
        "{metrics}"
    );
    assert!(
        metrics.contains("proxy_tls_certificate_days_left_min{origin=\"self_signed\"} 39"),
        "{metrics}"
    );
    proxy.stop().await;
}

#[tokio::test]
async fn the_name_chooses_the_certificate() {
    let mut world = World::new().await;
    let exact = Pair::new(&["a.test"], 2050).write(&world, "exact");
    let wild = Pair::new(&["*.test", "test"], 2050).write(&world, "wild");
    world.configure(&with_files(&[exact, wild]));
    let proxy = world.start().await;
    for (name, shown) in [
        ("a.test", "a.test"),
        ("A.Test", "a.test"),
        ("b.test", "*.test"),
        ("b.a.test", "zectre.localhost"),
        ("192.0.2.1", "zectre.localhost"),
    ] {
        assert_eq!(proxy.shown(name).await, shown, "{name}");
    }
    proxy.stop().await;
}

#[tokio::test]
async fn files_are_read_again_and_what_can_not_be_served_is_not() {
    let mut world = World::new().await;
    let files = Pair::new(&["old.test", "a.test"], 2050).write(&world, "a");
    world.configure(&with_files(&[files]));
    let proxy = world.start().await;
    assert_eq!(proxy.shown("a.test").await, "old.test");
    let shows = async |name: &'static str| {
        wait_until(SOON, name, || async {
            (proxy.shown("a.test").await == name).then_some(())
        })
        .await;
    };
    // A certificate without its key is half of a change; the whole is served as soon as it is there.
    let new = Pair::new(&["new.test", "a.test"], 2050);
    std::fs::write(world.directory.path().join("a.pem"), &new.cert).expect("written");
    assert_eq!(proxy.shown("a.test").await, "old.test");
    std::fs::write(world.directory.path().join("a.key"), &new.key).expect("written");
    shows("new.test").await;
    std::fs::remove_file(world.directory.path().join("a.key")).expect("removed");
    assert_eq!(proxy.shown("a.test").await, "new.test");
    Pair::new(&["newest.test", "a.test"], 2050).write(&world, "a");
    shows("newest.test").await;
    proxy.stop().await;
}

#[tokio::test]
async fn a_certificate_that_can_not_be_served_stops_the_start() {
    let mut world = World::new().await;
    let (cert, _) = Pair::new(&["a.test"], 2050).write(&world, "a");
    let (_, key) = Pair::new(&["a.test"], 2050).write(&world, "b");
    world.configure(&with_files(&[(cert, key)]));
    let error = zectre_proxy::Service::new(&world.config()).await.err();
    let error = error.expect("refused").to_string();
    assert!(
        error.contains("a.pem") && error.contains("b.key") && error.contains("proxy.tls.certificates"),
        "{error}"
    );
}

#[tokio::test]
async fn plain_requests_are_sent_to_https_where_there_is_a_certificate() {
    let mut world = World::new().await;
    world.configure(
        "[proxy.tls]\nenabled = true\nredirect = true\npublic_port = 443\nhsts_max_age_secs = 3600",
    );
    let origin = telling().await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let plain = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .expect("a client");
    let url = proxy.url("/a/b?c=d%20e");
    let got = send(
        plain
            .post(&url)
            .header("host", "hello-default.zectre.localhost:80"),
    )
    .await;
    assert_eq!(
        (got.status.as_u16(), got.header("location")),
        (308, "https://hello-default.zectre.localhost/a/b?c=d%20e")
    );
    assert!(!got.header("x-request-id").is_empty());
    assert_eq!(got.header("strict-transport-security"), "", "said in the clear");
    // A name without a certificate is answered where it asks.
    let got = send(plain.get(&url).header("host", "nobody.test")).await;
    assert_eq!(
        (got.status.as_u16(), got.problem().code.as_str()),
        (404, "UNKNOWN_HOST")
    );
    assert_eq!(origin.requests(), 0);
    let host = "hello-default.zectre.localhost";
    let got = Secure::connect(proxy.secure(), host, &BOTH)
        .await
        .get(&[host])
        .await;
    assert_eq!(
        (got[0].status.as_u16(), got[0].header("strict-transport-security")),
        (200, "max-age=3600")
    );
    proxy.stop().await;
}

#[tokio::test]
async fn a_connection_answers_only_for_the_names_of_its_certificate() {
    let mut world = World::new().await;
    let files = Pair::new(&["a.test"], 2050).write(&world, "a");
    world.configure(&with_files(&[files]));
    let origin = telling().await;
    world.app_at("one", &[&origin]).await;
    world.app_at("two", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let (one, two) = ("one-default.zectre.localhost", "two-default.zectre.localhost");
    for offer in [&BOTH[..], &BOTH[1..]] {
        let secure = Secure::connect(proxy.secure(), one, offer).await;
        let got = secure.get(&[one, two, "a.test", one]).await;
        let statuses: Vec<_> = got.iter().map(|got| got.status.as_u16()).collect();
        // The platform's names share a certificate; `a.test` has its own.
        assert_eq!(statuses, [200, 200, 421, 200]);
        assert_eq!(got[2].problem().code, "MISDIRECTED");
        let secure = Secure::connect(proxy.secure(), "a.test", offer).await;
        let got = secure.get(&[one, "a.test"]).await;
        assert_eq!((got[0].status.as_u16(), got[1].status.as_u16()), (421, 404));
    }
    proxy.stop().await;
}

#[tokio::test]
async fn plain_http_on_the_tls_port_is_told_so() {
    let mut world = World::new().await;
    world.configure("[proxy.tls]\nenabled = true");
    let proxy = world.start().await;
    let answer = raw(proxy.secure(), b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(
        head.contains(&format!("content-length: {}", body.len())),
        "{answer}"
    );
    assert!(body.contains("https://"), "{answer}");
    // And sees the end of it.
    let mut stream = TcpStream::connect(proxy.secure()).await.expect("it listens");
    let request = format!(
        "GET / HTTP/1.1\r\nhost: a.test\r\nx-much: {}\r\n\r\n",
        "a".repeat(2_000)
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes())
        .await
        .expect("it reads");
    let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    ended.expect("in time").expect("an end");
    // What is neither is closed without a word that could be taken for one.
    assert_eq!(raw(proxy.secure(), b"\0\0\0\0").await, "");
    // It is counted when it is closed, which is seen a little earlier.
    wait_until(SOON, "all are counted", || async {
        let all = metrics(proxy.admin).await;
        all.contains("proxy_tls_handshakes_total{outcome=\"plain\"} 3")
            .then_some(())
    })
    .await;
    // No reset came behind the end, as it would where a request was left unread: not every system's reader gets what came before one.
    let reset = stream.take_error().expect("a socket");
    assert!(reset.is_none(), "{reset:?}");
    proxy.stop().await;
}

#[tokio::test]
async fn a_handshake_has_a_deadline() {
    let mut world = World::new().await;
    world.configure("[proxy.tls]\nenabled = true\nhandshake_timeout_ms = 300");
    let proxy = world.start().await;
    let began = Instant::now();
    // One says nothing; the other begins a record and never ends it.
    for first_words in [&b""[..], &[0x16, 3, 1, 2, 0]] {
        let mut stream = TcpStream::connect(proxy.secure()).await.expect("it listens");
        tokio::io::AsyncWriteExt::write_all(&mut stream, first_words)
            .await
            .expect("it reads");
        let mut rest = Vec::new();
        let ended = timeout(SOON, stream.read_to_end(&mut rest))
            .await
            .expect("it closes");
        assert!(ended.is_err() || rest.is_empty(), "{rest:?}");
    }
    assert!(began.elapsed() >= Duration::from_millis(600));
    wait_until(SOON, "both are counted", || async {
        metrics(proxy.admin)
            .await
            .contains("proxy_tls_handshakes_total{outcome=\"timeout\"} 2")
            .then_some(())
    })
    .await;
    proxy.stop().await;
}

#[cfg(not(feature = "http3"))]
#[tokio::test]
async fn http3_is_refused_by_a_program_that_can_not_speak_it() {
    let mut world = World::new().await;
    world.configure("[proxy]\nhttp3_listen = \"127.0.0.1:0\"\n[proxy.tls]\nenabled = true");
    let error = zectre_proxy::Service::new(&world.config()).await.err();
    let error = error.expect("refused").to_string();
    assert!(
        error.contains("proxy.http3_listen") && error.contains("--features http3"),
        "{error}"
    );
}
