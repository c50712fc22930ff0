//! Sources and the calls of forges: signed as GitHub does it.

use crate::{
    harness::{Answer, Harness, normal},
    rows,
};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::sync::OnceLock;
use uuid::Uuid;
use zectre_common::time::Time;
use zectre_service::key::to_hex;

pub(crate) const REPOSITORY: &str = "https://github.com/acme/shop";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const SECRET: &str = "a-secret-of-the-forge";

pub(crate) async fn connect(api: &Harness, app: &str, body: Value) -> Answer {
    api.call(
        &api.admin,
        Method::PUT,
        &format!("/apps/{app}/source"),
        Some(body),
    )
    .await
}

pub(crate) fn signature(secret: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(body.as_bytes());
    format!("sha256={}", to_hex(&mac.finalize().into_bytes()))
}

/// A call as GitHub sends it.
pub(crate) async fn call(
    api: &Harness,
    secret: &str,
    event: &str,
    delivery: &str,
    payload: &Value,
) -> Answer {
    let body = payload.to_string();
    let request = api
        .request(Method::POST, "/webhooks/github")
        .header("Content-Type", "application/json")
        .header("X-GitHub-Event", event)
        .header("X-GitHub-Delivery", delivery)
        .header("X-Hub-Signature-256", signature(secret, &body));
    api.send(request.body(body)).await
}

fn fresh() -> String {
    Uuid::now_v7().to_string()
}

fn repository() -> Value {
    json!({ "clone_url": "https://github.com/Acme/Shop.git", "full_name": "Acme/Shop" })
}

pub(crate) fn push(branch: &str, commit: &str) -> Value {
    json!({ "ref": format!("refs/heads/{branch}"), "after": commit, "repository": repository(), "sender": { "login": "ann" } })
}

/// A second of GitHub's clock, the same for all tests of one run: what happened long ago is no news.
fn base_secs() -> i64 {
    static BASE: OnceLock<i64> = OnceLock::new();
    *BASE.get_or_init(|| Time::now().unix_ms() / 1_000)
}

/// A push of one commit after another, at a second of GitHub's clock.
fn push_at(secs: i64, before: &str, after: &str) -> Value {
    let mut payload = push("main", after);
    payload["before"] = before.into();
    payload["repository"]["pushed_at"] = (base_secs() + secs).into();
    payload
}

pub(crate) fn pull_request(action: &str, state: &str, from: &str, secs: i64) -> Value {
    let time = Time::from_unix_ms((base_secs() + secs) * 1_000).to_string();
    json!({
        "action": action, "number": 7, "repository": repository(), "sender": { "login": "ann" },
        "pull_request": { "number": 7, "state": state, "updated_at": time,
                          "head": { "sha": COMMIT, "repo": { "full_name": from } } },
    })
}

pub(crate) async fn builds(api: &Harness, app: &str) -> Vec<Value> {
    let list = api
        .get(&format!("/builds?application_id={app}"))
        .await
        .expect(200)
        .json();
    list["data"].as_array().expect("a list").clone()
}

async fn environments(api: &Harness, app: &str) -> Vec<String> {
    let list = api
        .get(&format!("/apps/{app}/environments"))
        .await
        .expect(200)
        .json();
    let slug = |one: &Value| one["slug"].as_str().expect("a text").to_owned();
    list["data"]
        .as_array()
        .expect("a list")
        .iter()
        .map(slug)
        .collect()
}

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
async fn a_push_is_built_and_deployed_once() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    connect(
        &api,
        &app,
        json!({ "repository": REPOSITORY, "webhook_secret": SECRET, "root_dir": "web" }),
    )
    .await
    .expect(200);
    let delivery = fresh();
    let payload = push("main", COMMIT);
    let done = call(&api, SECRET, "push", &delivery, &payload)
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
    let all = builds(&api, &app).await;
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
        assert_eq!(
            call(&api, SECRET, "push", &id, &payload).await.expect(409).code(),
            "WEBHOOK_REPLAYED"
        );
    }
    let other = call(&api, SECRET, "push", &fresh(), &push("other", COMMIT))
        .await
        .expect(202)
        .json();
    assert_eq!(other["results"][0]["outcome"], "ignored");
    let ping = json!({ "zen": "x", "repository": repository() });
    call(&api, SECRET, "ping", &fresh(), &ping).await.expect(202);
    assert_eq!(builds(&api, &app).await.len(), 1);
    api.stop().await;
}

#[tokio::test]
async fn a_push_that_comes_late_rolls_nothing_back() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    let source = json!({ "repository": REPOSITORY, "webhook_secret": SECRET });
    connect(&api, &app, source).await.expect(200);
    let send = async |payload: Value| {
        let answer = call(&api, SECRET, "push", &fresh(), &payload).await;
        answer.expect(202).json()["results"][0].clone()
    };
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
    let built: Vec<Value> = builds(&api, &app).await;
    assert_eq!(built.len(), 3);
    // Another repository has a clock of its own.
    let other = json!({ "repository": "https://github.com/acme/other", "webhook_secret": SECRET });
    connect(&api, &app, other).await.expect(200);
    let back = json!({ "repository": REPOSITORY, "webhook_secret": SECRET });
    connect(&api, &app, back).await.expect(200);
    deployed(push_at(41, a, b)).await;
    api.stop().await;
}

#[tokio::test]
async fn only_signed_calls_count() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    connect(
        &api,
        &app,
        json!({ "repository": REPOSITORY, "webhook_secret": SECRET }),
    )
    .await
    .expect(200);
    // What is not signed has none, and doesn't learn which repositories there are.
    for (secret, payload) in [
        ("another-secret", push("main", COMMIT)),
        (
            SECRET,
            json!({ "ref": "refs/heads/main", "after": COMMIT, "repository": { "clone_url": "https://github.com/a/b" } }),
        ),
        (SECRET, json!({ "zen": "x" })),
    ] {
        let refused = call(&api, secret, "push", &fresh(), &payload).await.expect(401);
        assert_eq!(refused.code(), "INVALID_SIGNATURE");
    }
    let request = api
        .request(Method::POST, "/webhooks/github")
        .header("X-GitHub-Event", "push")
        .header("X-Hub-Signature-256", signature(SECRET, "payload=x"));
    let bare = api
        .send(request.header("X-GitHub-Delivery", "x").body("payload=x"))
        .await;
    assert_eq!(bare.expect(400).code(), "INVALID_WEBHOOK");
    assert!(builds(&api, &app).await.is_empty());
    api.stop().await;
}

/// The call about the pull request was ignored, because a newer one was here before it.
#[track_caller]
fn is_late(result: &Value) {
    assert_eq!(result["outcome"], "ignored", "{result}");
    let message = result["message"].as_str().expect("a sentence");
    assert!(
        message.contains("the call is late") && message.contains("`pr-7`"),
        "{result}"
    );
}

#[tokio::test]
async fn a_pull_request_has_an_environment_and_a_host_of_its_own_until_it_is_closed() {
    let api = Harness::start().await;
    let app = api.app("shop").await;
    connect(
        &api,
        &app,
        json!({ "repository": REPOSITORY, "webhook_secret": SECRET, "auto_deploy": false }),
    )
    .await
    .expect(200);
    let send = async |payload: Value| {
        let answer = call(&api, SECRET, "pull_request", &fresh(), &payload)
            .await
            .expect(202)
            .json();
        answer["results"][0].clone()
    };
    let epoch = rows::epoch(&api.pool).await;
    let opened = send(pull_request("opened", "open", "acme/shop", 1)).await;
    assert_eq!(
        (&opened["outcome"], &opened["environment"]),
        (&json!("deployed"), &json!("pr-7")),
        "{opened}"
    );
    let suffix = &app[app.len() - 6..];
    let host = format!("shop-default-pr-7-{suffix}.zectre.localhost");
    assert_eq!(opened["url"], format!("http://{host}:47000"));
    let routed = async || -> Vec<String> {
        let routes = sqlx::query_scalar(
            "SELECT r.domain FROM routes r JOIN environments e ON e.id = r.environment_id WHERE e.slug = 'pr-7'",
        );
        routes.fetch_all(&api.pool).await.expect("there")
    };
    assert_eq!(routed().await, [host.as_str()]);
    assert!(rows::epoch(&api.pool).await > epoch);
    let pushed = send(pull_request("synchronize", "open", "acme/shop", 2)).await;
    assert_eq!(
        (&pushed["outcome"], &pushed["url"]),
        (&json!("deployed"), &opened["url"])
    );
    assert_eq!(builds(&api, &app).await.len(), 2);
    let fork = send(pull_request("opened", "open", "mallory/shop", 3)).await;
    assert_eq!(fork["outcome"], "ignored");
    let deployment: Uuid = pushed["deployment_id"]
        .as_str()
        .expect("an id")
        .parse()
        .expect("an id");
    let closed = send(pull_request("closed", "closed", "acme/shop", 4)).await;
    assert_eq!(closed["outcome"], "removed");
    assert_eq!(environments(&api, &app).await, ["production", "development"]);
    assert_eq!(routed().await, Vec::<String>::new());
    assert!(
        rows::operations(&api.pool, deployment)
            .await
            .contains(&"delete".to_owned())
    );
    // A late call brings nothing back, whatever it took the pull request for; a new life begins anew, and a late end doesn't end it.
    let knows = send(pull_request("synchronize", "closed", "acme/shop", 5)).await;
    assert_eq!(knows["outcome"], "ignored");
    is_late(&send(pull_request("synchronize", "open", "acme/shop", 3)).await);
    assert_eq!(routed().await, Vec::<String>::new());
    let reopened = send(pull_request("reopened", "open", "acme/shop", 7)).await;
    assert_eq!(reopened["outcome"], "deployed");
    is_late(&send(pull_request("closed", "closed", "acme/shop", 6)).await);
    assert_eq!(routed().await, [host.as_str()]);
    api.stop().await;
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
