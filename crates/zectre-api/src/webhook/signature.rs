//! Signatures of deliveries as Standard Webhooks describes them (`v1`): HMAC-SHA-256 over id, time and body. Pure.

use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use zectre_common::{id::DeliveryId, wire::webhook::SECRET_PREFIX};
use zectre_service::key::random_bytes;

/// Standard Webhooks asks for 24 to 64.
const KEY_BYTES: usize = 32;

/// A fresh secret.
pub(crate) fn new_secret() -> SecretString {
    format!("{SECRET_PREFIX}{}", STANDARD.encode(random_bytes::<KEY_BYTES>())).into()
}

/// `webhook-id`: the same at each attempt, so that a receiver can tell a repeat.
pub(crate) fn message_id(delivery: DeliveryId) -> String {
    format!("msg_{}", delivery.get().simple())
}

/// `webhook-signature`; `None` when the secret is not one.
pub(crate) fn sign(secret: &SecretString, id: &str, unix_secs: i64, body: &str) -> Option<String> {
    let key = secret.expose_secret().strip_prefix(SECRET_PREFIX)?;
    let key = STANDARD.decode(key).ok()?;
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes keys of any length");
    mac.update(format!("{id}.{unix_secs}.").as_bytes());
    mac.update(body.as_bytes());
    Some(format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_standard_signs_as_it_says() {
        let secret = SecretString::from("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let signed = sign(
            &secret,
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            1_614_265_330,
            r#"{"test": 2432232314}"#,
        );
        assert_eq!(
            signed.as_deref(),
            Some("v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
        );
        assert_eq!(sign(&"hello".to_owned().into(), "x", 0, ""), None);
    }

    #[test]
    fn secrets_are_fresh_and_sign() {
        let (one, other) = (new_secret(), new_secret());
        assert_ne!(one.expose_secret(), other.expose_secret());
        assert_ne!(sign(&one, "a", 0, ""), sign(&other, "a", 0, ""));
        assert!(sign(&one, "a", 0, "").is_some());
    }
}
