//! Deployments: what makes one, what is asked of one, and what is refused.

use crate::{
    harness::{Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::json;
use uuid::Uuid;

fn uuid(text: &str) -> Uuid {
    text.parse().expect("an id")
}

#[tokio::test]
async fn a_deployment_is_a_row_an_operation_an_event_and_a_nudge() {
    let api = Harness::start().await;
    let (app, artifact) = (api.app("hello").await, api.artifact("some bytes").await);
    api.upstream.told();
    let before = rows::epoch(&api.pool).await;
    let path = format!("/apps/{app}/deployments");
    let made = api
        .post(
            &path,
            json!({ "artifact_id": artifact, "environment": "production" }),
        )
        .await
        .expect(201);
    insta::assert_json_snapshot!("deployment", normal(&made.json()));
    let id = made.id();
    assert_eq!(rows::operations(&api.pool, uuid(&id)).await, ["deploy"]);
    assert!(
        rows::epoch(&api.pool).await > before,
        "the preview host is routable"
    );
    let told = api.upstream.told();
    assert_eq!(
        (told[0].0.as_str(), &told[0].1["deployment_id"]),
        ("deploy", &json!(id))
    );
    let second = api
        .post(&path, json!({ "artifact_id": artifact }))
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&second["version"], &second["environment"]),
        (&json!(2), &json!("development"))
    );
    let list = api
        .get(&format!("{path}?environment=production"))
        .await
        .expect(200)
        .json();
    assert_eq!((&list["total"], &list["data"][0]["id"]), (&json!(1), &json!(id)));
    api.stop().await;
}

/// Each environment keeps one, nobody gets another's, and a deleted one's is held before it is free.
#[tokio::test]
async fn environments_that_speak_plain_tcp_have_a_port_of_their_own() {
    let api = Harness::start_with("proxy.tcp_port_range = '30000-30001'").await;
    let (shop, cache) = (api.app("shop").await, api.app("cache").await);
    let deploy = async |app: &str, environment: &str| {
        let body = json!({
            "image": "redis", "environment": environment, "networking": { "protocol": "tcp" },
        });
        api.post(&format!("/apps/{app}/deployments"), body).await
    };
    let first = deploy(&shop, "production").await.expect(201).json();
    assert_eq!(first["tcp_address"], "127.0.0.1:30000");
    assert_eq!(
        deploy(&shop, "production").await.expect(201).json()["tcp_address"],
        "127.0.0.1:30000"
    );
    assert_eq!(
        deploy(&cache, "production").await.expect(201).json()["tcp_address"],
        "127.0.0.1:30001"
    );
    let none = deploy(&cache, "development").await;
    none.expect(409).shows("NO_PUBLIC_PORT");
    let http = json!({ "image": "nginx" });
    let http = api
        .post(&format!("/apps/{cache}/deployments"), http)
        .await
        .expect(201)
        .json();
    assert!(http.get("tcp_address").is_none(), "{http}");
    let path = format!("/apps/{shop}");
    api.call(&api.admin, Method::DELETE, &path, None)
        .await
        .expect(204);
    let held = deploy(&cache, "development").await.expect(409).json();
    let detail = held["detail"].as_str().expect("words");
    assert!(
        detail.contains("but for 1 that") && detail.contains("in 24 hours"),
        "{detail}"
    );
    let aged = "UPDATE freed_ports SET freed_at = freed_at - interval '1 day'";
    sqlx::query(aged).execute(&api.pool).await.expect("aged");
    assert_eq!(
        deploy(&cache, "development").await.expect(201).json()["tcp_address"],
        "127.0.0.1:30000"
    );
    // The one that is free for the longest time is next.
    for port in [30_001, 30_000] {
        sqlx::query("UPDATE environments SET public_port = NULL WHERE public_port = $1")
            .bind(port)
            .execute(&api.pool)
            .await
            .expect("freed");
    }
    sqlx::query(aged).execute(&api.pool).await.expect("aged");
    assert_eq!(
        deploy(&cache, "development").await.expect(201).json()["tcp_address"],
        "127.0.0.1:30001"
    );
    let unknown = json!({ "image": "nginx", "networking": { "protocol": "udp" } });
    let unknown = api
        .post(&format!("/apps/{cache}/deployments"), unknown)
        .await
        .expect(400)
        .json();
    assert!(
        unknown["detail"].as_str().expect("a sentence").contains("udp"),
        "{unknown}"
    );
    api.stop().await;
}

#[tokio::test]
async fn what_is_asked_of_a_deployment_is_written_down() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let body = json!({ "image": "nginx", "environment": "production" });
    let id = api
        .post(&format!("/apps/{app}/deployments"), body)
        .await
        .expect(201)
        .id();
    rows::serve(&api.pool, uuid(&id), None).await;
    let serving = api.get(&format!("/deployments/{id}")).await.expect(200).json();
    assert_eq!(
        (&serving["current"], &serving["url"]),
        (
            &json!(true),
            &json!("http://hello-default.zectre.localhost:47000")
        )
    );
    let scaled = api
        .call(
            &api.admin,
            Method::PATCH,
            &format!("/deployments/{id}"),
            Some(json!({ "replicas": 3 })),
        )
        .await;
    assert_eq!(scaled.expect(200).json()["replicas"], 3);
    for (action, status) in [
        ("restart", 202),
        ("sleep", 202),
        ("promote", 202),
        ("cancel", 409),
        ("rollback", 409),
    ] {
        api.act(&format!("/deployments/{id}/{action}"))
            .await
            .expect(status);
    }
    rows::serve(&api.pool, uuid(&id), Some(Uuid::now_v7())).await;
    api.act(&format!("/deployments/{id}/rollback")).await.expect(202);
    let operations = rows::operations(&api.pool, uuid(&id)).await;
    assert_eq!(
        operations,
        ["deploy", "reconcile", "restart", "sleep", "promote", "rollback"]
    );
    let events = api
        .get(&format!("/deployments/{id}/events?sort_order=asc"))
        .await
        .expect(200)
        .json();
    insta::assert_json_snapshot!("deployment_events", normal(&events));
    api.stop().await;
}

#[tokio::test]
async fn what_can_not_be_deployed_says_what_to_do() {
    let api = Harness::start_with("scheduler.max_runtime_secs_cap = 60").await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/deployments");
    let announced = api
        .post("/artifacts", json!({ "name": "hello" }))
        .await
        .expect(201)
        .id();
    let source = api
        .post("/artifacts", json!({ "name": "src", "kind": "source" }))
        .await
        .expect(201)
        .id();
    api.send(
        api.request(Method::POST, &format!("/artifacts/{source}/upload"))
            .header("X-API-Key", &api.admin)
            .body("x"),
    )
    .await
    .expect(200);
    let of_source = api.post(&path, json!({ "artifact_id": source })).await;
    of_source.expect(409).shows("ARTIFACT_KIND_MISMATCH");
    let foreign = rows::organization(&api.pool).await;
    let foreign = json!({ "name": "hello", "organization": foreign.slug });
    let elsewhere = api.post("/artifacts", foreign).await.expect(201).id();
    let nowhere = Uuid::now_v7();
    let empty = api.artifact("x").await;
    // As uploads of nothing were once taken.
    let emptied = sqlx::query("UPDATE artifacts SET size_bytes = 0 WHERE id = $1::uuid").bind(&empty);
    emptied.execute(&api.pool).await.expect("the row is there");
    for (body, status, code) in [
        (json!({}), 400, "NOTHING_TO_DEPLOY"),
        (json!({ "process_type": "docker" }), 400, "INVALID_INPUT"),
        (json!({ "artifact_id": announced }), 409, "ARTIFACT_NOT_READY"),
        (json!({ "artifact_id": empty }), 409, "ARTIFACT_KIND_MISMATCH"),
        (json!({ "artifact_id": elsewhere }), 404, "ARTIFACT_NOT_FOUND"),
        (json!({ "artifact_id": nowhere }), 404, "ARTIFACT_NOT_FOUND"),
        (json!({ "build_id": nowhere }), 404, "BUILD_NOT_FOUND"),
        (
            json!({ "image": "nginx", "environment": "nowhere" }),
            404,
            "ENVIRONMENT_NOT_FOUND",
        ),
        (
            json!({ "image": "nginx", "replicas": 5000 }),
            400,
            "INVALID_INPUT",
        ),
        (
            json!({ "image": "nginx", "max_runtime_secs": 61 }),
            400,
            "INVALID_INPUT",
        ),
    ] {
        assert_eq!(
            api.post(&path, body.clone()).await.expect(status).code(),
            code,
            "{body}"
        );
    }
    let image = api
        .post(&path, json!({ "image": "nginx:1" }))
        .await
        .expect(201)
        .json();
    assert_eq!(
        (&image["image"], &image["spec"]["process_type"], &image["version"]),
        (&json!("nginx:1"), &json!("docker"), &json!(1))
    );
    api.stop().await;
}

#[tokio::test]
async fn a_wake_answers_with_addresses_or_with_the_reason() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let id = api
        .post(&format!("/apps/{app}/deployments"), json!({ "image": "nginx" }))
        .await
        .expect(201)
        .id();
    let woken = api
        .act(&format!("/deployments/{id}/wake?wait=ready"))
        .await
        .expect(200);
    let mut woken = woken.json();
    let queue_us = woken["phases"]["queue_us"].take();
    assert!(queue_us.is_u64(), "{queue_us}");
    insta::assert_json_snapshot!("woken", woken);
    api.act(&format!("/deployments/{id}/wake")).await.expect(202);
    let waits: Vec<_> = api
        .upstream
        .told()
        .into_iter()
        .filter(|(what, _)| what == "wake")
        .map(|(_, body)| body["wait_ms"].clone())
        .collect();
    // Two seconds less than the proxy holds the request: the answer must reach it in time. What a person asks for is an
    // operation, which the scheduler can't miss.
    assert_eq!(waits, [json!(28000)]);
    let operations = rows::operations(&api.pool, uuid(&id)).await;
    assert_eq!(operations, ["deploy", "wake", "wake"]);
    api.upstream.have_no_capacity();
    let failed = api
        .act(&format!("/deployments/{id}/wake?wait=ready"))
        .await
        .expect(503);
    assert_eq!(
        (failed.code().as_str(), failed.headers["retry-after"].as_bytes()),
        ("NO_CAPACITY", &b"5"[..])
    );
    api.stop().await;
}

#[tokio::test]
async fn the_leader_of_the_database_is_asked_when_the_configured_scheduler_is_gone() {
    // Nothing listens on the first port of all.
    let api = Harness::start_with("scheduler.public_url = 'http://127.0.0.1:1'").await;
    let app = api.app("hello").await;
    let id = api
        .post(&format!("/apps/{app}/deployments"), json!({ "image": "nginx" }))
        .await
        .expect(201)
        .id();
    sqlx::query("UPDATE scheduler_leader SET epoch = 1, address = $1")
        .bind(&api.upstream.url)
        .execute(&api.pool)
        .await
        .expect("the row is there");
    let path = format!("/deployments/{id}/wake?wait=ready");
    api.act(&path).await.expect(200);
    api.stop().await;
}

#[tokio::test]
async fn a_deployment_is_scaled_at_any_moment_and_nothing_asked_is_nothing_done() {
    let api = Harness::start().await;
    let id = api.deployment().await;
    let path = format!("/deployments/{id}");
    let patch = async |body| api.call(&api.admin, Method::PATCH, &path, Some(body)).await;
    for (replicas, status) in ["pending", "running", "succeeded"].iter().enumerate() {
        sqlx::query("UPDATE deployments SET status = $1")
            .bind(status)
            .execute(&api.pool)
            .await
            .expect("valid");
        let scaled = patch(json!({ "replicas": replicas })).await.expect(200).json();
        assert_eq!(
            (&scaled["replicas"], &scaled["status"]),
            (&json!(replicas), &json!(status))
        );
    }
    let asked = ["deploy", "reconcile", "reconcile", "reconcile"];
    assert_eq!(rows::operations(&api.pool, id).await, asked);
    patch(json!({})).await.expect(200);
    assert_eq!(rows::operations(&api.pool, id).await, asked);
    // What a request woke of it is to sleep again, then.
    for kind in ["reconcile", "sleep"] {
        patch(json!({ "replicas": 0 })).await.expect(200);
        assert_eq!(
            rows::operations(&api.pool, id).await.last().map(String::as_str),
            Some(kind)
        );
    }
    for wrong in [
        json!({ "replicas": 1001 }),
        json!({ "replicas": -1 }),
        json!({ "replicas": "2" }),
        json!({ "replica": 2 }),
        json!({ "idle_timeout_secs": 604_801 }),
        json!([]),
    ] {
        assert_eq!(patch(wrong).await.expect(400).code(), "INVALID_INPUT");
    }
    api.stop().await;
}

#[tokio::test]
async fn what_would_have_no_effect_is_refused() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/deployments");
    let id = api
        .post(&path, json!({ "image": "nginx" }))
        .await
        .expect(201)
        .id();
    let refused = api.act(&format!("/deployments/{id}/sleep")).await.expect(409);
    assert_eq!(refused.code(), "DEPLOYMENT_NOT_USABLE");
    assert!(
        refused.json()["detail"]
            .as_str()
            .is_some_and(|said| said.contains("still being rolled out"))
    );
    rows::fail(&api.pool, uuid(&id)).await;
    let path = format!("/deployments/{id}");
    let refused = api
        .call(&api.admin, Method::PATCH, &path, Some(json!({ "replicas": 3 })))
        .await;
    assert_eq!(refused.expect(409).code(), "DEPLOYMENT_NOT_USABLE");
    assert_eq!(rows::operations(&api.pool, uuid(&id)).await, ["deploy"]);
    api.stop().await;
}

#[tokio::test]
async fn a_run_to_completion_is_neither_restarted_nor_scaled() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let path = format!("/apps/{app}/deployments");
    let body = json!({ "image": "nginx", "restart": "never", "replicas": 0 });
    let refused = api.post(&path, body).await.expect(400);
    assert_eq!(refused.json()["errors"][0]["field"], "replicas");
    let id = api
        .post(&path, json!({ "image": "nginx", "restart": "never" }))
        .await
        .expect(201)
        .id();
    for action in ["restart", "sleep", "wake", "wake?wait=ready", "promote"] {
        let refused = api.act(&format!("/deployments/{id}/{action}")).await.expect(409);
        assert_eq!(refused.code(), "DEPLOYMENT_NOT_USABLE", "{action}");
    }
    let patch = async |body| {
        let path = format!("/deployments/{id}");
        api.call(&api.admin, Method::PATCH, &path, Some(body)).await
    };
    for replicas in [0, 2] {
        let refused = patch(json!({ "replicas": replicas })).await.expect(400);
        assert_eq!(refused.json()["errors"][0]["field"], "replicas");
    }
    assert_eq!(rows::operations(&api.pool, uuid(&id)).await, ["deploy"]);
    api.stop().await;
}
