//! Plain HTTP against the platform, as curl would speak it.

use reqwest::{Client, Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use std::time::Duration;

/// An answer, read whole.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; panics, showing it, when it isn't.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {} {}", self.status, self.text()))
    }

    /// The body as JSON, once the status is as expected; panics, showing the answer, when it isn't.
    pub fn expect(&self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        if self.body.is_empty() {
            Value::Null
        } else {
            self.json()
        }
    }

    /// Panics, showing the answer, unless the status is a success.
    pub fn expect_ok(&self) {
        assert!(self.status.is_success(), "{} {}", self.status, self.text());
    }

    /// The code of a problem answer, once the status is as expected and the form is right.
    pub fn problem(&self, status: u16) -> String {
        let problem = self.expect(status);
        let media_type = self
            .headers
            .get("content-type")
            .and_then(|value| value.to_str().ok());
        assert_eq!(media_type, Some("application/problem+json"), "{problem}");
        assert_eq!(problem["status"], status, "{problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|detail| !detail.is_empty()),
            "{problem}"
        );
        assert!(problem["request_id"].is_string(), "{problem}");
        problem["code"].as_str().expect("a problem has a code").to_owned()
    }
}

/// A client of one platform.
#[derive(Debug, Clone)]
pub struct Http {
    client: Client,
    api: String,
    proxy: String,
    api_key: String,
}

impl Http {
    /// Calls the API with `api_key`, and applications through the proxy, both on this machine.
    pub fn new(api_port: u16, proxy_port: u16, api_key: &str) -> Self {
        Self::at(
            &format!("127.0.0.1:{api_port}"),
            &format!("127.0.0.1:{proxy_port}"),
            api_key,
        )
    }

    /// The same, both anywhere.
    pub fn at(api: &str, proxy: &str, api_key: &str) -> Self {
        let client = Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(60))
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without TLS can be built");
        Self {
            client,
            api: api.into(),
            proxy: proxy.into(),
            api_key: api_key.into(),
        }
    }

    /// The same client as someone else.
    #[must_use]
    pub fn with_key(&self, api_key: &str) -> Self {
        Self {
            api_key: api_key.into(),
            ..self.clone()
        }
    }

    /// A request to the API, with the key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("http://{}{path}", self.api));
        if self.api_key.is_empty() {
            request
        } else {
            request.header("x-api-key", &self.api_key)
        }
    }

    /// GETs from the API; `path` begins after `/api/v1`.
    pub async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, &format!("/api/v1{path}"))).await
    }

    /// Sends JSON to the API; `path` begins after `/api/v1`.
    pub async fn send(&self, method: Method, path: &str, body: Value) -> Answer {
        send(self.request(method, &format!("/api/v1{path}")).json(&body)).await
    }

    /// POSTs JSON to the API; `path` begins after `/api/v1`.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, body).await
    }

    /// A request through the proxy for `host` (a label is one under the platform domain).
    pub fn app_request(&self, method: Method, host: &str, path: &str) -> reqwest::RequestBuilder {
        let host = if host.contains('.') {
            host.to_owned()
        } else {
            format!("{host}.zectre.localhost")
        };
        self.client
            .request(method, format!("http://{}{path}", self.proxy))
            .header("host", host)
    }

    /// GETs from an application through the proxy.
    pub async fn app(&self, host: &str, path: &str) -> Answer {
        send(self.app_request(Method::GET, host, path)).await
    }

    /// The client, for anything else.
    pub fn raw(&self) -> &Client {
        &self.client
    }
}

/// Sends and reads the whole answer; no answer is a failed test.
pub(crate) async fn send(request: reqwest::RequestBuilder) -> Answer {
    let response = request.send().await.expect("the platform answers");
    let (status, headers) = (response.status(), response.headers().clone());
    let body = response.bytes().await.expect("the answer ends").to_vec();
    Answer {
        status,
        headers,
        body,
    }
}
