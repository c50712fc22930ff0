//! Calls to other services: one client, a token for the audience, the request id, a deadline.

use crate::{
    key::ServiceKey,
    problem::{Failure, chain},
    request_id, token,
};
use http::{Method, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use zectre_common::wire::problem::Problem;

/// A token is minted anew when it has lived this long, well before it expires.
const TOKEN_REUSE: Duration = Duration::from_secs(token::TOKEN_TTL_SECS / 2);
/// The largest answer of another service that is read into memory.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// The code of an error answer that is no problem of ours: whatever stands before a service has spoken.
pub const UNEXPECTED_ANSWER: &str = "UNEXPECTED_ANSWER";

/// A call did not give the answer.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// Nobody answered, or not in time.
    #[error("{url} does not answer: {cause}")]
    Unreachable {
        /// Without query: it may hold a signature.
        url: String,
        /// Why.
        cause: String,
    },
    /// It answered with a problem.
    #[error("{url} answered {}: {} ({})", problem.status, problem.detail, problem.code)]
    Refused {
        /// Without query.
        url: String,
        /// What it said.
        problem: Box<Problem>,
    },
    /// Its answer makes no sense.
    #[error("{url} gave an answer that makes no sense: {cause}")]
    Nonsense {
        /// Without query.
        url: String,
        /// Why.
        cause: String,
    },
}

impl CallError {
    /// The problem it answered with, if it did.
    pub fn problem(&self) -> Option<&Problem> {
        match self {
            Self::Refused { problem, .. } => Some(problem),
            _ => None,
        }
    }
}

impl From<CallError> for Failure {
    /// A refusal below 500 is passed on; everything else is a 503 of ours.
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused { problem, .. }
                if problem.status < 500 && problem.status != 401 && problem.status != 403 =>
            {
                (*problem).into()
            }
            error => Failure::unavailable(
                "SERVICE_UNAVAILABLE",
                "a part of the platform does not answer; try again",
                1,
            )
            .because(error),
        }
    }
}

/// Who this service is towards others.
#[derive(Debug, Clone)]
pub enum Identity {
    /// A service with the service key.
    Service {
        /// Its name.
        name: &'static str,
        /// The key.
        key: ServiceKey,
    },
    /// Nobody yet: every call brings its own token.
    Anonymous,
}

/// Calls other services.
#[derive(Debug, Clone)]
pub struct Caller {
    http: reqwest::Client,
    identity: Identity,
    tokens: Arc<Mutex<HashMap<String, (String, Instant)>>>,
}

impl Caller {
    /// Calls as the service `name`.
    pub fn new(name: &'static str, key: ServiceKey) -> Self {
        Self::with_identity(Identity::Service { name, key })
    }

    /// Calls as `identity`.
    pub fn with_identity(identity: Identity) -> Self {
        let http = reqwest::Client::builder()
            .connect_timeout(Duration::from_secs(3))
            // Below the time after which servers close idle connections (their header time-out), or a call could meet one closing.
            .pool_idle_timeout(Duration::from_secs(5))
            .tcp_nodelay(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .expect("a client without TLS and with fixed settings can be built");
        Self {
            http,
            identity,
            tokens: Arc::default(),
        }
    }

    /// The client itself, for streams.
    pub fn raw(&self) -> &reqwest::Client {
        &self.http
    }

    /// A token for the service `audience`; minted at most once in a few minutes.
    pub fn token_for(&self, audience: &str) -> Option<String> {
        let Identity::Service { name, key } = &self.identity else {
            return None;
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((token, minted)) = tokens.get(audience)
            && minted.elapsed() < TOKEN_REUSE
        {
            return Some(token.clone());
        }
        let token = token::mint_service(key, name, audience);
        tokens.insert(audience.to_owned(), (token.clone(), Instant::now()));
        Some(token)
    }

    /// A request to the service `audience` with its token and the current request's id, for streams.
    pub fn request(&self, method: Method, url: &str, audience: &str) -> reqwest::RequestBuilder {
        let mut request = self.http.request(method, url);
        if let Some(token) = self.token_for(audience) {
            request = request.bearer_auth(token);
        }
        with_request_id(request)
    }

    /// POSTs JSON to the service `audience` and reads the JSON answer, within `deadline`.
    pub async fn post_json<B: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        url: &str,
        audience: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<A, CallError> {
        send(
            self.request(Method::POST, url, audience).json(body),
            url,
            deadline,
        )
        .await
    }

    /// The same with a token of the caller's own.
    pub async fn post_json_as<B: Serialize + ?Sized, A: DeserializeOwned>(
        &self,
        url: &str,
        token: &str,
        body: &B,
        deadline: Duration,
    ) -> Result<A, CallError> {
        send(
            with_request_id(self.http.post(url)).bearer_auth(token).json(body),
            url,
            deadline,
        )
        .await
    }

    /// GETs JSON from the service `audience`, within `deadline`.
    pub async fn get_json<A: DeserializeOwned>(
        &self,
        url: &str,
        audience: &str,
        deadline: Duration,
    ) -> Result<A, CallError> {
        send(self.request(Method::GET, url, audience), url, deadline).await
    }
}

fn with_request_id(request: reqwest::RequestBuilder) -> reqwest::RequestBuilder {
    match request_id::current() {
        Some(id) => request.header(request_id::HEADER, request_id::header_value(&id)),
        None => request,
    }
}

async fn send<A: DeserializeOwned>(
    request: reqwest::RequestBuilder,
    url: &str,
    deadline: Duration,
) -> Result<A, CallError> {
    let url = without_query(url);
    let unreachable = |error: reqwest::Error| CallError::Unreachable {
        url: url.clone(),
        cause: describe(&error),
    };
    let response = request.timeout(deadline).send().await.map_err(unreachable)?;
    let status = response.status();
    if response
        .content_length()
        .is_some_and(|length| length > ANSWER_BYTES_MAX as u64)
    {
        return Err(CallError::Nonsense {
            url,
            cause: "it is too large".into(),
        });
    }
    let body = response.bytes().await.map_err(unreachable)?;
    if !status.is_success() {
        return Err(CallError::Refused {
            url,
            problem: Box::new(problem_of(status, &body)),
        });
    }
    // 204 and 202 may come without a body: that reads as JSON null.
    let json: &[u8] = if body.is_empty() { b"null" } else { &body };
    serde_json::from_slice(json).map_err(|error| CallError::Nonsense {
        url,
        cause: error.to_string(),
    })
}

/// The problem in an error answer; an answer of another form becomes one.
pub fn problem_of(status: StatusCode, body: &[u8]) -> Problem {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let text: String = String::from_utf8_lossy(body).chars().take(200).collect();
        Problem::new(status, UNEXPECTED_ANSWER, text)
    })
}

/// A URL without its query, which may hold a signature: for errors and logs.
pub fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        "no answer in time".into()
    } else {
        chain(&error)
    }
}

/// The header that carries tokens, for code that builds requests by hand.
pub const AUTHORIZATION: http::HeaderName = header::AUTHORIZATION;
