//! Why the proxy can't start. What goes wrong with one request is a [`crate::ingress::Refusal`].

use zectre_common::db::DbError;
use zectre_service::{key::KeyError, listen::BindError};

/// The proxy's errors.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port can't be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The service key is missing or unreadable.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The database's URL is wrong. (A database that is away is waited for.)
    #[error(transparent)]
    Database(#[from] DbError),
    /// The listener's own address can't be read.
    #[error("the address of the proxy's listener can't be read: {0}")]
    Address(#[source] std::io::Error),
    /// A certificate of the configuration can't be served.
    #[error(transparent)]
    Certificate(#[from] crate::tls::files::FileError),
    /// No certificate could be made for the platform's domain.
    #[error("no certificate could be made for proxy.domain: {0}")]
    SelfSigned(#[from] rcgen::Error),
    /// The key for external account binding is none.
    #[error("proxy.tls.acme.eab_hmac is not base64url: give it as the ACME server gave it")]
    Binding,
    /// TLS can't be set up.
    #[error("TLS can't be set up: {0}")]
    Tls(#[from] rustls::Error),
    /// The access log can't be opened.
    #[error("the access log can't be opened at `{0}` (proxy.access_log.target): {1}")]
    AccessLog(String, #[source] std::io::Error),
    /// A process that serves now was found, and did not give its listeners.
    #[error("the process at {path} (proxy.handover_path) does not hand over its listeners: {source}")]
    Handover {
        /// Where.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// HTTP/3 is asked for, and this program can't speak it.
    #[error(
        "proxy.http3_listen is set, and this program was built without HTTP/3: build zectre-proxy with `--features http3`, or leave \
         the key empty"
    )]
    NoHttp3,
    /// The port for HTTP/3 can't be opened.
    #[error("zectre-proxy can't listen on {0} (UDP, proxy.http3_listen): {1}")]
    Http3(std::net::SocketAddr, #[source] std::io::Error),
    /// A service manager gave sockets that can't be used.
    #[error("the sockets that this process was given (LISTEN_FDS) can't be used: {0}")]
    Activation(String),
    /// The threads that carry connections can't be started.
    #[error("the proxy's threads can't be started: {0}")]
    Workers(#[source] std::io::Error),
}
