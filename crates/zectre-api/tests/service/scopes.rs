//! API keys: scopes, expiry and last use.

use crate::{
    harness::{Answer, Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};

async fn key(api: &Harness, scopes: &[&str]) -> String {
    let body = json!({ "name": "scoped", "scopes": scopes });
    let made = api.post("/api-keys", body).await.expect(201).json();
    made["key"].as_str().expect("shown once").to_owned()
}

#[tokio::test]
async fn a_scope_allows_its_part_and_never_the_account() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let deploy = json!({ "image": "nginx" });
    let calls: [(&str, Method, String, Option<Value>); 6] = [
        ("read", Method::GET, format!("/apps/{app}"), None),
        (
            "deploy",
            Method::POST,
            format!("/apps/{app}/deployments"),
            Some(deploy),
        ),
        ("manage", Method::GET, "/orgs/default/invitations".into(), None),
        ("cluster", Method::GET, "/nodes".into(), None),
        (
            "account",
            Method::POST,
            "/api-keys".into(),
            Some(json!({ "name": "x" })),
        ),
        (
            "account",
            Method::POST,
            "/auth/cli/approve".into(),
            Some(json!({ "user_code": "BBBB-BBBB" })),
        ),
    ];
    for (scopes, allowed) in [
        (&["read"][..], &["read"][..]),
        (&["deploy"], &["read", "deploy"]),
        (&["manage"], &["read", "deploy", "manage"]),
        (&["cluster"], &["cluster"]),
        (&["cluster", "read"], &["cluster", "read"]),
    ] {
        let key = key(&api, scopes).await;
        api.call(&key, Method::GET, "/user", None).await.expect(200);
        for (needed, method, path, body) in &calls {
            let answer = api.call(&key, method.clone(), path, body.clone()).await;
            if allowed.contains(needed) {
                assert!(answer.status.is_success(), "{scopes:?} {path}: {}", answer.text);
            } else {
                assert_eq!(
                    answer.expect(403).code(),
                    "INSUFFICIENT_SCOPE",
                    "{scopes:?} {path}"
                );
            }
        }
    }
    api.stop().await;
}

#[tokio::test]
async fn what_a_scope_leaves_out_is_not_there() {
    let api = Harness::start().await;
    // Without `cluster` an admin's key sees what its owner is a member of.
    let foreign = rows::organization(&api.pool).await;
    let path = format!("/orgs/{}/members", foreign.slug);
    api.get(&path).await.expect(200);
    let read = key(&api, &["read"]).await;
    let answer = api.call(&read, Method::GET, &path, None).await;
    assert_eq!(answer.expect(404).code(), "ORGANIZATION_NOT_FOUND");
    assert_eq!(
        api.call(&read, Method::GET, "/user", None).await.json()["is_admin"],
        false
    );
    // An owner's key that manages touches no owner.
    let manage = key(&api, &["manage"]).await;
    let body = json!({ "email": "a@example.org", "role": "owner" });
    let answer = api
        .call(&manage, Method::POST, "/orgs/default/invitations", Some(body))
        .await;
    assert_eq!(answer.expect(403).code(), "FORBIDDEN");
    for scopes in [json!(["everything"]), json!(["read", "read"]), json!("read")] {
        let answer = api
            .post("/api-keys", json!({ "name": "x", "scopes": scopes }))
            .await;
        assert_eq!(answer.expect(400).code(), "INVALID_INPUT");
    }
    let listed = api
        .get("/api-keys?page_size=1&sort_by=created_at")
        .await
        .expect(200);
    insta::assert_json_snapshot!("scoped_key", normal(&listed.json()["data"][0]));
    api.stop().await;
}

#[tokio::test]
async fn a_key_ends_when_it_said_and_its_use_is_noted() {
    let api = Harness::start().await;
    let past = json!({ "name": "x", "expires_at": "2001-01-01T00:00:00Z" });
    assert_eq!(
        api.post("/api-keys", past).await.expect(400).code(),
        "INVALID_INPUT"
    );
    let body = json!({ "name": "x", "expires_at": "2101-01-01T00:00:00Z" });
    let made = api.post("/api-keys", body).await.expect(201);
    let key = made.json()["key"].as_str().expect("shown once").to_owned();
    let used = async || {
        let list = api.get("/api-keys").await.expect(200).json();
        let rows = list["data"].as_array().expect("a list").clone();
        let row = rows.into_iter().find(|row| row["id"] == made.json()["id"]);
        row.expect("listed")["last_used_at"].clone()
    };
    assert_eq!(used().await, Value::Null);
    let call = async || -> Answer { api.call(&key, Method::GET, "/user", None).await };
    call().await.expect(200);
    let first = used().await;
    assert!(first.is_string());
    call().await.expect(200);
    assert_eq!(used().await, first, "kept to the minute");
    sqlx::query("UPDATE api_keys SET expires_at = now() WHERE name = 'x'")
        .execute(&api.pool)
        .await
        .expect("valid");
    assert_eq!(call().await.expect(401).code(), "UNAUTHENTICATED");
    api.stop().await;
}

#[tokio::test]
async fn a_key_makes_none_that_outlives_it() {
    let api = Harness::start().await;
    let make = async |by: &str, expires_at: Value| {
        let body = json!({ "name": "made", "expires_at": expires_at });
        api.call(by, Method::POST, "/api-keys", Some(body)).await
    };
    let made = make(&api.admin, json!("2101-01-01T00:00:00Z"))
        .await
        .expect(201)
        .json();
    let ending = made["key"].as_str().expect("shown once").to_owned();
    for later in [Value::Null, json!("2101-01-01T00:00:01Z")] {
        let answer = make(&ending, later).await.expect(400);
        assert_eq!(answer.code(), "INVALID_INPUT");
        assert!(answer.text.contains("2101-01-01T00:00:00Z"), "{}", answer.text);
    }
    make(&ending, json!("2101-01-01T00:00:00Z")).await.expect(201);

    // Nor does it by way of a command line that it approves.
    sqlx::query("UPDATE api_keys SET expires_at = now() + interval '1 day' WHERE expires_at IS NOT NULL")
        .execute(&api.pool)
        .await
        .expect("valid");
    let post = async |path: &str, body: Value| api.send(api.request(Method::POST, path).json(&body)).await;
    let begun = post("/auth/cli/initiate", json!({})).await.expect(200).json();
    let approve = json!({ "user_code": begun["user_code"] });
    api.call(&ending, Method::POST, "/auth/cli/approve", Some(approve))
        .await
        .expect(200);
    post("/auth/cli/token", json!({ "device_code": begun["device_code"] }))
        .await
        .expect(200);
    let longest: bool = sqlx::query_scalar(
        "SELECT bool_and(expires_at <= now() + interval '1 day') FROM api_keys WHERE name LIKE 'cli: %'",
    )
    .fetch_one(&api.pool)
    .await
    .expect("a row");
    assert!(longest);
    api.stop().await;
}

/// Or it would be one of its owner's passwords, and a login that no scope and no end holds back.
#[tokio::test]
async fn a_key_that_may_not_do_everything_makes_no_admin_and_takes_over_none() {
    let api = Harness::start().await;
    let own = api.get("/user").await.expect(200).id();
    let (other, _) = rows::user(&api.pool, true).await;
    let (ann, _) = rows::user(&api.pool, false).await;
    let ending = json!({ "name": "ending", "expires_at": "2101-01-01T00:00:00Z" });
    let ending = api.post("/api-keys", ending).await.expect(201).json();
    let ending = ending["key"].as_str().expect("shown once").to_owned();
    let reset = async |key: &str, of: &str| {
        let path = format!("/users/{of}/reset-password");
        api.call(key, Method::POST, &path, None).await
    };
    let sign_up = async |key: &str, email: &str, is_admin: Option<bool>| {
        let body = json!({ "email": email, "password": "long enough", "is_admin": is_admin });
        api.call(key, Method::POST, "/auth/signup", Some(body)).await
    };
    let offered = async || -> i64 {
        let count = "SELECT count(*) FROM password_resets";
        sqlx::query_scalar(count)
            .fetch_one(&api.pool)
            .await
            .expect("a number")
    };
    let (other, ann) = (other.to_string(), ann.to_string());
    for (n, key) in [key(&api, &["cluster"]).await, ending].iter().enumerate() {
        for admin in [&own, &other] {
            let refused = reset(key, admin).await.expect(403);
            assert_eq!(refused.code(), "INSUFFICIENT_SCOPE", "{}", refused.text);
        }
        let refused = sign_up(key, "eve@example.org", Some(true)).await.expect(403);
        assert_eq!(refused.code(), "INSUFFICIENT_SCOPE", "{}", refused.text);
        assert_eq!(offered().await, n as i64, "none, but for the one that was ann's");
        // Whoever is no admin is theirs to manage.
        reset(key, &ann).await.expect(201);
        sign_up(key, &format!("{n}@example.org"), None).await.expect(201);
        sign_up(key, &format!("not{n}@example.org"), Some(false))
            .await
            .expect(201);
    }
    for admin in [&own, &other] {
        reset(&api.admin, admin).await.expect(201);
    }
    let made = sign_up(&api.admin, "bob@example.org", Some(true)).await;
    assert_eq!(made.expect(201).json()["is_admin"], true);
    api.stop().await;
}
