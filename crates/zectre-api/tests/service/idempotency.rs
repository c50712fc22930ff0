//! A creation repeated with its key has one effect and one answer.

use crate::harness::Harness;
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn the_second_request_gets_the_first_answer() {
    let api = Harness::start().await;
    let post = async |path: &str, key: &str, body: Value| {
        let request = api
            .request(Method::POST, path)
            .header("X-API-Key", &api.admin)
            .header("Idempotency-Key", key);
        api.send(request.json(&body)).await
    };
    let first = post("/apps", "one", json!({ "name": "hello" })).await.expect(201);
    let second = post("/apps", "one", json!({ "name": "hello" })).await.expect(201);
    assert_eq!(
        (first.json(), &second.headers["idempotency-replayed"]),
        (second.json(), &"true".parse().expect("a header"))
    );
    let other = post("/apps", "one", json!({ "name": "other" })).await.expect(409);
    assert_eq!(other.code(), "IDEMPOTENCY_KEY_REUSED");
    // A refusal had no effect, so the key is free for the corrected request.
    post("/apps", "two", json!({ "name": "hello" })).await.expect(409);
    post("/apps", "two", json!({ "name": "world" })).await.expect(201);
    assert_eq!(api.get("/apps").await.json()["total"], 2);
    assert_eq!(
        post("/apps", "", json!({ "name": "x" })).await.expect(400).code(),
        "INVALID_IDEMPOTENCY_KEY"
    );
    // A secret that is shown once is shown the same once, and isn't readable in the database.
    let key = post("/api-keys", "three", json!({ "name": "ci" }))
        .await
        .expect(201)
        .json();
    assert_eq!(
        post("/api-keys", "three", json!({ "name": "ci" }))
            .await
            .expect(201)
            .json(),
        key
    );
    let kept: Vec<Value> = sqlx::query_scalar("SELECT body FROM idempotency_keys")
        .fetch_all(&api.pool)
        .await
        .expect("there");
    let secret = key["key"].as_str().expect("shown once");
    assert!(kept.len() == 3 && kept.iter().all(|body| !body.to_string().contains(secret)));
    api.stop().await;
}

#[tokio::test]
async fn at_the_same_time_only_one_is_done() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let deploy = || async {
        let request = api
            .request(Method::POST, &format!("/apps/{app}/deployments"))
            .header("X-API-Key", &api.admin);
        api.send(
            request
                .header("Idempotency-Key", "deploy")
                .json(&json!({ "image": "nginx" })),
        )
        .await
    };
    let answers = tokio::join!(deploy(), deploy(), deploy());
    let statuses = [answers.0.status, answers.1.status, answers.2.status];
    assert!(
        statuses.iter().all(|status| *status == 201 || *status == 409),
        "{statuses:?}"
    );
    assert_eq!(deploy().await.expect(201).json()["version"], 1);
    assert_eq!(
        api.get(&format!("/apps/{app}/deployments")).await.json()["total"],
        1
    );
    api.stop().await;
}

#[tokio::test]
async fn an_archive_is_built_once() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let build = async |bytes: &'static str| {
        let request = api
            .request(Method::POST, &format!("/apps/{app}/builds"))
            .header("X-API-Key", &api.admin);
        api.send(
            request
                .header("Content-Type", "application/gzip")
                .header("Idempotency-Key", "k")
                .body(bytes),
        )
        .await
    };
    let first = build("an archive").await.expect(201).id();
    assert_eq!(build("an archive").await.expect(201).id(), first);
    assert_eq!(
        build("another archive").await.expect(409).code(),
        "IDEMPOTENCY_KEY_REUSED"
    );
    api.stop().await;
}
