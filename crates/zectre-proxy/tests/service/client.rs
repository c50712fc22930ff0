//! Clients: whole answers for most tests, raw bytes for the rest.

use crate::world::{Running, SOON};
use http::{HeaderMap, StatusCode};
use std::net::SocketAddr;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zectre_service::{key::ServiceKey, token::mint_service};
use zectre_testkit::{METRICS_TOKEN, wait_until};

#[derive(Debug)]
pub(crate) struct Got {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

impl Got {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().expect("plain text"))
    }

    pub(crate) fn problem(&self) -> zectre_common::wire::problem::Problem {
        assert_eq!(self.header("content-type"), "application/problem+json");
        serde_json::from_str(&self.body).expect("a problem")
    }
}

/// A client that keeps no connection open.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder()
        .no_proxy()
        .pool_max_idle_per_host(0)
        .timeout(SOON)
        .build()
        .expect("a client")
}

/// What the proxy with this admin port routes by, as a service sees it.
pub(crate) async fn routes(admin: SocketAddr, key: &ServiceKey) -> serde_json::Value {
    let token = mint_service(key, "zectre-api", "zectre-proxy");
    let request = client().get(format!("http://{admin}/routes")).bearer_auth(token);
    serde_json::from_str(&send(request).await.body).expect("JSON")
}

/// All metrics of the proxy with this admin port.
pub(crate) async fn metrics(admin: SocketAddr) -> String {
    let request = client().get(format!("http://{admin}/metrics"));
    send(request.bearer_auth(METRICS_TOKEN)).await.body
}

/// The value of a series on the admin port, named without the platform's prefix; 0 where there is none.
pub(crate) async fn metric(admin: SocketAddr, series: &str) -> f64 {
    let text = metrics(admin).await;
    let prefix = format!("zectre_{series} ");
    text.lines()
        .find_map(|line| line.strip_prefix(&prefix))
        .map_or(0.0, |value| value.parse().expect("a number"))
}

/// Waits until a series has come to `least`: a client may see what happened a moment before it is counted.
pub(crate) async fn comes_to(admin: SocketAddr, series: &str, least: f64) {
    wait_until(SOON, series, async || {
        (metric(admin, series).await > least - 0.1).then_some(())
    })
    .await;
}

pub(crate) async fn send(request: reqwest::RequestBuilder) -> Got {
    let response = request.send().await.expect("an answer");
    let (status, headers) = (response.status(), response.headers().clone());
    Got {
        status,
        headers,
        body: response.text().await.expect("a whole body"),
    }
}

impl Running {
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// GETs `/` of a label under the platform domain, or of a whole host.
    pub(crate) async fn get(&self, host: &str) -> Got {
        send(client().get(self.url("/")).header("host", full(host))).await
    }
}

pub(crate) fn full(host: &str) -> String {
    if host.contains('.') {
        host.to_owned()
    } else {
        format!("{host}.zectre.localhost")
    }
}

/// Sends `bytes` and reads until the other side closes.
pub(crate) async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(bytes).await.expect("it reads");
        let mut answer = Vec::new();
        // A reset after the answer is as good as an end.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    };
    timeout(SOON, exchange).await.expect("it closes")
}

/// Reads until `end` has come.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut text = String::new();
    let read = async {
        while !text.contains(end) {
            let mut bytes = [0; 1_024];
            let count = stream.read(&mut bytes).await.expect("readable");
            assert!(count > 0, "closed after {text:?}");
            text.push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    };
    timeout(SOON, read)
        .await
        .unwrap_or_else(|_| panic!("`{end}` never came"));
    text
}
