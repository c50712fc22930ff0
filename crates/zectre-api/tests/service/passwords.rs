//! Changing and resetting passwords, and who may sign up.

use crate::{
    harness::{Answer, Harness, normal},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

async fn post(api: &Harness, path: &str, body: Value) -> Answer {
    api.send(api.request(Method::POST, path).json(&body)).await
}

async fn log_in(api: &Harness, password: &str) -> Answer {
    let body = json!({ "email": "ann@example.org", "password": password });
    post(api, "/auth/login", body).await
}

fn token(answer: &Answer) -> String {
    answer.json()["token"].as_str().expect("a token").to_owned()
}

async fn user(api: &Harness, token: &str) -> u16 {
    let request = api.request(Method::GET, "/user").bearer_auth(token);
    api.send(request).await.status.as_u16()
}

async fn ann(api: &Harness) -> String {
    let account = json!({ "email": "ann@example.org", "password": "the first one" });
    api.post("/auth/signup", account).await.expect(201).id()
}

#[tokio::test]
async fn a_changed_password_ends_every_other_login() {
    let api = Harness::start().await;
    ann(&api).await;
    let first = token(&log_in(&api, "the first one").await.expect(200));
    let second = token(&log_in(&api, "the first one").await.expect(200));
    let change = async |current: &str, new: &str| {
        let body = json!({ "current_password": current, "new_password": new });
        let request = api.request(Method::POST, "/user/password").bearer_auth(&first);
        api.send(request.json(&body)).await
    };
    let wrong = change("not the first", "the second one").await.expect(401);
    assert_eq!(wrong.code(), "INVALID_CREDENTIALS");
    let weak = change("the first one", "short").await.expect(400);
    weak.shows("WEAK_PASSWORD");
    assert_eq!(user(&api, &second).await, 200);
    let changed = change("the first one", "the second one").await.expect(200);
    insta::assert_json_snapshot!("password_changed", normal(&changed.json()));
    assert_eq!(user(&api, &token(&changed)).await, 200);
    assert_eq!((user(&api, &first).await, user(&api, &second).await), (401, 401));
    log_in(&api, "the first one").await.expect(401);
    log_in(&api, "the second one").await.expect(200);
    let events = api.get("/events?action=user.password_changed").await.json();
    assert_eq!(events["total"], 1);

    // Of two changes of the same password at once one is made, and the other is told.
    let (one, two) = (
        token(&log_in(&api, "the second one").await.expect(200)),
        token(&log_in(&api, "the second one").await.expect(200)),
    );
    let change = async |token: &str, new: &str| {
        let body = json!({ "current_password": "the second one", "new_password": new });
        let request = api.request(Method::POST, "/user/password").bearer_auth(token);
        api.send(request.json(&body)).await.status.as_u16()
    };
    let made = tokio::join!(change(&one, "the third one"), change(&two, "the fourth one"));
    let serves = match made {
        (200, 401) => "the third one",
        (401, 200) => "the fourth one",
        other => panic!("one of two: {other:?}"),
    };
    log_in(&api, serves).await.expect(200);
    api.stop().await;
}

#[tokio::test]
async fn a_reset_token_sets_a_password_once() {
    let api = Harness::start().await;
    let id = ann(&api).await;
    let before = token(&log_in(&api, "the first one").await.expect(200));
    let path = format!("/users/{id}/reset-password");
    let replaced = token(&api.act(&path).await.expect(201));
    let made = api.act(&path).await.expect(201);
    insta::assert_json_snapshot!("password_reset", normal(&made.json()));
    let stored: String = sqlx::query_scalar("SELECT row_to_json(p)::text FROM password_resets p")
        .fetch_one(&api.pool)
        .await
        .expect("there");
    assert!(!stored.contains(&token(&made)));
    let reset = async |token: &str, new: &str| {
        post(
            &api,
            "/auth/reset-password",
            json!({ "token": token, "new_password": new }),
        )
        .await
    };
    for bad in [replaced.as_str(), "zr_guess", ""] {
        let answer = reset(bad, "the second one").await.expect(400);
        assert_eq!(answer.code(), "INVALID_RESET_TOKEN");
    }
    assert_eq!(
        reset(&token(&made), "short").await.expect(400).code(),
        "WEAK_PASSWORD"
    );
    let (token, new) = (token(&made), "the second one");
    let (one, other) = tokio::join!(reset(&token, new), reset(&token, new));
    let mut statuses = [one.status.as_u16(), other.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    assert_eq!(user(&api, &before).await, 401);
    log_in(&api, "the first one").await.expect(401);
    log_in(&api, "the second one").await.expect(200);
    // Past its time, and of an account that is shut out.
    let late = self::token(&api.act(&path).await.expect(201));
    sqlx::query("UPDATE password_resets SET expires_at = now()")
        .execute(&api.pool)
        .await
        .expect("valid");
    assert_eq!(reset(&late, new).await.expect(400).code(), "INVALID_RESET_TOKEN");
    let shut = self::token(&api.act(&path).await.expect(201));
    api.act(&format!("/users/{id}/disable")).await.expect(200);
    assert_eq!(reset(&shut, new).await.expect(403).code(), "ACCOUNT_DISABLED");
    let unknown = api
        .act(&format!("/users/{}/reset-password", Uuid::now_v7()))
        .await;
    assert_eq!(unknown.expect(404).code(), "USER_NOT_FOUND");
    api.stop().await;
}

#[tokio::test]
async fn where_sign_up_takes_an_invitation_only_the_invited_make_accounts() {
    let api = Harness::start_with("auth.signup = \"invite\"").await;
    let organization = rows::organization(&api.pool).await;
    let invite = async |email: &str| {
        let path = format!("/orgs/{}/invitations", organization.slug);
        token(
            &api.post(&path, json!({ "email": email, "role": "viewer" }))
                .await
                .expect(201),
        )
    };
    let sign_up = async |email: &str, invitation: Option<&str>| {
        let mut body = json!({ "email": email, "password": "long enough" });
        if let Some(token) = invitation {
            body["invitation"] = token.into();
        }
        post(&api, "/auth/signup", body).await
    };
    let uninvited = sign_up("ann@example.org", None).await.expect(403);
    assert_eq!(uninvited.code(), "INVITATION_REQUIRED");
    let offered = invite("Ann@example.org").await;
    for (email, token) in [
        ("bob@example.org", offered.as_str()),
        ("ann@example.org", "zi_guess"),
    ] {
        let answer = sign_up(email, Some(token)).await.expect(404);
        assert_eq!(answer.code(), "INVITATION_NOT_FOUND");
    }
    let made = sign_up("ann@example.org", Some(&offered))
        .await
        .expect(201)
        .json();
    assert_eq!(made["memberships"][0]["role"], "viewer");
    assert_eq!(made["memberships"][0]["organization"], organization.slug);
    assert_eq!(
        sign_up("ann@example.org", Some(&offered))
            .await
            .expect(404)
            .code(),
        "INVITATION_NOT_FOUND"
    );
    // An account that exists accepts instead; what failed takes nothing.
    let again = invite("ann@example.org").await;
    let taken = sign_up("ann@example.org", Some(&again)).await;
    taken.expect(409).shows("EMAIL_EXISTS");
    let login = json!({ "email": "ann@example.org", "password": "long enough" });
    let login = token(&post(&api, "/auth/login", login).await.expect(200));
    let accept = api
        .request(Method::POST, "/invitations/accept")
        .bearer_auth(login);
    api.send(accept.json(&json!({ "token": again })))
        .await
        .expect(200);
    api.stop().await;
}

#[tokio::test]
async fn where_sign_up_is_closed_an_invitation_makes_no_account_and_where_it_is_open_not_too_many_come() {
    let closed = Harness::start().await;
    let invitation = json!({ "email": "ann@example.org" });
    let invitation = token(
        &closed
            .post("/orgs/default/invitations", invitation)
            .await
            .expect(201),
    );
    let body = json!({ "email": "ann@example.org", "password": "long enough", "invitation": invitation });
    let answer = post(&closed, "/auth/signup", body).await.expect(403);
    assert_eq!(answer.code(), "SIGNUP_CLOSED");
    closed.stop().await;

    let open = Harness::start_with("auth.signup = \"open\"").await;
    let sign_up = async |n: u32| {
        let body = json!({ "email": format!("{n}@example.org"), "password": "long enough" });
        post(&open, "/auth/signup", body).await
    };
    for n in 0..20 {
        sign_up(n).await.expect(201);
    }
    assert_eq!(sign_up(20).await.expect(429).code(), "TOO_MANY_ATTEMPTS");
    open.stop().await;
}
