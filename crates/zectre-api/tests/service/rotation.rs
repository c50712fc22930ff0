//! Rotation of the master keys under a running API.

use crate::harness::{Answer, Harness};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use sqlx::Row;
use std::{collections::BTreeSet, path::Path};
use uuid::Uuid;
use zectre_api::rotation;
use zectre_service::{
    key::from_hex,
    ring::{KeyFile, KeyRing},
    seal::{
        self,
        place::{self, COLUMNS, HASHES},
    },
};

#[tokio::test]
async fn every_column_of_bytes_is_known_to_hold_sealed_values_or_hashes() {
    let api = Harness::start().await;
    let rows = sqlx::query(
        "SELECT table_name::text AS t, column_name::text AS c FROM information_schema.columns
         WHERE table_schema = 'public' AND data_type = 'bytea' AND table_name NOT LIKE '\\_sqlx%'",
    )
    .fetch_all(&api.pool)
    .await
    .expect("the catalog can be read");
    let there: BTreeSet<(String, String)> = rows.iter().map(|row| (row.get("t"), row.get("c"))).collect();
    let bytes = COLUMNS.iter().filter(|column| column.form == place::Form::Bytes);
    let known = bytes
        .map(|column| (column.table, column.column))
        .chain(HASHES.iter().copied());
    let known: BTreeSet<(String, String)> = known.map(|(t, c)| (t.to_owned(), c.to_owned())).collect();
    // A new one belongs into one of the lists in `zectre_service::seal::place`: a rotation would miss it otherwise.
    assert_eq!(there, known);
    api.stop().await;
}

/// A value in every column of [`COLUMNS`]; those of proxies as they write them.
async fn plant(api: &Harness) -> String {
    let app = api.app("hello").await;
    let key = api.keys.master().expect("it is set");
    let put = async |path: String, body| {
        let path = format!("/apps/{app}{path}");
        api.call(&api.admin, Method::PUT, &path, Some(body))
            .await
            .expect(200);
    };
    for n in 0..300 {
        put(format!("/env/V{n}"), json!({"value": format!("value {n}")})).await;
    }
    put(
        "/env/P".into(),
        json!({"value": "own", "environment": "production"}),
    )
    .await;
    put(
        "/source".into(),
        json!({"repository": "https://github.com/a/b", "token": "t0ken"}),
    )
    .await;
    api.post("/webhooks", json!({"url": "https://example.com/"}))
        .await
        .expect(201);
    make_once(api).await;
    let id = Uuid::now_v7();
    let sealed = |context: String| seal::seal(&key, &context, "private");
    sqlx::query("INSERT INTO certificates VALUES ('a.example', $1, '', $2, now(), now())")
        .bind(id)
        .bind(sealed(place::certificate("a.example", id)))
        .execute(&api.pool)
        .await
        .expect("a certificate");
    sqlx::query("INSERT INTO acme_orders (name, revision, sealed_key) VALUES ('b.example', 1, $1)")
        .bind(sealed(place::acme_order("b.example")))
        .execute(&api.pool)
        .await
        .expect("an order");
    sqlx::query(
        "INSERT INTO acme_accounts VALUES ('https://acme', 'https://acme/1', $1), ('https://lost', '', $2),
             ('https://moved', '', $3)",
    )
    .bind(sealed(place::acme_account("https://acme")))
    .bind([&[2_u8][..], &[9; 60]].concat())
    .bind(sealed(place::acme_account("https://elsewhere")))
    .execute(&api.pool)
    .await
    .expect("an account, one that opens with no key, and one of the old key that does not open here");
    app
}

async fn variable(api: &Harness, app: &str, key: &str) -> Option<Value> {
    let path = format!("/apps/{app}/env?page_size=100&sort_by=key");
    let all = api.get(&path).await.expect(200).json();
    let mut all = all["data"].as_array().expect("a page").iter();
    all.find(|one| one["key"] == key).map(|one| one["value"].clone())
}

/// What was made with an `Idempotency-Key`; the answer says whether it is a repetition.
async fn make_once(api: &Harness) -> Answer {
    let once = api
        .request(Method::POST, "/api-keys")
        .header("X-API-Key", &api.admin);
    let once = once
        .header("Idempotency-Key", "again")
        .json(&json!({"name": "once"}));
    api.send(once).await.expect(201)
}

#[tokio::test]
async fn a_rotation_that_is_broken_off_goes_on_and_the_api_reads_and_writes_meanwhile() {
    let api = Harness::start().await;
    let app = plant(&api).await;
    let file = api.config.secrets.master_key_file.clone();
    let ids = || {
        let file = KeyFile::read(&file).expect("it is whole");
        file.keys()
            .iter()
            .map(|key| key.id().to_string())
            .collect::<Vec<_>>()
    };
    let first = ids()[0].clone();
    let old_key = std::fs::read_to_string(&file).expect("it is ours");
    let value = async |key: &str| variable(&api, &app, key).await;

    // Broken off after the first values.
    let (begun, mut has_begun) = tokio::sync::watch::channel(0);
    let rotating = rotation::rotate(&api.pool, &file, false, |count| {
        begun.send_replace(count);
    });
    tokio::select! {
        ended = rotating => panic!("it ended: {ended:?}"),
        changed = has_begun.wait_for(|count| *count > 0) => { changed.expect("it told"); }
    }
    assert_eq!(ids().len(), 2);
    assert_eq!(ids()[1], first);
    assert_eq!(value("V0").await, Some(json!("value 0")));
    assert_eq!(value("P").await, Some(json!("own")));

    let meanwhile = async {
        for n in 0..50 {
            let path = format!("/apps/{app}/env/M{n}");
            let body = Some(json!({"value": format!("meanwhile {n}")}));
            api.call(&api.admin, Method::PUT, &path, body).await.expect(200);
        }
    };
    let (rotated, ()) = tokio::join!(rotation::rotate(&api.pool, &file, false, |_| ()), meanwhile);
    let rotated = rotated.expect("it ends");
    assert_eq!(rotated.lost, [("acme_accounts.sealed_credentials".to_owned(), 2)]);
    assert_eq!(rotated.retired, [first]);
    assert!(rotated.resumed, "the first one made the key");
    let kept = rotated.retired_file.expect("an old key is kept");
    let kept = std::fs::read_to_string(kept).expect("it is ours");
    assert_eq!(kept.trim(), old_key.trim());
    assert_eq!(ids(), std::slice::from_ref(&rotated.newest));

    let uses = zectre_service::rotation::uses(&api.pool, COLUMNS, &file)
        .await
        .expect("they can be counted");
    let of = |place: usize| -> Vec<&str> { uses[place].values.iter().map(|(name, _)| &**name).collect() };
    let all: Vec<String> = COLUMNS
        .iter()
        .map(|column| format!("{}.{}", column.table, column.column))
        .collect();
    assert_eq!(of(0), all, "every column's values are the new key's");
    // One that the forgotten key sealed for another row, and one that nobody knows.
    let roles: Vec<&str> = uses.iter().map(|one| one.role).collect();
    assert_eq!(roles, ["seals", "retired", "unnamed"]);
    assert_eq!((of(1), of(2)), (vec!["acme_accounts.sealed_credentials"], of(1)));
    assert_eq!(value("M9").await, Some(json!("meanwhile 9")));
    assert_eq!(value("V0").await, Some(json!("value 0")));
    assert_eq!(make_once(&api).await.headers["idempotency-replayed"], "true");
    let key = api.keys.master().expect("it is set");
    let sealed = sqlx::query_scalar("SELECT sealed_key FROM acme_orders").fetch_one(&api.pool);
    let sealed: Vec<u8> = sealed.await.expect("an order");
    assert!(seal::open(&key, &place::acme_order("b.example"), &sealed).is_ok());

    what_was_sealed_late_is_readable(&key, &old_key);
    an_unreadable_file_is_told_of(&api, &file).await;
    assert_eq!(
        value("V0").await,
        Some(json!("value 0")),
        "and nothing else breaks"
    );
    api.stop().await;
}

/// A daemon that stood still for long has sealed with the forgotten key.
fn what_was_sealed_late_is_readable(key: &KeyRing, old_key: &str) {
    let late = KeyRing::from_bytes(from_hex(old_key.trim()).expect("a key"));
    let late = seal::seal(&late, &place::acme_order("b.example"), "late");
    let opened = seal::open(key, &place::acme_order("b.example"), &late);
    assert_eq!(
        opened.map(|plain| plain.expose_secret().to_owned()),
        Ok("late".to_owned())
    );
}

async fn an_unreadable_file_is_told_of(api: &Harness, file: &Path) {
    let ready = async || api.page(Method::GET, "/ready").send().await.expect("it answers");
    assert_eq!(ready().await.status(), 200);
    std::fs::write(file, "no key").expect("it is ours");
    let answer = ready().await;
    assert_eq!(answer.status(), 503);
    let said = answer.text().await.expect("text");
    assert!(said.contains("master keys: "), "{said}");
}
