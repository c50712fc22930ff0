//! Proof that who exchanges a code began its login (RFC 7636), with SHA-256 only.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Characters of a SHA-256 in base64url.
const CHALLENGE_CHARS: usize = 43;

/// Whether it can be what [`challenge`] makes.
pub fn is_challenge(text: &str) -> bool {
    text.len() == CHALLENGE_CHARS
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Whether `verifier` is one (43 to 128 unreserved characters) and `challenge` is made of it.
pub fn verify(verifier: &str, given: &str) -> bool {
    let formed = (43..=128).contains(&verifier.len())
        && verifier
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
    formed && bool::from(challenge(verifier).as_bytes().ct_eq(given.as_bytes()))
}

/// What is told before.
pub fn challenge(verifier: &str) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(verifier.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standards_example() {
        let (verifier, challenge) = (
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
            "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM",
        );
        assert!(is_challenge(challenge) && verify(verifier, challenge));
        // The plain method would let a challenge be its own verifier.
        assert!(!verify(challenge, challenge));
        assert!(!verify(&verifier[..42], &super::challenge(&verifier[..42])));
        assert!(!is_challenge("") && !is_challenge(&"=".repeat(43)));
    }
}
