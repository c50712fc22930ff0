//! The handshake: within its deadline, with HTTP/2 where the client can, and with a plain answer for plain HTTP.

use super::{
    Resolver,
    metrics::{Handshake, TlsMetrics},
};
use rustls::{ServerConfig, crypto::ring, server::Acceptor};
use std::{io, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

/// The first byte of every TLS connection: a record of the handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 0x16;
/// For a client that speaks plain HTTP. It says no more than any name would be told.
const PLAIN: &[u8] = b"HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain\r\ncontent-length: 59\r\n\
    connection: close\r\n\r\nthis port speaks TLS: put https:// in front of the address\n";

/// What the client said before there was any request.
#[derive(Debug, Clone)]
pub struct Hello {
    /// The name it wants to talk to, lower case; a client that was given an address sends none.
    pub server_name: Option<String>,
}

/// Ends TLS.
#[derive(Debug)]
pub struct Terminator {
    config: Arc<ServerConfig>,
    handshake_timeout: Duration,
    metrics: TlsMetrics,
}

impl Terminator {
    /// With the certificates of `resolver`: TLS 1.2 and 1.3, the suites that rustls holds for safe, tickets so that a
    /// client that comes back is spared half of the handshake.
    pub fn new(
        resolver: Arc<Resolver>,
        handshake_timeout: Duration,
        metrics: TlsMetrics,
    ) -> Result<Self, rustls::Error> {
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(resolver);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = ring::Ticketer::new()?;
        Ok(Self {
            config: Arc::new(config),
            handshake_timeout,
            metrics,
        })
    }

    /// Shakes hands; `None` when that came to nothing.
    pub async fn accept(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Hello)> {
        let (outcome, accepted) = match timeout(self.handshake_timeout, self.shake(stream)).await {
            Ok(Ok(Some(accepted))) => (Handshake::Done, Some(accepted)),
            Ok(Ok(None)) => (Handshake::Plain, None),
            Ok(Err(error)) => {
                tracing::trace!(%error, "a handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.metrics.handshake(outcome);
        accepted
    }

    async fn shake(&self, mut stream: TcpStream) -> io::Result<Option<(TlsStream<TcpStream>, Hello)>> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            if first[0].is_ascii_uppercase() {
                stream.write_all(PLAIN).await?;
                stream.shutdown().await?;
            }
            return Ok(None);
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = Hello {
            server_name: start.client_hello().server_name().map(str::to_ascii_lowercase),
        };
        let stream = start.into_stream(Arc::clone(&self.config)).await?;
        Ok(Some((stream, hello)))
    }
}
