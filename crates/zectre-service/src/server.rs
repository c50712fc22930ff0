//! Listening and answering: the layers every daemon's HTTP has, in one list.

use crate::{
    auth, extract,
    health::Health,
    key::MetricsKey,
    metrics::{self, HttpMetrics, Registry},
    patience::Patient,
    problem::Failure,
    request_id,
    tasks::Shutdown,
};
use axum::{
    Router,
    extract::{DefaultBodyLimit, MatchedPath, Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use http::{HeaderMap, Method, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, SemaphorePermit},
};
use tower_http::catch_panic::CatchPanicLayer;
use tracing::Instrument;

/// Room for the requests to one path.
#[derive(Debug, Clone, Copy)]
pub struct Apart {
    /// All of the path.
    pub path: &'static str,
    /// Handled at once; more are answered with 503.
    pub concurrency_max: usize,
}

/// The bounds of one daemon's HTTP.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// The largest body that an extractor reads into memory.
    pub body_bytes_max: usize,
    /// A request that takes longer to its answer's head is answered with 504; none where answers may wait.
    pub request_timeout: Option<Duration>,
    /// Requests handled at once; more are answered with 503.
    pub concurrency_max: usize,
    /// Requests that have room of their own beside those: others can't crowd them out, nor they others.
    pub apart: &'static [Apart],
    /// Open connections; more wait.
    pub connections_max: usize,
    /// Time for a client to send its headers.
    pub header_timeout: Duration,
    /// A client that takes nothing of an answer for so long is cut off; however slow, it may take its time.
    pub write_timeout: Duration,
    /// How long requests under way may take to finish at shutdown.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 16 << 20,
            request_timeout: Some(Duration::from_secs(60)),
            concurrency_max: 1_024,
            apart: &[],
            connections_max: 4_096,
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// What every daemon's router starts from and is wrapped in.
#[derive(Clone)]
pub struct Base {
    /// Its name in logs and answers.
    pub name: &'static str,
    /// Its checks.
    pub health: Health,
    /// Its metrics.
    pub metrics: Registry,
    /// Whose bearer may read them.
    metrics_key: Option<MetricsKey>,
}

#[derive(Clone)]
struct Observed {
    name: &'static str,
    metrics: HttpMetrics,
    slots: Arc<Slots>,
    request_timeout: Option<Duration>,
}

impl Base {
    /// For the daemon `name`.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            health: Health::new(),
            metrics: Registry::new(),
            metrics_key: None,
        }
    }

    /// Lets the bearer of the key, if there is one, read the metrics.
    #[must_use]
    pub fn readable_by(mut self, key: Option<MetricsKey>) -> Self {
        self.metrics_key = key;
        self
    }

    /// `router` with `/health`, `/ready` and `/metrics` beside it, and every layer around it.
    pub fn wrap(&self, router: Router, limits: Limits) -> Router {
        let observed = Observed {
            name: self.name,
            metrics: HttpMetrics::new(&self.metrics),
            slots: Arc::new(Slots::new(&limits)),
            request_timeout: limits.request_timeout,
        };
        let (health, name) = (self.health.clone(), self.name);
        let (registry, key) = (self.metrics.clone(), self.metrics_key.clone());
        router
            .route(
                "/health",
                get(move || async move { axum::Json(serde_json::json!({"status": "ok", "service": name})) }),
            )
            .route("/ready", get(move || ready(health)))
            .route(
                "/metrics",
                get(move |headers: HeaderMap| async move {
                    may_read_metrics(key.as_ref(), &headers)?;
                    Ok::<_, Failure>(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], registry.render()))
                }),
            )
            // An unknown path or method is a problem answer too.
            .fallback(|method: Method, uri: http::Uri| async move {
                Failure::not_found(format!("there is nothing at {method} {}", uri.path()))
            })
            .method_not_allowed_fallback(|method: Method, uri: http::Uri| async move {
                Failure::new(
                    StatusCode::METHOD_NOT_ALLOWED,
                    "METHOD_NOT_ALLOWED",
                    format!("{} does not take {method}", uri.path()),
                )
            })
            // Extractors stop reading here; streamed uploads carry their own limit.
            .layer(DefaultBodyLimit::max(limits.body_bytes_max))
            // A bug in one handler must not take the connection, and the answer must keep its form.
            .layer(CatchPanicLayer::custom(|_| {
                Failure::internal("a handler panicked").into_response()
            }))
            // Outermost: the id, the log line, the counters, the bound on time and number.
            .layer(middleware::from_fn_with_state(observed, observe))
    }
}

/// They tell of hosts, routes and nodes: nothing for every program that reaches the port.
fn may_read_metrics(key: Option<&MetricsKey>, headers: &HeaderMap) -> Result<(), Failure> {
    let Some(key) = key else {
        return Err(Failure::unauthorized(
            "nobody may read the metrics: set secrets.metrics_token_file",
        ));
    };
    match auth::bearer(headers) {
        Some(token) if key.is(token) => Ok(()),
        Some(_) => Err(Failure::unauthorized(
            "this is not the token of secrets.metrics_token_file",
        )),
        None => Err(Failure::unauthorized(
            "send the token of secrets.metrics_token_file as bearer to read the metrics",
        )),
    }
}

async fn ready(health: Health) -> Response {
    let readiness = health.readiness().await;
    let status = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(readiness)).into_response()
}

async fn observe(State(observed): State<Observed>, mut request: Request, next: Next) -> Response {
    let id = request_id::from_headers(request.headers());
    request
        .headers_mut()
        .insert(request_id::HEADER, request_id::header_value(&id));
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let (method, started) = (request.method().clone(), Instant::now());
    let span = tracing::info_span!("request", service = observed.name, request_id = %id, %method, route);
    let answer = bounded(observed.clone(), request, next).instrument(span.clone());
    let mut response = request_id::scope(id.clone(), answer).await;
    let elapsed = started.elapsed();
    observed
        .metrics
        .observe(&method, &route, response.status(), elapsed.as_secs_f64());
    span.in_scope(|| {
        tracing::debug!(
            status = response.status().as_u16(),
            elapsed_us = elapsed.as_micros() as u64,
            "answered"
        );
    });
    response
        .headers_mut()
        .insert(request_id::HEADER, request_id::header_value(&id));
    response
}

/// Room for requests, by their path.
struct Slots {
    common: Semaphore,
    apart: Vec<(&'static str, Semaphore)>,
}

/// Whether a request may be handled, and what it gives back at its end.
enum Slot<'a> {
    /// In the place of one of so many.
    Taken { _place: SemaphorePermit<'a> },
    /// Whoever watches a daemon must get an answer exactly when it is overloaded.
    NotNeeded,
    /// There are too many.
    None,
}

impl Slots {
    fn new(limits: &Limits) -> Self {
        let own = |apart: &Apart| (apart.path, Semaphore::new(apart.concurrency_max));
        Self {
            common: Semaphore::new(limits.concurrency_max),
            apart: limits.apart.iter().map(own).collect(),
        }
    }

    fn take(&self, path: &str) -> Slot<'_> {
        let apart = self.apart.iter().find(|(own, _)| *own == path);
        let room = apart.map_or(&self.common, |(_, room)| room);
        match room.try_acquire() {
            Ok(place) => Slot::Taken { _place: place },
            Err(_) if matches!(path, "/health" | "/ready" | "/metrics") => Slot::NotNeeded,
            Err(_) => Slot::None,
        }
    }
}

async fn bounded(observed: Observed, request: Request, next: Next) -> Response {
    let _in_flight = observed.metrics.begin();
    let _slot = match observed.slots.take(request.uri().path()) {
        slot @ (Slot::Taken { .. } | Slot::NotNeeded) => slot,
        Slot::None => {
            return Failure::unavailable("OVERLOADED", "too many requests at once; try again", 1)
                .into_response();
        }
    };
    let Some(timeout) = observed.request_timeout else {
        return next.run(request).await;
    };
    match tokio::time::timeout(timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            "TIMEOUT",
            format!(
                "this took longer than {} s; it may still finish",
                timeout.as_secs()
            ),
        )
        .into_response(),
    }
}

/// Serves until `shutdown` is requested, then lets requests under way finish within the drain time-out.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, shutdown: Shutdown) {
    let connections = Arc::new(Semaphore::new(limits.connections_max));
    let graceful = GracefulShutdown::new();
    let tasks = crate::tasks::Tasks::new(shutdown.clone());
    loop {
        let accepted = async {
            let permit = connections
                .clone()
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (accept(&listener).await, permit)
        };
        let Some(((stream, peer), permit)) = shutdown.or_requested(accepted).await else {
            break;
        };
        let service = TowerToHyperService::new(router.clone().layer(axum::Extension(Peer(peer))));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_timeout)
            .serve_connection(TokioIo::new(Patient::new(stream, limits.write_timeout)), service);
        let watched = graceful.watch(connection);
        tasks.spawn_brief("connection", async move {
            // An error here is the client's: gone, or not speaking HTTP.
            if let Err(error) = watched.await {
                tracing::trace!(%error, %peer, "connection ended");
            }
            drop(permit);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.drain_timeout, graceful.shutdown())
        .await
        .is_err()
    {
        tracing::warn!("requests were cut off: they did not finish within the drain time-out");
    }
    tasks.stop(Duration::ZERO).await;
}

/// The address a request came from; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// Accepts; errors that concern the process (no file descriptors) are waited out instead of spun on.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // Small answers must not wait for more data. A failure means that the client is gone already.
                let _ = stream.set_nodelay(true);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(1));
            }
        }
    }
}

/// For handlers that read a stream themselves: the error for a body that is too large.
pub fn body_too_large() -> Failure {
    extract::too_large()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_room_is_crowded_by_the_other() {
        let limits = Limits {
            concurrency_max: 1,
            apart: &[
                Apart {
                    path: "/beat",
                    concurrency_max: 2,
                },
                Apart {
                    path: "/wait",
                    concurrency_max: 1,
                },
            ],
            ..Limits::default()
        };
        let slots = Slots::new(&limits);
        let taken = |path| matches!(slots.take(path), Slot::Taken { .. });
        let news = slots.take("/news");
        assert!(matches!(news, Slot::Taken { .. }) && !taken("/news") && !taken("/beat/more"));
        let beats = (slots.take("/beat"), slots.take("/beat"));
        assert!(matches!(beats.1, Slot::Taken { .. }) && !taken("/beat"));
        let wait = slots.take("/wait");
        assert!(matches!(wait, Slot::Taken { .. }) && !taken("/wait"));
        assert!(matches!(slots.take("/ready"), Slot::NotNeeded));
        drop(news);
        assert!(taken("/news") && taken("/ready") && !taken("/beat"));
        drop(beats);
        assert!(taken("/beat"));
    }
}
