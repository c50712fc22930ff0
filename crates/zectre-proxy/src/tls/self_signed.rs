//! A certificate that nobody vouches for, so that a machine without any other still speaks TLS.

use super::Certificate;
use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use std::{sync::Arc, time::SystemTime};

/// Clients refuse certificates that live longer (398 days), trusted or not.
const LIFE_DAYS: u64 = 397;
/// Clocks differ.
const BACKDATED_DAYS: u64 = 1;

/// For `domain` and every name right below it; new with each start.
pub fn make(domain: &str) -> Result<Arc<Certificate>, rcgen::Error> {
    let day = std::time::Duration::from_secs(86_400);
    let mut params = CertificateParams::new(vec![domain.to_owned(), format!("*.{domain}")])?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, "Zectre self-signed");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let begin = SystemTime::now() - day * BACKDATED_DAYS as u32;
    params.not_before = begin.into();
    params.not_after = (begin + day * LIFE_DAYS as u32).into();
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let made = Certificate::new(vec![certificate.der().clone()], key);
    Ok(Arc::new(
        made.expect("what was just signed with this key belongs to it"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_for_the_domain_and_what_is_right_below_it() {
        let made = make("zectre.localhost").expect("made");
        assert_eq!(made.names, ["zectre.localhost", "*.zectre.localhost"]);
        assert!(made.days_left() > 390.0 && made.days_left() < 398.0);
    }
}
