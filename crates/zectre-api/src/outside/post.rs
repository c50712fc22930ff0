//! One POST to a URL that someone handed in.

use super::resolve::Names;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use reqwest::Url;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use std::{
    future::{Future, pending},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use zectre_common::config::{DomainsConfig, WebhooksConfig};

/// What is read, and kept, of an answer.
pub(crate) const ANSWER_BYTES_MAX: usize = 1_024;
/// The longest URL.
const URL_BYTES_MAX: usize = 2_048;
/// What would allow private addresses.
const PRIVATE_KEY: &str = "webhooks.allow_private";

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    /// The first bytes.
    pub(crate) body: Vec<u8>,
    pub(crate) retry_after_secs: Option<u64>,
}

/// Sends POSTs.
pub(crate) struct Poster {
    names: Names,
    timeout: Duration,
    ca_file: PathBuf,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// What can be called: checked once, when it is handed in.
///
/// # Errors
/// A sentence that says what is wrong with it.
pub(crate) fn parse(text: &str) -> Result<Url, String> {
    if text.len() > URL_BYTES_MAX {
        return Err(format!("at most {URL_BYTES_MAX} bytes"));
    }
    let url =
        Url::parse(text).map_err(|error| format!("not a URL ({error}): write it as https://host/path"))?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err("begins with https:// (or http://)".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("leave out the user and password: a signature shows who calls".into());
    }
    if url.fragment().is_some() {
        return Err("leave out the part after `#`: it is never sent".into());
    }
    if url.host_str().is_none_or(str::is_empty) || url.port_or_known_default().is_none_or(|port| port == 0) {
        return Err("names no host".into());
    }
    Ok(url)
}

impl Poster {
    /// As the configuration says.
    pub(crate) fn new(config: &WebhooksConfig, domains: &DomainsConfig) -> Self {
        Self {
            names: Names::new(&domains.dns_server, config.allow_private),
            timeout: Duration::from_millis(config.timeout_ms),
            ca_file: config.ca_file.clone(),
            tls: OnceLock::new(),
        }
    }

    /// The longest that one POST takes.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Refuses a host that is an address nobody outside has; names are looked at when they are called.
    pub(crate) fn check_address(&self, url: &Url) -> Result<(), String> {
        match literal(url) {
            Some(address) => self
                .names
                .usable(&address.to_string(), vec![address], PRIVATE_KEY)
                .map(drop),
            None => Ok(()),
        }
    }

    /// Sends it, and reads the first bytes of the answer.
    ///
    /// # Errors
    /// A sentence that says why there is no answer.
    pub(crate) async fn post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Answer, String> {
        timeout(self.timeout, self.try_post(url, headers, body))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis())))
    }

    async fn try_post(&self, url: &Url, headers: HeaderMap, body: Bytes) -> Result<Answer, String> {
        let host = url.host_str().ok_or("the URL names no host")?;
        let port = url.port_or_known_default().ok_or("the URL names no port")?;
        let addresses = match literal(url) {
            Some(address) => self.names.usable(host, vec![address], PRIVATE_KEY)?,
            None => {
                let resolver = self.names.resolver()?;
                self.names
                    .addresses(&resolver, host.trim_end_matches('.'), PRIVATE_KEY)
                    .await?
            }
        };
        // What is connected to is what was checked: the name is not resolved again.
        let stream = connect(&addresses, port).await?;
        let request = request(url, headers, body)?;
        if url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(bare_host(host).to_owned())
            .map_err(|_| format!("`{host}` is not a name that a certificate can have"))?;
        let connector = TlsConnector::from(self.tls()?);
        let stream = connector
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS with `{host}` failed ({error})"))?;
        exchange(stream, request).await
    }

    /// Made when it is first needed: most clusters never call anything.
    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        // Without one usable authority nothing is trusted, and the failed call says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if !self.ca_file.as_os_str().is_empty() {
            let problem = |error: &dyn std::fmt::Display| {
                format!(
                    "webhooks.ca_file {} can't be used ({error})",
                    self.ca_file.display()
                )
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
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

/// Brackets belong to URLs, not to addresses.
fn bare_host(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn literal(url: &Url) -> Option<IpAddr> {
    bare_host(url.host_str()?).parse().ok()
}

async fn connect(addresses: &[IpAddr], port: u16) -> Result<TcpStream, String> {
    let mut problem = "there is no address".to_owned();
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => problem = format!("{address} port {port} can't be reached ({error})"),
        }
    }
    Err(problem)
}

fn request(url: &Url, mut headers: HeaderMap, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let unusable = |error: &dyn std::fmt::Display| format!("the URL can't be sent ({error})");
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    let authority = format!("{}{port}", url.host_str().unwrap_or_default());
    let host = HeaderValue::from_str(&authority).map_err(|error| unusable(&error))?;
    headers.insert(header::HOST, host);
    headers.insert(
        header::USER_AGENT,
        HeaderValue::from_static(concat!("zectre/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    let query = url.query().map_or_else(String::new, |query| format!("?{query}"));
    let mut request = Request::post(format!("{}{query}", url.path()))
        .body(Full::new(body))
        .map_err(|error| unusable(&error))?;
    *request.headers_mut() = headers;
    Ok(request)
}

async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let broke = |error: hyper::Error| format!("the connection broke off ({error})");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broke)?;
    let answered = async {
        let mut response = sender.send_request(request).await.map_err(broke)?;
        let retry_after = response.headers().get(header::RETRY_AFTER);
        let retry_after_secs = retry_after
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.trim().parse().ok());
        let mut body = Vec::new();
        // An answer that breaks off later than its status has answered all the same.
        while let Some(Ok(frame)) = response.body_mut().frame().await {
            let Ok(data) = frame.into_data() else { continue };
            body.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - body.len())]);
            if body.len() >= ANSWER_BYTES_MAX {
                break;
            }
        }
        Ok(Answer {
            status: response.status(),
            body,
            retry_after_secs,
        })
    };
    tokio::select! {
        answer = answered => answer,
        answer = forever(connection) => answer,
    }
}

/// Drives the connection; what it comes to shows in the answer.
async fn forever(connection: impl Future<Output = hyper::Result<()>>) -> Result<Answer, String> {
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a webhook's connection ended badly");
    }
    pending().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_called_is_a_url() {
        for good in [
            "https://example.com",
            "http://example.com:8080/a?b=c",
            "https://[2606:4700::1111]/x",
            "https://1.1.1.1/",
        ] {
            parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
        }
        for bad in [
            "",
            "example.com",
            "ftp://example.com",
            "file:///etc/passwd",
            "https://user:password@example.com",
            "https://example.com/#a",
            "https://",
            "http://example.com:0/",
            "http://example.com:99999/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse(&format!("https://example.com/{}", "a".repeat(URL_BYTES_MAX))).is_err());
    }

    #[test]
    fn however_an_address_is_written_it_is_looked_at() {
        let config = zectre_common::config::Config::load(None).expect("the defaults");
        let poster = Poster::new(&config.webhooks, &config.domains);
        for inside in [
            "http://127.0.0.1/",
            "http://0x7f.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "http://169.254.169.254/latest/meta-data",
        ] {
            let url = parse(inside).expect("a URL");
            assert!(poster.check_address(&url).is_err(), "{inside}");
        }
        let outside = parse("https://1.1.1.1/").expect("a URL");
        assert_eq!(poster.check_address(&outside), Ok(()));
    }
}
