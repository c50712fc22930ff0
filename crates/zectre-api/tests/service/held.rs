//! What quotas are held against: versions that come back, builds and uploads, and how much of everything one person makes.

use crate::{
    harness::{Answer, Harness},
    rows,
};
use futures_util::{StreamExt, stream};
use reqwest::{Body, Method, header};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::oneshot;
use uuid::Uuid;
use zectre_service::token::{mint_service, name};
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);

async fn used(api: &Harness, what: &str) -> Value {
    let quota = api.get("/orgs/default/quota").await.expect(200).json();
    quota["used"][what].clone()
}

#[track_caller]
fn refused(answer: &Answer, code: &str, says: &str) {
    assert_eq!(answer.code(), code, "{}", answer.text);
    assert!(answer.text.contains(says), "{}", answer.text);
}

async fn deploy(api: &Harness, app: &str, environment: &str, replicas: u32) -> Answer {
    let body = json!({ "image": "nginx", "replicas": replicas, "environment": environment });
    api.post(&format!("/apps/{app}/deployments"), body).await
}

/// A version that serves from now on, in place of another one.
async fn serving(api: &Harness, app: &str, replicas: u32, instead_of: Option<Uuid>) -> Uuid {
    let made = deploy(api, app, "production", replicas).await.expect(201).id();
    let id = made.parse().expect("an id");
    rows::serve(&api.pool, id, instead_of).await;
    rows::settle(&api.pool, id, false).await;
    if let Some(old) = instead_of {
        rows::settle(&api.pool, old, true).await;
    }
    id
}

#[tokio::test]
async fn a_superseded_version_comes_back_only_where_its_quota_has_room() {
    let api = Harness::start_with("quotas.tasks_max = 3").await;
    let app = api.app("hello").await;
    let old = serving(&api, &app, 3, None).await;
    let new = serving(&api, &app, 1, Some(old)).await;
    deploy(&api, &app, "development", 2).await.expect(201);
    assert_eq!(used(&api, "tasks").await, 3);

    let says = "uses 3 of 3 tasks, and this would make it 5";
    let promote = format!("/deployments/{old}/promote");
    let rollback = format!("/deployments/{new}/rollback");
    refused(&api.act(&promote).await, "QUOTA_EXCEEDED", says);
    refused(&api.act(&rollback).await, "QUOTA_EXCEEDED", says);
    let scale = async |replicas: u32| {
        let body = json!({ "replicas": replicas });
        let path = format!("/deployments/{old}");
        api.call(&api.admin, Method::PATCH, &path, Some(body)).await
    };
    // Asleep it uses nothing, whatever it may have; what it comes back with is what counts.
    scale(2).await.expect(200);
    refused(&api.act(&promote).await, "QUOTA_EXCEEDED", "would make it 4");
    scale(1).await.expect(200);
    api.act(&rollback).await.expect(202);
    assert_eq!(used(&api, "tasks").await, 3);
    // What was asked for counts before the scheduler has done it.
    refused(&scale(2).await, "QUOTA_EXCEEDED", "would make it 4");
    api.stop().await;
}

#[tokio::test]
async fn what_is_woken_by_its_preview_counts_beside_what_serves() {
    let api = Harness::start_with("quotas.tasks_max = 2").await;
    let app = api.app("hello").await;
    let one = serving(&api, &app, 2, None).await;
    let two = serving(&api, &app, 2, Some(one)).await;
    serving(&api, &app, 1, Some(two)).await;
    assert_eq!(used(&api, "tasks").await, 1);
    let key = api.keys.service().expect("was just made");
    let visit = async |id: Uuid| {
        let proxy = mint_service(&key, name::PROXY, name::API);
        let path = format!("/deployments/{id}/wake?wait=ready");
        api.send(api.request(Method::POST, &path).bearer_auth(proxy))
            .await
    };
    let (left, right) = tokio::join!(visit(one), visit(two));
    let (awake, refusal) = if left.status == 200 {
        (one, right)
    } else {
        (two, left)
    };
    refused(
        &refusal,
        "QUOTA_EXCEEDED",
        "uses 2 of 2 tasks, and this would make it 3",
    );
    assert_eq!(rows::operations(&api.pool, awake).await, ["deploy", "wake"]);
    // Until a scheduler has seen that, whoever comes by whichever proxy adds nothing.
    let (once_more, beside) = tokio::join!(visit(awake), visit(awake));
    once_more.expect(200);
    beside.expect(200);
    assert_eq!(rows::operations(&api.pool, awake).await, ["deploy", "wake"]);
    let asked = api.get("/events?action=deployment.wake_requested").await;
    assert_eq!(asked.expect(200).json()["total"], 1);
    // The scheduler has woken it, with one task, whatever it was deployed with.
    rows::settle(&api.pool, awake, false).await;
    assert_eq!(used(&api, "tasks").await, 2);
    refused(
        &deploy(&api, &app, "development", 1).await,
        "QUOTA_EXCEEDED",
        "uses 2 of 2 tasks",
    );
    let asleep = if awake == one { two } else { one };
    refused(&visit(asleep).await, "QUOTA_EXCEEDED", "uses 2 of 2 tasks");
    let by_hand = api.act(&format!("/deployments/{asleep}/wake")).await;
    refused(&by_hand, "QUOTA_EXCEEDED", "uses 2 of 2 tasks");
    // It sleeps again, and the other one has its place.
    rows::settle(&api.pool, awake, true).await;
    assert_eq!(used(&api, "tasks").await, 1);
    visit(asleep).await.expect(200);
    api.stop().await;
}

#[tokio::test]
async fn one_upload_at_a_time_has_an_artifact_and_its_reservation() {
    let api = Harness::start_with("quotas.artifact_bytes_max = 10").await;
    let made = api.post("/artifacts", json!({ "name": "hello" })).await;
    let path = format!("/artifacts/{}/upload", made.expect(201).id());
    let upload = || api.request(Method::POST, &path).header("X-API-Key", &api.admin);
    let (go_on, rest) = oneshot::channel::<()>();
    let rest = stream::once(async move {
        rest.await.expect("it is told to go on");
        Ok::<_, std::io::Error>("456")
    });
    let begins = stream::iter([Ok::<_, std::io::Error>("123")]).chain(rest);
    let slow = upload().header(header::CONTENT_LENGTH, 6);
    let first = api.send(slow.body(Body::wrap_stream(begins)));
    let second = async {
        wait_until(SOON, "the first upload is under way", async || {
            (used(&api, "artifact_bytes").await == 6).then_some(())
        })
        .await;
        let answer = api.send(upload().body("x")).await;
        answer.shows("ARTIFACT_UPLOADING");
        assert!(answer.headers.contains_key("retry-after"));
        assert_eq!(
            used(&api, "artifact_bytes").await,
            6,
            "the first one's stays reserved"
        );
        go_on.send(()).expect("the first one waits");
    };
    let (first, ()) = tokio::join!(first, second);
    first.expect(200);
    assert_eq!(used(&api, "artifact_bytes").await, 6);
    assert_eq!(
        api.send(upload().body("x")).await.expect(409).code(),
        "ARTIFACT_IMMUTABLE"
    );

    // One of which nothing is heard any more has neither the artifact nor its bytes.
    let lost = api
        .post("/artifacts", json!({ "name": "lost" }))
        .await
        .expect(201)
        .id();
    sqlx::query(
        "UPDATE artifacts SET size_bytes = 4, upload_id = id, upload_until = now() - interval '1 second' WHERE id = $1",
    )
    .bind(lost.parse::<Uuid>().expect("an id"))
    .execute(&api.pool)
    .await
    .expect("the row is valid");
    assert_eq!(used(&api, "artifact_bytes").await, 6);
    let again = api
        .request(Method::POST, &format!("/artifacts/{lost}/upload"))
        .header("X-API-Key", &api.admin);
    api.send(again.body("four")).await.expect(200);
    assert_eq!(used(&api, "artifact_bytes").await, 10);
    api.stop().await;
}

#[tokio::test]
async fn one_person_makes_so_many_organizations_and_one_of_them_has_so_many_namespaces() {
    let config = "quotas.orgs_per_user_max = 2\nquotas.namespaces_per_org_max = 2";
    let api = Harness::start_with(config).await;
    let (_, key) = rows::user(&api.pool, false).await;
    let organization = async |key: &str, slug: &str| {
        let body = json!({ "slug": slug });
        api.call(key, Method::POST, "/orgs", Some(body)).await
    };
    let (one, two, three) = tokio::join!(
        organization(&key, "one"),
        organization(&key, "two"),
        organization(&key, "three")
    );
    let made = [&one, &two, &three]
        .into_iter()
        .filter(|answer| answer.status == 201);
    assert_eq!(made.count(), 2);
    let refusal = organization(&key, "four").await;
    refusal.expect(409).shows("TOO_MANY_ORGANIZATIONS");
    for slug in ["five", "six", "seven"] {
        organization(&api.admin, slug).await.expect(201);
    }

    let namespace = async |name: &str| {
        let body = json!({ "name": name, "organization": "five" });
        api.post("/namespaces", body).await
    };
    let (one, two, three) = tokio::join!(namespace("a"), namespace("b"), namespace("c"));
    let made = [&one, &two, &three]
        .into_iter()
        .filter(|answer| answer.status == 201);
    assert_eq!(made.count(), 2);
    namespace("d").await.expect(409).shows("TOO_MANY_NAMESPACES");
    api.stop().await;
}
