//! The SHA-256 of content: the only name that bytes have in the store.
//!
//! A [`Digest`] is always 64 lower-case hexadecimal digits, so it can be joined to a path.

use base64::{Engine, engine::general_purpose::STANDARD};
use http::HeaderMap;
use std::{fmt, str::FromStr};
use zectre_service::key::{from_hex, to_hex};

/// What the content's SHA-256 must be, in hex.
pub const CONTENT_SHA256: &str = "x-content-sha256";
/// What the content's digest must be (RFC 3230), base64.
pub const DIGEST: &str = "digest";

/// A SHA-256.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

/// The text is no digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Not 64 lower-case hexadecimal digits.
    #[error("a SHA-256 is 64 lower-case hexadecimal digits")]
    Hex,
    /// The `X-Content-Sha256` header is no digest.
    #[error("the header X-Content-Sha256 must hold 64 hexadecimal digits")]
    ContentSha256,
    /// The `Digest` header is no digest.
    #[error("the header Digest must hold sha-256= and the base64 of 32 bytes")]
    Header,
    /// Two headers name two digests.
    #[error("the headers Digest and X-Content-Sha256 name different content")]
    Disagree,
}

impl Digest {
    /// From the hash itself.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(to_hex(bytes))
    }

    /// Lower-case hex.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What the client says that the content must be, if it says so. The header may list several algorithms, and must
    /// list SHA-256: a promise that nobody checks is none.
    pub fn announced(headers: &HeaderMap) -> Result<Option<Self>, DigestError> {
        let plain = headers.get(CONTENT_SHA256).map(|value| {
            let text = value.to_str().map_err(|_| DigestError::ContentSha256)?;
            let bytes = from_hex::<32>(text.trim()).ok_or(DigestError::ContentSha256)?;
            Ok(Self::from_bytes(&bytes))
        });
        let (plain, listed) = (plain.transpose()?, Self::listed(headers)?);
        match (plain, listed) {
            (Some(plain), Some(listed)) if plain != listed => Err(DigestError::Disagree),
            (plain, listed) => Ok(plain.or(listed)),
        }
    }

    fn listed(headers: &HeaderMap) -> Result<Option<Self>, DigestError> {
        let Some(value) = headers.get(DIGEST) else {
            return Ok(None);
        };
        let text = value.to_str().map_err(|_| DigestError::Header)?;
        for part in text.split(',') {
            let (algorithm, encoded) = part.trim().split_once('=').ok_or(DigestError::Header)?;
            if algorithm.eq_ignore_ascii_case("sha-256") {
                let bytes = STANDARD.decode(encoded).map_err(|_| DigestError::Header)?;
                let bytes = <[u8; 32]>::try_from(bytes).map_err(|_| DigestError::Header)?;
                return Ok(Some(Self::from_bytes(&bytes)));
            }
        }
        Err(DigestError::Header)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let bytes = from_hex::<32>(text).ok_or(DigestError::Hex)?;
        // One spelling only: the text is a file name, an ETag and a database key.
        let digest = Self::from_bytes(&bytes);
        if digest.0 == text {
            Ok(digest)
        } else {
            Err(DigestError::Hex)
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), HeaderValue::from_static(value)))
            .collect()
    }

    const EMPTY_HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_BASE64: &str = "sha-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";

    #[test]
    fn both_headers_name_the_same_content() {
        let expected: Digest = EMPTY_HEX.parse().expect("a digest");
        for given in [
            headers(&[(CONTENT_SHA256, EMPTY_HEX)]),
            headers(&[(DIGEST, EMPTY_BASE64)]),
        ] {
            assert_eq!(Digest::announced(&given), Ok(Some(expected.clone())));
        }
        let both = headers(&[(CONTENT_SHA256, EMPTY_HEX), (DIGEST, EMPTY_BASE64)]);
        assert_eq!(Digest::announced(&both), Ok(Some(expected)));
    }

    #[test]
    fn a_list_of_algorithms_is_searched() {
        let unknown = headers(&[(DIGEST, "md5=abc")]);
        assert_eq!(Digest::announced(&unknown), Err(DigestError::Header));
        let list = "md5=abc, SHA-256=47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=";
        assert!(matches!(
            Digest::announced(&headers(&[(DIGEST, list)])),
            Ok(Some(_))
        ));
    }

    #[test]
    fn nonsense_is_refused() {
        assert_eq!(
            Digest::announced(&headers(&[(DIGEST, "sha-256=xx")])),
            Err(DigestError::Header)
        );
        assert_eq!(
            Digest::announced(&headers(&[(DIGEST, "nonsense")])),
            Err(DigestError::Header)
        );
        assert_eq!(
            Digest::announced(&headers(&[(CONTENT_SHA256, "12")])),
            Err(DigestError::ContentSha256)
        );
        let zeros = "0000000000000000000000000000000000000000000000000000000000000000";
        let both = headers(&[(CONTENT_SHA256, zeros), (DIGEST, EMPTY_BASE64)]);
        assert_eq!(Digest::announced(&both), Err(DigestError::Disagree));
    }

    #[test]
    fn only_one_spelling_is_a_path() {
        assert!(EMPTY_HEX.to_uppercase().parse::<Digest>().is_err());
        assert!("../../etc/passwd".parse::<Digest>().is_err());
        assert!("".parse::<Digest>().is_err());
    }
}
