//! TLS towards outside: the machine's authorities, and those of a file.

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

/// Which certificates are believed.
pub(crate) struct Tls {
    ca_file: PathBuf,
    /// The configuration's name of the file.
    key: &'static str,
    config: OnceLock<Arc<ClientConfig>>,
}

impl Tls {
    /// Beside the machine's authorities those in `ca_file`, which the configuration calls `key`.
    pub(crate) fn new(ca_file: &Path, key: &'static str) -> Self {
        Self {
            ca_file: ca_file.into(),
            key,
            config: OnceLock::new(),
        }
    }

    /// Over `stream` with `host`.
    ///
    /// # Errors
    /// A sentence that says what failed.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream<TcpStream>, String> {
        let name = ServerName::try_from(bare_host(host).to_owned())
            .map_err(|_| format!("`{host}` is not a name that a certificate can have"))?;
        let connector = TlsConnector::from(self.config()?);
        connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS with `{host}` failed ({error})"))
    }

    /// Made when it is first needed: most clusters never call anything.
    fn config(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.config.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        // Without one usable authority nothing is trusted, and the failed call says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if !self.ca_file.as_os_str().is_empty() {
            let problem = |error: &dyn std::fmt::Display| {
                format!("{} {} can't be used ({error})", self.key, self.ca_file.display())
            };
            for one in CertificateDer::pem_file_iter(&self.ca_file).map_err(|error| problem(&error))? {
                let one = one.map_err(|error| problem(&error))?;
                roots.add(one).map_err(|error| problem(&error))?;
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up ({error})"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.config.get_or_init(|| Arc::new(config))))
    }
}

/// Brackets belong to URLs, not to addresses.
pub(super) fn bare_host(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}
