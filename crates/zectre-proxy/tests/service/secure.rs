//! Clients that speak TLS, and certificates for the proxies they talk to.

use crate::{
    client::Got,
    world::{Running, SOON, World},
};
use bytes::Bytes;
use http::{Request, Version};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc};
use tokio::{io::AsyncWriteExt, net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::{
    Certificate,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Takes any certificate whose key signs the handshake: tests look at which one it is.
#[derive(Debug)]
struct Curious(CryptoProvider);

impl ServerCertVerifier for Curious {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// What a client that takes any certificate offers.
pub(crate) fn client_config(alpn: &[&str]) -> ClientConfig {
    let provider = ring::default_provider();
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider.clone()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Curious(provider)))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

/// An established connection.
pub(crate) struct Secure {
    pub(crate) stream: TlsStream<TcpStream>,
}

impl Secure {
    /// Connects for `server_name`, offering `alpn`.
    pub(crate) async fn connect(address: SocketAddr, server_name: &str, alpn: &[&str]) -> Self {
        Self::introduced(address, b"", server_name, alpn).await
    }

    /// The same behind a load balancer, which says `introduction` first.
    pub(crate) async fn introduced(
        address: SocketAddr,
        introduction: &[u8],
        server_name: &str,
        alpn: &[&str],
    ) -> Self {
        let config = client_config(alpn);
        let name = ServerName::try_from(server_name.to_owned()).expect("a name");
        let connect = async {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(introduction).await.expect("it reads");
            TlsConnector::from(Arc::new(config)).connect(name, stream).await
        };
        let stream = timeout(SOON, connect).await.expect("in time");
        Self {
            stream: stream.expect("a handshake"),
        }
    }

    /// What was agreed on.
    pub(crate) fn alpn(&self) -> &str {
        let protocol = self.stream.get_ref().1.alpn_protocol().unwrap_or_default();
        std::str::from_utf8(protocol).expect("plain text")
    }

    /// The certificate that was shown.
    pub(crate) fn certificate(&self) -> Certificate {
        let chain = self.stream.get_ref().1.peer_certificates().expect("shown");
        Certificate::from_der(&chain[0]).expect("valid")
    }

    /// The names it is for.
    pub(crate) fn names(&self) -> Vec<String> {
        let certificate = self.certificate();
        let names = certificate.tbs_certificate.get::<SubjectAltName>();
        let (_, names) = names.expect("readable").expect("there");
        names
            .0
            .into_iter()
            .map(|name| match name {
                GeneralName::DnsName(name) => name.to_string(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// GETs each `url` in turn, by the version that was agreed on; over HTTP/1.1, `url` is a host.
    pub(crate) async fn get(self, hosts: &[&str]) -> Vec<Got> {
        let http2 = self.alpn() == "h2";
        let io = TokioIo::new(self.stream);
        let mut driver = JoinSet::new();
        let mut answers = Vec::new();
        if http2 {
            let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
                .await
                .expect("HTTP/2");
            driver.spawn(connection);
            for host in hosts {
                let request = Request::get(format!("https://{host}/"))
                    .version(Version::HTTP_2)
                    .body(Empty::<Bytes>::new());
                let answer = timeout(SOON, sender.send_request(request.expect("valid"))).await;
                answers.push(whole(answer.expect("in time").expect("an answer")).await);
            }
        } else {
            let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.expect("HTTP/1.1");
            driver.spawn(connection);
            for host in hosts {
                let request = Request::get("/")
                    .header("host", *host)
                    .body(Empty::<Bytes>::new());
                let answer = timeout(SOON, sender.send_request(request.expect("valid"))).await;
                answers.push(whole(answer.expect("in time").expect("an answer")).await);
            }
        }
        answers
    }
}

async fn whole(response: http::Response<hyper::body::Incoming>) -> Got {
    let (parts, body) = response.into_parts();
    let bytes = timeout(SOON, body.collect())
        .await
        .expect("in time")
        .expect("whole");
    Got {
        status: parts.status,
        headers: parts.headers,
        body: String::from_utf8_lossy(&bytes.to_bytes()).into_owned(),
    }
}

impl Running {
    pub(crate) fn secure(&self) -> SocketAddr {
        self.tls.expect("it speaks TLS")
    }

    /// Which certificate a client sees that asks for `server_name`, by the first of its names.
    pub(crate) async fn shown(&self, server_name: &str) -> String {
        let secure = Secure::connect(self.secure(), server_name, &[]).await;
        secure.names().remove(0)
    }
}

/// A certificate and its key, PEM.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Pair {
    /// Signed by itself; good until the end of `year`.
    pub(crate) fn new(names: &[&str], year: i32) -> Self {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 12, 31);
        let certificate = params.self_signed(&key).expect("signed");
        Self {
            cert: certificate.pem(),
            key: key.serialize_pem(),
        }
    }

    /// Writes both into the world's directory, under `stem`.
    pub(crate) fn write(&self, world: &World, stem: &str) -> (PathBuf, PathBuf) {
        let paths = (
            world.directory.path().join(format!("{stem}.pem")),
            world.directory.path().join(format!("{stem}.key")),
        );
        std::fs::write(&paths.0, &self.cert).expect("written");
        std::fs::write(&paths.1, &self.key).expect("written");
        paths
    }
}

/// `[proxy.tls]` with these certificate files.
pub(crate) fn with_files(files: &[(PathBuf, PathBuf)]) -> String {
    let elements: Vec<_> = files
        .iter()
        .map(|(cert, key)| format!("{{ cert = '{}', key = '{}' }}", cert.display(), key.display()))
        .collect();
    format!(
        "[proxy.tls]\nenabled = true\ncertificates = [{}]\n",
        elements.join(", ")
    )
}
