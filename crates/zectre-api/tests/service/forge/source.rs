//! Which repository an application is built from.

use super::{REPOSITORY, connect};
use crate::harness::{Harness, normal};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn a_source_keeps_its_secrets_to_itself() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    let path = format!("/apps/{app}/source");
    assert_eq!(api.get(&path).await.expect(404).code(), "SOURCE_NOT_FOUND");
    let made = connect(
        &api,
        &app,
        json!({ "repository": REPOSITORY, "token": "ghp_canary" }),
    )
    .await
    .expect(200);
    let secret = made.json()["webhook_secret"]
        .as_str()
        .expect("shown once")
        .to_owned();
    assert_eq!(secret.len(), 64);
    let shown = api.get(&path).await.expect(200);
    insta::assert_json_snapshot!("source", normal(&shown.json()));
    let kept = async || -> (Option<Vec<u8>>, Vec<u8>) {
        let row = sqlx::query_as("SELECT credential, webhook_secret FROM sources");
        row.fetch_one(&api.pool).await.expect("a row")
    };
    let first = kept().await;
    // What isn't said stays; a token goes to its own repository only.
    let again = connect(
        &api,
        &app,
        json!({ "repository": REPOSITORY, "branches": { "trunk": "development" } }),
    )
    .await;
    assert_eq!(again.expect(200).json()["webhook_secret"], Value::Null);
    assert_eq!(kept().await, first);
    let moved = connect(
        &api,
        &app,
        json!({ "repository": "https://github.com/mallory/shop" }),
    )
    .await
    .expect(200)
    .json();
    assert_eq!(moved["has_token"], false);
    let feed = api.get("/events?page_size=100").await.expect(200).text;
    for canary in ["ghp_canary", secret.as_str()] {
        assert!(!shown.text.contains(canary) && !feed.contains(canary));
        let sealed = first.0.clone().expect("a token");
        assert!(
            !sealed
                .windows(canary.len())
                .any(|bytes| bytes == canary.as_bytes())
        );
    }
    api.call(&api.admin, Method::DELETE, &path, None)
        .await
        .expect(204);
    assert_eq!(api.get(&path).await.expect(404).code(), "SOURCE_NOT_FOUND");
    api.stop().await;
}

#[tokio::test]
async fn a_source_is_checked_field_by_field() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    for (body, field) in [
        (
            json!({ "repository": "https://gitlab.com/acme/shop" }),
            "repository",
        ),
        (
            json!({ "repository": "https://me:pw@github.com/acme/shop" }),
            "repository",
        ),
        (json!({ "repository": "file:///etc" }), "repository"),
        (
            json!({ "repository": REPOSITORY, "branches": { "-x": "production" } }),
            "branches",
        ),
        (
            json!({ "repository": REPOSITORY, "root_dir": "../x" }),
            "root_dir",
        ),
        (
            json!({ "repository": REPOSITORY, "webhook_secret": "short" }),
            "webhook_secret",
        ),
        (json!({ "repository": REPOSITORY, "token": "a\nb" }), "token"),
    ] {
        let refused = connect(&api, &app, body).await.expect(400);
        assert_eq!(refused.code(), "INVALID_INPUT");
        assert!(refused.text.contains(field), "{}", refused.text);
    }
    api.stop().await;
}

#[tokio::test]
async fn a_build_of_the_repository_can_be_asked_for() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    let path = format!("/apps/{app}/builds");
    assert_eq!(
        api.post(&path, json!({})).await.expect(409).code(),
        "SOURCE_NOT_CONNECTED"
    );
    connect(&api, &app, json!({ "repository": REPOSITORY }))
        .await
        .expect(200);
    let made = api.post(&path, json!({ "git_ref": "v1.2" })).await.expect(201);
    insta::assert_json_snapshot!("build_from_git", normal(&made.json()));
    let head = api.post(&path, json!({})).await.expect(201).json();
    assert_eq!(head["git"]["git_ref"], "HEAD");
    for bad in [
        json!({ "git_ref": "--upload-pack=x" }),
        json!({ "git_ref": 7 }),
        json!({ "ref": "x" }),
        json!([]),
    ] {
        assert_eq!(api.post(&path, bad).await.expect(400).code(), "INVALID_INPUT");
    }
    api.stop().await;
}
