//! A certificate of a test's own, and the file by which clients are told to believe it.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use std::{path::Path, sync::Arc};
use tempfile::NamedTempFile;
use tokio_rustls::TlsAcceptor;

/// A self-signed certificate, and what serves with it.
pub struct TestCertificate {
    acceptor: TlsAcceptor,
    authority: NamedTempFile,
}

impl TestCertificate {
    /// For a host name or an address.
    pub fn of(name: &str) -> Self {
        let key = KeyPair::generate().expect("keys can be made");
        let certificate = CertificateParams::new(vec![name.to_owned()])
            .expect("a name")
            .self_signed(&key)
            .expect("signs");
        let authority = NamedTempFile::new().expect("the temporary directory is writable");
        std::fs::write(authority.path(), certificate.pem()).expect("writable");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has them")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.der().clone()],
                PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())),
            )
            .expect("they belong together");
        Self {
            acceptor: TlsAcceptor::from(Arc::new(config)),
            authority,
        }
    }

    /// Serves with it.
    pub fn acceptor(&self) -> TlsAcceptor {
        self.acceptor.clone()
    }

    /// A PEM file; whoever trusts it trusts the certificate. It goes with the value.
    pub fn authority(&self) -> &Path {
        self.authority.path()
    }
}
