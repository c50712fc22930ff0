//! Takes connections: at most so many (more wait in the kernel's queue), of each client not too many, each with a
//! deadline for whatever its client may be slow with, and lets them finish at shutdown.

use super::{
    Ingress, Refusal,
    client::{Client, ClientKey},
    guard::Guarded,
    pace::Pace,
    vigil::{Place, Stage, Times, Vigil, Watched},
    watch::Watch,
};
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustix::net::sockopt;
use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Sleep,
};
use zectre_common::config::ProxyConfig;
use zectre_service::tasks::Shutdown;

use crate::{
    metrics::{Closed, Counted},
    tls::Terminator,
    workers::Workers,
};

/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// A silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// A connection without a request is closed so long after the proxy was asked to stop.
const LINGER: Duration = Duration::from_secs(1);
/// Between attempts when the process is out of file descriptors: longest.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// For a client with too many connections; TLS clients are not talked to.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nx-error-detail: too many connections from your address\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

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

/// Serves connections until `shutdown`; those that are open then go on, and end with their request. `slots` bounds
/// them, over all listeners; with a `terminator` they begin with a handshake.
pub async fn run(
    ingress: Arc<Ingress>,
    workers: Workers,
    listener: TcpListener,
    terminator: Option<Arc<Terminator>>,
    slots: Arc<Semaphore>,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let server = Arc::new(server(bounds));
    loop {
        let next = async {
            let slot = Arc::clone(&slots)
                .acquire_owned()
                .await
                .expect("the semaphore is never closed");
            (accept(&listener).await, slot)
        };
        let Some(((stream, peer), slot)) = shutdown.or_requested(next).await else {
            return;
        };
        // It moves to its worker's runtime; a failure means that its client is gone already.
        let trusted = ingress.trust.holds(peer.ip());
        let guest = if trusted {
            // It brings many clients.
            None
        } else {
            match ingress.crowd.enter(ClientKey::new(peer.ip())) {
                Some(guest) => Some(guest),
                None => {
                    ingress.metrics.refused(Refusal::TOO_MANY_CONNECTIONS);
                    turn_away(&stream, terminator.is_some());
                    continue;
                }
            }
        };
        let Ok(stream) = stream.into_std() else { continue };
        let seat = workers.seat();
        let handle = seat.handle().clone();
        let place = Place {
            slot,
            guest,
            seat,
            counted: Counted::new(&ingress.metrics.connections),
        };
        let (served_by, server, terminator) = (Arc::clone(&ingress), Arc::clone(&server), terminator.clone());
        let (cut, shutdown) = (ingress.cut.clone(), shutdown.clone());
        let connection = async move {
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            match terminator {
                None => {
                    let client = Client::new(peer, None, trusted);
                    connection(served_by, server, stream, client, place, bounds, shutdown).await;
                }
                Some(terminator) => {
                    if let Some((stream, hello)) = terminator.accept(stream).await {
                        let client = Client::new(peer, Some(hello), trusted);
                        connection(served_by, server, stream, client, place, bounds, shutdown).await;
                    }
                }
            }
        };
        let work = async move {
            cut.run_until_cancelled(connection).await;
        };
        ingress.connections.spawn_on(work, &handle);
    }
}

fn server(bounds: Bounds) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    // hyper's least buffer is 8 KiB.
    let head_bytes_max = bounds.header_bytes_max.max(8_192);
    server
        .http1()
        .timer(TokioTimer::new())
        // Its clock runs between two requests, too; ours knows the one from the other.
        .header_read_timeout(None)
        .max_buf_size(head_bytes_max);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(head_bytes_max).unwrap_or(u32::MAX))
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(KEEPALIVE);
    server
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
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
    ));
    let (serving, visitor, watch) = (Arc::clone(&ingress), Arc::clone(&client), Arc::clone(&vigil));
    let service = service_fn(move |request| {
        let turn = watch.begin();
        let (ingress, client, vigil) = (Arc::clone(&serving), Arc::clone(&visitor), Arc::clone(&watch));
        async move {
            let response = ingress.serve(request, &client).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                vigil.set_upgraded();
            }
            Ok::<_, Infallible>(response.map(|body| Watched::new(body, turn)))
        }
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
                }
                return;
            }
            Event::Stop => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            Event::Over(stage) => {
                let (reason, ends) = match stage {
                    // It ends by itself when it is read from.
                    Stage::Head if !vigil.is_late() => {
                        vigil.set_late();
                        (Closed::HeaderTimeout, false)
                    }
                    // A request may come at this moment: the library knows, and ends the connection if not.
                    Stage::Idle if !draining => {
                        draining = true;
                        connection.as_mut().graceful_shutdown();
                        (Closed::IdleTimeout, false)
                    }
                    Stage::New => (Closed::HeaderTimeout, true),
                    Stage::Stalled => (Closed::WriteTimeout, true),
                    // It was told, and did not go.
                    Stage::Head | Stage::Idle | Stage::Busy => return,
                };
                ingress.metrics.closed[reason as usize].inc();
                if ends {
                    return;
                }
            }
        }
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

/// Says why, as far as that goes without waiting: nothing is kept for a connection that is not wanted.
fn turn_away(stream: &TcpStream, tls: bool) {
    if !tls {
        // What stays unread would turn the end into a reset, and the answer would be lost.
        let _ = stream.try_read(&mut [0; 4_096]);
        let _ = stream.try_write(TOO_MANY);
    }
    let _ = rustix::net::shutdown(stream, rustix::net::Shutdown::Write);
}

/// Accepts; errors that concern the process (no file descriptors) are waited out instead of spun on.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    let mut pause = Duration::from_millis(5);
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                // A failure means that the client is gone already, which its connection will notice.
                let _ = tune(&stream);
                return (stream, peer);
            }
            Err(error) => {
                tracing::warn!(%error, "could not accept a connection");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE_MAX);
            }
        }
    }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    // Small answers must not wait for more data; a client that vanished must not hold a tunnel for ever.
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    Ok(sockopt::set_tcp_keepidle(stream, KEEPALIVE)?)
}
