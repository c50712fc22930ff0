//! TLS towards an API: the machine's authorities are believed, or those that `SSL_CERT_FILE` and `SSL_CERT_DIR` name in
//! their place.

use rustls::{CertificateError, ClientConfig, RootCertStore};
use std::{error::Error, io, sync::Arc};

/// For one client. Authorities are only read for one that is `secure`; nothing that comes believes in any certificate
/// without them.
///
/// # Errors
/// The provider has no usable protocol version.
pub(crate) fn config(secure: bool) -> Result<ClientConfig, rustls::Error> {
    let mut roots = RootCertStore::empty();
    if secure {
        // Without one usable authority nothing is trusted, and the failed call says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The cause of `error` that is TLS's own.
pub(crate) fn failure<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e rustls::Error> {
    let mut cause = Some(error);
    while let Some(at) = cause {
        if let Some(found) = at.downcast_ref() {
            return Some(found);
        }
        // What an I/O error wraps is not its source: that is the source of what it wraps.
        let wrapped = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => at.source(),
        };
    }
    None
}

/// What to do about it.
pub(crate) fn advice(failure: &rustls::Error) -> &'static str {
    use CertificateError as Why;
    match failure {
        // A bad signature is what an unknown issuer gives that has the name of a known one.
        rustls::Error::InvalidCertificate(Why::UnknownIssuer | Why::BadSignature) => {
            "If it is yours, name its authority's PEM file in SSL_CERT_FILE, or add that to this machine's authorities"
        }
        rustls::Error::InvalidCertificate(Why::NotValidForName | Why::NotValidForNameContext { .. }) => {
            "Write the address with a name that the certificate has"
        }
        rustls::Error::InvalidCertificate(
            Why::Expired | Why::ExpiredContext { .. } | Why::NotValidYet | Why::NotValidYetContext { .. },
        ) => "Have it renewed, and check this machine's clock",
        rustls::Error::InvalidCertificate(_) => "Have the server's certificate replaced",
        _ => "Check that the address is one of https and not of http",
    }
}
