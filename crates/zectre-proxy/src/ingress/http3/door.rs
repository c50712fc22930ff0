//! Lets connections of HTTP/3 in: as many as of the others, counted together with them. Where many shake hands at once, a client
//! must first show that it receives what is sent to its address.

use super::connection;
use crate::{
    Error,
    ingress::{
        Ingress,
        accept::KEEPALIVE,
        bell::until,
        client::Client,
        connection::{Bounds, STREAMS_MAX},
        crowd::Admission,
        vigil::Place,
    },
    metrics::Counted,
    tls::{self, Terminator},
    workers::Workers,
};
use quinn::{Endpoint, EndpointConfig, IdleTimeout, Incoming, ServerConfig, TokioRuntime, TransportConfig};
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    pin::pin,
    sync::Arc,
    time::Duration,
};
use tokio::{sync::Semaphore, time::timeout};
use tokio_util::task::TaskTracker;
use zectre_common::config::ProxyConfig;
use zectre_service::tasks::Shutdown;

/// Handshakes with addresses that may be anybody's.
const HANDSHAKES_MAX: usize = 64;
/// How often a client is asked whether it is still there; nobody else has an answer to wait for.
const ASK_EVERY: Duration = Duration::from_secs(15);
/// What a client sends in one direction: settings, and two for compressed headers; browsers add one that says nothing.
const ONE_WAY_STREAMS_MAX: u32 = 16;
/// Of one body, sent before anybody has read it.
const STREAM_BYTES_MAX: u32 = 512 * 1_024;
/// Of all bodies of a connection, in each direction.
const CONNECTION_BYTES_MAX: u32 = 1_024 * 1_024;
/// Connections that nobody has looked at yet, and what they may send meanwhile.
const WAITING_MAX: usize = 1_024;
const WAITING_BYTES_MAX: u64 = 16 * 1_024;
/// How long the last words may take, and the first ones of whoever comes just before a stop.
const GOODBYE: Duration = Duration::from_secs(1);
/// Between attempts to listen where the process before this one still does.
const TRY_EVERY: Duration = Duration::from_millis(200);

/// Where connections come in.
#[derive(Debug)]
pub(crate) struct Door {
    /// None while the process before this one holds it.
    socket: Option<UdpSocket>,
    address: SocketAddr,
    /// What clients are told, where that is another port.
    public_port: Option<u16>,
    config: ServerConfig,
    terminator: Arc<Terminator>,
}

impl Door {
    /// At `proxy.http3_listen`. `follows` when there is a process before this one: it keeps its socket until its
    /// connections have ended.
    pub(crate) fn open(
        config: &ProxyConfig,
        setup: &tls::Setup,
        follows: bool,
    ) -> Result<Option<Self>, Error> {
        let Some(address) = config.http3_address() else {
            return Ok(None);
        };
        let socket = match UdpSocket::bind(address) {
            Ok(socket) => Some(socket),
            Err(error) if follows && error.kind() == io::ErrorKind::AddrInUse => None,
            Err(error) => return Err(Error::Http3(address, error)),
        };
        let bound = socket.as_ref().map(UdpSocket::local_addr).transpose();
        Ok(Some(Self {
            address: bound.map_err(Error::Address)?.unwrap_or(address),
            socket,
            public_port: Some(config.tls.public_port)
                .filter(|port| *port > 0 && address.port() == config.tls.port),
            config: server_config(&setup.terminator)?,
            terminator: Arc::clone(&setup.terminator),
        }))
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The socket, once the process before this one has left it.
    async fn socket(&mut self) -> UdpSocket {
        loop {
            if let Some(socket) = self.socket.take() {
                return socket;
            }
            tokio::time::sleep(TRY_EVERY).await;
            self.socket = UdpSocket::bind(self.address).ok();
        }
    }
}

/// What all connections are served with.
fn server_config(terminator: &Terminator) -> Result<ServerConfig, Error> {
    let silence = IdleTimeout::try_from(KEEPALIVE).expect("a minute fits");
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(STREAMS_MAX.into())
        .max_concurrent_uni_streams(ONE_WAY_STREAMS_MAX.into())
        .stream_receive_window(STREAM_BYTES_MAX.into())
        .receive_window(CONNECTION_BYTES_MAX.into())
        .send_window(CONNECTION_BYTES_MAX.into())
        .datagram_receive_buffer_size(None)
        .keep_alive_interval(Some(ASK_EVERY))
        .max_idle_timeout(Some(silence));
    let mut config = ServerConfig::with_crypto(terminator.quic_config()?);
    config
        .transport_config(Arc::new(transport))
        // What is counted by client is counted by address: it stays the one that the handshake was with.
        .migration(false)
        .max_incoming(WAITING_MAX)
        .incoming_buffer_size(WAITING_BYTES_MAX)
        .incoming_buffer_size_total(WAITING_BYTES_MAX * WAITING_MAX as u64);
    Ok(config)
}

/// What connections share.
pub(crate) struct Hall {
    pub(crate) ingress: Arc<Ingress>,
    pub(crate) workers: Workers,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) bounds: Bounds,
    pub(crate) shutdown: Shutdown,
}

impl Hall {
    /// Serves connections until the shutdown; those that are open then go on, and end with their requests. `wires` waits for
    /// their last words.
    pub(crate) async fn run(self, door: Option<Door>, wires: &TaskTracker) {
        let Some(mut door) = door else { return };
        let Some(socket) = self.shutdown.or_requested(door.socket()).await else {
            return;
        };
        let address = door.address;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = match Endpoint::new(EndpointConfig::default(), Some(door.config), socket, runtime) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                tracing::error!(%address, %error, "HTTP/3 is not served: its socket can't be used");
                return;
            }
        };
        tracing::info!(%address, "and HTTP/3");
        let tls = self.ingress.tls.as_deref();
        if let Some(tls) = tls {
            tls.advertise(door.public_port.unwrap_or(address.port()));
        }
        let handshakes = Arc::new(());
        while let Some(Some(incoming)) = self.shutdown.or_requested(endpoint.accept()).await {
            self.receive(incoming, &door.terminator, &handshakes);
        }
        if let Some(tls) = tls {
            tls.withdraw();
        }
        endpoint.set_server_config(None);
        let ingress = Arc::clone(&self.ingress);
        wires.spawn(async move {
            ingress.connections.wait().await;
            // A client that has not heard the end would wait for it.
            let _ = timeout(GOODBYE, endpoint.wait_idle()).await;
        });
    }

    /// Gives a connection to a worker, which serves it. `handshakes` has a clone for each that is under way.
    fn receive(&self, incoming: Incoming, terminator: &Arc<Terminator>, handshakes: &Arc<()>) {
        let ingress = &self.ingress;
        let peer = incoming.remote_address();
        if !incoming.remote_address_validated() && Arc::strong_count(handshakes) > HANDSHAKES_MAX {
            // It fails for those that have been asked already, and have shown it: they are validated.
            let _ = incoming.retry();
            return;
        }
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            // It asks again by itself, as one that waits in the kernel's queue for TCP.
            ingress.metrics.connections_waited.inc();
            incoming.ignore();
            return;
        };
        let Some(Admission { trusted, guest }) = ingress.let_in(peer.ip()) else {
            incoming.refuse();
            return;
        };
        let seat = self.workers.seat();
        let handle = seat.handle().clone();
        let place = Place {
            slot,
            guest,
            seat,
            counted: Counted::new(&ingress.metrics.connections),
        };
        let (served_by, terminator, handshake) = (
            Arc::clone(ingress),
            Arc::clone(terminator),
            Arc::clone(handshakes),
        );
        let (cut, bounds, shutdown) = (ingress.cut.clone(), self.bounds, self.shutdown.clone());
        let connection = async move {
            let accepted = Box::pin(shaken(terminator.accept_quic(incoming), &shutdown)).await;
            drop(handshake);
            if let Some((quic, hello)) = accepted {
                let client = Client::new(peer, Some(hello), trusted);
                Box::pin(connection::serve(
                    served_by, quic, client, place, bounds, shutdown,
                ))
                .await;
            }
        };
        let work = async move {
            until(cut.cancelled(), pin!(connection)).await;
        };
        ingress.connections.spawn_on(work, &handle);
    }
}

/// A handshake that is under way at a stop is given a moment more: its client may be nobody, and the next process has no socket
/// before this one has ended.
async fn shaken<T>(handshake: impl Future<Output = Option<T>>, shutdown: &Shutdown) -> Option<T> {
    let mut handshake = pin!(handshake);
    match shutdown.or_requested(&mut handshake).await {
        Some(accepted) => accepted,
        None => timeout(GOODBYE, handshake).await.ok().flatten(),
    }
}
