//! A certificate with its key, ready to be served, and what must be known of it: its names and its end.

use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};
use x509_cert::{
    Certificate as Parsed,
    der::Decode,
    ext::pkix::{SubjectAltName, name::GeneralName},
};

/// Why it can't be served.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// There is none in the text.
    #[error("it holds no PEM certificate")]
    NoCertificate,
    /// The PEM is broken.
    #[error("its PEM can't be read: {0}")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// The key is none.
    #[error("its private key can't be read: {0}")]
    Key(#[source] rustls::pki_types::pem::Error),
    /// Key and certificate don't belong together, or the key is of a kind that isn't served.
    #[error("{0}")]
    Mismatch(#[source] rustls::Error),
    /// The certificate is no certificate.
    #[error("the certificate can't be read: {0}")]
    Malformed(#[source] x509_cert::der::Error),
    /// It is for nobody.
    #[error("the certificate names no host (it has no DNS name among its subject alternative names)")]
    NoNames,
}

/// A certificate that can be served.
#[derive(Debug)]
pub struct Certificate {
    /// The chain and the key.
    pub key: Arc<CertifiedKey>,
    /// Host names, lower case; `*.` in front stands for one label.
    pub names: Vec<String>,
    /// Since 1970: when its life begins.
    pub not_before: Duration,
    /// Since 1970: when it ends.
    pub not_after: Duration,
}

impl Certificate {
    /// From PEM: the certificate first, then what links it to a root; and its key.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, Unusable> {
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<_, _>>()
            .map_err(Unusable::Pem)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(Unusable::Key)?;
        Self::new(chain, key)
    }

    /// From what PEM holds.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, Unusable> {
        let parsed = Parsed::from_der(chain.first().ok_or(Unusable::NoCertificate)?)
            .map_err(Unusable::Malformed)?
            .tbs_certificate;
        let names = host_names(&parsed)?;
        let key =
            CertifiedKey::from_der(chain, key, &ring::default_provider()).map_err(Unusable::Mismatch)?;
        Ok(Self {
            key: Arc::new(key),
            names,
            not_before: parsed.validity.not_before.to_unix_duration(),
            not_after: parsed.validity.not_after.to_unix_duration(),
        })
    }

    /// Days until its end; negative when that is past.
    pub fn days_left(&self) -> f64 {
        let now = UNIX_EPOCH.elapsed().unwrap_or_default();
        (self.not_after.as_secs_f64() - now.as_secs_f64()) / 86_400.0
    }
}

fn host_names(parsed: &x509_cert::TbsCertificate) -> Result<Vec<String>, Unusable> {
    let (_, alternatives) = parsed
        .get::<SubjectAltName>()
        .map_err(Unusable::Malformed)?
        .ok_or(Unusable::NoNames)?;
    let names: Vec<_> = alternatives
        .0
        .into_iter()
        .filter_map(|name| match name {
            GeneralName::DnsName(name) => Some(name.as_str().to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() {
        return Err(Unusable::NoNames);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair};

    fn pair(names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(names).expect("names");
        params.not_before = rcgen::date_time_ymd(2020, 1, 2);
        params.not_after = rcgen::date_time_ymd(2021, 3, 4);
        let certificate = params.self_signed(&key).expect("signed");
        (certificate.pem(), key.serialize_pem())
    }

    #[test]
    fn names_and_life_are_read() {
        let (chain, key) = pair(&["A.test", "*.b.test", "192.0.2.1"]);
        let read = Certificate::from_pem(chain.as_bytes(), key.as_bytes()).expect("usable");
        assert_eq!(read.names, ["a.test", "*.b.test"]);
        assert_eq!(
            (read.not_before.as_secs(), read.not_after.as_secs()),
            (1_577_923_200, 1_614_816_000)
        );
        assert!(read.days_left() < 0.0);
    }

    #[test]
    fn what_does_not_belong_together_is_refused() {
        let (chain, key) = pair(&["a.test"]);
        let (_, other) = pair(&["a.test"]);
        let usable = |chain: &str, key: &str| Certificate::from_pem(chain.as_bytes(), key.as_bytes());
        assert!(matches!(usable(&chain, &other), Err(Unusable::Mismatch(_))));
        assert!(matches!(usable(&chain, "nothing"), Err(Unusable::Key(_))));
        assert!(matches!(usable("", &key), Err(Unusable::NoCertificate)));
        let (nameless, key) = pair(&["192.0.2.1"]);
        assert!(matches!(usable(&nameless, &key), Err(Unusable::NoNames)));
    }
}
