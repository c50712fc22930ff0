//! What an ACME server finds when it looks at a name. It may come to any proxy, so the answers are in PostgreSQL;
//! this is the one kind of request that waits for it. Anybody may ask, so all who ask share one look at a time.

use crate::{
    ingress::body::Answer,
    store::acme::{self, Challenge},
};
use bytes::Bytes;
use http::{HeaderValue, Response, header};
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::PrivateKeyDer,
    sign::{CertifiedKey, SingleCertAndKey},
};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::{collections::HashMap, sync::Arc, time::Duration};
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until, timeout},
};

/// The protocol that tls-alpn-01 is spoken in (RFC 8737).
pub const ALPN: &[u8] = b"acme-tls/1";
/// Where http-01 looks (RFC 8555, section 8.3).
const PATH: &str = "/.well-known/acme-challenge/";
/// From one look to the next, however many ask.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An ACME server waits longer.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(3);

/// Answers for all names.
#[derive(Debug)]
pub struct Challenges {
    pool: PgPool,
    open: Mutex<Open>,
}

/// The challenges of the cluster: as many as there are orders under way, or given up within the hour.
#[derive(Debug, Default)]
struct Open {
    looked_at: Option<Instant>,
    /// When the look began that found these.
    read_from: Option<Instant>,
    by_name: HashMap<String, Challenge>,
}

impl Challenges {
    /// From `pool`.
    pub fn new(pool: PgPool) -> Self {
        Self {
            pool,
            open: Mutex::default(),
        }
    }

    /// The answer to a request for `path` at `host`, when it is one of ours. Applications may answer others.
    pub(crate) async fn page(&self, host: &str, path: &str) -> Option<Response<Answer>> {
        let token = path.strip_prefix(PATH)?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if token.is_empty() || token.len() > 256 || !token.bytes().all(plain) {
            return None;
        }
        let key_authorization = self.look_up(host, Some(token)).await?;
        let mut response = Response::new(Answer::text(Bytes::from(key_authorization)));
        let octets = HeaderValue::from_static("application/octet-stream");
        response.headers_mut().insert(header::CONTENT_TYPE, octets);
        Some(response)
    }

    /// What to shake hands with when an ACME server looks at `name`.
    pub async fn handshake(&self, name: &str) -> Option<Arc<ServerConfig>> {
        let key_authorization = self.look_up(name, None).await?;
        match config(name, &key_authorization) {
            Ok(config) => Some(Arc::new(config)),
            Err(error) => {
                tracing::warn!(name, error, "no certificate could be made for a challenge");
                None
            }
        }
    }

    async fn look_up(&self, name: &str, token: Option<&str>) -> Option<String> {
        match timeout(LOOKUP_TIMEOUT, self.find(name, token)).await {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => {
                tracing::warn!(name, %error, "a challenge could not be looked up");
                None
            }
            Err(_) => None,
        }
    }

    /// Nobody is answered by a look that began before they asked: the challenge may be that new. Those who ask meanwhile
    /// wait for the next one, together.
    async fn find(&self, name: &str, token: Option<&str>) -> Result<Option<String>, sqlx::Error> {
        let asked = Instant::now();
        let mut open = self.open.lock().await;
        if open.read_from.is_none_or(|from| from < asked) {
            if let Some(before) = open.looked_at {
                sleep_until(before + LOOK_EVERY).await;
            }
            let now = Instant::now();
            open.looked_at = Some(now);
            open.by_name = acme::challenges(&self.pool).await?;
            open.read_from = Some(now);
        }
        let challenge = open.by_name.get(name);
        let found = challenge.filter(|challenge| token.is_none_or(|token| token == challenge.token));
        Ok(found.map(|challenge| challenge.key_authorization.clone()))
    }
}

fn config(name: &str, key_authorization: &str) -> Result<ServerConfig, String> {
    let digest = Sha256::digest(key_authorization);
    let make = || -> Result<_, rcgen::Error> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&digest)];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.der().clone(), key.serialize_der()))
    };
    let (certificate, key) = make().map_err(|error| error.to_string())?;
    let key = ring::sign::any_supported_type(&PrivateKeyDer::Pkcs8(key.into()))
        .map_err(|error| error.to_string())?;
    // Not `with_single_cert`: it reads the certificate, and refuses the extension that this one is made for, because
    // that must be marked critical.
    let resolver = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(config)
}
