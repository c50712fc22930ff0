//! The catalog's public keys, as its JWKS lists them. Pure.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use std::collections::HashMap;

/// The longest JWKS; one of two RSA keys has 900 bytes.
pub(crate) const JWKS_BYTES_MAX: usize = 64 << 10;
/// The most keys in one.
const KEYS_MAX: usize = 32;
/// The longest id of a key.
pub(super) const KEY_ID_BYTES_MAX: usize = 256;
/// Base64 characters of an RSA modulus of 2,048 bits: a shorter one can be broken.
const MODULUS_CHARS_MIN: usize = 342;

/// A key, and the one algorithm that it is used with: the token's header has no say in it.
pub(super) struct Key {
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
}

/// Keys by their ids.
#[derive(Default)]
pub(crate) struct KeySet(HashMap<String, Key>);

#[derive(Deserialize)]
struct Jwks {
    keys: Vec<serde_json::Value>,
}

impl KeySet {
    /// From the text of a JWKS. Keys of other kinds, for other uses or without an id are passed over.
    ///
    /// # Errors
    /// A sentence that says why it is none, or holds no usable key.
    pub(crate) fn parse(text: &[u8]) -> Result<Self, String> {
        let listed: Jwks =
            serde_json::from_slice(text).map_err(|error| format!("it is not a JWKS ({error})"))?;
        if listed.keys.len() > KEYS_MAX {
            return Err(format!("it lists more than {KEYS_MAX} keys"));
        }
        let mut keys = HashMap::new();
        for jwk in listed.keys {
            let Some((id, key)) = serde_json::from_value::<Jwk>(jwk).ok().as_ref().and_then(usable) else {
                continue;
            };
            if keys.insert(id, key).is_some() {
                return Err("it lists two keys with one id".into());
            }
        }
        if keys.is_empty() {
            return Err("it lists no key for RS256 or EdDSA with an id".into());
        }
        Ok(Self(keys))
    }

    pub(super) fn get(&self, id: &str) -> Option<&Key> {
        self.0.get(id)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn usable(jwk: &Jwk) -> Option<(String, Key)> {
    let common = &jwk.common;
    let id = common.key_id.clone()?;
    let signs = matches!(common.public_key_use, None | Some(PublicKeyUse::Signature));
    let algorithm = match &jwk.algorithm {
        AlgorithmParameters::RSA(rsa) if rsa.n.trim_end_matches('=').len() >= MODULUS_CHARS_MIN => {
            Algorithm::RS256
        }
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => Algorithm::EdDSA,
        _ => return None,
    };
    let named = match common.key_algorithm {
        None => algorithm,
        Some(KeyAlgorithm::RS256) => Algorithm::RS256,
        Some(KeyAlgorithm::EdDSA) => Algorithm::EdDSA,
        Some(_) => return None,
    };
    let fits = signs && named == algorithm && (1..=KEY_ID_BYTES_MAX).contains(&id.len());
    let decoding = DecodingKey::from_jwk(jwk).ok().filter(|_| fits)?;
    Some((id, Key { algorithm, decoding }))
}
