//! Takes connections: at most so many (more wait in the kernel's queue), each with a deadline for its first head,
//! and lets them finish at shutdown.

use super::{Ingress, client::Client, guard::Guarded};
use http::StatusCode;
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustix::net::sockopt;
use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use zectre_service::tasks::Shutdown;

use crate::{metrics::Counted, tls::Terminator, workers::Workers};

/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// A silent client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// Between attempts when the process is out of file descriptors: longest.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// What bounds connections.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// For a client to send a head.
    pub header_timeout: Duration,
    /// The largest head.
    pub header_bytes_max: usize,
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
        let Ok(stream) = stream.into_std() else { continue };
        let seat = workers.seat();
        let handle = seat.handle().clone();
        let (served_by, server, terminator) = (Arc::clone(&ingress), Arc::clone(&server), terminator.clone());
        let (cut, shutdown) = (ingress.cut.clone(), shutdown.clone());
        let connection = async move {
            let Ok(stream) = TcpStream::from_std(stream) else {
                return;
            };
            let _counted = Counted::new(&served_by.metrics.connections);
            let trusted = served_by.trust.holds(peer.ip());
            match terminator {
                None => {
                    let client = Client::new(peer, None, trusted);
                    connection(served_by, server, stream, client, bounds, shutdown).await;
                }
                Some(terminator) => {
                    if let Some((stream, hello)) = terminator.accept(stream).await {
                        let client = Client::new(peer, Some(hello), trusted);
                        connection(served_by, server, stream, client, bounds, shutdown).await;
                    }
                }
            }
        };
        let work = async move {
            cut.run_until_cancelled(connection).await;
            drop((slot, seat));
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
        .header_read_timeout(bounds.header_timeout)
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
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let client = Arc::new(client);
    let spoke = Arc::new(AtomicBool::new(false));
    let upgraded = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Guarded::new(
        stream,
        bounds.header_bytes_max,
        Arc::clone(&upgraded),
    ));
    let (seen, visitor) = (Arc::clone(&spoke), Arc::clone(&client));
    let service = service_fn(move |request| {
        seen.store(true, SeqCst);
        let (ingress, client, upgraded) = (Arc::clone(&ingress), Arc::clone(&visitor), Arc::clone(&upgraded));
        async move {
            let response = ingress.serve(request, &client).await;
            if response.status() == StatusCode::SWITCHING_PROTOCOLS {
                upgraded.store(true, SeqCst);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let mut connection = pin!(server.serve_connection_with_upgrades(io, service));
    // hyper's own deadline starts when it knows the protocol; a client that never says so has this one.
    let mut first_head = pin!(tokio::time::sleep(bounds.header_timeout));
    let mut stopping = pin!(shutdown.requested());
    let (mut waiting, mut draining) = (true, false);
    loop {
        tokio::select! {
            // An error here is the client's: gone, or not speaking HTTP.
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::trace!(%error, client = ?client.address_header, "a connection ended");
                }
                return;
            }
            () = stopping.as_mut(), if !draining => {
                draining = true;
                connection.as_mut().graceful_shutdown();
            }
            () = first_head.as_mut(), if waiting => {
                waiting = false;
                if !spoke.load(SeqCst) {
                    return;
                }
            }
        }
    }
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
