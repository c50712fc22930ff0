//! Who a request is from: what clients say about themselves is replaced, what our load balancers say is not.

use crate::{
    client::{client, full, send},
    origin::{Origin, text},
    world::World,
};

/// Answers with what it was told about the client.
async fn told() -> Origin {
    Origin::new(|request| async move {
        let header = |name: &str| {
            let values = request.headers().get_all(name).iter();
            let texts: Vec<_> = values.map(|value| value.to_str().expect("text")).collect();
            texts.join(" | ")
        };
        let names = [
            "x-forwarded-for",
            "x-forwarded-proto",
            "x-forwarded-host",
            "forwarded",
            "x-real-ip",
        ];
        text(names.map(header).join("; "))
    })
    .await
}

#[tokio::test]
async fn only_load_balancers_of_ours_are_believed() {
    let mut world = World::new().await;
    let origin = told().await;
    world.app_at("shop", &[&origin]).await;
    let host = full("shop-default");
    let claims = |url: String| {
        client()
            .get(url)
            .header("host", &host)
            .header("x-forwarded-for", "9.9.9.9, 198.51.100.7")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "shop.example")
            .header("forwarded", "for=6.6.6.6")
            .header("x-real-ip", "6.6.6.6")
    };
    let proxy = world.start().await;
    let got = send(claims(proxy.url("/"))).await;
    assert_eq!(got.body, format!("127.0.0.1; http; {host}; ; "));
    proxy.stop().await;
    world.configure("[proxy]\ntrusted_peers = [\"127.0.0.0/8\"]");
    let proxy = world.start().await;
    let got = send(claims(proxy.url("/"))).await;
    assert_eq!(got.body, "198.51.100.7, 127.0.0.1; https; shop.example; ; ");
    proxy.stop().await;
    world.configure("[proxy]\ntrusted_peers = [\"127.0.0.0/8\"]\ntrusted_header = \"forwarded\"");
    let proxy = world.start().await;
    let got = send(claims(proxy.url("/"))).await;
    assert_eq!(got.body, format!("6.6.6.6, 127.0.0.1; http; {host}; ; "));
    proxy.stop().await;
}
