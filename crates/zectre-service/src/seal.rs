//! Sealing of variables in the database: XChaCha20-Poly1305 under the master key.
//!
//! The context (which variable it is) is authenticated too, so that a sealed value moved to another row does
//! not open. Stored form: version byte, 24 bytes nonce, ciphertext with tag.

use crate::key::{MasterKey, random_bytes};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use secrecy::SecretString;

const VERSION: u8 = 1;
const NONCE_BYTES: usize = 24;

/// The value does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed value does not open: the master key is another one than it was sealed with, or the value was changed"
)]
pub struct OpenError;

/// Seals `plain` for `context`.
pub fn seal(key: &MasterKey, context: &str, plain: &str) -> Vec<u8> {
    let nonce = random_bytes::<NONCE_BYTES>();
    let payload = Payload {
        msg: plain.as_bytes(),
        aad: context.as_bytes(),
    };
    let sealed = cipher(key)
        .encrypt(&XNonce::from(nonce), payload)
        .expect("only a message of more than 256 GiB is refused, and variables are bounded far below");
    [&[VERSION][..], &nonce, &sealed].concat()
}

/// Opens what [`seal`] made for the same `context`.
pub fn open(key: &MasterKey, context: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
    let (version, rest) = sealed.split_first().ok_or(OpenError)?;
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError)?;
    if *version != VERSION {
        return Err(OpenError);
    }
    let payload = Payload {
        msg: ciphertext,
        aad: context.as_bytes(),
    };
    let plain = cipher(key)
        .decrypt(&XNonce::from(*nonce), payload)
        .map_err(|_| OpenError)?;
    String::from_utf8(plain)
        .map(SecretString::from)
        .map_err(|_| OpenError)
}

fn cipher(key: &MasterKey) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*key.expose()).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::KEY_BYTES;
    use secrecy::ExposeSecret;

    #[test]
    fn opens_only_with_the_same_key_and_context_and_unchanged() {
        let key = MasterKey::from_bytes([3; KEY_BYTES]);
        let mut sealed = seal(&key, "env:a:*:TOKEN", "hunter2");
        assert_eq!(
            open(&key, "env:a:*:TOKEN", &sealed)
                .expect("opens")
                .expose_secret(),
            "hunter2"
        );
        assert!(open(&key, "env:b:*:TOKEN", &sealed).is_err());
        assert!(open(&MasterKey::from_bytes([4; KEY_BYTES]), "env:a:*:TOKEN", &sealed).is_err());
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert!(open(&key, "env:a:*:TOKEN", &sealed).is_err());
        assert!(open(&key, "env:a:*:TOKEN", &[]).is_err());
    }
}
