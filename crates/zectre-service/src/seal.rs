//! Sealing of what the database holds: XChaCha20-Poly1305 under the first key of the master key ring.
//!
//! The context (which row it is for, `place`) is authenticated too, so that a sealed value moved to another row does not
//! open. Stored form: version byte, 4 bytes that name the key, 24 bytes nonce, ciphertext with tag. Version 1 named no key.

use crate::{
    key::{KEY_BYTES, random_bytes},
    ring::{KeyId, KeyRing, RingKey},
};
use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use secrecy::SecretString;

pub mod place;

const VERSION: u8 = 2;
const VERSION_WITHOUT_KEY: u8 = 1;
const NONCE_BYTES: usize = 24;

/// The value does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "a sealed value does not open: the key that sealed it is not in the file of master keys, or the value was changed"
)]
pub struct OpenError;

/// What values begin with that `key` sealed.
pub fn prefix(key: KeyId) -> [u8; 1 + KeyId::BYTES] {
    let id = key.bytes();
    [VERSION, id[0], id[1], id[2], id[3]]
}

/// Seals `plain` for `context`.
pub fn seal(ring: &KeyRing, context: &str, plain: &str) -> Vec<u8> {
    let keys = ring.keys();
    let key = &keys[0];
    let nonce = random_bytes::<NONCE_BYTES>();
    let payload = Payload {
        msg: plain.as_bytes(),
        aad: context.as_bytes(),
    };
    let sealed = cipher(key.expose())
        .encrypt(&XNonce::from(nonce), payload)
        .expect("only a message of more than 256 GiB is refused, and variables are bounded far below");
    [&prefix(key.id())[..], &nonce, &sealed].concat()
}

/// Opens what [`seal`] made for the same `context`, and we kept. What comes from outside is for [`open_foreign`].
pub fn open(ring: &KeyRing, context: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
    open_foreign(ring, context, sealed)
        // Someone may have sealed late with a key that was forgotten meanwhile.
        .or_else(|OpenError| open_with(&ring.retired(), context, sealed))
}

/// Opens what [`seal`] made for the same `context` and others kept, such as a cookie: a forgotten key, which others may
/// know by now, counts for nothing.
pub fn open_foreign(ring: &KeyRing, context: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
    let opened = open_with(&ring.keys(), context, sealed);
    // Someone may seal with a key already that this process has not seen.
    opened.or_else(|OpenError| open_with(&ring.keys_now(), context, sealed))
}

fn open_with(keys: &[RingKey], context: &str, sealed: &[u8]) -> Result<SecretString, OpenError> {
    let (version, mut rest) = sealed.split_first().ok_or(OpenError)?;
    let id = match *version {
        VERSION => {
            let (id, after) = rest.split_first_chunk::<{ KeyId::BYTES }>().ok_or(OpenError)?;
            rest = after;
            Some(*id)
        }
        VERSION_WITHOUT_KEY => None,
        _ => return Err(OpenError),
    };
    let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or(OpenError)?;
    let mut named = keys
        .iter()
        .filter(|key| id.is_none_or(|id| id == key.id().bytes()));
    let plain = named
        .find_map(|key| {
            let payload = Payload {
                msg: ciphertext,
                aad: context.as_bytes(),
            };
            cipher(key.expose()).decrypt(&XNonce::from(*nonce), payload).ok()
        })
        .ok_or(OpenError)?;
    String::from_utf8(plain)
        .map(SecretString::from)
        .map_err(|_| OpenError)
}

fn cipher(key: &[u8; KEY_BYTES]) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new(&(*key).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    #[test]
    fn opens_only_with_the_same_key_and_context_and_unchanged() {
        let key = KeyRing::from_bytes([3; KEY_BYTES]);
        let mut sealed = seal(&key, "env:a:*:TOKEN", "hunter2");
        assert_eq!(
            open(&key, "env:a:*:TOKEN", &sealed)
                .expect("opens")
                .expose_secret(),
            "hunter2"
        );
        assert!(open(&key, "env:b:*:TOKEN", &sealed).is_err());
        assert!(open(&KeyRing::from_bytes([4; KEY_BYTES]), "env:a:*:TOKEN", &sealed).is_err());
        let last = sealed.len() - 1;
        sealed[last] ^= 1;
        assert!(open(&key, "env:a:*:TOKEN", &sealed).is_err());
        assert!(open(&key, "env:a:*:TOKEN", &[]).is_err());
    }

    #[test]
    fn values_of_the_first_version_name_no_key_and_open() {
        let bytes = [3; KEY_BYTES];
        let nonce = [7; NONCE_BYTES];
        let payload = Payload {
            msg: b"hunter2",
            aad: b"x",
        };
        let sealed = cipher(&bytes)
            .encrypt(&XNonce::from(nonce), payload)
            .expect("short");
        let sealed = [&[VERSION_WITHOUT_KEY][..], &nonce, &sealed].concat();
        let opened = open(&KeyRing::from_bytes(bytes), "x", &sealed).expect("opens");
        assert_eq!(opened.expose_secret(), "hunter2");
        assert!(open(&KeyRing::from_bytes([4; KEY_BYTES]), "x", &sealed).is_err());
    }
}
