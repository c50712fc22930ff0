//! Signing up, in and out; keys; the first admin.

use crate::{
    harness::{Harness, normal},
    rows,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::time::Duration;
use zectre_api::bootstrap;

#[tokio::test]
async fn sign_up_log_in_log_out() {
    let api = Harness::start_with("auth.signup = \"open\"").await;
    let post = async |path: &str, body| api.send(api.request(Method::POST, path).json(&body)).await;
    for (email, password, code) in [
        ("nobody", "long enough", "INVALID_EMAIL"),
        ("a@example.org", "short", "WEAK_PASSWORD"),
    ] {
        let answer = post("/auth/signup", json!({ "email": email, "password": password }))
            .await
            .expect(400);
        assert_eq!(answer.code(), code);
    }
    let account = json!({ "email": "Ann@example.org", "password": "long enough" });
    insta::assert_json_snapshot!(
        "signup",
        normal(&post("/auth/signup", account.clone()).await.expect(201).json())
    );
    let again = post(
        "/auth/signup",
        json!({ "email": "ann@EXAMPLE.org", "password": "long enough" }),
    )
    .await;
    assert_eq!(again.expect(409).code(), "EMAIL_EXISTS");
    let wrong = post(
        "/auth/login",
        json!({ "email": "ann@example.org", "password": "wrong enough" }),
    )
    .await
    .expect(401);
    let unknown = post(
        "/auth/login",
        json!({ "email": "bob@example.org", "password": "wrong enough" }),
    )
    .await
    .expect(401);
    assert_eq!(
        (wrong.code(), &wrong.json()["detail"]),
        (unknown.code(), &unknown.json()["detail"])
    );
    let login = post("/auth/login", account).await.expect(200);
    insta::assert_json_snapshot!("login", normal(&login.json()));
    let token = login.json()["token"].as_str().expect("a token").to_owned();
    let claims = token.split('.').nth(1).expect("a token has three parts");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let claims: Value = serde_json::from_slice(&claims).expect("JSON");
    let seconds = |name: &str| claims[name].as_i64().expect("a number");
    assert_eq!(seconds("exp") - seconds("iat"), 7 * 86_400, "seven days");
    let user = async || {
        api.send(api.request(Method::GET, "/user").bearer_auth(&token))
            .await
    };
    assert_eq!(user().await.expect(200).json()["email"], "Ann@example.org");
    api.send(api.request(Method::POST, "/auth/logout").bearer_auth(&token))
        .await
        .expect(204);
    assert_eq!(user().await.expect(401).code(), "UNAUTHENTICATED");
    sqlx::query("UPDATE users SET disabled = true WHERE email = 'Ann@example.org'")
        .execute(&api.pool)
        .await
        .expect("valid");
    let disabled = post(
        "/auth/login",
        json!({ "email": "ann@example.org", "password": "long enough" }),
    )
    .await;
    disabled.expect(403).shows("ACCOUNT_DISABLED");
    api.stop().await;
}

#[tokio::test]
async fn a_closed_cluster_takes_no_sign_ups_and_slows_guessing_down() {
    let api = Harness::start().await;
    let account = json!({ "email": "ann@example.org", "password": "long enough" });
    let signup = api
        .send(api.request(Method::POST, "/auth/signup").json(&account))
        .await;
    signup.expect(403).shows("SIGNUP_CLOSED");
    for _ in 0..10 {
        api.send(api.request(Method::POST, "/auth/login").json(&account))
            .await
            .expect(401);
    }
    let limited = api
        .send(api.request(Method::POST, "/auth/login").json(&account))
        .await
        .expect(429);
    limited.shows("TOO_MANY_ATTEMPTS");
    assert!(
        limited.headers["retry-after"]
            .to_str()
            .is_ok_and(|secs| secs.parse::<u32>().is_ok())
    );
    api.stop().await;
}

#[tokio::test]
async fn clients_of_a_front_that_is_trusted_count_each_for_itself() {
    let guess = async |api: &Harness, client: &str| {
        let body = json!({ "email": "ann@example.org", "password": "wrong enough" });
        let request = api
            .request(Method::POST, "/auth/login")
            .header("X-Forwarded-For", client);
        api.send(request.json(&body)).await.status.as_u16()
    };
    let front = Harness::start_with("api.trusted_peers = ['127.0.0.0/8']").await;
    // What it says of itself is not believed.
    for n in 0..10 {
        assert_eq!(guess(&front, &format!("203.0.113.{n}, 198.51.100.1")).await, 401);
    }
    assert_eq!(guess(&front, "198.51.100.1").await, 429);
    assert_eq!(guess(&front, "198.51.100.2").await, 401);
    let named = json!({ "name": "hello" });
    let request = front
        .request(Method::POST, "/apps")
        .header("X-API-Key", &front.admin);
    let request = request.header("X-Forwarded-For", "2001:db8::7");
    front.send(request.json(&named)).await.expect(201);
    let events = front.get("/events?action=app.created").await.expect(200).json();
    assert_eq!(events["data"][0]["source_address"], "2001:db8::7");
    front.stop().await;
    let alone = Harness::start_with("api.trusted_peers = ['10.0.0.0/8']").await;
    for n in 0..10 {
        assert_eq!(guess(&alone, &format!("203.0.113.{n}")).await, 401);
    }
    assert_eq!(guess(&alone, "198.51.100.2").await, 429, "a stranger's word");
    alone.stop().await;
}

#[tokio::test]
async fn guesses_that_wait_together_are_counted_before_they_are_made_and_right_ones_are_not() {
    let api = Harness::start().await;
    let at_once = async |password: &str, many: usize| {
        let body = json!({ "email": "ann@example.org", "password": password });
        let logins = (0..many).map(|_| api.send(api.request(Method::POST, "/auth/login").json(&body)));
        futures_util::future::join_all(logins).await
    };
    let account = json!({ "email": "ann@example.org", "password": "long enough" });
    api.post("/auth/signup", account).await.expect(201);
    for right in at_once("long enough", 15).await {
        right.expect(200);
    }
    let answers = at_once("wrong enough", 50).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert!(
        (1..=10).contains(&count(401)) && count(429) >= 40,
        "{} were made, {} refused",
        count(401),
        count(429)
    );
    api.stop().await;
}

#[tokio::test]
async fn keys_are_shown_once_and_stop_working_when_deleted() {
    let api = Harness::start().await;
    let made = api.post("/api-keys", json!({ "name": "ci" })).await.expect(201);
    insta::assert_json_snapshot!("api_key_created", normal(&made.json()));
    let key = made.json()["key"].as_str().expect("shown once").to_owned();
    assert!(key.starts_with("zk_"));
    api.call(&key, Method::GET, "/user", None).await.expect(200);
    let list = api.get("/api-keys?sort_by=name&sort_order=asc").await.expect(200);
    assert!(!list.text.contains(&key));
    insta::assert_json_snapshot!("api_keys", normal(&list.json()));
    let id = made.id();
    api.call(&api.admin, Method::DELETE, &format!("/api-keys/{id}"), None)
        .await
        .expect(204);
    assert_eq!(
        api.call(&key, Method::GET, "/user", None)
            .await
            .expect(401)
            .code(),
        "UNAUTHENTICATED"
    );
    let again = api
        .call(&api.admin, Method::DELETE, &format!("/api-keys/{id}"), None)
        .await;
    assert_eq!(again.expect(404).code(), "API_KEY_NOT_FOUND");
    api.stop().await;
}

#[tokio::test]
async fn the_first_admin_is_made_once_and_its_key_is_replaced() {
    let api = Harness::start().await;
    let again = bootstrap::ensure_admin(&api.pool).await.expect("idempotent");
    api.call(&api.admin, Method::GET, "/user", None).await.expect(401);
    let user = api
        .call(again.api_key.expose_secret(), Method::GET, "/user", None)
        .await
        .expect(200);
    insta::assert_json_snapshot!("first_admin", normal(&user.json()));
    let token = bootstrap::join_token(&api.pool, Duration::from_secs(60))
        .await
        .expect("made");
    assert!(token.expose_secret().starts_with("zj_"));
    let stored: i64 = sqlx::query_scalar("SELECT count(*) FROM join_tokens")
        .fetch_one(&api.pool)
        .await
        .expect("there");
    assert_eq!(stored, 1);
    api.stop().await;
}

#[tokio::test]
async fn where_sign_up_is_closed_an_admin_makes_accounts() {
    let api = Harness::start().await;
    let (_, nobody) = rows::user(&api.pool, false).await;
    let sign_up = async |key: Option<&str>, email: &str, is_admin: Option<bool>| {
        let request = api.request(Method::POST, "/auth/signup");
        let request = match key {
            Some(key) => request.header("X-API-Key", key),
            None => request,
        };
        let mut body = json!({ "email": email, "password": "long enough" });
        if let Some(is_admin) = is_admin {
            body["is_admin"] = is_admin.into();
        }
        api.send(request.json(&body)).await
    };
    for (key, status, code) in [
        (None, 403, "SIGNUP_CLOSED"),
        (Some(nobody.as_str()), 403, "SIGNUP_CLOSED"),
        // A credential that is wrong is told so.
        (Some("zk_wrong"), 401, "UNAUTHENTICATED"),
    ] {
        for is_admin in [None, Some(true)] {
            let answer = sign_up(key, "a@example.org", is_admin).await.expect(status);
            assert_eq!(answer.code(), code);
        }
    }
    let admin = Some(api.admin.as_str());
    let plain = sign_up(admin, "a@example.org", None).await.expect(201).json();
    assert_eq!(
        (&plain["is_admin"], &plain["email"]),
        (&json!(false), &json!("a@example.org"))
    );
    let second = sign_up(admin, "b@example.org", Some(true))
        .await
        .expect(201)
        .json();
    assert_eq!(second["is_admin"], true);
    let taken = sign_up(admin, "A@example.org", None).await.expect(409);
    assert_eq!(taken.code(), "EMAIL_EXISTS");
    let login = api.request(Method::POST, "/auth/login");
    let login = login.json(&json!({ "email": "b@example.org", "password": "long enough" }));
    let token = api.send(login).await.expect(200).json()["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    api.send(api.request(Method::GET, "/nodes").bearer_auth(token))
        .await
        .expect(200);
    let made = api.get("/events?action=user.created").await.json();
    assert_eq!(made["total"], 2);
    assert_eq!(made["data"][0]["actor"], "user:admin@zectre.localhost");
    api.stop().await;
}

#[tokio::test]
async fn where_sign_up_is_open_nobody_makes_themselves_an_admin() {
    let api = Harness::start_with("auth.signup = \"open\"").await;
    let body = json!({ "email": "a@example.org", "password": "long enough", "is_admin": true });
    let request = api.request(Method::POST, "/auth/signup").json(&body);
    assert_eq!(api.send(request).await.expect(403).code(), "FORBIDDEN");
    api.stop().await;
}
