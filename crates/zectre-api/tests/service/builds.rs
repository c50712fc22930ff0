//! Builds: queued with their source, cancelled, deployed.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use zectre_testkit::wait_until;

fn uuid(text: &str) -> Uuid {
    text.parse().expect("an id")
}

fn build(api: &Harness, app: &str, kind: &str, body: &'static str) -> RequestBuilder {
    let request = api.request(Method::POST, &format!("/apps/{app}/builds"));
    request
        .header("X-API-Key", &api.admin)
        .header("Content-Type", kind)
        .body(body)
}

#[tokio::test]
async fn a_build_is_queued_and_its_worker_is_told() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let json_body = api.send(build(&api, &app, "application/json", "{}")).await;
    assert_eq!(json_body.expect(409).code(), "SOURCE_NOT_CONNECTED");
    let text = api.send(build(&api, &app, "text/plain", "x")).await;
    assert_eq!(text.expect(415).code(), "UNSUPPORTED_MEDIA_TYPE");
    let made = api
        .send(build(&api, &app, "application/gzip", "an archive"))
        .await
        .expect(201);
    insta::assert_json_snapshot!("build", normal(&made.json()));
    let told = api.upstream.told();
    assert!(
        told.iter()
            .any(|(what, body)| what == "build" && body["build_id"] == json!(made.id()))
    );
    let source = made.json()["source_artifact_id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let source = api.get(&format!("/artifacts/{source}")).await.expect(200).json();
    assert_eq!(
        (&source["kind"], &source["state"]),
        (&json!("source"), &json!("ready"))
    );
    api.stop().await;
}

#[tokio::test]
async fn what_no_worker_takes_fails_but_not_while_one_is_at_work() {
    let api = Harness::start_with("build.worker_timeout_secs = 8\n").await;
    let app = api.app("hello").await;
    let queue = async || {
        let made = api
            .send(build(&api, &app, "application/gzip", "an archive"))
            .await;
        made.expect(201).id()
    };
    let (taken, waiting, cancelled) = (queue().await, queue().await, queue().await);
    // The last sign of a worker: its lease ends, and nobody takes the build up again.
    sqlx::query!(
        "UPDATE builds SET status = 'running', started_at = now(), lease_owner = id,
             lease_expires_at = now() + interval '4 s', cancel_requested = id = $2 WHERE id IN ($1, $2)",
        uuid(&taken),
        uuid(&cancelled)
    )
    .execute(&api.pool)
    .await
    .expect("as a worker does");
    for id in [&waiting, &taken] {
        let failed = wait_until(Duration::from_secs(60), "the build fails", async || {
            let build = api.get(&format!("/builds/{id}")).await.expect(200).json();
            (build["status"] == "failed").then_some(build)
        })
        .await;
        assert_eq!(failed["reason"], "build_worker_failed");
        let message = failed["message"].as_str().expect("a sentence");
        assert!(message.contains("zectre-build"), "{message}");
    }
    let cancelled = wait_until(Duration::from_secs(60), "the other one ends", async || {
        let build = api.get(&format!("/builds/{cancelled}")).await.expect(200).json();
        build["finished_at"].is_string().then_some(build)
    })
    .await;
    assert_eq!(
        (&cancelled["status"], &cancelled["reason"]),
        (&json!("cancelled"), &json!("cancelled"))
    );
    let early: i64 =
        sqlx::query_scalar("SELECT count(*) FROM builds WHERE finished_at - created_at < interval '12 s'")
            .fetch_one(&api.pool)
            .await
            .expect("readable");
    assert_eq!(early, 0, "a worker still lived");
    api.stop().await;
}

#[tokio::test]
async fn an_application_has_so_many_builds_under_way_and_no_more() {
    let api = Harness::start().await;
    let (app, other) = (api.app("hello").await, api.app("other").await);
    let first = api
        .send(build(&api, &app, "application/gzip", "an archive"))
        .await
        .expect(201)
        .id();
    let queued = "INSERT INTO builds (id, application_id, source_artifact_id)
                  SELECT gen_random_uuid(), application_id, source_artifact_id FROM builds, generate_series(1, 19)";
    sqlx::query(queued).execute(&api.pool).await.expect("valid");
    let refused = api
        .send(build(&api, &app, "application/gzip", "an archive"))
        .await
        .expect(409);
    refused.shows("TOO_MANY_BUILDS");
    let announced: i64 = sqlx::query_scalar("SELECT count(*) FROM artifacts")
        .fetch_one(&api.pool)
        .await
        .expect("readable");
    assert_eq!(announced, 1, "nothing was sent on");
    let source =
        json!({ "repository": "https://github.com/acme/hello", "webhook_secret": "a-secret-of-its-own" });
    let path = format!("/apps/{app}/source");
    api.call(&api.admin, Method::PUT, &path, Some(source))
        .await
        .expect(200);
    let from_git = api.send(build(&api, &app, "application/json", "{}")).await;
    assert_eq!(from_git.expect(409).code(), "TOO_MANY_BUILDS");
    api.send(build(&api, &other, "application/gzip", "an archive"))
        .await
        .expect(201);
    api.act(&format!("/builds/{first}/cancel")).await.expect(202);
    api.send(build(&api, &app, "application/json", "{}"))
        .await
        .expect(201);
    api.stop().await;
}

#[tokio::test]
async fn a_wish_whose_body_does_not_come_is_not_waited_for() {
    let api = Harness::start_with("api.request_timeout_ms = 200").await;
    let app = api.app("hello").await;
    let never = futures_util::stream::pending::<Result<Vec<u8>, std::io::Error>>();
    let request = api
        .request(Method::POST, &format!("/apps/{app}/builds"))
        .header("X-API-Key", &api.admin)
        .header("Content-Type", "application/json")
        .body(reqwest::Body::wrap_stream(never));
    let answer = tokio::time::timeout(Duration::from_secs(20), api.send(request)).await;
    let answer = answer.expect("it is answered in time");
    answer.expect(400).shows("INVALID_BODY");
    api.stop().await;
}

#[tokio::test]
async fn deployments_wait_for_a_build_and_learn_of_its_end() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let id = api
        .send(build(&api, &app, "application/gzip", "an archive"))
        .await
        .expect(201)
        .id();
    let deployments = format!("/apps/{app}/deployments");
    let waiting = api.post(&deployments, json!({})).await.expect(201).json();
    assert_eq!(
        (&waiting["build_id"], &waiting["artifact_id"]),
        (&json!(id), &Value::Null)
    );
    let cancelled = api.act(&format!("/builds/{id}/cancel")).await.expect(202).json();
    assert_eq!(
        (&cancelled["status"], &cancelled["reason"]),
        (&json!("cancelled"), &json!("cancelled"))
    );
    let waiting = waiting["id"].as_str().expect("an id");
    assert_eq!(
        rows::operations(&api.pool, uuid(waiting)).await,
        ["deploy", "reconcile"]
    );
    let why = cancelled["message"].as_str().expect("a sentence");
    assert!(why.ends_with("@zectre.localhost cancelled it"), "{why}");
    let again = api.act(&format!("/builds/{id}/cancel")).await;
    assert_eq!(again.expect(409).code(), "BUILD_FINISHED");
    let unusable = api.post(&deployments, json!({ "build_id": id })).await;
    assert_eq!(unusable.expect(409).code(), "BUILD_NOT_USABLE");
    api.stop().await;
}

#[tokio::test]
async fn a_finished_build_is_deployed_by_its_artifact() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let id = api
        .send(build(&api, &app, "application/octet-stream", "an archive"))
        .await
        .expect(201)
        .id();
    let artifact = api.artifact("built").await;
    rows::end_build(&api.pool, uuid(&id), "succeeded", Some(uuid(&artifact))).await;
    let deployed = api
        .post(&format!("/apps/{app}/deployments"), json!({ "build_id": id }))
        .await;
    assert_eq!(deployed.expect(201).json()["artifact_id"], json!(artifact));
    let list = api
        .get(&format!("/builds?application_id={app}&status=succeeded"))
        .await
        .expect(200)
        .json();
    assert_eq!((&list["total"], &list["data"][0]["id"]), (&json!(1), &json!(id)));
    api.stop().await;
}

#[tokio::test]
async fn a_build_or_artifact_of_another_organization_is_not_there_to_deploy() {
    let api = Harness::start().await;
    let foreign = rows::organization(&api.pool).await;
    let theirs = api
        .post("/apps", json!({ "name": "theirs", "namespace": foreign.slug }))
        .await
        .expect(201)
        .id();
    let request = api.request(Method::POST, &format!("/apps/{theirs}/builds"));
    let request = request
        .header("X-API-Key", &api.admin)
        .header("Content-Type", "application/gzip");
    let build = api.send(request.body("an archive")).await.expect(201).id();
    let (user, key) = rows::user(&api.pool, false).await;
    let own = rows::organization(&api.pool).await;
    rows::member(&api.pool, user, own.id, "owner").await;
    let body = json!({ "name": "own", "namespace": own.slug });
    let app = api
        .call(&key, Method::POST, "/apps", Some(body))
        .await
        .expect(201)
        .id();
    let artifact = api.artifact("of `default`").await;
    for (body, code) in [
        (json!({ "build_id": build }), "BUILD_NOT_FOUND"),
        (json!({ "artifact_id": artifact }), "ARTIFACT_NOT_FOUND"),
    ] {
        let path = format!("/apps/{app}/deployments");
        let answer = api.call(&key, Method::POST, &path, Some(body)).await;
        assert_eq!(answer.expect(404).code(), code);
    }
    let answer = api
        .call(&key, Method::GET, &format!("/builds/{build}"), None)
        .await;
    assert_eq!(answer.expect(404).code(), "BUILD_NOT_FOUND");
    api.stop().await;
}
