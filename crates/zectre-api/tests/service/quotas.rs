//! What an organization may use.

use crate::harness::{Answer, Harness};
use reqwest::Method;
use serde_json::{Value, json};

async fn set(api: &Harness, quota: Value) -> Value {
    let admin = &api.admin;
    let answer = api
        .call(admin, Method::PUT, "/orgs/default/quota", Some(quota))
        .await;
    answer.expect(200).json()
}

async fn used(api: &Harness) -> Value {
    api.get("/orgs/default/quota").await.expect(200).json()["used"].clone()
}

#[track_caller]
fn exceeded(answer: &Answer, says: &str) {
    assert_eq!(answer.code(), "QUOTA_EXCEEDED", "{}", answer.text);
    assert!(answer.text.contains(says), "{}", answer.text);
}

async fn scale(api: &Harness, deployment: &str, replicas: u32) -> Answer {
    let path = format!("/deployments/{deployment}");
    let body = json!({ "replicas": replicas });
    api.call(&api.admin, Method::PATCH, &path, Some(body)).await
}

#[tokio::test]
async fn applications_and_tasks_have_a_quota_and_the_last_place_is_given_once() {
    let api = Harness::start_with("quotas.applications_max = 2").await;
    let app = api.app("one").await;
    let (left, right) = tokio::join!(
        api.post("/apps", json!({ "name": "two" })),
        api.post("/apps", json!({ "name": "three" }))
    );
    let (made, refused) = if left.status == 201 {
        (left, right)
    } else {
        (right, left)
    };
    exceeded(&refused, "uses 2 of 2 applications");
    let gone = format!("/apps/{}", made.expect(201).id());
    api.call(&api.admin, Method::DELETE, &gone, None).await;
    api.app("four").await;

    let set_to = set(
        &api,
        json!({ "tasks": 3, "cpu_millis": 1_000, "memory_bytes": 1_000_000_000 }),
    )
    .await;
    assert_eq!(set_to["allowed"]["tasks"], 3);
    assert_eq!(set_to["allowed"]["applications"], 2, "as the configuration says");
    let deploy = async |replicas: u32, memory: &str, environment: &str| {
        let body = json!({ "image": "nginx", "replicas": replicas, "environment": environment,
                           "resources": { "memory": memory } });
        api.post(&format!("/apps/{app}/deployments"), body).await
    };
    let first = deploy(2, "100M", "production").await.expect(201).id();
    // A new version takes the old one's place.
    deploy(2, "100M", "production").await.expect(201);
    exceeded(
        &deploy(2, "100M", "development").await,
        "uses 2 of 3 tasks, and this would make it 4",
    );
    exceeded(
        &deploy(1, "900M", "development").await,
        "uses 200000000 of 1000000000 memory_bytes",
    );
    let hungry = json!({ "image": "nginx", "environment": "development", "resources": { "cpu": "900m" } });
    exceeded(
        &api.post(&format!("/apps/{app}/deployments"), hungry).await,
        "uses 200 of 1000 cpu_millis, and this would make it 1100",
    );
    let other = deploy(1, "100M", "development").await.expect(201).id();
    // A request may wake what was scaled to nothing: its place stays taken.
    scale(&api, &other, 0).await.expect(200);
    assert_eq!(used(&api).await["tasks"], 3);
    exceeded(&scale(&api, &first, 3).await, "uses 3 of 3 tasks");
    // A quota that was lowered takes nothing away, and lets what shrinks pass.
    set(&api, json!({ "tasks": 1 })).await;
    scale(&api, &first, 1).await.expect(200);
    exceeded(&deploy(3, "100M", "production").await, "of 1 tasks");
    let now = used(&api).await;
    assert_eq!((&now["tasks"], &now["applications"]), (&json!(3), &json!(2)));
    set(&api, json!({})).await;
    deploy(3, "100M", "production").await.expect(201);
    let too_many = json!({ "tasks": u64::MAX });
    let answer = api
        .call(&api.admin, Method::PUT, "/orgs/default/quota", Some(too_many))
        .await;
    assert_eq!(answer.expect(400).code(), "INVALID_INPUT");
    api.stop().await;
}

#[tokio::test]
async fn artifact_bytes_are_reserved_before_the_first_is_stored() {
    let api = Harness::start_with("quotas.artifact_bytes_max = 10").await;
    let announce = async || {
        let made = api.post("/artifacts", json!({ "name": "hello" })).await;
        made.expect(201).id()
    };
    let upload = |id: &str| {
        api.request(Method::POST, &format!("/artifacts/{id}/upload"))
            .header("X-API-Key", &api.admin)
    };
    let (one, other) = (announce().await, announce().await);
    let (left, right) = tokio::join!(
        api.send(upload(&one).body("sixty6")),
        api.send(upload(&other).body("sixty6"))
    );
    let refused = if left.status == 200 { &right } else { &left };
    exceeded(refused, "uses 6 of 10 artifact_bytes, and this would make it 12");
    assert_eq!(used(&api).await["artifact_bytes"], 6);
    let small = announce().await;
    let stream = futures_util::stream::iter([Ok::<_, std::io::Error>("four")]);
    let unknown = upload(&small).body(reqwest::Body::wrap_stream(stream));
    api.send(unknown).await.expect(411).shows("LENGTH_REQUIRED");
    // What fails gives back what it had reserved.
    let wrong = upload(&small).header("Digest", "sha-256=nonsense").body("four");
    let failed = api.send(wrong).await;
    assert!(failed.status.is_client_error(), "{}", failed.text);
    assert_eq!(used(&api).await["artifact_bytes"], 6);
    api.send(upload(&small).body("four")).await.expect(200);
    assert_eq!(used(&api).await["artifact_bytes"], 10);
    api.stop().await;
}
