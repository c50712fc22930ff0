//! Many clients of HTTP/3 at once: those that find no room wait, and those whose address nobody has seen must show it.

use crate::{
    client::{comes_to, full},
    http3::{CONFIG, Client, knock},
    origin::Origin,
    secure::client_config,
    world::{SOON, World},
};
use http::Request;
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::UdpSocket, task::JoinSet, time::timeout};

/// As in the proxy: handshakes with addresses that may be anybody's.
const HANDSHAKES_MAX: usize = 64;

#[tokio::test]
async fn who_finds_no_room_is_let_in_when_there_is_some() {
    let mut world = World::new().await;
    world.configure(&CONFIG.replace("[proxy]", "[proxy]\nconnections_max = 2"));
    let origin = Origin::saying("hello").await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let address = proxy.http3.expect("on");
    let host = full("hello-default");
    let (first, _second) = (
        Client::connect(&proxy, &host).await,
        Client::connect(&proxy, &host).await,
    );
    let mut third = JoinSet::new();
    let name = host.clone();
    third.spawn(async move { Client::on(opened(knock(address, &name).await)).await });
    comes_to(proxy.admin, "proxy_connections_waited_total", 1.0).await;
    assert!(
        third.try_join_next().is_none(),
        "it was let in although two are open"
    );
    first.quic.close(0_u32.into(), b"");
    // It goes on asking by itself.
    let joined = timeout(SOON, third.join_next()).await.expect("its turn comes");
    let mut third = joined.expect("it ran").expect("let in");
    let got = third.ask(Request::get(format!("https://{host}/"))).await;
    assert_eq!(got.body, "hello");
    proxy.stop().await;
}

fn opened(
    (endpoint, quic): (Endpoint, Result<quinn::Connection, quinn::ConnectionError>),
) -> (Endpoint, quinn::Connection) {
    (endpoint, quic.expect("a handshake"))
}

/// The first words of clients, each with another connection in mind, and never a second one.
struct Callers {
    ear: UdpSocket,
    endpoint: Endpoint,
}

impl Callers {
    async fn new() -> Self {
        let config = QuicClientConfig::try_from(client_config(&["h3"])).expect("TLS 1.3");
        let mut endpoint = Endpoint::client("127.0.0.1:0".parse().expect("an address")).expect("a socket");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
        let ear = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        Self { ear, endpoint }
    }

    /// Sends the next one's to `address`, and gives the first byte of the answer.
    async fn call(&self, address: SocketAddr, name: &str) -> u8 {
        let ear = self.ear.local_addr().expect("bound");
        let calling = self.endpoint.connect(ear, name).expect("a name");
        let mut words = [0; 2_048];
        let heard = timeout(SOON, self.ear.recv(&mut words)).await.expect("in time");
        let said = heard.expect("readable");
        drop(calling);
        // What the call that was dropped says in the end is not for anybody.
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.send_to(&words[..said], address).await.expect("sent");
        let mut answer = [0; 2_048];
        let heard = timeout(SOON, socket.recv(&mut answer)).await.expect("it answers");
        assert!(heard.expect("readable") > 0);
        answer[0]
    }
}

/// The kind of a packet that begins with this byte (RFC 9000, section 17.2).
fn kind(first: u8) -> u8 {
    (first >> 4) & 3
}
const INITIAL: u8 = 0;
const RETRY: u8 = 3;

#[tokio::test]
async fn where_many_shake_hands_an_address_must_be_shown_and_those_that_do_are_served() {
    let patience = Duration::from_secs(60);
    let mut world = World::new().await;
    world.configure(&format!(
        "{CONFIG}\nhandshake_timeout_ms = {}",
        patience.as_millis()
    ));
    let origin = Origin::saying("hello").await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let address = proxy.http3.expect("on");
    let host = full("hello-default");
    for call in 0..HANDSHAKES_MAX {
        // A socket each, so that a late word of one is not taken for the next one's.
        let answer = Callers::new().await.call(address, &host).await;
        assert_eq!(kind(answer), INITIAL, "handshake {call}");
    }
    let answer = Callers::new().await.call(address, &host).await;
    assert_eq!(kind(answer), RETRY, "it was taken at its word");
    let mut clients = JoinSet::new();
    for _ in 0..20 {
        let host = host.clone();
        clients.spawn(async move {
            let mut client = Client::on(opened(knock(address, &host).await)).await;
            client.ask(Request::get(format!("https://{host}/"))).await.body
        });
    }
    while let Some(answer) = timeout(SOON, clients.join_next()).await.expect("in time") {
        assert_eq!(answer.expect("answered"), "hello");
    }
    let asked = Instant::now();
    proxy.stop().await;
    let waited = asked.elapsed();
    // A drain takes twice as long, at most.
    assert!(
        waited < Duration::from_secs(15),
        "the stop waited {waited:?} for those who never answered"
    );
}
