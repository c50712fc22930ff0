//! One call to GitHub: no redirects, one deadline, a bound on what is read.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;
use url::Url;

/// The largest answer that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// Makes calls.
pub(super) struct Http {
    timeout: Duration,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// What came back.
pub(super) struct Answer {
    /// Its status.
    pub(super) status: StatusCode,
    /// All of it.
    pub(super) body: Bytes,
}

impl Http {
    /// With this deadline for each call.
    pub(super) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            tls: OnceLock::new(),
        }
    }

    /// Makes one.
    ///
    /// # Errors
    /// A sentence that says why there is no answer; it holds no header and no body.
    pub(super) async fn call(
        &self,
        method: Method,
        url: &str,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, String> {
        let call = self.try_call(method, url, headers, body);
        timeout(self.timeout, call)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} ms", self.timeout.as_millis())))
    }

    async fn try_call(
        &self,
        method: Method,
        url: &str,
        mut headers: HeaderMap,
        body: Bytes,
    ) -> Result<Answer, String> {
        let url = Url::parse(url).map_err(|error| format!("its URL is not one ({error})"))?;
        let host = url.host_str().ok_or("its URL names no host")?;
        let port = url.port_or_known_default().ok_or("its URL names no port")?;
        let authority = url
            .port()
            .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let authority = HeaderValue::from_str(&authority).map_err(|error| error.to_string())?;
        headers.insert(header::HOST, authority);
        headers.insert(
            header::USER_AGENT,
            HeaderValue::from_static(concat!("zectre-catalog/", env!("CARGO_PKG_VERSION"))),
        );
        let target = url.query().map_or_else(
            || url.path().to_owned(),
            |query| format!("{}?{query}", url.path()),
        );
        let mut request = Request::builder()
            .method(method)
            .uri(target)
            .body(Full::new(body))
            .map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((bare, port))
            .await
            .map_err(|error| format!("`{host}` port {port} can't be reached ({error})"))?;
        if url.scheme() == "http" {
            return exchange(stream, request).await;
        }
        let name = ServerName::try_from(bare.to_owned())
            .map_err(|_| format!("`{host}` is not a name that a certificate can have"))?;
        let stream = TlsConnector::from(self.tls()?)
            .connect(name, stream)
            .await
            .map_err(|error| format!("TLS with `{host}` failed ({error})"))?;
        exchange(stream, request).await
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, String> {
        if let Some(config) = self.tls.get() {
            return Ok(Arc::clone(config));
        }
        let mut roots = RootCertStore::empty();
        // Without one usable authority nothing is trusted, and the failed call says so.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| format!("TLS can't be set up ({error})"))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::clone(self.tls.get_or_init(|| Arc::new(config))))
    }
}

/// The connection is driven here, beside the answer, and ends with it.
async fn exchange<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("the exchange broke off ({error})");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async move {
        let response = sender.send_request(request).await.map_err(failed)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX)
            .collect()
            .await
            .map_err(|error| format!("its answer can't be read ({error})"))?
            .to_bytes();
        Ok(Answer { status, body })
    };
    let mut answer = std::pin::pin!(answer);
    tokio::select! {
        answer = &mut answer => answer,
        ended = connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(failed(error)),
        },
    }
}
