//! Takes connections: at most so many (more wait in the kernel's queue), and of each client not too many; lets them
//! finish at shutdown.

use super::{
    Ingress,
    bell::until,
    client::Client,
    connection::{self, Bounds, Server},
    crowd::{Admission, Guest},
    proxy_protocol,
    vigil::{Place, Stage},
};
use rustix::net::{SocketFlags, sockopt};
use std::{io, net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use zectre_service::tasks::Shutdown;

use crate::{
    metrics::{Closed, Counted, Metrics},
    raw,
    tls::Terminator,
    workers::Workers,
};

/// A silent client is asked whether it is still there.
pub(super) const KEEPALIVE: Duration = Duration::from_secs(60);
/// Between attempts when the process is out of file descriptors: longest.
const ACCEPT_PAUSE_MAX: Duration = Duration::from_secs(1);

/// For a client with too many connections; others than those of plain HTTP are not talked to.
const TOO_MANY: &[u8] =
    b"HTTP/1.1 429 Too Many Requests\r\nx-error-detail: too many connections from your address\r\n\
    retry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// A listener, and how connections begin there.
#[derive(Debug)]
pub struct Entrance {
    /// Where they come in; another process may be given it meanwhile.
    pub listener: Arc<TcpListener>,
    /// What comes in.
    pub kind: Kind,
    /// Those of trusted peers begin with a header of the PROXY protocol.
    pub proxy_protocol: bool,
}

/// What connections of a listener carry.
#[derive(Debug, Clone)]
pub enum Kind {
    /// HTTP.
    Plain,
    /// HTTP behind a handshake.
    Tls(Arc<Terminator>),
    /// Bytes for the environment that has this port; connections on which nothing moves for so long end.
    Raw(u16, Duration),
}

impl Kind {
    /// Whether a client can be told in plain HTTP.
    fn is_plain(&self) -> bool {
        matches!(self, Self::Plain)
    }
}

/// Serves connections until `shutdown`; those that are open then go on, and end with their request. `slots` bounds
/// them, over all listeners.
pub async fn run(
    ingress: Arc<Ingress>,
    workers: Workers,
    entrance: Entrance,
    slots: Arc<Semaphore>,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let Entrance {
        listener,
        kind,
        proxy_protocol,
    } = entrance;
    let reset = ingress.metrics.streams_reset.clone();
    let hall = Hall {
        ingress,
        workers,
        server: Arc::new(Server::new(bounds, reset)),
        kind,
        proxy_protocol,
        bounds,
        shutdown: shutdown.clone(),
    };
    while let Some((stream, peer)) = shutdown.or_requested(accept(&listener)).await {
        // Not before: a listener at which nobody comes must not keep a slot from the others.
        let Some(slot) = place(&slots, &hall.ingress.metrics, &shutdown).await else {
            break;
        };
        hall.receive(stream, peer, slot);
    }
    for (stream, peer, slot) in queued(&listener, &slots) {
        hall.receive(stream, peer, slot);
    }
}

/// One of the slots, waited for where all are taken. One more than there are where the shutdown comes first: whoever was accepted can be
/// served by nobody else.
async fn place(
    slots: &Arc<Semaphore>,
    metrics: &Metrics,
    shutdown: &Shutdown,
) -> Option<OwnedSemaphorePermit> {
    let free = || Arc::clone(slots).try_acquire_owned().ok();
    if let Some(slot) = free() {
        return Some(slot);
    }
    metrics.connections_waited.inc();
    match shutdown.or_requested(Arc::clone(slots).acquire_owned()).await {
        Some(slot) => slot.ok(),
        None => free().or_else(|| Arc::new(Semaphore::new(1)).try_acquire_owned().ok()),
    }
}

/// The connections that the kernel has made already, and would break when the listener closes.
fn queued(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> impl Iterator<Item = (TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    std::iter::from_fn(move || {
        let slot = Arc::clone(slots).try_acquire_owned().ok()?;
        // Asked directly: the runtime may not have heard of them yet.
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (stream, peer) = rustix::net::acceptfrom_with(listener, flags).ok()?;
        let stream = TcpStream::from_std(stream.into()).ok()?;
        let peer = peer?.try_into().ok()?;
        let _ = tune(&stream);
        Some((stream, peer, slot))
    })
}

/// What connections of one listener share.
struct Hall {
    ingress: Arc<Ingress>,
    workers: Workers,
    server: Arc<Server>,
    kind: Kind,
    proxy_protocol: bool,
    bounds: Bounds,
    shutdown: Shutdown,
}

impl Hall {
    /// Gives a connection to a worker, which serves it.
    fn receive(&self, stream: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let (ingress, bounds, plain) = (&self.ingress, self.bounds, self.kind.is_plain());
        let Some(arrival) = Arrival::of(ingress, &stream, peer, plain) else {
            return;
        };
        // It moves to its worker's runtime; a failure means that its client is gone already.
        let Ok(stream) = stream.into_std() else { return };
        let seat = self.workers.seat();
        let handle = seat.handle().clone();
        let counted = Counted::new(&ingress.metrics.connections);
        let (served_by, server, kind) = (Arc::clone(ingress), Arc::clone(&self.server), self.kind.clone());
        let (cut, shutdown, proxy_protocol) =
            (ingress.cut.clone(), self.shutdown.clone(), self.proxy_protocol);
        // What is boxed in here would be room that each connection keeps for its whole life, and three times over: of
        // what it is handed on to by value every future keeps a copy.
        let connection = async move {
            let Ok(mut stream) = TcpStream::from_std(stream) else {
                return;
            };
            let mut arrival = arrival;
            if proxy_protocol && arrival.trusted {
                match Box::pin(arrival.introduced(&served_by, &mut stream, bounds, plain)).await {
                    Some(introduced) => arrival = introduced,
                    None => return,
                }
            }
            let Arrival { peer, trusted, guest } = arrival;
            let place = Place {
                slot,
                guest,
                seat,
                counted,
            };
            match kind {
                Kind::Plain => {
                    let client = Client::new(peer, None, trusted);
                    let serving =
                        connection::serve(served_by, server, stream, client, place, bounds, shutdown);
                    Box::pin(serving).await;
                }
                Kind::Raw(port, idle) => {
                    let serving = raw::serve(served_by, stream, peer.ip(), port, place, idle);
                    Box::pin(serving).await;
                }
                Kind::Tls(terminator) => {
                    if let Some((stream, hello)) = Box::pin(terminator.accept(stream)).await {
                        let client = Client::new(peer, Some(hello), trusted);
                        let serving =
                            connection::serve(served_by, server, stream, client, place, bounds, shutdown);
                        Box::pin(serving).await;
                    }
                }
            }
        };
        let work = async move {
            until(cut.cancelled(), pin!(connection)).await;
        };
        ingress.connections.spawn_on(work, &handle);
    }
}

/// Who comes.
#[derive(Debug)]
struct Arrival {
    peer: SocketAddr,
    trusted: bool,
    /// Of its connections; load balancers of ours bring many clients.
    guest: Option<Guest>,
}

impl Arrival {
    /// `None` when it has too many connections, and has been told so.
    fn of(ingress: &Ingress, stream: &TcpStream, peer: SocketAddr, plain: bool) -> Option<Self> {
        let Some(Admission { trusted, guest }) = ingress.let_in(peer.ip()) else {
            turn_away(stream, plain);
            return None;
        };
        Some(Self { peer, trusted, guest })
    }

    /// Whom a load balancer brings. `None` when it doesn't say so in time, or in words that nobody understands.
    async fn introduced(
        self,
        ingress: &Ingress,
        stream: &mut TcpStream,
        bounds: Bounds,
        plain: bool,
    ) -> Option<Self> {
        let patience = bounds.times.of(Stage::New).unwrap_or(KEEPALIVE);
        let read = timeout(patience, proxy_protocol::read(stream)).await;
        match read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            Ok(Some(client)) => Self::of(ingress, stream, client, plain),
            Ok(None) => Some(self),
            Err(error) => {
                tracing::debug!(%error, peer = %self.peer, "a trusted peer sent no header of the PROXY protocol");
                ingress.metrics.closed[Closed::ProxyProtocol as usize].inc();
                None
            }
        }
    }
}

/// Says why, as far as that goes without waiting: nothing is kept for a connection that is not wanted.
fn turn_away(stream: &TcpStream, plain: bool) {
    if plain {
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
