//! The way of a request, as a list of layers. Each is a function with one job:
//!
//! 1. [`accept`]: bounds connections, at all and by client ([`crowd`]), each client's slowness ([`connection`], [`vigil`]);
//!    asks load balancers whom they bring (`proxy_protocol`); drains at shutdown, and hears clients out that are answered early (`linger`).
//! 2. [`guard`]: bytes that two programs could read differently (`framing`) never become a request, and floods of frames
//!    ([`frames`]) end.
//! 3. [`forwarded`]: who the client is, when load balancers of ours stand in front.
//! 4. [`admit`]: room for one more request, of this client and at all.
//! 5. `host::host`: one host, or a refusal; nobody downstream must guess.
//! 6. `claim`: the page of a custom domain that is not verified yet.
//! 7. `hold`: from the host to a place on a replica, waiting for one where that helps.
//! 8. `headers::rewrite`: hop-by-hop headers stay here (`hops` has counted one down); the client's address is ours to tell.
//! 9. `trace`: the trace that it belongs to, a new one where there is none.
//! 10. `forward`: to the task and back, again elsewhere when the first one is gone.
//! 11. [`body`]: streams both ways, from the client not before it is wanted (`expect`); one that is too large, or that the client lets hang, is cut off.
//! 12. `tunnel`: an upgraded connection is bytes both ways, and still counts.
//! 13. `refusal`: the one place where errors become responses.

pub mod accept;
pub mod admit;
mod affinity;
mod bare;
pub mod bell;
pub mod body;
pub(crate) mod cause;
mod claim;
pub mod client;
pub mod connection;
pub mod crowd;
mod expect;
mod forward;
pub mod forwarded;
pub mod frames;
mod framing;
mod grpc;
pub mod guard;
mod headers;
pub(crate) mod hold;
mod hops;
mod host;
mod hourglass;
#[cfg(feature = "http3")]
pub mod http3;
pub mod inflow;
mod linger;
pub mod pace;
mod patience;
mod proxy_protocol;
pub mod rate;
mod refusal;
mod shelf;
mod spare;
mod streams;
mod trace;
mod tunnel;
pub mod vigil;
pub mod watch;

pub use affinity::Marks;
pub(crate) use headers::connection_options;
pub use refusal::{ERROR_DETAIL, Form, Refusal};

use crate::{
    access::{AccessLog, Entry, Logged, share},
    metrics::{Counted, Metrics},
    tables::Tables,
    tls::Tls,
    upstream::Upstream,
    wake::Waker,
};
use admit::Door;
use body::{Answer, BodyBounds};
use client::Client;
use crowd::Crowd;
use forwarded::Trust;
use http::{HeaderValue, Method, Request, Response, header};
use inflow::Inflow;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trace::Trace;
use zectre_common::config::ProxyConfig;
use zectre_service::request_id;

/// A crashed replica of an awake deployment is replaced within this time or the request fails.
const REPLACE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long requests wait, and how many may.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// For a wake.
    pub wake_timeout: Duration,
    /// For a replacement of a replica of an awake deployment.
    pub replace_timeout: Duration,
    /// Waiting requests of one deployment.
    pub held_requests_max: u32,
    /// A browser that waits for a wake for longer is shown a page meanwhile.
    pub waiting_page_after: Option<Duration>,
    /// For the head of an answer.
    pub response_timeout: Duration,
    /// Whether a request that may be repeated is sent again when a task was lost with it.
    pub repeats: bool,
    /// Whether one that may not be repeated goes on a kept connection.
    pub reuses: bool,
    /// Of one request.
    pub header_count_max: usize,
    /// Of the head of a request of HTTP/2; the library bounds those of HTTP/1.1.
    pub header_bytes_max: usize,
    /// For what a request carries.
    pub body: BodyBounds,
    /// Of 2³² traces that begin here tasks are asked to record so many.
    pub trace_sample: u64,
}

impl Limits {
    /// Those of the configuration.
    pub fn new(proxy: &ProxyConfig) -> Self {
        let wake_timeout = Duration::from_millis(proxy.wake_timeout_ms);
        Self {
            wake_timeout,
            replace_timeout: REPLACE_TIMEOUT.min(wake_timeout),
            held_requests_max: u32::try_from(proxy.held_requests_max).unwrap_or(u32::MAX),
            waiting_page_after: Some(Duration::from_millis(proxy.waiting_page_after_ms))
                .filter(|after| !after.is_zero()),
            response_timeout: Duration::from_millis(proxy.response_timeout_ms),
            repeats: proxy.repeat_lost_requests,
            reuses: proxy.reuse_for_unrepeatable,
            header_count_max: proxy.limits.header_count_max,
            header_bytes_max: proxy.header_bytes_max.max(connection::HEADER_BYTES_LEAST),
            body: BodyBounds::new(&proxy.limits),
            trace_sample: share(proxy.trace_sample_rate),
        }
    }

    /// When a request that waits for a wake until then is shown a page instead, if it is a browser's.
    fn page_at(&self, is_navigation: bool, until: Instant) -> Option<Instant> {
        let after = self.waiting_page_after.filter(|_| is_navigation)?;
        // None where it would come after the end.
        until.checked_sub(self.wake_timeout.checked_sub(after)?)
    }
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
    /// Writes requests down.
    pub access: AccessLog,
    /// Lets in as many as there is room for.
    pub door: Door,
    /// Counts connections by client.
    pub crowd: Arc<Crowd>,
    /// Whose word about others counts.
    pub trust: Trust,
    /// Lead visitors back to their task.
    pub marks: Marks,
    /// Bounds.
    pub limits: Limits,
    /// Runs connections and tunnels.
    pub connections: TaskTracker,
    /// Ends what did not end by itself.
    pub cut: CancellationToken,
    /// The proxy's clock starts here.
    pub started: Instant,
}

/// A request that has just come.
struct Arrival<'r> {
    client: &'r Client,
    id: &'r HeaderValue,
    trace: &'r Trace,
    in_flight: Counted,
    began: Instant,
}

impl Ingress {
    /// Answers a request; never fails.
    pub async fn serve(&self, request: Request<Inflow>, client: &Client) -> Response<Logged<Answer>> {
        let began = Instant::now();
        let in_flight = Counted::new(&self.metrics.in_flight);
        let id = request_id::value_from_headers(request.headers());
        let form = Form::of(request.headers());
        let trace = Trace::new(request.headers(), self.limits.trace_sample);
        let mut entry = self.access.begin(&request, client, &id, began);
        entry.traced(trace.parent());
        let arrival = Arrival {
            client,
            id: &id,
            trace: &trace,
            in_flight,
            began,
        };
        // Awaited where it is made: a future with a name is one more copy of it in this one.
        let mut response = match self.answer(request, arrival, &mut entry).await {
            Ok(response) => response,
            Err(refusal) => {
                tracing::debug!(request_id = ?id, trace_id = trace.id(), %refusal, "refused a request");
                self.metrics.refused(refusal.label());
                entry.refused(&refusal);
                refusal.respond(&id, &form)
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
        #[cfg(feature = "http3")]
        if client.tls.is_some()
            && let Some(alt_svc) = self.tls.as_ref().and_then(|tls| tls.alt_svc())
        {
            response
                .headers_mut()
                .entry(header::ALT_SVC)
                .or_insert_with(|| (*alt_svc).clone());
        }
        self.metrics.answered(response.status());
        entry.answered(response.status());
        response.map(|body| Logged::new(body, entry))
    }

    async fn answer(
        &self,
        request: Request<Inflow>,
        arrival: Arrival<'_>,
        entry: &mut Entry,
    ) -> Result<Response<Answer>, Refusal> {
        let Arrival {
            client,
            id,
            trace,
            in_flight,
            began,
        } = arrival;
        let sender = self.trust.sender(request.headers(), client);
        let address = sender.as_ref().map_or(client.address, |sender| sender.address);
        entry.sent_by(address, sender.as_ref().and_then(|sender| sender.secure));
        self.admit(address)?;
        if request.method() == Method::CONNECT {
            return Err(Refusal::Connect);
        }
        let headers_max = self.limits.header_count_max;
        if request.headers().len() > headers_max {
            return Err(Refusal::TooManyHeaders(headers_max));
        }
        headers::check_size(&request, self.limits.header_bytes_max)?;
        let (mut parts, body) = request.into_parts();
        self.limits.body.check(&parts.headers)?;
        headers::check_fields(&parts)?;
        let host = host::host(&parts)?;
        hops::count_down(&mut parts)?;
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
                // It was TLS as far as the load balancer that ended it.
                None if sender.as_ref().is_some_and(|sender| sender.secure == Some(true)) => {}
                None => {
                    if let Some(challenges) = &tls.challenges
                        && let Some(page) = Box::pin(challenges.page(&host.name, parts.uri.path())).await
                    {
                        return Ok(page);
                    }
                    if let Some(mut redirect) = tls.redirect(&host.name, &parts.uri) {
                        redirect.headers_mut().insert(request_id::HEADER, id.clone());
                        return Ok(redirect);
                    }
                }
            }
        }
        let visitor = forward::Visitor {
            parts,
            body,
            host: &host,
            client,
            sender,
            id,
            trace,
            began,
        };
        self.forward(visitor, in_flight, entry).await
    }

    /// Room for one more connection of `client`, which is counted as under way by now.
    pub(crate) fn admit(&self, client: std::net::IpAddr) -> Result<(), Refusal> {
        self.door.admit(&self.metrics, client, || self.now_ns())
    }

    /// Nanoseconds of the proxy's clock.
    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// Milliseconds of the proxy's clock.
    pub(crate) fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}
