//! Stands between the proxy and a server, and keeps every byte of both: what a server understood is told by what it
//! answered on the wire, also by answers that nobody asked for.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

/// One connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wire {
    /// What the proxy wrote.
    pub(crate) asked: Vec<u8>,
    /// What the server wrote.
    pub(crate) answered: Vec<u8>,
}

type Wires = Arc<Mutex<Vec<Wire>>>;

pub(crate) struct Tap {
    pub(crate) address: SocketAddr,
    wires: Wires,
    _running: JoinSet<()>,
}

impl Tap {
    pub(crate) async fn before(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let wires = Wires::default();
        let kept = Arc::clone(&wires);
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((proxy, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(server).await else {
                    continue;
                };
                let index = {
                    let mut wires = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    wires.push(Wire::default());
                    wires.len() - 1
                };
                let (from_proxy, to_proxy) = proxy.into_split();
                let (from_server, to_server) = server.into_split();
                open.spawn(copy(from_proxy, to_server, Arc::clone(&kept), index, |wire| {
                    &mut wire.asked
                }));
                open.spawn(copy(from_server, to_proxy, Arc::clone(&kept), index, |wire| {
                    &mut wire.answered
                }));
            }
        });
        Self {
            address,
            wires,
            _running: running,
        }
    }

    pub(crate) fn wires(&self) -> Vec<Wire> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    wires: Wires,
    index: usize,
    side: fn(&mut Wire) -> &mut Vec<u8>,
) {
    let mut bytes = vec![0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        side(&mut wires.lock().unwrap_or_else(PoisonError::into_inner)[index])
            .extend_from_slice(&bytes[..count]);
        if to.write_all(&bytes[..count]).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
