//! Signed, expiring download URLs: an agent fetches one artifact without a credential for the registry.
//!
//! Form: `/artifacts/{sha256}/{name}?expires=UNIX_SECS&signature=HEX`.

use crate::key::{ServiceKey, authenticate, from_hex, to_hex};
use subtle::ConstantTimeEq;

const PURPOSE: &[u8] = b"zectre artifact download v1";

/// The path and query under which the registry gives out these bytes until `expires_unix_secs`.
pub fn sign(key: &ServiceKey, sha256: &str, name: &str, expires_unix_secs: u64) -> String {
    let signature = to_hex(&authenticator(key, sha256, expires_unix_secs));
    format!("/artifacts/{sha256}/{name}?expires={expires_unix_secs}&signature={signature}")
}

/// Whether the signature fits and the time has not passed.
pub fn verify(
    key: &ServiceKey,
    sha256: &str,
    expires_unix_secs: u64,
    signature: &str,
    now_unix_secs: u64,
) -> bool {
    let Some(given) = from_hex::<32>(signature) else {
        return false;
    };
    let fits = authenticator(key, sha256, expires_unix_secs).ct_eq(&given);
    bool::from(fits) && now_unix_secs <= expires_unix_secs
}

fn authenticator(key: &ServiceKey, sha256: &str, expires_unix_secs: u64) -> [u8; 32] {
    authenticate(
        key.expose(),
        &[PURPOSE, sha256.as_bytes(), &expires_unix_secs.to_be_bytes()],
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KEY_BYTES;

    #[test]
    fn holds_for_one_hash_until_its_time() {
        let key = ServiceKey::from_bytes([5; KEY_BYTES]);
        let url = sign(&key, "ab", "hello", 100);
        let signature = url.rsplit_once('=').expect("ends in the signature").1.to_owned();
        assert!(verify(&key, "ab", 100, &signature, 100));
        assert!(!verify(&key, "ab", 100, &signature, 101));
        assert!(!verify(&key, "ac", 100, &signature, 50));
        assert!(!verify(&key, "ab", 200, &signature, 50));
        assert!(!verify(&key, "ab", 100, "zz", 50));
    }
}
