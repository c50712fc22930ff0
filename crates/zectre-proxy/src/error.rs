//! Why the proxy can't start. What goes wrong with one request is a [`crate::ingress::Refusal`].

use zectre_common::db::DbError;
use zectre_service::{key::KeyError, server::BindError};

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
    /// The threads that carry connections can't be started.
    #[error("the proxy's threads can't be started: {0}")]
    Workers(#[source] std::io::Error),
}
