//! The keys that sign tokens: made here, kept sealed in the database, published as JWKs.
//!
//! The `rsa` crate only makes RSA keys. Signing is `ring`'s, which takes the same time whatever the key is (the `rsa`
//! crate's private operations don't: RUSTSEC-2023-0071).

mod keyring;

pub use keyring::{Keyring, maintain};

use crate::{
    config::{Algorithm, TokensConfig},
    core::key_schedule::Slot,
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair},
};
use rsa::{RsaPrivateKey, pkcs8::EncodePrivateKey, rand_core::OsRng, traits::PublicKeyParts};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A key can't be made or used.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a signing key can't be {0}")]
pub struct KeyFailure(&'static str);

/// The public half of a key (RFC 7517), in the order that RFC 7638 hashes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kty")]
pub enum PublicKey {
    /// RSA.
    #[serde(rename = "RSA")]
    Rsa {
        /// The exponent.
        e: String,
        /// The modulus.
        n: String,
    },
    /// Ed25519.
    #[serde(rename = "OKP")]
    Okp {
        /// Always `Ed25519`.
        crv: String,
        /// The point.
        x: String,
    },
}

impl PublicKey {
    /// The key's id: its thumbprint (RFC 7638).
    pub fn thumbprint(&self) -> String {
        let canonical = match self {
            Self::Rsa { e, n } => format!(r#"{{"e":"{e}","kty":"RSA","n":"{n}"}}"#),
            Self::Okp { crv, x } => format!(r#"{{"crv":"{crv}","kty":"OKP","x":"{x}"}}"#),
        };
        URL_SAFE_NO_PAD.encode(Sha256::digest(canonical.as_bytes()))
    }
}

/// A new key.
pub struct Fresh {
    /// Its public half.
    pub public: PublicKey,
    /// PKCS#8 in base64.
    pub private: SecretString,
}

/// Makes a key; for RSA that is a second's work of one core.
pub fn generate(tokens: &TokensConfig) -> Result<Fresh, KeyFailure> {
    let failed = KeyFailure("made");
    match tokens.algorithm {
        Algorithm::Rs256 => {
            let key = RsaPrivateKey::new(&mut OsRng, tokens.rsa_bits).map_err(|_| failed)?;
            let public = PublicKey::Rsa {
                e: URL_SAFE_NO_PAD.encode(key.e().to_bytes_be()),
                n: URL_SAFE_NO_PAD.encode(key.n().to_bytes_be()),
            };
            let document = key.to_pkcs8_der().map_err(|_| KeyFailure("written"))?;
            Ok(fresh(public, document.as_bytes()))
        }
        Algorithm::EdDsa => {
            let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| failed)?;
            let key = Ed25519KeyPair::from_pkcs8(document.as_ref()).map_err(|_| KeyFailure("read"))?;
            let public = PublicKey::Okp {
                crv: "Ed25519".into(),
                x: URL_SAFE_NO_PAD.encode(key.public_key()),
            };
            Ok(fresh(public, document.as_ref()))
        }
    }
}

fn fresh(public: PublicKey, document: &[u8]) -> Fresh {
    Fresh {
        public,
        private: SecretString::from(STANDARD.encode(document)),
    }
}

/// What signs.
enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ed25519(Box<Ed25519KeyPair>),
}

/// A key as it is used.
pub struct SigningKey {
    pub(crate) slot: Slot,
    pub(crate) public: PublicKey,
    pair: Pair,
}

impl SigningKey {
    /// From what [`generate`] made.
    pub fn open(slot: Slot, public: PublicKey, private: &SecretString) -> Result<Self, KeyFailure> {
        let failed = KeyFailure("read");
        let document = STANDARD
            .decode(private.expose_secret())
            .map_err(|_| KeyFailure("decoded"))?;
        let pair = match slot.algorithm {
            Algorithm::Rs256 => Pair::Rsa(Box::new(RsaKeyPair::from_pkcs8(&document).map_err(|_| failed)?)),
            Algorithm::EdDsa => Pair::Ed25519(Box::new(
                Ed25519KeyPair::from_pkcs8(&document).map_err(|_| failed)?,
            )),
        };
        Ok(Self { slot, public, pair })
    }

    /// A token with these claims, as `typ` (RFC 9068).
    pub fn sign<C: Serialize>(&self, claims: &C) -> Result<String, KeyFailure> {
        let header = serde_json::json!({
            "alg": self.slot.algorithm.as_str(),
            "kid": self.slot.kid,
            "typ": crate::claims::TYPE,
        });
        let claims = serde_json::to_vec(claims).map_err(|_| KeyFailure("given these claims"))?;
        let text = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims)
        );
        let signature = self.signature(text.as_bytes())?;
        Ok(format!("{text}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
        match &self.pair {
            Pair::Rsa(key) => {
                let mut signature = vec![0; key.public().modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), message, &mut signature)
                    .map_err(|_| KeyFailure("used"))?;
                Ok(signature)
            }
            Pair::Ed25519(key) => Ok(key.sign(message).as_ref().to_vec()),
        }
    }

    /// As it is published.
    pub fn jwk(&self) -> serde_json::Value {
        let mut jwk = serde_json::to_value(&self.public).expect("strings are valid JSON");
        jwk["kid"] = self.slot.kid.clone().into();
        jwk["use"] = "sig".into();
        jwk["alg"] = self.slot.algorithm.as_str().into();
        jwk
    }
}
