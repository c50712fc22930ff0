//! Logins and keys that end while a request made with them is on its way: they leave no key behind.

use crate::{
    harness::{Answer, Harness},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);

/// A request whose body is awaited: who sends it was let in.
struct LetIn {
    stream: TcpStream,
    body: String,
}

impl LetIn {
    async fn begin(api: &Harness, path: &str, credential: &str, body: &Value) -> Self {
        let body = body.to_string();
        let mut stream = TcpStream::connect(api.authority()).await.expect("it listens");
        let head = format!(
            "POST /api/v1{path} HTTP/1.1\r\nHost: {}\r\n{credential}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
            api.authority(),
            body.len()
        );
        stream.write_all(head.as_bytes()).await.expect("it reads");
        let mut said = [0; 25];
        let read = timeout(SOON, stream.read_exact(&mut said)).await;
        read.expect("it answers").expect("it answers");
        assert_eq!(&said, b"HTTP/1.1 100 Continue\r\n\r\n");
        Self { stream, body }
    }

    /// The status of the answer, and all of it.
    async fn finish(mut self) -> (u16, String) {
        self.stream
            .write_all(self.body.as_bytes())
            .await
            .expect("it reads");
        let mut answer = String::new();
        let read = timeout(SOON, self.stream.read_to_string(&mut answer)).await;
        read.expect("it answers").expect("it is text");
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
        (status.expect("a status"), answer)
    }
}

async fn post(api: &Harness, path: &str, body: Value) -> Answer {
    api.send(api.request(Method::POST, path).json(&body)).await
}

/// An account `ann`; a login of hers.
async fn ann(api: &Harness) -> String {
    let account = json!({ "email": "ann@example.org", "password": "the first one" });
    api.post("/auth/signup", account.clone()).await.expect(201);
    let login = post(api, "/auth/login", account).await.expect(200).json();
    login["token"].as_str().expect("a token").to_owned()
}

async fn keys(api: &Harness) -> i64 {
    let count =
        "SELECT count(*) FROM api_keys k JOIN users u ON u.id = k.user_id WHERE u.email = 'ann@example.org'";
    sqlx::query_scalar(count)
        .fetch_one(&api.pool)
        .await
        .expect("a number")
}

async fn begun(api: &Harness) -> Value {
    post(api, "/auth/cli/initiate", json!({}))
        .await
        .expect(200)
        .json()
}

#[tokio::test]
async fn a_login_that_a_new_password_ended_makes_no_key() {
    let api = Harness::start().await;
    let token = ann(&api).await;
    let bearer = format!("Authorization: Bearer {token}");
    let waiting = begun(&api).await;
    let make = LetIn::begin(&api, "/api-keys", &bearer, &json!({ "name": "theirs" })).await;
    let approval = json!({ "user_code": waiting["user_code"] });
    let approve = LetIn::begin(&api, "/auth/cli/approve", &bearer, &approval).await;
    let change = json!({ "current_password": "the first one", "new_password": "the second one" });
    let change = api
        .request(Method::POST, "/user/password")
        .bearer_auth(&token)
        .json(&change);
    let login = api.send(change).await.expect(200).json();
    for request in [make, approve] {
        let (status, answer) = request.finish().await;
        assert!(status == 401 && answer.contains("UNAUTHENTICATED"), "{answer}");
    }
    assert_eq!(keys(&api).await, 0);
    // With the new one both go.
    let token = login["token"].as_str().expect("a token");
    for (path, body, status) in [
        ("/api-keys", json!({ "name": "hers" }), 201),
        ("/auth/cli/approve", approval, 200),
    ] {
        let request = api.request(Method::POST, path).bearer_auth(token).json(&body);
        api.send(request).await.expect(status);
    }
    api.stop().await;
}

#[tokio::test]
async fn a_login_that_was_ended_and_a_key_that_was_deleted_make_no_key() {
    let api = Harness::start().await;
    let token = ann(&api).await;
    let bearer = format!("Authorization: Bearer {token}");
    let named = |name: &str| json!({ "name": name });
    let first = api.request(Method::POST, "/api-keys").bearer_auth(&token);
    let first = api.send(first.json(&named("first"))).await.expect(201).json();
    let key = first["key"].as_str().expect("shown once");

    let header = format!("X-API-Key: {key}");
    let made = LetIn::begin(&api, "/api-keys", &header, &named("second")).await;
    let path = format!("/api-keys/{}", first["id"].as_str().expect("an id"));
    api.call(key, Method::DELETE, &path, None).await.expect(204);
    let (status, answer) = made.finish().await;
    assert!(status == 401 && answer.contains("UNAUTHENTICATED"), "{answer}");

    let made = LetIn::begin(&api, "/api-keys", &bearer, &named("third")).await;
    let logout = api.request(Method::POST, "/auth/logout").bearer_auth(&token);
    api.send(logout).await.expect(204);
    let (status, answer) = made.finish().await;
    assert!(status == 401 && answer.contains("UNAUTHENTICATED"), "{answer}");
    assert_eq!(keys(&api).await, 0);
    api.stop().await;
}

/// A password is compared before the wait for a turn to do so is over, and decides after it.
#[tokio::test]
async fn on_the_page_a_password_counts_only_until_it_is_changed() {
    let api = Harness::start().await;
    ann(&api).await;
    let waiting = begun(&api).await;
    let code = waiting["user_code"].as_str().expect("a code");
    let form = format!("code={code}&email=ann%40example.org&password=the+first+one&decision=approve");
    let mut changing = api.pool.begin().await.expect("the database is there");
    sqlx::query("UPDATE users SET login_epoch = login_epoch + 1 WHERE email = 'ann@example.org'")
        .execute(&mut *changing)
        .await
        .expect("valid");
    let request = api
        .page(Method::POST, "/cli")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(form);
    let changed = async {
        wait_until(SOON, "the approval waits for the change", async || {
            (rows::waiting(&api.pool).await == 1).then_some(())
        })
        .await;
        changing.commit().await.expect("it is committed");
    };
    let (answer, ()) = tokio::join!(api.send(request), changed);
    assert_eq!(answer.status, 401, "{}", answer.text);
    let state: String = sqlx::query_scalar("SELECT state FROM cli_logins")
        .fetch_one(&api.pool)
        .await
        .expect("a row");
    assert_eq!(state, "pending");
    api.stop().await;
}

#[tokio::test]
async fn keys_that_are_made_at_once_are_counted_one_by_one() {
    let api = Harness::start().await;
    let (user, key) = rows::user(&api.pool, false).await;
    let keys = "INSERT INTO api_keys (id, user_id, name, prefix, hash)
                SELECT gen_random_uuid(), $1, 'one of many', 'zk_', n::text::bytea FROM generate_series($2::int, $3) AS n";
    let insert = |first: i32, last: i32| sqlx::query(keys).bind(user).bind(first).bind(last);
    insert(1, 98).execute(&api.pool).await.expect("valid");
    // As another request makes the last one.
    let mut making = api.pool.begin().await.expect("the database is there");
    sqlx::query("SELECT 1 FROM users WHERE id = $1 FOR NO KEY UPDATE")
        .bind(user)
        .execute(&mut *making)
        .await
        .expect("valid");
    insert(99, 99).execute(&mut *making).await.expect("valid");
    let made = async {
        wait_until(SOON, "the other one waits", async || {
            (rows::waiting(&api.pool).await == 1).then_some(())
        })
        .await;
        making.commit().await.expect("it is committed");
    };
    let one_more = json!({ "name": "one more" });
    let (answer, ()) = tokio::join!(api.call(&key, Method::POST, "/api-keys", Some(one_more)), made);
    assert_eq!(answer.expect(409).code(), "TOO_MANY_API_KEYS");
    api.stop().await;
}
