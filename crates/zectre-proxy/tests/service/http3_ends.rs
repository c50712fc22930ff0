//! How connections of HTTP/3 end: those that are too many, that are idle, and that the process before this one has.

use crate::{
    client::{comes_to, full},
    http3::{CONFIG, Client, hear, knock, patient},
    world::{SOON, World},
};
use http::Request;
use tokio::time::timeout;
use zectre_testkit::wait_until;

#[tokio::test]
async fn a_client_has_so_many_connections_and_an_idle_one_is_ended() {
    let mut world = World::new().await;
    world.configure(&format!(
        "{CONFIG}\n[proxy.limits]\nconnections_per_client_max = 1\nkeepalive_timeout_ms = 6000"
    ));
    let (origin, release) = patient().await;
    world.app_at("slow", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("slow-default");
    let url = format!("https://{host}/");
    let mut client = Client::connect(&proxy, &host).await;
    let mut exchange = client.begin(Request::get(&url)).await.expect("sent");
    exchange.finish().await.expect("sent");
    origin.served(1).await;
    let (_endpoint, second) = knock(proxy.http3.expect("on"), &host).await;
    assert!(
        matches!(second, Err(quinn::ConnectionError::ConnectionClosed(_))),
        "{second:?}"
    );
    comes_to(
        proxy.admin,
        "proxy_refused_total{code=\"TOO_MANY_CONNECTIONS\"}",
        1.0,
    )
    .await;
    // As long as it waits for an answer it is not idle.
    release.notify_one();
    assert_eq!(hear(&mut exchange).await.body, "late");
    let closed = timeout(SOON, client.quic.closed()).await.expect("in time");
    assert!(
        matches!(closed, quinn::ConnectionError::ApplicationClosed(_)),
        "{closed:?}"
    );
    let next = wait_until(SOON, "there is room again", async || {
        let (endpoint, quic) = knock(proxy.http3.expect("on"), &host).await;
        quic.ok().map(|quic| (endpoint, quic))
    })
    .await;
    let ended = "proxy_connections_closed_total{reason=\"idle_timeout\"}";
    comes_to(proxy.admin, ended, 1.0).await;
    drop(next);
    proxy.stop().await;
}

#[tokio::test]
async fn the_next_process_serves_once_the_one_before_it_has_let_its_requests_finish() {
    let world = World::new().await;
    let (origin, release) = patient().await;
    world.app_at("slow", &[&origin]).await;
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], zectre_testkit::free_port()));
    let more = format!(
        "handover_path = \"{}\"\nhttp3_listen = \"{address}\"\n[proxy.tls]\nenabled = true\nport = {}",
        world.directory.path().join("handover").display(),
        zectre_testkit::free_port()
    );
    let site = world.site("next", &more);
    let first = site.ready().await;
    let host = full("slow-default");
    let url = format!("https://{host}/");
    let ask = async || {
        let (endpoint, quic) = knock(address, &host).await;
        let mut client = Client::on((endpoint, quic.expect("a handshake"))).await;
        let mut exchange = client.begin(Request::get(&url)).await.expect("sent");
        exchange.finish().await.expect("sent");
        (client, exchange)
    };
    let (old, mut exchange) = ask().await;
    origin.served(1).await;
    let second = site.start();
    wait_until(SOON, "it has taken over", || async {
        (site.said("another process has taken over") == 1).then_some(())
    })
    .await;
    // It is let finish, by the process that it came to.
    release.notify_one();
    assert_eq!(hear(&mut exchange).await.body, "late");
    timeout(SOON, old.quic.closed()).await.expect("it is told to go");
    first.ended().await;
    // Who comes now is answered by the next one, as soon as that has the socket.
    let (_client, mut exchange) = ask().await;
    release.notify_one();
    assert_eq!(hear(&mut exchange).await.body, "late");
    assert_eq!(origin.requests(), 2);
    second.terminate();
    second.ended().await;
}
