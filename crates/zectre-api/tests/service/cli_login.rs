//! Signing a command line in from somewhere else.

use crate::{
    harness::{Answer, Harness, normal},
    rows,
};
use reqwest::{Method, header::HeaderMap};
use serde_json::{Value, json};
use std::collections::HashMap;

async fn post(api: &Harness, path: &str, body: Value) -> Answer {
    api.send(api.request(Method::POST, path).json(&body)).await
}

async fn begin(api: &Harness) -> Value {
    let name = json!({ "device_name": "ann's <laptop>" });
    post(api, "/auth/cli/initiate", name).await.expect(200).json()
}

async fn fetch(api: &Harness, begun: &Value) -> Answer {
    let body = json!({ "device_code": begun["device_code"] });
    post(api, "/auth/cli/token", body).await
}

async fn approve(api: &Harness, key: &str, code: &str, approve: bool) -> Answer {
    let body = json!({ "user_code": code, "approve": approve });
    api.call(key, Method::POST, "/auth/cli/approve", Some(body)).await
}

/// As if the last question was long ago.
async fn later(api: &Harness) {
    sqlx::query("UPDATE cli_logins SET polled_at = now() - interval '1 hour'")
        .execute(&api.pool)
        .await
        .expect("valid");
}

#[tokio::test]
async fn an_approved_command_line_gets_its_key_once() {
    let api = Harness::start().await;
    let begun = begin(&api).await;
    let code = begun["user_code"].as_str().expect("a code").to_owned();
    let mut shown = begun.clone();
    shown["device_code"] = "[secret]".into();
    shown["user_code"] = "[code]".into();
    insta::assert_json_snapshot!("cli_login_begun", shown);
    let stored: String = sqlx::query_scalar("SELECT row_to_json(l)::text FROM cli_logins l")
        .fetch_one(&api.pool)
        .await
        .expect("there");
    assert!(!stored.contains(begun["device_code"].as_str().expect("a code")));

    assert_eq!(
        fetch(&api, &begun).await.expect(400).code(),
        "AUTHORIZATION_PENDING"
    );
    let slower = fetch(&api, &begun).await.expect(429);
    slower.shows("SLOW_DOWN");
    assert_eq!(slower.headers["retry-after"], "7");
    assert_eq!(fetch(&api, &begun).await.expect(429).headers["retry-after"], "12");
    later(&api).await;
    assert_eq!(
        fetch(&api, &begun).await.expect(400).code(),
        "AUTHORIZATION_PENDING"
    );

    let typed = format!(" {} ", code.to_lowercase().replace('-', ""));
    let approved = approve(&api, &api.admin, &typed, true).await.expect(200);
    insta::assert_json_snapshot!("cli_login_approved", normal(&approved.json()));
    // Once decided, nobody decides anew.
    let again = approve(&api, &api.admin, &code, false).await.expect(404);
    assert_eq!(again.code(), "USER_CODE_NOT_FOUND");
    later(&api).await;
    let (one, other) = tokio::join!(fetch(&api, &begun), fetch(&api, &begun));
    let (got, missed) = if one.status == 200 {
        (one, other)
    } else {
        (other, one)
    };
    assert!([400, 429].contains(&missed.status.as_u16()), "{}", missed.text);
    let token = got.expect(200).json();
    assert_eq!(
        fetch(&api, &begun).await.expect(400).code(),
        "DEVICE_CODE_EXPIRED"
    );
    let key = token["api_key"].as_str().expect("shown once");
    let user = api.call(key, Method::GET, "/user", None).await.expect(200).json();
    assert_eq!(user["email"], token["user"]["email"]);
    let path = format!("/api-keys/{}", token["api_key_id"].as_str().expect("an id"));
    api.call(key, Method::DELETE, &path, None).await.expect(204);
    api.call(key, Method::GET, "/user", None).await.expect(401);
    let events = api.get("/events?action=cli_login.approved").await.json();
    assert_eq!(events["data"][0]["actor"], "user:admin@zectre.localhost");
    api.stop().await;
}

#[tokio::test]
async fn a_denied_or_late_command_line_gets_nothing() {
    let api = Harness::start().await;
    let denied = begin(&api).await;
    let code = |begun: &Value| begun["user_code"].as_str().expect("a code").to_owned();
    approve(&api, &api.admin, &code(&denied), false).await.expect(200);
    fetch(&api, &denied).await.expect(403).shows("ACCESS_DENIED");
    assert_eq!(
        fetch(&api, &denied).await.expect(400).code(),
        "DEVICE_CODE_EXPIRED"
    );

    let late = begin(&api).await;
    sqlx::query("UPDATE cli_logins SET expires_at = now()")
        .execute(&api.pool)
        .await
        .expect("valid");
    let answer = approve(&api, &api.admin, &code(&late), true).await.expect(404);
    assert_eq!(answer.code(), "USER_CODE_NOT_FOUND");
    assert_eq!(fetch(&api, &late).await.expect(400).code(), "DEVICE_CODE_EXPIRED");
    let unknown = json!({ "device_code": "zd_guess" });
    let answer = post(&api, "/auth/cli/token", unknown).await.expect(400);
    assert_eq!(answer.code(), "DEVICE_CODE_EXPIRED");

    // Approved by someone who is shut out before the key is fetched.
    let (user, key) = crate::rows::user(&api.pool, false).await;
    let out = begin(&api).await;
    approve(&api, &key, &code(&out), true).await.expect(200);
    api.act(&format!("/users/{user}/disable")).await.expect(200);
    assert_eq!(fetch(&api, &out).await.expect(403).code(), "ACCOUNT_DISABLED");

    // Ten wrong codes are guesses.
    for _ in 0..8 {
        approve(&api, &api.admin, "BBBB-BBBB", true).await.expect(404);
    }
    let guesses = async || approve(&api, &api.admin, "BBBB-BBBB", true).await;
    guesses().await.expect(404);
    assert_eq!(guesses().await.expect(429).code(), "TOO_MANY_ATTEMPTS");
    for _ in 0..27 {
        begin(&api).await;
    }
    let many = post(&api, "/auth/cli/initiate", json!({})).await.expect(429);
    assert_eq!(many.code(), "TOO_MANY_ATTEMPTS");
    api.stop().await;
}

/// The page as a browser asks for it.
#[tokio::test]
async fn codes_that_are_guessed_at_once_are_counted_before_they_are_looked_for() {
    let api = Harness::start().await;
    let begun = begin(&api).await;
    let (_, key) = rows::user(&api.pool, false).await;
    let guesses = (0..50).map(|_| approve(&api, &key, "BCDF-GHJK", true));
    let answers = futures_util::future::join_all(guesses).await;
    let count = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    assert!(
        (1..=10).contains(&count(404)) && count(429) >= 40,
        "{} were made, {} refused",
        count(404),
        count(429)
    );
    // Others have guesses of their own.
    let code = begun["user_code"].as_str().expect("a code");
    approve(&api, &api.admin, code, false).await.expect(200);
    api.stop().await;
}

async fn page(
    api: &Harness,
    form: Option<(&HashMap<&str, &str>, &str)>,
    query: &str,
) -> (u16, String, HeaderMap) {
    let url = format!("/cli{query}");
    let request = match form {
        None => api.page(Method::GET, &url),
        Some((fields, site)) => {
            let pairs: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}={}", value.replace('@', "%40").replace(' ', "+")))
                .collect();
            api.page(Method::POST, &url)
                .header("Content-Type", "application/x-www-form-urlencoded")
                .header("Sec-Fetch-Site", site)
                .body(pairs.join("&"))
        }
    };
    let answer = api.send(request).await;
    (answer.status.as_u16(), answer.text, answer.headers)
}

#[tokio::test]
async fn a_person_approves_on_the_page_with_their_password() {
    let api = Harness::start().await;
    let account = json!({ "email": "ann@example.org", "password": "long enough" });
    api.post("/auth/signup", account).await.expect(201);
    let begun = begin(&api).await;
    let code = begun["user_code"].as_str().expect("a code");

    let (status, text, headers) = page(&api, None, "").await;
    assert!(status == 200 && text.contains("name=\"code\""), "{text}");
    let csp = headers["content-security-policy"].to_str().expect("text");
    assert!(csp.contains("frame-ancestors 'none'") && csp.contains("default-src 'none'"));
    assert!(!headers.contains_key("set-cookie") && headers["cache-control"] == "no-store");
    let (status, text, _) = page(&api, None, "?code=BBBB-BBBB").await;
    assert!(status == 404 && text.contains("no command line waits"), "{text}");
    let (status, text, _) = page(&api, None, &format!("?code={code}")).await;
    assert!(status == 200 && text.contains("ann's &lt;laptop&gt;"), "{text}");

    let fields = |password: &'static str, decision: &'static str| {
        HashMap::from([
            ("code", code),
            ("email", "ann@example.org"),
            ("password", password),
            ("decision", decision),
        ])
    };
    let (status, _, _) = page(&api, Some((&fields("long enough", "approve"), "cross-site")), "").await;
    assert_eq!(status, 403);
    let (status, text, _) = page(&api, Some((&fields("wrong one", "approve"), "same-origin")), "").await;
    assert!(status == 401 && !text.contains("wrong one"), "{text}");
    assert_eq!(
        fetch(&api, &begun).await.expect(400).code(),
        "AUTHORIZATION_PENDING"
    );
    let (status, text, _) = page(&api, Some((&fields("long enough", "approve"), "same-origin")), "").await;
    assert!(
        status == 200 && text.contains("Signed in") && !text.contains("zk_"),
        "{text}"
    );
    later(&api).await;
    let token = fetch(&api, &begun).await.expect(200).json();
    assert_eq!(token["user"]["email"], "ann@example.org");

    let begun = begin(&api).await;
    let code = begun["user_code"].as_str().expect("a code");
    let mut fields = fields("long enough", "deny");
    fields.insert("code", code);
    let (status, _, _) = page(&api, Some((&fields, "same-origin")), "").await;
    assert_eq!(status, 200);
    assert_eq!(fetch(&api, &begun).await.expect(403).code(), "ACCESS_DENIED");
    let (status, _, _) = page(&api, Some((&HashMap::from([("code", "x")]), "none")), "").await;
    assert_eq!(status, 400);
    api.stop().await;
}
