//! One request: its deadline, its repetition, and what its answer means.

use crate::{ClientError, Credential, tls};
use http::{Method, StatusCode, header};
use reqwest_tls::{RequestBuilder, Response};
use serde::{Serialize, de::DeserializeOwned};
use std::{sync::Arc, time::Duration};
use zectre_common::wire::problem::{self, Problem};

/// Nobody waits longer for a connection to a machine that is there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer than the API's own request deadline, so that its answer, not ours, tells what was slow.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(35);
/// How often a read is sent at most.
const READ_ATTEMPTS: u32 = 3;
/// The pause before the first repetition; doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(150);
/// The largest answer that is read whole. Streams and downloads have no such bound.
const ANSWER_BYTES_MAX: usize = 32 * 1024 * 1024;

/// Speaks to one API as one caller. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    http: reqwest_tls::Client,
    base_url: String,
    credential: Credential,
}

impl Client {
    /// A client of the API at `base_url`, e.g. `https://api.example.com` or `http://localhost:47080`. Nothing is sent yet.
    ///
    /// # Errors
    /// `base_url` is neither an http nor an https URL.
    pub fn new(base_url: &str, credential: Credential) -> Result<Self, ClientError> {
        let bad = || ClientError::BadUrl { url: base_url.into() };
        let url = reqwest_tls::Url::parse(base_url).map_err(|_| bad())?;
        let secure = url.scheme() == "https";
        if !(secure || url.scheme() == "http") || !url.has_host() || url.query().is_some() {
            return Err(bad());
        }
        let http = reqwest_tls::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("zectre/", env!("CARGO_PKG_VERSION")))
            // Never followed: a credential goes nowhere but to the API that was named, least of all from https to http.
            .redirect(reqwest_tls::redirect::Policy::none())
            .use_preconfigured_tls(tls::config(secure).map_err(|_| bad())?)
            .build()
            .map_err(|_| bad())?;
        let base_url = base_url.trim_end_matches('/').to_owned();
        Ok(Self {
            inner: Arc::new(Inner {
                http,
                base_url,
                credential,
            }),
        })
    }

    /// The API's base URL, without a slash at its end.
    pub fn base_url(&self) -> &str {
        &self.inner.base_url
    }

    /// A request to `path` (which begins with `/`, below `/api/v1`), with the credential.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}/api/v1{path}", self.inner.base_url);
        self.inner.credential.apply(self.inner.http.request(method, url))
    }

    /// A request to `path` (which begins with `/`) of the server itself, without the credential.
    pub(crate) fn at_root(&self, method: Method, path: &str) -> RequestBuilder {
        let url = format!("{}{path}", self.inner.base_url);
        self.inner.http.request(method, url)
    }

    /// Sends, and reads whatever comes.
    pub(crate) async fn send_raw(
        &self,
        request: RequestBuilder,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let sent = request.timeout(CALL_TIMEOUT).send().await;
        let response = sent.map_err(|error| self.network(&error, CALL_TIMEOUT))?;
        let status = response.status();
        Ok((status, self.bytes(response).await?))
    }

    /// A read: tried again, a bounded number of times, when the API is away or overloaded.
    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, ClientError> {
        let mut pause = RETRY_PAUSE;
        let mut attempt = 1;
        loop {
            let request = self.request(Method::GET, path).query(query).timeout(CALL_TIMEOUT);
            let error = match self.send(request, CALL_TIMEOUT).await {
                Ok(response) => return self.read(response).await,
                Err(error) => error,
            };
            if attempt == READ_ATTEMPTS || !error.is_passing() {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
            attempt += 1;
        }
    }

    /// A call that changes something: sent once.
    pub(crate) async fn call<B, T>(&self, method: Method, path: &str, body: &B) -> Result<T, ClientError>
    where
        B: Serialize + ?Sized,
        T: DeserializeOwned,
    {
        let mut request = self.request(method.clone(), path).json(body);
        if method == Method::POST {
            request = request.header("idempotency-key", fresh_key());
        }
        self.read(self.send(request, CALL_TIMEOUT).await?).await
    }

    /// A POST without a body, with a deadline of its own for those that wait.
    pub(crate) async fn act<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
        timeout: Duration,
    ) -> Result<T, ClientError> {
        let request = self
            .request(Method::POST, path)
            .query(query)
            .header("idempotency-key", fresh_key());
        self.read(self.send(request, timeout).await?).await
    }

    /// A DELETE; its answer has no body.
    pub(crate) async fn delete(&self, path: &str, query: &[(&str, String)]) -> Result<(), ClientError> {
        let request = self.request(Method::DELETE, path).query(query);
        self.send(request, CALL_TIMEOUT).await.map(|_| ())
    }

    /// Sends, and turns everything but success into an error.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        timeout: Duration,
    ) -> Result<Response, ClientError> {
        let response = request
            .timeout(timeout)
            .send()
            .await
            .map_err(|error| self.network(&error, timeout))?;
        self.succeeded(response).await
    }

    /// Like [`Client::send`], for streams: the deadline is only on the answer's head, and on the whole of a refusal.
    pub(crate) async fn open(&self, request: RequestBuilder) -> Result<Response, ClientError> {
        let opened = async {
            let sent = request.send().await;
            let response = sent.map_err(|error| self.network(&error, CALL_TIMEOUT))?;
            self.succeeded(response).await
        };
        let opened = tokio::time::timeout(CALL_TIMEOUT, opened).await;
        opened.map_err(|_| self.timed_out(CALL_TIMEOUT))?
    }

    async fn succeeded(&self, response: Response) -> Result<Response, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let url = response.url().to_string();
        if let Some(elsewhere) = response
            .headers()
            .get(header::LOCATION)
            .filter(|_| status.is_redirection())
        {
            let elsewhere = String::from_utf8_lossy(elsewhere.as_bytes()).into_owned();
            return Err(ClientError::Protocol {
                url,
                what: format!("it points to {elsewhere}, where no credential is sent"),
            });
        }
        let is_problem = response
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with(problem::CONTENT_TYPE));
        let body = self.bytes(response).await?;
        match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) if is_problem => Err(ClientError::Problem(Box::new(problem))),
            _ => Err(ClientError::Protocol {
                url,
                what: format!("status {status} without a reason"),
            }),
        }
    }

    /// The answer's body as a `T`; an empty body reads as `null`.
    pub(crate) async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T, ClientError> {
        let url = response.url().to_string();
        let empty = response.status() == StatusCode::NO_CONTENT;
        let body = self.bytes(response).await?;
        let text: &[u8] = if empty || body.is_empty() { b"null" } else { &body };
        serde_json::from_slice(text).map_err(|error| ClientError::Protocol {
            url,
            what: error.to_string(),
        })
    }

    async fn bytes(&self, mut response: Response) -> Result<Vec<u8>, ClientError> {
        let mut body = Vec::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if body.len() + chunk.len() <= ANSWER_BYTES_MAX => {
                    body.extend_from_slice(&chunk);
                }
                Ok(Some(_)) => {
                    let what = format!("more than {ANSWER_BYTES_MAX} bytes");
                    return Err(ClientError::Protocol {
                        url: response.url().to_string(),
                        what,
                    });
                }
                Ok(None) => return Ok(body),
                Err(error) => return Err(self.network(&error, CALL_TIMEOUT)),
            }
        }
    }

    pub(crate) fn timed_out(&self, timeout: Duration) -> ClientError {
        ClientError::TimedOut {
            url: self.inner.base_url.clone(),
            after_secs: timeout.as_secs(),
        }
    }

    /// What the network's error means.
    pub(crate) fn network(&self, error: &reqwest_tls::Error, timeout: Duration) -> ClientError {
        if error.is_timeout() && !error.is_connect() {
            return self.timed_out(timeout);
        }
        if let Some(failure) = tls::failure(error).filter(|_| error.is_connect()) {
            return ClientError::Untrusted {
                url: self.inner.base_url.clone(),
                reason: failure.to_string(),
                advice: tls::advice(failure),
            };
        }
        ClientError::Unreachable {
            url: self.inner.base_url.clone(),
            reason: innermost(error),
        }
    }
}

/// A key that makes repeating this one call harmless.
pub(crate) fn fresh_key() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// The last cause: it names the trouble (`connection refused`), where the first only says that there is one.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
