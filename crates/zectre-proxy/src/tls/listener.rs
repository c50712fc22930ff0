//! The handshake: within its deadline, with HTTP/2 where the client can, and with a plain answer for plain HTTP.

use super::{
    Resolver,
    acme::challenge::{ALPN, Challenges},
    metrics::{Handshake, TlsMetrics},
};
use rustls::{ServerConfig, crypto::ring, server::Acceptor};
use std::{io, sync::Arc, time::Duration};
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

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

/// What came of a handshake that did not fail.
enum Shaken {
    Done(Box<(TlsStream<TcpStream>, Hello)>),
    Plain,
    Challenge,
}

/// Shows an ACME server what it looks for; nothing else is said on such a connection (RFC 8737, section 3).
async fn prove(
    challenges: &Challenges,
    start: StartHandshake<TcpStream>,
    hello: Hello,
) -> io::Result<Shaken> {
    let name = hello.server_name.unwrap_or_default();
    let config = challenges.handshake(&name).await;
    let config = config.ok_or_else(|| io::Error::other("no challenge is open for this name"))?;
    let mut stream = start.into_stream(config).await?;
    stream.shutdown().await?;
    Ok(Shaken::Challenge)
}

/// Ends TLS.
#[derive(Debug)]
pub struct Terminator {
    pub(super) config: Arc<ServerConfig>,
    challenges: Option<Arc<Challenges>>,
    pub(super) handshake_timeout: Duration,
    pub(super) metrics: TlsMetrics,
}

impl Terminator {
    /// With the certificates of `resolver`: TLS 1.2 and 1.3, the suites that rustls holds for safe, tickets so that a
    /// client that comes back is spared half of the handshake.
    pub fn new(
        resolver: Arc<Resolver>,
        challenges: Option<Arc<Challenges>>,
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
            challenges,
            handshake_timeout,
            metrics,
        })
    }

    /// Shakes hands; `None` when that came to nothing.
    pub async fn accept(&self, stream: TcpStream) -> Option<(TlsStream<TcpStream>, Hello)> {
        let (outcome, accepted) = match timeout(self.handshake_timeout, self.shake(stream)).await {
            Ok(Ok(Shaken::Done(accepted))) => (Handshake::Done, Some(*accepted)),
            Ok(Ok(Shaken::Plain)) => (Handshake::Plain, None),
            Ok(Ok(Shaken::Challenge)) => (Handshake::Challenge, None),
            Ok(Err(error)) => {
                tracing::trace!(%error, "a handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.metrics.handshake(outcome);
        accepted
    }

    async fn shake(&self, mut stream: TcpStream) -> io::Result<Shaken> {
        let mut first = [0];
        if stream.peek(&mut first).await? == 1 && first[0] != HANDSHAKE_RECORD {
            if first[0].is_ascii_uppercase() {
                // What stays unread would turn the end into a reset, and the answer could be lost.
                let _ = stream.try_read(&mut [0; 4_096]);
                stream.write_all(PLAIN).await?;
                stream.shutdown().await?;
            }
            return Ok(Shaken::Plain);
        }
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let hello = Hello {
            server_name: start.client_hello().server_name().map(str::to_ascii_lowercase),
        };
        if let Some(challenges) = &self.challenges
            && start
                .client_hello()
                .alpn()
                .is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN))
        {
            return prove(challenges, start, hello).await;
        }
        let stream = start.into_stream(Arc::clone(&self.config)).await?;
        Ok(Shaken::Done(Box::new((stream, hello))))
    }
}
