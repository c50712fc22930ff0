//! One connection, from its first byte to its last: serves its requests, and ends it when its client is too slow.

use super::{
    Ingress, Refusal,
    accept::KEEPALIVE,
    client::Client,
    frames::Allowance,
    guard::Guarded,
    pace::Pace,
    rate::Rate,
    vigil::{Place, Stage, Times, Vigil, Watched},
    watch::Watch,
};
use crate::metrics::Closed;
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};
use zectre_common::config::ProxyConfig;
use zectre_service::tasks::Shutdown;

/// A connection without a request is closed so long after the proxy was asked to stop.
const LINGER: Duration = Duration::from_secs(1);
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// hyper's least buffer for a head.
pub(super) const HEADER_BYTES_LEAST: usize = 8_192;
/// Requests that a connection may take back in a second, and at once. A browser that leaves a page takes back some dozens.
const RESETS: (u32, u32) = (200, 2_000);
/// Frames that carry nothing, in the same way. Some clients measure the line with a PING for each round trip.
const IDLE_FRAMES: (u32, u32) = (10_000, 20_000);

/// What bounds connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How slow a client may be.
    pub times: Times,
    /// How much of an answer it takes within `times.write`.
    pub write_bytes_min: u64,
    /// The largest head.
    pub header_bytes_max: usize,
}

impl Bounds {
    /// Those of the configuration.
    pub fn new(proxy: &ProxyConfig) -> Self {
        let limits = &proxy.limits;
        Self {
            times: Times {
                header: Duration::from_millis(proxy.header_timeout_ms),
                idle: Duration::from_millis(limits.keepalive_timeout_ms),
                write: Duration::from_millis(limits.write_timeout_ms),
            },
            write_bytes_min: limits.write_bytes_min,
            header_bytes_max: proxy.header_bytes_max,
        }
    }

    fn writing(&self) -> Option<Watch> {
        let window = self.times.write;
        (!window.is_zero()).then(|| Watch::new(Pace::new(window, self.write_bytes_min)))
    }
}

/// What all connections are served with.
pub(super) fn server(bounds: Bounds) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    let head_bytes_max = bounds.header_bytes_max.max(HEADER_BYTES_LEAST);
    server
        .http1()
        .timer(TokioTimer::new())
        // Its clock runs between two requests, too; ours knows the one from the other.
        .header_read_timeout(None)
        .max_buf_size(head_bytes_max);
    server
        .http2()
        .timer(TokioTimer::new())
        // The library refuses a larger one in silence; we refuse it in words, and count it.
        .max_header_list_size(u32::try_from(head_bytes_max.saturating_mul(2)).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEPALIVE);
    server
}

/// Serves the requests of a connection until either side ends it.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    ingress: Arc<Ingress>,
    server: Arc<auto::Builder<TokioExecutor>>,
    stream: S,
    client: Client,
    place: Place,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let client = Arc::new(client);
    let closed = &ingress.metrics.closed;
    let vigil = Vigil::new(closed[Closed::WriteTimeout as usize].clone(), Some(place));
    let io = TokioIo::new(Guarded::new(
        stream,
        bounds.header_bytes_max,
        Arc::clone(&vigil),
        bounds.writing(),
        allowance(),
    ));
    let (serving, visitor, watch) = (Arc::clone(&ingress), Arc::clone(&client), Arc::clone(&vigil));
    let service = service_fn(move |request| {
        let turn = watch.begin();
        let (ingress, client, vigil) = (Arc::clone(&serving), Arc::clone(&visitor), Arc::clone(&watch));
        // Boxed, since the library keeps room for it as long as the connection lives, and most are idle.
        Box::pin(async move {
            let response = ingress.serve(request, &client).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                vigil.set_upgraded();
            }
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, turn)))
        })
    });
    let mut connection = pin!(server.serve_connection_with_upgrades(io, service));
    let mut stopping = pin!(shutdown.requested());
    let mut hourglass = pin!(Hourglass::new(Arc::clone(&vigil), bounds.times));
    let (mut farewell, mut draining) = (Farewell::default(), false);
    loop {
        let event = poll_fn(|cx| {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(Event::Ended(ended));
            }
            if !draining && farewell.poll(stopping.as_mut(), &vigil, cx).is_ready() {
                return Poll::Ready(Event::Stop);
            }
            hourglass.as_mut().poll(cx).map(Event::Over)
        });
        match event.await {
            // An error here is the client's: gone, or not speaking HTTP.
            Event::Ended(ended) => {
                if let Err(error) = ended {
                    tracing::trace!(%error, client = ?client.address_header, "a connection ended");
                    count_unreadable(&ingress, &*error, &vigil);
                }
                return count_flood(&ingress, &vigil);
            }
            Event::Stop => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Event::Over(stage) => {
                let Some((measure, reason)) = measure(stage, vigil.is_late(), draining) else {
                    return;
                };
                ingress.metrics.closed[reason as usize].inc();
                match measure {
                    Measure::SayLate => vigil.set_late(),
                    Measure::Drain => {
                        draining = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    Measure::HangUp => return,
                }
            }
        }
    }
}

fn count_flood(ingress: &Ingress, vigil: &Vigil) {
    if vigil.has_flooded() {
        ingress.metrics.closed[Closed::Flood as usize].inc();
    }
}

/// Counts a head that the library refused by itself, before there was a request.
fn count_unreadable(ingress: &Ingress, error: &(dyn std::error::Error + 'static), vigil: &Vigil) {
    match error.downcast_ref::<hyper::Error>() {
        // It has been counted as late.
        _ if vigil.is_late() => {}
        Some(error) if error.is_parse_too_large() => ingress.metrics.refused(Refusal::HEADERS_TOO_LARGE),
        Some(error) if error.is_parse() => ingress.metrics.refused(Refusal::BAD_REQUEST),
        _ => {}
    }
}

/// What is done to a connection of which a stage is over.
enum Measure {
    /// It ends by itself when it is read from.
    SayLate,
    /// A request may come at this moment: the library knows, and ends the connection if not.
    Drain,
    HangUp,
}

/// The measure and its reason; `None` where the client was told, and did not go.
fn measure(stage: Stage, late: bool, draining: bool) -> Option<(Measure, Closed)> {
    match stage {
        Stage::New => Some((Measure::HangUp, Closed::HeaderTimeout)),
        Stage::Head if !late => Some((Measure::SayLate, Closed::HeaderTimeout)),
        Stage::Idle if !draining => Some((Measure::Drain, Closed::IdleTimeout)),
        Stage::Stalled => Some((Measure::HangUp, Closed::WriteTimeout)),
        Stage::Head | Stage::Idle | Stage::Busy => None,
    }
}

fn allowance() -> Allowance {
    Allowance {
        resets: Rate::new(RESETS.0, RESETS.1),
        idle: Rate::new(IDLE_FRAMES.0, IDLE_FRAMES.1),
    }
}

/// What can happen to a connection.
enum Event<R> {
    Ended(R),
    Stop,
    Over(Stage),
}

/// When a connection is told to end after the proxy was: a client that is about to send its request must not find a closed
/// door, and hears it with its answer.
#[derive(Default)]
struct Farewell {
    linger: Option<Pin<Box<Sleep>>>,
}

impl Farewell {
    fn poll(
        &mut self,
        stopping: Pin<&mut impl Future<Output = ()>>,
        vigil: &Vigil,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if self.linger.is_none() {
            ready!(stopping.poll(cx));
        }
        if matches!(vigil.stage().0, Stage::Busy | Stage::Stalled) {
            return Poll::Ready(());
        }
        let linger = self
            .linger
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(LINGER)));
        linger.as_mut().poll(cx)
    }
}

/// Runs out when a stage of a connection has lasted too long. What begins a stage is not known to wake it, so it also
/// looks by itself, as often as the shortest bound is long.
struct Hourglass {
    vigil: Arc<Vigil>,
    times: Times,
    timer: Pin<Box<Sleep>>,
}

impl Hourglass {
    fn new(vigil: Arc<Vigil>, times: Times) -> Self {
        let timer = Box::pin(tokio::time::sleep(times.shortest()));
        Self { vigil, times, timer }
    }

    /// The stage that is over.
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Stage> {
        loop {
            let (stage, since) = self.vigil.stage();
            let now = Instant::now();
            let next = now + self.times.shortest();
            let over = self.times.of(stage).map_or(next, |time| since + time);
            if over <= now {
                self.timer.as_mut().reset(next.into());
                return Poll::Ready(stage);
            }
            // Later ones are found when it fires.
            if over < self.timer.deadline().into_std() {
                self.timer.as_mut().reset(over.into());
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.timer.as_mut().reset(next.min(over).into());
        }
    }
}
