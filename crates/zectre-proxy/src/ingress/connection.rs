//! One connection, from its first byte to its last: serves its requests, and ends it when its client is too slow.

use super::{
    Ingress, Refusal,
    accept::KEEPALIVE,
    bell::Bell,
    client::Client,
    frames::Allowance,
    guard::{Guarded, Version},
    hourglass::Hourglass,
    inflow::Inflow,
    linger::{PATIENCE, linger},
    pace::Pace,
    rate::Rate,
    shelf::Shelf,
    streams::Streams,
    vigil::{Place, Stage, Times, Vigil, Watched},
    watch::Watch,
};
use crate::metrics::{Closed, Counted};
use http::{Request, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Sleep,
};
use zectre_common::config::ProxyConfig;
use zectre_service::tasks::Shutdown;

/// A connection without a request is closed so long after the proxy was asked to stop.
const LINGER: Duration = Duration::from_secs(1);
/// Streams of one connection of HTTP/2 or HTTP/3.
pub(super) const STREAMS_MAX: u32 = 256;
/// Of an answer, kept for a stream whose client does not read; the library's own bound is 400 KiB for each.
const STREAM_UNSENT_BYTES_MAX: usize = 64 * 1_024;
/// Headers that hyper takes unless it is told to take more, which costs it two allocations a head.
const HEADER_COUNT_USUAL: usize = 100;
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
    /// The most headers of one.
    pub header_count_max: usize,
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
            header_count_max: limits.header_count_max,
        }
    }

    fn writing(&self) -> Option<Watch> {
        let window = self.times.write;
        (!window.is_zero()).then(|| Watch::new(Pace::new(window, self.write_bytes_min)))
    }
}

/// What all connections are served with.
#[derive(Debug)]
pub(super) struct Server {
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

impl Server {
    /// `reset` counts streams whose client took nothing.
    pub(super) fn new(bounds: Bounds, reset: Counter) -> Self {
        let streams = Streams::new(bounds.times.write, reset);
        let (mut http1, mut http2) = (http1::Builder::new(), http2::Builder::new(streams));
        let head_bytes_max = bounds.header_bytes_max.max(HEADER_BYTES_LEAST);
        http1
            .timer(TokioTimer::new())
            // Its clock runs between two requests, too; ours knows the one from the other.
            .header_read_timeout(None)
            .max_buf_size(head_bytes_max);
        if bounds.header_count_max > HEADER_COUNT_USUAL {
            http1.max_headers(bounds.header_count_max);
        }
        http2
            .timer(TokioTimer::new())
            // The library refuses a larger one in silence; we refuse it in words, and count it.
            .max_header_list_size(u32::try_from(head_bytes_max.saturating_mul(2)).unwrap_or(u32::MAX))
            .max_concurrent_streams(STREAMS_MAX)
            .max_send_buf_size(STREAM_UNSENT_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE);
        Self { http1, http2 }
    }
}

/// Serves the requests of a connection until either side ends it.
pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    ingress: Arc<Ingress>,
    server: Arc<Server>,
    stream: S,
    client: Client,
    place: Place,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let closed = &ingress.metrics.closed;
    let vigil = Vigil::new(closed[Closed::WriteTimeout as usize].clone(), Some(place));
    let visitor = Arc::new(Visitor {
        ingress: Arc::clone(&ingress),
        client,
        vigil: Arc::clone(&vigil),
    });
    let mut stream = Guarded::new(
        stream,
        bounds.header_bytes_max,
        Arc::clone(&vigil),
        bounds.writing(),
        allowance(),
    );
    let mut attendant = attendant(&ingress, &vigil, &shutdown, bounds.times);
    loop {
        let resting = Counted::new(&ingress.metrics.resting);
        let Some(Ok(version)) = attendant.attend(Opening::of(&mut stream), Opening::end).await else {
            break;
        };
        drop(resting);
        vigil.serve(version == Version::Http1);
        let shelf = Shelf::new();
        let lent = TokioIo::new(shelf.lend(stream));
        let served = Arc::clone(&visitor);
        // Not boxed: the library keeps room for it, and only for as long as the connection does not rest.
        let service = service_fn(move |request: Request<Incoming>| {
            let (turn, visitor) = (served.vigil.begin(), Arc::clone(&served));
            async move {
                let serving = visitor.ingress.serve(request.map(Inflow::Http), &visitor.client);
                let response = serving.await;
                if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                    visitor.vigil.set_upgraded();
                }
                Ok::<_, Infallible>(response.map(|body| Watched::new(body, turn)))
            }
        });
        // Boxed, so that nothing of it is kept while it rests.
        let ended = match version {
            Version::Http1 => {
                let connection = server.http1.serve_connection(lent, service).with_upgrades();
                let end = http1::UpgradeableConnection::graceful_shutdown;
                attendant.attend(Box::pin(connection), end).await
            }
            Version::Http2 => {
                let connection = server.http2.serve_connection(lent, service);
                attendant
                    .attend(Box::pin(connection), http2::Connection::graceful_shutdown)
                    .await
            }
        };
        let unfinished = match (ended, shelf.take()) {
            // A request that somebody has read, and nobody begun with, is lost: what comes next could be its body.
            (Some(Ok(())), Some(back)) if vigil.is_resting() && vigil.all_begun() && !attendant.draining => {
                stream = back;
                continue;
            }
            (Some(ended), back) => visitor.leaves(&ended, back),
            (None, _) => None,
        };
        if let Some(unfinished) = unfinished {
            Box::pin(linger(unfinished, PATIENCE, &shutdown)).await;
        }
        break;
    }
    count_flood(&ingress, &vigil);
}

/// What each request of a connection needs of it: one count of references, where each of these would have its own.
struct Visitor {
    ingress: Arc<Ingress>,
    client: Client,
    vigil: Arc<Vigil>,
}

impl Visitor {
    /// Its connection has ended so; what is left of it, where the client was told something while it still sends.
    fn leaves<S>(&self, ended: &hyper::Result<()>, back: Option<Guarded<S>>) -> Option<S> {
        let vigil = &self.vigil;
        // An error here is the client's: gone, or not speaking HTTP.
        if let Err(error) = ended {
            tracing::trace!(%error, client = ?self.client.address_header, "a connection ended");
            count_unreadable(&self.ingress, error, vigil);
        }
        let is_told = ended.as_ref().err().is_none_or(hyper::Error::is_parse)
            && !(vigil.is_late() || vigil.is_resting());
        back.filter(|_| is_told).and_then(Guarded::unfinished)
    }
}

/// Until a client says something, at first or again.
struct Opening<'s, S> {
    stream: &'s mut Guarded<S>,
    ended: bool,
}

impl<'s, S> Opening<'s, S> {
    fn of(stream: &'s mut Guarded<S>) -> Pin<Box<Self>> {
        Box::pin(Self { stream, ended: false })
    }

    fn end(mut self: Pin<&mut Self>) {
        self.ended = true;
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Future for Opening<'_, S> {
    type Output = io::Result<Version>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.ended {
            self.stream.hang_up(cx);
            return Poll::Ready(Err(io::ErrorKind::Interrupted.into()));
        }
        self.stream.poll_version(cx)
    }
}

/// What calls from beside a connection.
pub(super) enum Call {
    /// The proxy is to stop.
    Stop,
    /// A stage has lasted too long.
    Over(Stage),
    /// Nobody has needed it for a while.
    Rest,
}

fn calls(shutdown: &Shutdown, mut hourglass: Hourglass) -> impl Future<Output = Call> + Unpin {
    let (mut stopping, mut is_asked) = (Box::pin(shutdown.requested()), false);
    poll_fn(move |cx| {
        if !is_asked && stopping.as_mut().poll(cx).is_ready() {
            is_asked = true;
            return Poll::Ready(Call::Stop);
        }
        hourglass.poll(cx)
    })
}

/// Somebody who looks after a connection.
pub(super) fn attendant<'c>(
    ingress: &'c Ingress,
    vigil: &'c Arc<Vigil>,
    shutdown: &'c Shutdown,
    times: Times,
) -> Attendant<'c, impl Future<Output = Call> + Unpin + 'c> {
    let hourglass = Hourglass::new(Arc::clone(vigil), times);
    Attendant {
        ingress,
        vigil,
        bell: Bell::new(calls(shutdown, hourglass)),
        farewell: Farewell::default(),
        draining: false,
    }
}

/// Looks after a connection while it is served.
pub(super) struct Attendant<'c, B> {
    ingress: &'c Ingress,
    vigil: &'c Vigil,
    bell: Bell<B>,
    farewell: Farewell,
    draining: bool,
}

impl<B: Future<Output = Call> + Unpin> Attendant<'_, B> {
    /// Until it ends by itself, which `end` tells it to do at the next good moment; `None` when it is cut off.
    pub(super) async fn attend<T: Future>(
        &mut self,
        mut talk: Pin<Box<T>>,
        end: impl Fn(Pin<&mut T>),
    ) -> Option<T::Output> {
        loop {
            let event = poll_fn(|cx| {
                if let Poll::Ready(ended) = talk.as_mut().poll(cx) {
                    return Poll::Ready(Event::Ended(ended));
                }
                if !self.draining && self.farewell.poll(self.vigil, cx).is_ready() {
                    return Poll::Ready(Event::Leave);
                }
                Pin::new(&mut self.bell).poll(cx).map(Event::Call)
            });
            match event.await {
                Event::Ended(ended) => return Some(ended),
                Event::Call(Call::Stop) => self.farewell.begin(),
                Event::Leave => {
                    self.draining = true;
                    end(talk.as_mut());
                }
                Event::Call(Call::Rest) => {
                    self.vigil.rest();
                    end(talk.as_mut());
                }
                Event::Call(Call::Over(stage)) => match self.measure(stage) {
                    Some(Measure::SayLate) => self.vigil.set_late(),
                    Some(Measure::Drain) => {
                        self.draining = true;
                        end(talk.as_mut());
                    }
                    // It was told, and did not go.
                    Some(Measure::HangUp) | None => return None,
                },
            }
        }
    }

    /// What is to be done, which is counted.
    fn measure(&self, stage: Stage) -> Option<Measure> {
        let (measure, reason) = measure(stage, self.vigil.is_late(), self.draining)?;
        self.ingress.metrics.closed[reason as usize].inc();
        Some(measure)
    }
}

fn count_flood(ingress: &Ingress, vigil: &Vigil) {
    if vigil.has_flooded() {
        ingress.metrics.closed[Closed::Flood as usize].inc();
    }
}

/// Counts a head that the library refused by itself, before there was a request.
fn count_unreadable(ingress: &Ingress, error: &hyper::Error, vigil: &Vigil) {
    if vigil.is_late() {
        // It has been counted as that.
    } else if error.is_parse_too_large() {
        ingress.metrics.refused(Refusal::HEADERS_TOO_LARGE);
    } else if error.is_parse() {
        ingress.metrics.refused(Refusal::BAD_REQUEST);
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

/// What a connection may send that carries nothing.
pub(super) fn allowance() -> Allowance {
    Allowance {
        resets: Rate::new(RESETS.0, RESETS.1),
        idle: Rate::new(IDLE_FRAMES.0, IDLE_FRAMES.1),
    }
}

/// What can happen to a connection.
enum Event<R> {
    Ended(R),
    /// The proxy stops, and now is the moment.
    Leave,
    Call(Call),
}

/// When a connection is told to end after the proxy was: a client that is about to send its request must not find a closed
/// door, and hears it with its answer.
#[derive(Default)]
struct Farewell {
    linger: Option<Pin<Box<Sleep>>>,
}

impl Farewell {
    fn begin(&mut self) {
        self.linger = Some(Box::pin(tokio::time::sleep(LINGER)));
    }

    fn poll(&mut self, vigil: &Vigil, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.linger {
            None => Poll::Pending,
            Some(_) if matches!(vigil.stage().0, Stage::Busy | Stage::Stalled) => Poll::Ready(()),
            Some(linger) => linger.as_mut().poll(cx),
        }
    }
}
