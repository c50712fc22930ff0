//! Signing up: counted before it costs anything, and done once however often it is asked for.

use crate::harness::{Answer, Harness};
use reqwest::Method;
use serde_json::{Value, json};

/// Sign-ups from one address within an hour.
const SIGN_UPS_MAX: usize = 20;

async fn sign_up(api: &Harness, body: &Value, key: Option<&str>) -> Answer {
    let mut request = api.request(Method::POST, "/auth/signup").json(body);
    if let Some(key) = key {
        request = request.header("Idempotency-Key", key);
    }
    api.send(request).await
}

fn account(email: &str) -> Value {
    json!({ "email": email, "password": "long enough" })
}

async fn accounts(api: &Harness, email: &str) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM users WHERE lower(email) = lower($1)")
        .bind(email.to_owned())
        .fetch_one(&api.pool)
        .await
        .expect("the database is there")
}

#[tokio::test]
async fn refused_sign_ups_count_and_are_refused_before_they_cost_a_hash() {
    let api = Harness::start_with("auth.signup = \"open\"").await;
    sign_up(&api, &account("ann@example.org"), None).await.expect(201);
    // Input that is none costs nothing.
    let weak = json!({ "email": "ann@example.org", "password": "short" });
    for _ in 0..SIGN_UPS_MAX {
        sign_up(&api, &weak, None).await.expect(400);
    }
    for _ in 1..SIGN_UPS_MAX {
        let again = sign_up(&api, &account("Ann@example.org"), None).await;
        assert_eq!(again.expect(409).code(), "EMAIL_EXISTS");
    }
    let limited = sign_up(&api, &account("bob@example.org"), None).await.expect(429);
    assert_eq!(limited.code(), "TOO_MANY_ATTEMPTS");
    assert_eq!(accounts(&api, "bob@example.org").await, 0);
    // An admin who makes accounts is no stranger.
    api.post("/auth/signup", account("carl@example.org"))
        .await
        .expect(201);
    api.stop().await;
}

#[tokio::test]
async fn a_sign_up_repeated_with_its_key_has_one_effect_and_one_answer() {
    let api = Harness::start_with("auth.signup = \"open\"").await;
    let ann = account("ann@example.org");
    let (one, other) = tokio::join!(
        sign_up(&api, &ann, Some("first")),
        sign_up(&api, &ann, Some("first"))
    );
    let (one, other) = (one.expect(201), other.expect(201));
    assert_eq!(one.json(), other.json());
    assert_eq!(one.headers["location"], other.headers["location"]);
    let replayed = |answer: &Answer| answer.headers.contains_key("idempotency-replayed");
    assert!(replayed(&one) != replayed(&other));
    let third = sign_up(&api, &ann, Some("first")).await.expect(201);
    assert!(replayed(&third) && third.json() == one.json());
    assert_eq!(accounts(&api, "ann@example.org").await, 1);

    // To who has another key, another password or another wish the account is just there.
    let mut wrong = ann.clone();
    wrong["password"] = "wrong enough".into();
    let mut renamed = ann.clone();
    renamed["name"] = "Anna".into();
    for (body, key) in [(&ann, "second"), (&wrong, "first"), (&renamed, "first")] {
        let answer = sign_up(&api, body, Some(key)).await;
        assert_eq!(answer.expect(409).code(), "EMAIL_EXISTS");
    }
    assert_eq!(
        sign_up(&api, &ann, Some("")).await.expect(400).code(),
        "INVALID_IDEMPOTENCY_KEY"
    );
    // What is kept lets nobody test passwords against it.
    let kept: String =
        sqlx::query_scalar("SELECT string_agg(row_to_json(k)::text, '') FROM idempotency_keys k")
            .fetch_one(&api.pool)
            .await
            .expect("a row");
    assert!(
        !kept.contains("ann@example.org") && !kept.contains("long enough"),
        "{kept}"
    );

    let by_admin = async || {
        let request = api
            .request(Method::POST, "/auth/signup")
            .header("X-API-Key", &api.admin);
        let request = request
            .header("Idempotency-Key", "made")
            .json(&account("bob@example.org"));
        api.send(request).await.expect(201)
    };
    let (first, second) = (by_admin().await, by_admin().await);
    assert!(!replayed(&first) && replayed(&second));
    assert_eq!(first.headers["location"], second.headers["location"]);
    api.stop().await;
}
