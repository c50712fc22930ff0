//! What is handed out once and kept as a hash: codes, refresh tokens, invitations. 256 random bits each, so that a plain
//! hash is enough and nobody guesses.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use zectre_service::key::random_bytes;

/// Says what a string is, to people and to scanners for leaked secrets.
const CODE: &str = "zcc_";
const REFRESH: &str = "zcr_";
const INVITATION: &str = "zci_";

const SECRET_BYTES: usize = 32;
const FAMILY_BYTES: usize = 16;

/// A fresh random string.
pub fn random() -> String {
    URL_SAFE_NO_PAD.encode(random_bytes::<SECRET_BYTES>())
}

/// A fresh authorization code.
pub fn code() -> String {
    format!("{CODE}{}", random())
}

/// A fresh invitation token.
pub fn invitation() -> String {
    format!("{INVITATION}{}", random())
}

/// What is kept of a secret.
pub fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}

/// A refresh token: a family, which stays, and a secret, which changes.
pub struct Refresh {
    family: [u8; FAMILY_BYTES],
    secret: [u8; SECRET_BYTES],
}

impl Refresh {
    /// The first of a new family.
    pub fn first() -> Self {
        Self {
            family: random_bytes(),
            secret: random_bytes(),
        }
    }

    /// The next of the same family.
    #[must_use]
    pub fn next(&self) -> Self {
        Self {
            family: self.family,
            secret: random_bytes(),
        }
    }

    /// From what a client sent; `None` when it can't be one.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(REFRESH)?).ok()?;
        let (family, secret) = bytes.split_first_chunk()?;
        Some(Self {
            family: *family,
            secret: secret.try_into().ok()?,
        })
    }

    /// As it is handed out.
    pub fn expose(&self) -> String {
        format!(
            "{REFRESH}{}",
            URL_SAFE_NO_PAD.encode([&self.family[..], &self.secret].concat())
        )
    }

    /// What is kept of the family.
    pub fn family_hash(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(b"family")
            .chain_update(self.family)
            .finalize()
            .into()
    }

    /// What is kept of the whole.
    pub fn hash(&self) -> [u8; 32] {
        hash(&self.expose())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refresh_token_keeps_its_family() {
        let first = Refresh::first();
        let again = Refresh::parse(&first.expose()).expect("it is one");
        assert_eq!(
            (again.hash(), again.family_hash()),
            (first.hash(), first.family_hash())
        );
        let next = first.next();
        assert_eq!(next.family_hash(), first.family_hash());
        assert_ne!(next.hash(), first.hash());
        for bad in [
            "",
            "zcr_",
            "zcr_AAAA",
            &first.expose()[4..],
            &format!("{}A", first.expose()),
        ] {
            assert!(Refresh::parse(bad).is_none(), "{bad}");
        }
    }
}
