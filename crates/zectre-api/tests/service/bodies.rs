//! Endpoints that expect no body refuse one: whoever sends something expects it to matter.

use crate::{harness::Harness, rows, things::Things};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

/// Every operation of the document: method, path below the prefix, and its description.
pub(crate) fn operations() -> Vec<(Method, String, serde_json::Value)> {
    let document = serde_json::to_value(zectre_api::openapi::document()).expect("plain data");
    let mut all = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method = Method::from_bytes(method.to_uppercase().as_bytes()).expect("a method");
            let template = path.strip_prefix("/api/v1").expect("the prefix");
            all.push((method, template.to_owned(), operation.clone()));
        }
    }
    all
}

#[tokio::test]
async fn no_endpoint_without_a_body_takes_one() {
    let api = Harness::start().await;
    let (user, key) = rows::user(&api.pool, true).await;
    let api_key: Uuid = sqlx::query_scalar("SELECT id FROM api_keys WHERE user_id = $1")
        .bind(user)
        .fetch_one(&api.pool)
        .await
        .expect("was made");
    let things = Things::make(&api, api_key).await;
    let mut walked = 0;
    for (method, template, operation) in operations() {
        if !operation["requestBody"].is_null() {
            continue;
        }
        walked += 1;
        for (body, code) in [
            ("garbage", "MALFORMED_JSON"),
            ("{\"force\": true}", "INVALID_INPUT"),
            ("[]", "INVALID_INPUT"),
            ("null", "INVALID_INPUT"),
        ] {
            let request = api.request(method.clone(), &things.path(&template));
            let answer = api.send(request.header("X-API-Key", &key).body(body)).await;
            assert_eq!(
                answer.status, 400,
                "{method} {template} took {body}: {}",
                answer.text
            );
            assert_eq!(answer.code(), code, "{method} {template} {body}");
        }
        let large = "{".repeat(100_000);
        let request = api.request(method.clone(), &things.path(&template));
        let answer = api.send(request.header("X-API-Key", &key).body(large)).await;
        assert_eq!(answer.code(), "INVALID_INPUT", "{method} {template}");
    }
    assert!(walked > 30, "the document lists {walked} such endpoints only");
    api.stop().await;
}

#[tokio::test]
async fn nothing_and_an_empty_object_are_no_body() {
    let api = Harness::start().await;
    let node = rows::node(&api.pool).await;
    let cordon = |body: &'static str| {
        api.request(Method::POST, &format!("/nodes/{node}/cordon"))
            .header("X-API-Key", &api.admin)
            .body(body)
    };
    for body in ["", "{}", " {\n} "] {
        api.send(cordon(body)).await.expect(200);
    }
    let path = format!("/nodes/{node}/uncordon");
    api.post(&path, json!({})).await.expect(200);
    // The unknown field is named, as in endpoints that take a body.
    let answer = api.send(cordon("{\"reason\": \"disk\"}")).await.expect(400);
    assert_eq!(answer.json()["errors"][0]["field"], "reason");
    api.stop().await;
}
