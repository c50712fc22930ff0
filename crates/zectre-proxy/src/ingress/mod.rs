//! The way of a request, as a list of layers. Each is a function with one job:
//!
//! 1. [`accept`]: bounds connections and the time for a head, and drains at shutdown.
//! 2. [`guard`]: bytes that two programs could read differently never become a request.
//! 3. `headers::host`: one host, or a refusal; nobody downstream must guess.
//! 4. `claim`: the page of a custom domain that is not verified yet.
//! 5. `hold`: from the host to a place on a replica, waiting for one where that helps.
//! 6. `headers::rewrite`: hop-by-hop headers stay here; the client's address is ours to tell.
//! 7. `forward`: to the task and back, again elsewhere when the first one is gone.
//! 8. `tunnel`: an upgraded connection is bytes both ways, and still counts.
//! 9. `refusal`: the one place where errors become responses.

pub mod accept;
pub mod body;
mod claim;
mod forward;
pub mod guard;
mod headers;
mod hold;
mod refusal;
mod tunnel;

pub use refusal::{ERROR_DETAIL, Refusal};

use crate::{
    metrics::{Counted, Metrics},
    tables::Tables,
    tls::Tls,
    upstream::Upstream,
    wake::Waker,
};
use accept::Client;
use body::Answer;
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zectre_service::request_id;

/// How long requests wait, and how many may.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a wake.
    pub wake_timeout: Duration,
    /// For a replacement of a replica of an awake deployment.
    pub replace_timeout: Duration,
    /// Waiting requests of one deployment.
    pub held_requests_max: u32,
    /// For the head of an answer.
    pub response_timeout: Duration,
}

/// Everything a request needs.
#[derive(Debug)]
pub struct Ingress {
    /// Where hosts lead.
    pub tables: Arc<Tables>,
    /// Wakes what sleeps.
    pub waker: Arc<Waker>,
    /// Connects to tasks.
    pub upstream: Upstream,
    /// Which names have certificates, and what follows from that; `None` where nobody speaks TLS.
    pub tls: Option<Arc<Tls>>,
    /// Counts.
    pub metrics: Metrics,
    /// Bounds.
    pub limits: Limits,
    /// Runs connections and tunnels.
    pub connections: TaskTracker,
    /// Ends what did not end by itself.
    pub cut: CancellationToken,
    /// The proxy's clock starts here.
    pub started: Instant,
}

impl Ingress {
    /// Answers a request; never fails.
    pub async fn serve(&self, request: Request<Incoming>, client: &Client) -> Response<Answer> {
        let in_flight = Counted::new(&self.metrics.in_flight);
        let id = HeaderValue::try_from(request_id::from_headers(request.headers()))
            .unwrap_or_else(|_| HeaderValue::from_static("invalid"));
        let html = wants_html(request.headers());
        let mut response = match self.answer(request, client, &id, in_flight).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(request_id = ?id, %refusal, "refused a request");
                refusal.respond(&id, html)
            }
        };
        if client.tls.is_some()
            && let Some(hsts) = self.tls.as_ref().and_then(|tls| tls.hsts())
        {
            // An application that says something else about itself is believed.
            response
                .headers_mut()
                .entry(header::STRICT_TRANSPORT_SECURITY)
                .or_insert_with(|| hsts.clone());
        }
        self.metrics.answered(response.status());
        response
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        client: &Client,
        id: &HeaderValue,
        in_flight: Counted,
    ) -> Result<Response<Answer>, Refusal> {
        if request.method() == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        let (parts, body) = request.into_parts();
        let host = headers::host(&parts)?;
        // Before a redirect: whoever looks for the page follows none.
        if let Some(page) = self.claim_page(&parts, &host) {
            return Ok(page);
        }
        if let Some(tls) = &self.tls {
            match &client.tls {
                Some(hello) if !tls.resolver.may_ask(hello.server_name.as_deref(), &host.name) => {
                    return Err(Refusal::Misdirected(host.name));
                }
                Some(_) => {}
                None => {
                    if let Some(mut redirect) = tls.redirect(&host.name, &parts.uri) {
                        redirect.headers_mut().insert(request_id::HEADER, id.clone());
                        return Ok(redirect);
                    }
                }
            }
        }
        self.forward(forward::Visitor {
            parts,
            body,
            host,
            client,
            id,
            in_flight,
        })
        .await
    }

    /// Milliseconds of the proxy's clock.
    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

fn wants_html(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .is_some_and(|accept| accept.contains("text/html"))
}
