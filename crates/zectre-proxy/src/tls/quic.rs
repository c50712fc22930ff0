//! The handshake of QUIC: the same certificates, the same deadline, and HTTP/3 alone.

use super::{
    listener::{Hello, Terminator},
    metrics::Handshake,
};
use quinn::{
    Incoming,
    crypto::rustls::{HandshakeData, QuicServerConfig},
};
use std::sync::Arc;
use tokio::time::timeout;

/// What HTTP/3 is called in a handshake.
const HTTP3: &[u8] = b"h3";

impl Terminator {
    /// With the certificates of this one. A client's first words may come again from anybody, so none are taken before its
    /// handshake is done.
    pub(crate) fn quic_config(&self) -> Result<Arc<QuicServerConfig>, rustls::Error> {
        let mut config = (*self.config).clone();
        config.alpn_protocols = vec![HTTP3.to_vec()];
        config.max_early_data_size = 0;
        let config = QuicServerConfig::try_from(config);
        config
            .map(Arc::new)
            .map_err(|error| rustls::Error::General(error.to_string()))
    }

    /// Shakes hands; `None` when that came to nothing.
    pub(crate) async fn accept_quic(&self, incoming: Incoming) -> Option<(quinn::Connection, Hello)> {
        let (outcome, accepted) = match timeout(self.handshake_timeout, incoming).await {
            Ok(Ok(quic)) => (Handshake::Done, Some(quic)),
            Ok(Err(error)) => {
                tracing::trace!(%error, "a handshake failed");
                (Handshake::Failed, None)
            }
            Err(_) => (Handshake::TimedOut, None),
        };
        self.metrics.handshake(outcome);
        let quic = accepted?;
        let hello = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
        let server_name = hello.server_name.map(|name| name.to_ascii_lowercase());
        Some((quic, Hello { server_name }))
    }
}
