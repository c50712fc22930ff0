//! Artifacts on their way to and from the registry.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};

#[tokio::test]
async fn artifacts() {
    let api = Harness::start().await;
    let made = api
        .post(
            "/artifacts",
            json!({ "name": "hello", "content_type": "application/x-executable" }),
        )
        .await
        .expect(201);
    insta::assert_json_snapshot!("artifact_announced", normal(&made.json()));
    let (id, path) = (made.id(), format!("/artifacts/{}", made.id()));
    assert_eq!(
        api.get(&format!("{path}/download")).await.expect(409).code(),
        "ARTIFACT_NOT_READY"
    );
    let upload = || {
        api.request(Method::POST, &format!("{path}/upload"))
            .header("X-API-Key", &api.admin)
            .body("some bytes")
    };
    let wrong = api.send(upload().header("Digest", "sha-256=AAAA")).await;
    assert_eq!(wrong.expect(422).code(), "HASH_MISMATCH");
    let empty = api.send(upload().body("")).await.expect(400);
    assert!(empty.text.contains("it is empty"), "{}", empty.text);
    insta::assert_json_snapshot!(
        "artifact_ready",
        normal(&api.send(upload()).await.expect(200).json())
    );
    assert_eq!(api.send(upload()).await.expect(409).code(), "ARTIFACT_IMMUTABLE");
    let download = || {
        api.request(Method::GET, &format!("{path}/download"))
            .header("X-API-Key", &api.admin)
    };
    let whole = api.send(download()).await.expect(200);
    assert_eq!(
        (whole.text.as_str(), &whole.headers["etag"]),
        ("some bytes", &"\"tag\"".parse().expect("a header"))
    );
    let part = api
        .send(download().header("Range", "bytes=0-3"))
        .await
        .expect(206);
    assert_eq!(
        (part.text.as_str(), part.headers["content-range"].as_bytes()),
        ("some", &b"bytes 0-3/10"[..])
    );
    api.send(download().header("If-None-Match", "\"tag\""))
        .await
        .expect(304);
    let app = api.app("hello").await;
    api.post(&format!("/apps/{app}/deployments"), json!({ "artifact_id": id }))
        .await
        .expect(201);
    let used = api.call(&api.admin, Method::DELETE, &path, None).await;
    assert_eq!(used.expect(409).code(), "ARTIFACT_IN_USE");
    let unused = api.artifact("other bytes").await;
    api.call(&api.admin, Method::DELETE, &format!("/artifacts/{unused}"), None)
        .await
        .expect(204);
    assert_eq!(
        api.get(&format!("/artifacts/{unused}")).await.expect(404).code(),
        "ARTIFACT_NOT_FOUND"
    );
    assert_eq!(
        api.get("/artifacts?kind=binary&state=ready")
            .await
            .expect(200)
            .json()["total"],
        1
    );
    api.stop().await;
}

#[tokio::test]
async fn an_organization_sees_in_its_feed_what_happens_to_its_artifacts_and_webhooks() {
    let api = Harness::start().await;
    let member = async || {
        let organization = rows::organization(&api.pool).await;
        let (user, key) = rows::user(&api.pool, false).await;
        rows::member(&api.pool, user, organization.id, "owner").await;
        (organization.slug, key)
    };
    let ((ours, key), (_, stranger)) = (member().await, member().await);
    let call =
        async |method: Method, path: &str, body: Option<Value>| api.call(&key, method, path, body).await;
    for (path, body) in [
        ("/artifacts", json!({ "name": "hello", "organization": ours })),
        (
            "/webhooks",
            json!({ "url": "https://hooks.example.org/zectre", "organization": ours }),
        ),
    ] {
        let id = call(Method::POST, path, Some(body)).await.expect(201).id();
        if path == "/webhooks" {
            call(Method::POST, &format!("{path}/{id}/enable"), None)
                .await
                .expect(200);
        }
        call(Method::DELETE, &format!("{path}/{id}"), None)
            .await
            .expect(204);
    }
    let feed = async |key: &str| {
        let path = "/events?sort_order=asc&page_size=100";
        let events = api.call(key, Method::GET, path, None).await.expect(200).json();
        let actions = events["data"].as_array().expect("a list").iter();
        actions
            .map(|event| event["action"].as_str().expect("text").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        feed(&key).await,
        [
            "artifact.created",
            "artifact.deleted",
            "webhook.created",
            "webhook.enabled",
            "webhook.deleted"
        ]
    );
    assert!(feed(&stranger).await.is_empty());
    api.stop().await;
}
