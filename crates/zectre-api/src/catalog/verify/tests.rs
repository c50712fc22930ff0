//! Good tokens are taken, and every other one is refused for its own reason.

use super::*;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PKCS_ED25519, PublicKeyData};
use rsa::{RsaPrivateKey, pkcs1::EncodeRsaPrivateKey, pkcs8::EncodePublicKey, traits::PublicKeyParts};
use serde_json::{Value, json};
use std::sync::LazyLock;

const NOW_SECS: i64 = 1_800_000_000;

struct World {
    keys: KeySet,
    rsa: EncodingKey,
    ed: EncodingKey,
    /// What an attacker may take for a shared secret.
    public: Vec<Vec<u8>>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let private = RsaPrivateKey::new(&mut rsa::rand_core::OsRng, 2_048).expect("a key");
    let part = |number: &rsa::BigUint| URL_SAFE_NO_PAD.encode(number.to_bytes_be());
    let (n, e) = (part(private.n()), part(private.e()));
    let ed = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let jwks = json!({ "keys": [
        { "kty": "RSA", "kid": "r", "use": "sig", "alg": "RS256", "n": n, "e": e },
        { "kty": "OKP", "crv": "Ed25519", "kid": "e", "x": URL_SAFE_NO_PAD.encode(ed.der_bytes()) },
        { "kty": "EC", "crv": "P-256", "kid": "p", "x": "AA", "y": "AA" },
        { "kty": "oct", "kid": "o", "alg": "HS256", "k": "c2VjcmV0c2VjcmV0" },
        { "kty": "RSA", "kid": "short", "n": "AQAB", "e": "AQAB" },
        { "kty": "RSA", "kid": "sealing", "use": "enc", "n": n, "e": e },
        { "kty": "RSA", "n": n, "e": e },
    ] });
    let der = private.to_public_key().to_public_key_der().expect("a key");
    let pem = private
        .to_public_key()
        .to_public_key_pem(rsa::pkcs8::LineEnding::LF);
    World {
        keys: KeySet::parse(jwks.to_string().as_bytes()).expect("two keys"),
        rsa: EncodingKey::from_rsa_der(private.to_pkcs1_der().expect("a key").as_bytes()),
        ed: EncodingKey::from_ed_der(&ed.serialize_der()),
        public: vec![
            der.as_bytes().to_vec(),
            pem.expect("a key").into_bytes(),
            n.into_bytes(),
            private.n().to_bytes_be(),
        ],
    }
});

fn header(algorithm: Algorithm, kid: &str) -> Header {
    Header {
        typ: Some("at+jwt".into()),
        kid: Some(kid.into()),
        ..Header::new(algorithm)
    }
}

fn claims(change: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://catalog.test", "sub": "s-1", "aud": "cluster-1", "exp": NOW_SECS + 600, "iat": NOW_SECS,
        "jti": "t-1", "email": "ann@example.org", "email_verified": true, "name": "Ann", "client_id": "cli",
        "orgs": [{ "slug": "acme", "name": "Acme", "role": "developer" }],
    });
    for (key, value) in change.as_object().expect("an object") {
        claims[key] = value.clone();
    }
    claims
}

fn by_ed(claims: &Value) -> String {
    jsonwebtoken::encode(&header(Algorithm::EdDSA, "e"), claims, &WORLD.ed).expect("signed")
}

fn checked(token: &str) -> Result<Claims, Refused> {
    let expected = Expected {
        issuer: "https://catalog.test".into(),
        audience: "cluster-1".into(),
    };
    verify(
        &WORLD.keys,
        &expected,
        token,
        Time::from_unix_ms(NOW_SECS * 1_000),
    )
}

fn refused(change: &Value) -> Refused {
    checked(&by_ed(&claims(change))).expect_err("refused")
}

#[test]
fn only_keys_that_can_sign_are_listed() {
    assert_eq!(WORLD.keys.len(), 2);
    for unusable in [
        json!({}),
        json!({ "keys": [] }),
        json!({ "keys": [{ "kty": "oct", "k": "AA", "kid": "o" }] }),
    ] {
        assert!(
            KeySet::parse(unusable.to_string().as_bytes()).is_err(),
            "{unusable}"
        );
    }
}

#[test]
fn tokens_of_both_algorithms_are_taken() {
    let by_rsa = jsonwebtoken::encode(&header(Algorithm::RS256, "r"), &claims(&json!({})), &WORLD.rsa);
    for token in [by_rsa.expect("signed"), by_ed(&claims(&json!({})))] {
        assert!(is_access_token(&token));
        let said = checked(&token).expect("good");
        assert_eq!(
            (said.subject.as_str(), said.email.as_str()),
            ("s-1", "ann@example.org")
        );
        assert_eq!(said.orgs[0].role, Role::Developer);
    }
    // A name is for people: what nobody sees of it is left out, and so is one that is too long.
    let named = |name: &str| {
        checked(&by_ed(&claims(&json!({ "name": name }))))
            .expect("good")
            .name
    };
    assert_eq!(named("A\u{202e}nn ❤\u{fe0f}"), "Ann ❤");
    assert_eq!(
        (named("\u{2800}"), named(&"a".repeat(256))),
        (String::new(), String::new())
    );
    let several = claims(&json!({ "aud": ["other", "cluster-1"], "iat": NOW_SECS + 30 }));
    assert!(checked(&by_ed(&several)).is_ok(), "clocks may differ a little");
}

#[test]
fn what_it_says_must_hold_here_and_now() {
    for (change, why) in [
        (json!({ "iss": "https://catalog.test/" }), Refused::Issuer),
        (json!({ "aud": "cluster-2" }), Refused::Audience),
        (json!({ "aud": [] }), Refused::Audience),
        (json!({ "exp": NOW_SECS }), Refused::Expired),
        (json!({ "iat": NOW_SECS + 61 }), Refused::NotYetValid),
        (json!({ "nbf": NOW_SECS + 61 }), Refused::NotYetValid),
        (json!({ "sub": "" }), Refused::Claim("sub")),
        (json!({ "jti": "a\nb" }), Refused::Claim("jti")),
        (json!({ "email": "ann" }), Refused::Claim("email")),
        (
            json!({ "orgs": [{ "slug": "Not A Slug", "name": "", "role": "viewer" }] }),
            Refused::Claim("orgs"),
        ),
        (
            json!({ "orgs": [{ "slug": "acme", "name": "", "role": "root" }] }),
            Refused::Claim("a claim"),
        ),
        (json!({ "exp": null }), Refused::Claim("a claim")),
        (json!({ "exp": "never" }), Refused::Claim("a claim")),
    ] {
        assert_eq!(refused(&change), why, "{change}");
    }
}

#[test]
fn whoever_signed_it_must_be_the_catalog() {
    let good = claims(&json!({}));
    let signed =
        |header: &Header, key: &EncodingKey| jsonwebtoken::encode(header, &good, key).expect("signed");
    // A public key is no shared secret.
    for secret in &WORLD.public {
        let forged = signed(&header(Algorithm::HS256, "r"), &EncodingKey::from_secret(secret));
        assert_eq!(checked(&forged), Err(Refused::Algorithm));
    }
    // A key is used with its own algorithm only, and one of another kind is none.
    let other = signed(&header(Algorithm::RS512, "r"), &WORLD.rsa);
    assert_eq!(checked(&other), Err(Refused::Algorithm));
    let shared = signed(
        &header(Algorithm::HS256, "o"),
        &EncodingKey::from_secret(b"secretsecret"),
    );
    assert_eq!(checked(&shared), Err(Refused::UnknownKey));
    let swapped = signed(&header(Algorithm::EdDSA, "r"), &WORLD.ed);
    assert_eq!(checked(&swapped), Err(Refused::Algorithm));
    let unknown = signed(&header(Algorithm::EdDSA, "x"), &WORLD.ed);
    assert_eq!(checked(&unknown), Err(Refused::UnknownKey));
    let stranger = KeyPair::generate_for(&PKCS_ED25519).expect("a key");
    let stranger = EncodingKey::from_ed_der(&stranger.serialize_der());
    let forged = signed(&header(Algorithm::EdDSA, "e"), &stranger);
    assert_eq!(checked(&forged), Err(Refused::Signature));
}

#[test]
fn a_header_that_is_not_one_of_an_access_token_is_refused() {
    let good = claims(&json!({}));
    let signed = |change: &dyn Fn(&mut Header)| {
        let mut header = header(Algorithm::EdDSA, "e");
        change(&mut header);
        jsonwebtoken::encode(&header, &good, &WORLD.ed).expect("signed")
    };
    for (token, why) in [
        (signed(&|header| header.kid = None), Refused::NoKeyId),
        (
            signed(&|header| header.kid = Some(String::new())),
            Refused::NoKeyId,
        ),
        (signed(&|header| header.typ = Some("JWT".into())), Refused::Type),
        (signed(&|header| header.typ = None), Refused::Type),
        (
            signed(&|header| header.crit = Some(vec!["exp".into()])),
            Refused::Malformed,
        ),
    ] {
        assert_eq!(checked(&token), Err(why));
    }
    assert!(checked(&signed(&|header| header.typ = Some("application/at+JWT".into()))).is_ok());
}

#[test]
fn what_was_changed_or_never_signed_is_refused() {
    let good = by_ed(&claims(&json!({})));
    let parts: Vec<&str> = good.split('.').collect();
    let encoded = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let richer = encoded(&claims(&json!({ "sub": "s-2" })));
    let tampered = format!("{}.{richer}.{}", parts[0], parts[2]);
    assert_eq!(checked(&tampered), Err(Refused::Signature));
    for algorithm in ["none", "None", "NONE", ""] {
        let none = encoded(&json!({ "alg": algorithm, "typ": "at+jwt", "kid": "e" }));
        for signature in ["", parts[2]] {
            let token = format!("{none}.{}.{signature}", parts[1]);
            assert_eq!(checked(&token), Err(Refused::Malformed), "{algorithm}");
        }
    }
    let unsigned = format!("{}.{}.", parts[0], parts[1]);
    assert!(matches!(
        checked(&unsigned),
        Err(Refused::Signature | Refused::Malformed)
    ));
    for nonsense in ["", ".", "..", "a.b.c", "zk_x", &good[..good.len() / 2]] {
        assert!(checked(nonsense).is_err(), "{nonsense}");
    }
}
