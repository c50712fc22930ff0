//! Keys: published before they sign, kept as long as anything needs them, sealed at rest.

use crate::harness::{Catalog, claims, person};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use serde_json::Value;
use std::time::Duration;
use zectre_catalog::{claims::AccessClaims, keys::Keyring};
use zectre_common::time::Time;
use zectre_service::key::{self, MasterKey};

fn check(jwks: &JwkSet, token: &str, issuer: &str) -> AccessClaims {
    let header = jsonwebtoken::decode_header(token).expect("a header");
    assert_eq!(header.typ.as_deref(), Some("at+jwt"));
    let jwk = jwks.find(&header.kid.expect("a kid")).expect("published");
    let mut validation = Validation::new(header.alg);
    validation.set_audience(&[issuer]);
    validation.set_issuer(&[issuer]);
    let key = DecodingKey::from_jwk(jwk).expect("a key");
    jsonwebtoken::decode(token, &key, &validation)
        .expect("it holds")
        .claims
}

#[tokio::test]
async fn anyone_can_check_a_token_with_what_is_published() {
    for algorithm in ["RS256", "EdDSA"] {
        let catalog = Catalog::start_with(&format!("[tokens]\nalgorithm = '{algorithm}'\n")).await;
        let metadata: Value = catalog
            .get("/.well-known/openid-configuration")
            .await
            .json()
            .await
            .expect("JSON");
        assert_eq!(metadata["issuer"], catalog.url.as_str());
        assert_eq!(
            metadata["id_token_signing_alg_values_supported"],
            serde_json::json!([algorithm])
        );
        let jwks_uri = metadata["jwks_uri"]
            .as_str()
            .expect("text")
            .strip_prefix(&catalog.url)
            .expect("its own");
        let answer = catalog.get(jwks_uri).await;
        assert_eq!(answer.headers()["cache-control"], "public, max-age=300");
        let text = answer.text().await.expect("text");
        for private in ["\"d\"", "\"p\"", "\"q\""] {
            assert!(!text.contains(private), "{text}");
        }
        let jwks: JwkSet = serde_json::from_str(&text).expect("a key set");
        let ada = catalog.sign_in(&person("ada")).await;
        assert_eq!(check(&jwks, &ada.access, &catalog.url).email, "ada@example.test");
    }
}

#[tokio::test]
async fn keys_take_turns() {
    let catalog = Catalog::start().await;
    let master = key::read("master_key_file", &catalog.config.secrets.master_key_file).expect("read");
    let master = MasterKey::from_bytes(master.expect("set"));
    let ring = Keyring::open(catalog.pool.clone(), master, catalog.config.tokens.clone())
        .await
        .expect("opened");
    let kids = |ring: &Keyring| -> Vec<String> {
        let jwks = ring.jwks();
        let keys = jwks["keys"].as_array().expect("a list").clone();
        keys.iter()
            .map(|key| key["kid"].as_str().expect("text").to_owned())
            .collect()
    };
    let first = kids(&ring);
    assert_eq!(first.len(), 1, "the running catalog's own key, not another");
    let ada = catalog.sign_in(&person("ada")).await;
    let said: AccessClaims = serde_json::from_value(claims(&ada.access)).expect("claims");

    // A month less a day on: the next is there, the first signs.
    let (now, day) = (Time::now(), Duration::from_secs(86_400));
    ring.renew(now.plus(29 * day)).await.expect("renewed");
    let both = kids(&ring);
    assert_eq!((both.len(), &both[0]), (2, &first[0]));
    let kid = |token: &str| {
        jsonwebtoken::decode_header(token)
            .expect("a header")
            .kid
            .expect("a kid")
    };
    assert_eq!(kid(&ring.sign(&said).expect("signed")), first[0]);
    // Its turn: the first is kept for its last tokens, then goes.
    sqlx::query("UPDATE signing_keys SET signs_from = signs_from - interval '30 days'")
        .execute(&catalog.pool)
        .await
        .expect("aged");
    ring.renew(now).await.expect("renewed");
    assert_eq!(kid(&ring.sign(&said).expect("signed")), both[1]);
    assert!(ring.verify(&ada.access, &catalog.url, &catalog.url).is_some());
    ring.renew(now.plus(day)).await.expect("renewed");
    assert_eq!(kids(&ring), [both[1].clone()]);
    assert!(ring.verify(&ada.access, &catalog.url, &catalog.url).is_none());
    // A thief of the database has no key.
    let other = MasterKey::from_bytes([7; 32]);
    assert!(
        Keyring::open(catalog.pool.clone(), other, catalog.config.tokens.clone())
            .await
            .is_err()
    );
}
