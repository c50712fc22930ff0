//! A push is built and deployed, once and in order.

use super::{
    COMMIT, Connected, REPOSITORY, SECRET, base_secs, builds, call, call_with, connect, fresh, push,
    repository, signature,
};
use crate::harness::Harness;
use reqwest::Method;
use serde_json::{Value, json};

/// A push of one commit after another, at a second of GitHub's clock.
fn push_at(secs: i64, before: &str, after: &str) -> Value {
    let mut payload = push("main", after);
    payload["before"] = before.into();
    payload["repository"]["pushed_at"] = (base_secs() + secs).into();
    payload
}

#[tokio::test]
async fn a_push_is_built_and_deployed_once() {
    let connected = Connected::start_with("", json!({ "root_dir": "web" })).await;
    let Connected { api, app } = &connected;
    let delivery = fresh();
    let payload = push("main", COMMIT);
    let done = call(api, SECRET, "push", &delivery, &payload)
        .await
        .expect(202)
        .json();
    let result = &done["results"][0];
    assert_eq!(
        (&result["outcome"], &result["environment"]),
        (&json!("deployed"), &json!("production")),
        "{done}"
    );
    let deployment = result["deployment_id"].as_str().expect("an id");
    let deployment = api
        .get(&format!("/deployments/{deployment}"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (&deployment["environment"], &deployment["status"]),
        (&json!("production"), &json!("pending"))
    );
    let all = connected.builds().await;
    assert_eq!(all.len(), 1);
    assert_eq!(
        (&all[0]["git"]["git_ref"], &all[0]["id"]),
        (&json!(COMMIT), &deployment["build_id"])
    );
    let root: String = sqlx::query_scalar("SELECT git_root_dir FROM builds")
        .fetch_one(&api.pool)
        .await
        .expect("a row");
    assert_eq!(root, "web");
    let told = api.upstream.told();
    assert!(told.iter().any(|(what, _)| what == "build") && told.iter().any(|(what, _)| what == "deploy"));
    let feed = api
        .get(&format!("/events?application_id={app}&action=deployment.created"))
        .await
        .expect(200)
        .json();
    assert_eq!(feed["data"][0]["actor"], "github:ann");
    // The same again has no second effect, whatever id it goes by.
    for id in [delivery, fresh()] {
        let again = call(api, SECRET, "push", &id, &payload).await;
        again.expect(409).shows("WEBHOOK_REPLAYED");
    }
    let other = connected.send("push", &push("other", COMMIT)).await;
    assert_eq!(other["outcome"], "ignored");
    let ping = json!({ "zen": "x", "repository": repository() });
    call(api, SECRET, "ping", &fresh(), &ping).await.expect(202);
    assert_eq!(connected.builds().await.len(), 1);
    connected.api.stop().await;
}

#[tokio::test]
async fn a_push_that_comes_late_rolls_nothing_back() {
    let connected = Connected::start().await;
    let send = async |payload: Value| connected.send("push", &payload).await;
    let commits = ["a", "b", "c", "d"].map(|digit| digit.repeat(40));
    let [a, b, c, d] = commits.each_ref().map(String::as_str);
    let none = "0".repeat(40);
    let deployed = async |payload: Value| {
        let result = send(payload).await;
        assert_eq!(result["outcome"], "deployed", "{result}");
    };
    let late = async |payload: Value| {
        let result = send(payload).await;
        assert_eq!(result["outcome"], "ignored", "{result}");
        let message = result["message"].as_str().expect("a sentence");
        assert!(
            message.contains("the call is late") && message.contains("`main`"),
            "{result}"
        );
        assert_eq!(result["deployment_id"], Value::Null);
    };
    deployed(push_at(20, b, c)).await;
    late(push_at(10, a, b)).await;
    // Of one second, the commits tell which came first.
    late(push_at(20, d, b)).await;
    deployed(push_at(20, c, d)).await;
    // Who goes back to an older commit means it.
    deployed(push_at(30, d, a)).await;
    let mut deleted = push_at(50, a, &none);
    deleted["deleted"] = true.into();
    assert_eq!(send(deleted).await["message"], "the branch was deleted");
    late(push_at(40, a, b)).await;
    assert_eq!(connected.builds().await.len(), 3);
    // Another repository has a clock of its own.
    connected
        .connect("https://github.com/acme/other", json!({}))
        .await;
    connected.connect(REPOSITORY, json!({})).await;
    deployed(push_at(41, a, b)).await;
    connected.api.stop().await;
}

#[tokio::test]
async fn what_could_not_be_stored_or_run_is_not_compiled() {
    let connected =
        Connected::start_with("quotas.artifact_bytes_max = 4\nquotas.tasks_max = 1", json!({})).await;
    let Connected { api, app } = &connected;
    let made = api
        .post("/artifacts", json!({ "name": "full" }))
        .await
        .expect(201)
        .id();
    let path = format!("/artifacts/{made}/upload");
    let upload = api.request(Method::POST, &path).header("X-API-Key", &api.admin);
    api.send(upload.body("four")).await.expect(200);
    let payload = push("main", COMMIT);
    let full = connected.send("push", &payload).await;
    assert_eq!(full["outcome"], "failed", "{full}");
    let why = full["message"].as_str().expect("a sentence");
    assert!(why.contains("uses 4 of 4 artifact_bytes"), "{why}");
    let asked = api
        .post(&format!("/apps/{app}/builds"), json!({}))
        .await
        .expect(409);
    assert_eq!(asked.code(), "QUOTA_EXCEEDED");
    assert!(connected.builds().await.is_empty(), "nothing was begun");
    api.call(&api.admin, Method::DELETE, &format!("/artifacts/{made}"), None)
        .await
        .expect(204);
    // There is no place for a second task either, and then nothing is compiled for it.
    let body = json!({ "image": "nginx", "environment": "development" });
    api.post(&format!("/apps/{app}/deployments"), body)
        .await
        .expect(201);
    let full = connected.send("push", &payload).await;
    let why = full["message"].as_str().expect("a sentence");
    assert!(why.contains("uses 1 of 1 tasks"), "{why}");
    assert!(connected.builds().await.is_empty(), "nothing was begun");
    // The same call has its effect once there is room.
    sqlx::query("UPDATE deployments SET status = 'failed'")
        .execute(&api.pool)
        .await
        .expect("it ends");
    assert_eq!(connected.send("push", &payload).await["outcome"], "deployed");
    assert_eq!(connected.builds().await.len(), 1);
    connected.api.stop().await;
}

#[tokio::test]
async fn only_signed_calls_count() {
    let connected = Connected::start().await;
    let api = &connected.api;
    // What is not signed has none, and doesn't learn which repositories there are.
    for (secret, payload) in [
        ("another-secret", push("main", COMMIT)),
        (
            SECRET,
            json!({ "ref": "refs/heads/main", "after": COMMIT, "repository": { "clone_url": "https://github.com/a/b" } }),
        ),
        (SECRET, json!({ "zen": "x" })),
    ] {
        let refused = call(api, secret, "push", &fresh(), &payload).await.expect(401);
        assert_eq!(refused.code(), "INVALID_SIGNATURE");
    }
    let form = "payload=x";
    let bare = call_with(api, "push", "x", &signature(SECRET, form), form).await;
    assert_eq!(bare.expect(400).code(), "INVALID_WEBHOOK");
    assert!(connected.builds().await.is_empty());
    connected.api.stop().await;
}

#[tokio::test]
async fn one_repository_may_be_the_source_of_several_applications() {
    let api = Harness::start().await;
    let (web, worker, foreign) = (
        api.app("web").await,
        api.app("worker").await,
        api.app("foreign").await,
    );
    for (app, secret, branches) in [
        (&web, SECRET, json!({ "main": "production" })),
        (&worker, SECRET, json!({ "main": "staging" })),
        (
            &foreign,
            "a-secret-of-somebody-else",
            json!({ "main": "production" }),
        ),
    ] {
        connect(
            &api,
            app,
            json!({ "repository": REPOSITORY, "webhook_secret": secret, "branches": branches }),
        )
        .await
        .expect(200);
    }
    let (delivery, payload) = (fresh(), push("main", COMMIT));
    let done = call(&api, SECRET, "push", &delivery, &payload)
        .await
        .expect(202)
        .json();
    let results = done["results"].as_array().expect("a list");
    assert_eq!(results.len(), 2, "{done}");
    assert_eq!(
        (&results[0]["outcome"], &results[1]["outcome"]),
        (&json!("deployed"), &json!("failed"))
    );
    assert!(
        results[1]["message"]
            .as_str()
            .is_some_and(|message| message.contains("`staging`")),
        "{done}"
    );
    assert!(builds(&api, &foreign).await.is_empty());
    // What failed may be sent again; what was done is not done twice.
    let staging = json!({ "slug": "staging" });
    api.post(&format!("/apps/{worker}/environments"), staging)
        .await
        .expect(201);
    let done = call(&api, SECRET, "push", &delivery, &payload)
        .await
        .expect(202)
        .json();
    assert_eq!(done["results"].as_array().map(Vec::len), Some(1), "{done}");
    assert_eq!(done["results"][0]["application_id"], json!(worker));
    assert_eq!(builds(&api, &web).await.len(), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_push_finds_no_room_behind_a_queue_and_may_be_sent_again() {
    let connected = Connected::start_with("", json!({ "branches": { "main": "production" } })).await;
    let queued = "INSERT INTO builds (id, application_id, git_repository, git_ref, git_root_dir)
                  SELECT gen_random_uuid(), id, 'https://github.com/acme/shop', 'HEAD', '' FROM applications, generate_series(1, 20)";
    let pool = &connected.api.pool;
    sqlx::query(queued).execute(pool).await.expect("valid");
    let (delivery, payload) = (fresh(), push("main", COMMIT));
    let send = async || {
        let answer = call(&connected.api, SECRET, "push", &delivery, &payload).await;
        answer.expect(202).json()["results"][0].clone()
    };
    let failed = send().await;
    assert_eq!(failed["outcome"], "failed");
    let message = failed["message"].as_str().expect("a sentence");
    assert!(message.starts_with("20 builds of the application"), "{message}");
    sqlx::query("UPDATE builds SET status = 'failed', finished_at = now()")
        .execute(pool)
        .await
        .expect("valid");
    assert_eq!(send().await["outcome"], "deployed");
    connected.api.stop().await;
}
