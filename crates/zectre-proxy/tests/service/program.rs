//! A program that accepts connections and does with each what a test says.

use std::{future::Future, net::SocketAddr};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Dropping it closes its listener and every connection at once, like a kill.
pub(crate) struct Program {
    pub(crate) address: SocketAddr,
    _running: JoinSet<()>,
}

impl Program {
    /// `handle` has each connection, beside the others.
    pub(crate) async fn new<F: Future<Output = ()> + Send + 'static>(
        handle: impl FnMut(TcpStream) -> F + Send + 'static,
    ) -> Self {
        Self::at(([127, 0, 0, 1], 0).into(), handle).await
    }

    /// The same at `address`, which is free.
    pub(crate) async fn at<F: Future<Output = ()> + Send + 'static>(
        address: SocketAddr,
        mut handle: impl FnMut(TcpStream) -> F + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(handle(stream));
            }
        });
        Self {
            address,
            _running: running,
        }
    }
}
