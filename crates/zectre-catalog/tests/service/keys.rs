//! Keys: published before they sign, kept as long as anything needs them, sealed at rest.

use crate::harness::{Catalog, claims, person};
use jsonwebtoken::{DecodingKey, Validation, jwk::JwkSet};
use serde_json::Value;
use sqlx::Row;
use std::{collections::BTreeSet, time::Duration};
use zectre_catalog::{
    claims::AccessClaims,
    keys::Keyring,
    sealed::{COLUMNS, HASHES},
};
use zectre_common::time::Time;
use zectre_service::{key::MasterKey, rotation, seal::place::Form};

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
    // RS256 unless the configuration says otherwise.
    for (said, algorithm) in [("", "RS256"), ("[tokens]\nalgorithm = 'EdDSA'\n", "EdDSA")] {
        let catalog = Catalog::start_with(said).await;
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
        let published: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(published["keys"][0]["alg"], algorithm);
        let jwks: JwkSet = serde_json::from_str(&text).expect("a key set");
        let ada = catalog.sign_in(&person("ada")).await;
        assert_eq!(check(&jwks, &ada.access, &catalog.url).email, "ada@example.test");
    }
}

#[tokio::test]
async fn a_catalog_whose_signing_key_cannot_be_opened_is_not_ready() {
    let catalog = Catalog::start().await;
    let ready = async || {
        let answer = catalog.get("/ready").await;
        (answer.status().as_u16(), answer.text().await.expect("text"))
    };
    assert_eq!(ready().await.0, 200);
    let sealed: Vec<u8> = sqlx::query_scalar("SELECT private_sealed FROM signing_keys")
        .fetch_one(&catalog.pool)
        .await
        .expect("a key");
    let set = async |sealed: &[u8]| {
        let update = sqlx::query("UPDATE signing_keys SET private_sealed = $1").bind(sealed);
        update.execute(&catalog.pool).await.expect("valid");
    };
    set(&sealed[..sealed.len() - 1]).await;
    let (status, why) = ready().await;
    assert!(status == 503 && why.contains("signing key"), "{status} {why}");
    set(&sealed).await;
    assert_eq!(ready().await.0, 200);
}

#[tokio::test]
async fn keys_take_turns() {
    let catalog = Catalog::start().await;
    let master = MasterKey::load(&catalog.config.secrets.master_key_file).expect("read");
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

#[tokio::test]
async fn master_keys_are_rotated_under_a_running_catalog() {
    let catalog = Catalog::start().await;
    let file = &catalog.config.secrets.master_key_file;
    let ada = catalog.sign_in(&person("ada")).await;
    let old = std::fs::read_to_string(file).expect("it is ours");
    let rotated = rotation::rotate(&catalog.pool, COLUMNS, file, false, |_| ()).await;
    let rotated = rotated.expect("it ends");
    assert_eq!(
        (rotated.resealed, rotated.retired.len(), rotated.lost.len()),
        (1, 1, 0)
    );
    // The old key opens nothing, and nothing is missing: for a catalog that starts, nor for the one that runs.
    let tokens = &catalog.config.tokens;
    let open = async |master| Keyring::open(catalog.pool.clone(), master, tokens.clone()).await;
    let ring = open(MasterKey::load(file).expect("read"))
        .await
        .expect("it opens");
    assert!(ring.verify(&ada.access, &catalog.url, &catalog.url).is_some());
    catalog.done(&ada.access, "GET", "/me", None, 200).await;
    catalog.sign_in(&person("bob")).await;
    std::fs::write(file, old).expect("written");
    assert!(open(MasterKey::load(file).expect("read")).await.is_err());
}

#[tokio::test]
async fn every_column_of_bytes_is_known_to_hold_sealed_values_or_hashes() {
    let catalog = Catalog::start().await;
    let rows = sqlx::query(
        "SELECT table_name::text AS t, column_name::text AS c FROM information_schema.columns
         WHERE table_schema = 'public' AND data_type = 'bytea' AND table_name NOT LIKE '\\_sqlx%'",
    );
    let rows = rows.fetch_all(&catalog.pool).await.expect("they can be read");
    let there: BTreeSet<(String, String)> = rows.iter().map(|row| (row.get("t"), row.get("c"))).collect();
    let sealed = COLUMNS.iter().filter(|column| column.form == Form::Bytes);
    let known = sealed
        .map(|column| (column.table, column.column))
        .chain(HASHES.iter().copied());
    let known: BTreeSet<(String, String)> = known.map(|(t, c)| (t.to_owned(), c.to_owned())).collect();
    // A new one belongs into one of the lists in `zectre_catalog::sealed`: a rotation would miss it otherwise.
    assert_eq!(there, known);
}
