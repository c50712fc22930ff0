//! A creation repeated with its key has one effect and one answer.

use crate::{bodies::operations, harness::Harness, rows, things::Things};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use zectre_testkit::wait_until;

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
    other.shows("IDEMPOTENCY_KEY_REUSED");
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
async fn another_body_is_another_request_whatever_its_type_is_called() {
    let api = Harness::start().await;
    // All of these are JSON to the handler.
    for (key, kind) in [
        ("one", "application/json"),
        ("two", "APPLICATION/JSON"),
        ("three", "application/merge-patch+json"),
    ] {
        let post = async |name: &str| {
            let request = api
                .request(Method::POST, "/apps")
                .header("X-API-Key", &api.admin)
                .header("Idempotency-Key", key)
                .header("Content-Type", kind);
            api.send(request.body(json!({ "name": name }).to_string())).await
        };
        // Of the same length.
        let (first, other) = (format!("first-{key}"), format!("other-{key}"));
        post(&first).await.expect(201);
        let refused = post(&other).await.expect(409);
        assert_eq!(refused.code(), "IDEMPOTENCY_KEY_REUSED", "{kind}");
    }
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

#[tokio::test]
async fn every_creation_is_done_once_and_answers_alike() {
    let api = Harness::start().await;
    let (_, key) = rows::user(&api.pool, true).await;
    let things = Things::make(&api, Uuid::now_v7()).await;
    let honours = |operation: &Value| {
        let parameters = operation["parameters"].as_array();
        parameters.is_some_and(|all| all.iter().any(|one| one["name"] == "Idempotency-Key"))
    };
    let mut walked = 0;
    for (method, template, _) in operations().into_iter().filter(|(_, _, of)| honours(of)) {
        walked += 1;
        // One request, sent twice: its body has a fresh name.
        let request = api.request(method.clone(), &things.path(&template));
        let request = things.with_body(request, &method, &template);
        let request = request
            .header("X-API-Key", &key)
            .header("Idempotency-Key", format!("key-{walked}"));
        let again = request.try_clone().expect("its body is bytes");
        let first = api.send(request).await.expect(201);
        let second = api.send(again).await.expect(201);
        assert!(
            second.headers.contains_key("idempotency-replayed"),
            "{template} was done twice"
        );
        assert_eq!(first.json(), second.json(), "{template}");
        assert_eq!(
            (&first.headers["location"], &first.headers["content-type"]),
            (&second.headers["location"], &second.headers["content-type"]),
            "{template}"
        );
    }
    assert!(walked >= 9, "{walked}");
    api.stop().await;
}

/// As if whoever claims the key had died: there is no answer, and the claim ends in `secs`.
async fn abandon(api: &Harness, secs: i32) {
    let abandoned = sqlx::query(
        "UPDATE idempotency_keys SET status = NULL, body = NULL, claim_expires_at = now() + make_interval(secs => $1)",
    );
    abandoned.bind(secs).execute(&api.pool).await.expect("valid");
}

#[tokio::test]
async fn a_request_that_was_cut_off_can_be_repeated_soon() {
    let api = Harness::start().await;
    let post = async || {
        let request = api
            .request(Method::POST, "/artifacts")
            .header("X-API-Key", &api.admin)
            .header("Idempotency-Key", "k");
        api.send(request.json(&json!({ "name": "x" }))).await
    };
    let first = post().await.expect(201).id();
    let expires: f64 = sqlx::query_scalar(
        "SELECT EXTRACT(epoch FROM claim_expires_at - now())::float8 FROM idempotency_keys",
    )
    .fetch_one(&api.pool)
    .await
    .expect("there");
    assert!((60.0..=90.0).contains(&expires), "{expires}");
    abandon(&api, 40).await;
    let early = post().await.expect(409);
    early.shows("IDEMPOTENCY_IN_PROGRESS");
    let retry_after: u32 = early.headers["retry-after"]
        .to_str()
        .expect("text")
        .parse()
        .expect("seconds");
    assert!((1..=40).contains(&retry_after));
    abandon(&api, -1).await;
    assert_ne!(post().await.expect(201).id(), first);
    api.stop().await;
}

#[tokio::test]
async fn a_slow_request_whose_claim_was_taken_over_has_no_effect() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let deploy = || async {
        let request = api
            .request(Method::POST, &format!("/apps/{app}/deployments"))
            .header("X-API-Key", &api.admin)
            .header("Idempotency-Key", "k");
        api.send(request.json(&json!({ "image": "nginx" }))).await
    };
    let id: Uuid = app.parse().expect("an id");
    let mut lock = api.pool.begin().await.expect("the database is there");
    sqlx::query("SELECT id FROM applications WHERE id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut *lock)
        .await
        .expect("valid");
    let waiting = async |count: i64| {
        let blocked = async || {
            let now: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()",
            )
            .fetch_one(&api.pool)
            .await
            .expect("valid");
            (now == count).then_some(())
        };
        wait_until(Duration::from_secs(60), "requests wait for the lock", blocked).await;
    };
    let orders = async {
        waiting(1).await;
        abandon(&api, -1).await;
        // The second one takes over, and waits behind the first.
        let (second, ()) = tokio::join!(deploy(), async {
            waiting(2).await;
            lock.commit().await.expect("the lock is let go");
        });
        second
    };
    let (first, second) = tokio::join!(deploy(), orders);
    assert_eq!(first.expect(409).code(), "IDEMPOTENCY_IN_PROGRESS");
    assert_eq!(second.expect(201).json()["version"], 1);
    assert_eq!(deploy().await.expect(201).json()["version"], 1);
    let list = api.get(&format!("/apps/{app}/deployments")).await.json();
    assert_eq!(list["total"], 1);
    api.stop().await;
}
