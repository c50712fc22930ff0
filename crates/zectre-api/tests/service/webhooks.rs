//! Outbound webhooks, against receivers of the test's own.

use crate::{
    harness::{Harness, normal},
    rows,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use zectre_testkit::{DnsServer, TestCertificate, wait_until};

const SOON: Duration = Duration::from_secs(60);
const PRIVATE: &str = "webhooks.allow_private = true";
const HERE: std::net::IpAddr = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

/// What a receiver was sent.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    first_line: String,
    headers: HashMap<String, String>,
    pub(crate) body: String,
}

/// A receiver that answers what it is told to (the last of it for ever), and remembers what it was sent.
pub(crate) struct Receiver {
    port: u16,
    answers: Arc<Mutex<VecDeque<String>>>,
    calls: Arc<Mutex<Vec<Call>>>,
    _serving: JoinSet<()>,
}

impl Receiver {
    pub(crate) async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let port = listener.local_addr().expect("a listener has an address").port();
        let (answers, calls) = (
            Arc::<Mutex<VecDeque<String>>>::default(),
            Arc::<Mutex<Vec<Call>>>::default(),
        );
        let (told, heard) = (Arc::clone(&answers), Arc::clone(&calls));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, told, heard) = (tls.clone(), Arc::clone(&told), Arc::clone(&heard));
                open.spawn(async move {
                    match tls {
                        None => answer(stream, &told, &heard).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &told, &heard).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            port,
            answers,
            calls,
            _serving: serving,
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/hook?a=b", self.port)
    }

    fn says(&self, answers: &[&str]) {
        *self.answers.lock().expect("not poisoned") = answers.iter().map(|text| (*text).to_owned()).collect();
    }

    fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("not poisoned").clone()
    }

    pub(crate) async fn called(&self, times: usize) -> Vec<Call> {
        wait_until(SOON, "the receiver is called", async || {
            Some(self.calls()).filter(|calls| calls.len() >= times)
        })
        .await
    }
}

async fn answer<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    told: &Mutex<VecDeque<String>>,
    heard: &Mutex<Vec<Call>>,
) {
    let mut bytes = Vec::new();
    let (head, length) = loop {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .filter_map(|line| line.split_once(": "))
                .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .and_then(|(_, value)| value.parse::<usize>().ok())
                .unwrap_or(0);
            break (head.to_owned(), length);
        }
    };
    while bytes.len() < head.len() + 4 + length {
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let (first_line, rest) = head.split_once("\r\n").unwrap_or((&head, ""));
    let header = |line: &str| {
        let (name, value) = line.split_once(": ")?;
        Some((name.to_lowercase(), value.to_owned()))
    };
    heard.lock().expect("not poisoned").push(Call {
        first_line: first_line.to_owned(),
        headers: rest.lines().filter_map(header).collect(),
        body: String::from_utf8_lossy(&bytes[head.len() + 4..]).into_owned(),
    });
    let answer = {
        let mut told = told.lock().expect("not poisoned");
        if told.len() > 1 {
            told.pop_front()
        } else {
            told.front().cloned()
        }
    };
    let answer = answer.unwrap_or_else(|| "HTTP/1.1 204 No Content\r\n\r\n".into());
    // Whoever asks may hang up as soon as it has read enough.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

async fn add(api: &Harness, url: &str, events: &[&str]) -> Value {
    api.post("/webhooks", json!({ "url": url, "events": events }))
        .await
        .expect(201)
        .json()
}

fn text<'v>(value: &'v Value, key: &str) -> &'v str {
    value[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {value}"))
}

async fn deliveries(api: &Harness, hook: &str) -> Vec<Value> {
    let list = api
        .get(&format!("/webhooks/{hook}/deliveries?page_size=100"))
        .await;
    list.expect(200).json()["data"]
        .as_array()
        .expect("a list")
        .clone()
}

/// The webhook's only delivery, once `wanted` of it.
pub(crate) async fn delivery(api: &Harness, hook: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    wait_until(SOON, "the delivery gets there", async || {
        let all = deliveries(api, hook).await;
        assert!(all.len() <= 1, "{all:?}");
        all.into_iter().next().filter(|one| wanted(one))
    })
    .await
}

/// What waits for its next attempt is due.
async fn hurry(api: &Harness) {
    let due = "UPDATE webhook_deliveries SET next_attempt_at = now() WHERE state = 'pending' AND attempted_at IS NOT NULL";
    sqlx::query(due)
        .execute(&api.pool)
        .await
        .expect("the database is there");
    // Any event makes the task look.
    api.app(&format!("n{}", &uuid::Uuid::now_v7().simple().to_string()[20..]))
        .await;
}

fn signature(secret: &str, call: &Call) -> String {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").expect("a secret"))
        .expect("base64");
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    let signed = format!(
        "{}.{}.{}",
        call.headers["webhook-id"], call.headers["webhook-timestamp"], call.body
    );
    mac.update(signed.as_bytes());
    format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn an_event_is_posted_once_signed_and_nothing_else_is() {
    let api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    api.app("before").await;
    let made = add(&api, &receiver.url(), &["app.*"]).await;
    insta::assert_json_snapshot!("webhook_created", {
        let mut shown = normal(&made);
        shown["secret"] = "[secret]".into();
        shown["url"] = "[url]".into();
        shown
    });
    let (hook, secret) = (text(&made, "id"), text(&made, "secret"));
    let app = api.app("hello").await;
    let deployed = api
        .post(&format!("/apps/{app}/deployments"), json!({ "image": "nginx" }))
        .await;
    deployed.expect(201);
    let calls = receiver.called(1).await;
    let done = delivery(&api, hook, |one| one["state"] == "delivered").await;
    let call = &calls[0];
    assert_eq!(call.first_line, "POST /hook?a=b HTTP/1.1");
    assert_eq!(call.headers["host"], format!("127.0.0.1:{}", receiver.port));
    assert_eq!(call.headers["content-type"], "application/json");
    assert_eq!(call.headers["webhook-signature"], signature(secret, call));
    let id = text(&done, "id").replace('-', "");
    assert_eq!(call.headers["webhook-id"], format!("msg_{id}"));
    let body: Value = serde_json::from_str(&call.body).expect("JSON");
    assert_eq!(
        (text(&body, "type"), text(&body["data"], "application_id")),
        ("app.created", app.as_str())
    );
    let mut shown = normal(&done);
    shown["duration_ms"] = 0.into();
    insta::assert_json_snapshot!("webhook_delivery", shown);
    // Another event in between shows that the first was not sent twice.
    let second = api.app("second").await;
    let calls = receiver.called(2).await;
    assert_eq!(calls.len(), 2);
    assert!(calls[1].body.contains(&second));
    // Neither a list, nor the feed, nor the database in plain shows the secret.
    let shown = api.get("/webhooks").await.expect(200).text
        + &api.get("/events?page_size=100").await.expect(200).text;
    assert!(!shown.contains("whsec_") && shown.contains("webhook.created"));
    let stored: Vec<u8> = sqlx::query_scalar("SELECT secret FROM webhooks")
        .fetch_one(&api.pool)
        .await
        .expect("a row");
    assert!(!stored.windows(6).any(|bytes| bytes == b"whsec_"));
    api.call(&api.admin, Method::DELETE, &format!("/webhooks/{hook}"), None)
        .await
        .expect(204);
    assert_eq!(
        api.get(&format!("/webhooks/{hook}")).await.expect(404).code(),
        "WEBHOOK_NOT_FOUND"
    );
    api.stop().await;
}

#[tokio::test]
async fn a_failed_delivery_is_repeated_with_its_id_and_can_be_sent_again() {
    let api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    // The next attempt comes when the test wants it, and not before.
    receiver.says(&[
        "HTTP/1.1 500 Oh\r\nretry-after: 600\r\ncontent-length: 4\r\n\r\noh\u{0}!",
        "HTTP/1.1 302 Found\r\nretry-after: 600\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
    ]);
    let made = add(&api, &receiver.url(), &["environment.created"]).await;
    let hook = text(&made, "id").to_owned();
    let app = api.app("hello").await;
    api.post(&format!("/apps/{app}/environments"), json!({ "slug": "staging" }))
        .await
        .expect(201);
    let failed = delivery(&api, &hook, |one| one["problem"].is_string()).await;
    assert_eq!(
        (&failed["state"], &failed["attempts"]),
        (&json!("pending"), &json!(1))
    );
    assert_eq!(
        (&failed["answer_status"], &failed["answer_body"]),
        (&json!(500), &json!("oh !"))
    );
    assert!(failed["next_attempt_at"].is_string());
    let failing = api.get(&format!("/webhooks/{hook}")).await.expect(200).json();
    assert!(failing["failing_since"].is_string());
    hurry(&api).await;
    // A redirect is an answer, and not followed.
    let redirected = delivery(&api, &hook, |one| {
        one["attempts"] == 2 && one["answer_status"] == 302
    })
    .await;
    assert_eq!(text(&redirected, "problem"), "it answered 302 Found");
    let path = format!(
        "/webhooks/{hook}/deliveries/{}/redeliver",
        text(&redirected, "id")
    );
    api.act(&path).await.expect(202);
    let done = delivery(&api, &hook, |one| one["state"] == "delivered").await;
    assert_eq!(
        (&done["attempts"], &done["answer_body"], &done["problem"]),
        (&json!(3), &json!("ok"), &Value::Null)
    );
    let well = api.get(&format!("/webhooks/{hook}")).await.expect(200).json();
    assert_eq!(well["failing_since"], Value::Null);
    api.act(&path).await.expect(202);
    let calls = receiver.called(4).await;
    assert!(calls.iter().all(
        |call| call.headers["webhook-id"] == calls[0].headers["webhook-id"] && call.body == calls[0].body
    ));
    assert!(
        calls
            .iter()
            .all(|call| call.first_line.starts_with("POST /hook?"))
    );
    let unknown = format!("/webhooks/{hook}/deliveries/{}/redeliver", uuid::Uuid::now_v7());
    assert_eq!(api.act(&unknown).await.expect(404).code(), "DELIVERY_NOT_FOUND");
    api.stop().await;
}

#[tokio::test]
async fn private_addresses_are_not_called_by_whatever_name() {
    let dns = DnsServer::start().await;
    dns.add_address("inside.example.com", HERE);
    let api = Harness::start_with(&format!("domains.dns_server = '{}'", dns.address)).await;
    let receiver = Receiver::start(None).await;
    for url in [
        "http://127.0.0.1/",
        "http://0x7f000001/",
        "https://[::1]/",
        "http://169.254.169.254/",
        "ftp://example.com",
        "nothing",
    ] {
        let refused = api.post("/webhooks", json!({ "url": url })).await.expect(400);
        assert_eq!(refused.code(), "INVALID_INPUT", "{url}");
    }
    let made = add(
        &api,
        &format!("http://inside.example.com:{}/", receiver.port),
        &["app.*"],
    )
    .await;
    api.app("hello").await;
    let failed = delivery(&api, text(&made, "id"), |one| one["problem"].is_string()).await;
    let problem = text(&failed, "problem");
    assert!(
        problem.contains("no public address") && !problem.contains("127.0.0.1"),
        "what the cluster's own DNS says is nobody's business: {problem}"
    );
    assert_eq!(receiver.calls().len(), 0);
    api.stop().await;
}

/// Takes connections and never answers; how many are open.
async fn silent() -> (String, JoinSet<()>, Arc<Mutex<usize>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}/", listener.local_addr().expect("it is bound"));
    let (open, mut serving) = (Arc::<Mutex<usize>>::default(), JoinSet::new());
    let counted = Arc::clone(&open);
    serving.spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            held.push(stream);
            *counted.lock().expect("not poisoned") = held.len();
        }
    });
    (url, serving, open)
}

#[tokio::test]
async fn slow_receivers_of_one_organization_hold_up_no_other_ones() {
    // An attempt outlasts the test.
    let api = Harness::start_with(&format!("{PRIVATE}\nwebhooks.timeout_ms = 30000")).await;
    let (url, _serving, open) = silent().await;
    // More than all that is sent at once.
    for _ in 0..40 {
        add(&api, &url, &["app.*"]).await;
    }
    api.app("slow").await;
    let taken = || *open.lock().expect("not poisoned");
    wait_until(SOON, "the slow ones are called", async || {
        (taken() >= 8).then_some(())
    })
    .await;
    let other = rows::organization(&api.pool).await;
    let receiver = Receiver::start(None).await;
    let hook = json!({ "url": receiver.url(), "events": ["app.*"], "organization": other.slug });
    let hook = api.post("/webhooks", hook).await.expect(201).id();
    let app = json!({ "name": "quick", "namespace": other.slug });
    api.post("/apps", app).await.expect(201);
    let called = tokio::time::timeout(Duration::from_secs(20), receiver.called(1)).await;
    called.expect("it waits for nobody");
    delivery(&api, &hook, |one| one["state"] == "delivered").await;
    assert_eq!(taken(), 8, "an organization has so many under way and no more");
    api.stop().await;
}

#[tokio::test]
async fn https_is_checked() {
    let certificate = TestCertificate::of("hooks.example.com");
    let receiver = Receiver::start(Some(certificate.acceptor())).await;
    let dns = DnsServer::start().await;
    dns.add_address("hooks.example.com", HERE);
    dns.add_address("other.example.com", HERE);
    let api = Harness::start_with(&format!(
        "domains.dns_server = '{}'\n{PRIVATE}\nwebhooks.ca_file = '{}'",
        dns.address,
        certificate.authority().display()
    ))
    .await;
    let port = receiver.port;
    let good = add(&api, &format!("https://hooks.example.com:{port}/"), &["app.*"]).await;
    let wrong = add(&api, &format!("https://other.example.com:{port}/"), &["app.*"]).await;
    api.app("hello").await;
    let refused = delivery(&api, text(&wrong, "id"), |one| one["problem"].is_string()).await;
    assert!(text(&refused, "problem").contains("TLS"), "{refused}");
    delivery(&api, text(&good, "id"), |one| one["state"] == "delivered").await;
    let calls = receiver.calls();
    assert_eq!(
        (calls.len(), calls[0].headers["host"].as_str()),
        (1, format!("hooks.example.com:{port}").as_str())
    );
    api.stop().await;
}

#[tokio::test]
async fn one_that_always_fails_is_disabled_and_says_so() {
    let api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    receiver.says(&["HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n"]);
    let made = add(&api, &receiver.url(), &["variable.*"]).await;
    let hook = text(&made, "id").to_owned();
    let app = api.app("hello").await;
    sqlx::query("UPDATE webhooks SET failures = 19, failing_since = now() - interval '25 hours'")
        .execute(&api.pool)
        .await
        .expect("the database is there");
    let variable = format!("/apps/{app}/env/KEY");
    let set = async || {
        api.call(&api.admin, Method::PUT, &variable, Some(json!({ "value": "x" })))
            .await
            .expect(200);
    };
    set().await;
    let disabled = wait_until(SOON, "the webhook is disabled", async || {
        let shown = api.get(&format!("/webhooks/{hook}")).await.expect(200).json();
        Some(shown).filter(|shown| shown["disabled_at"].is_string())
    })
    .await;
    assert_eq!(
        text(&disabled, "disabled_reason"),
        "the last 20 attempts failed, over 25 hours; the last one: it answered 503 Service Unavailable"
    );
    let events = api
        .get("/events?action=webhook.disabled")
        .await
        .expect(200)
        .json();
    assert_eq!(events["total"], 1);
    let given_up = delivery(&api, &hook, |one| one["state"] == "failed").await;
    let redeliver = format!("/webhooks/{hook}/deliveries/{}/redeliver", text(&given_up, "id"));
    api.act(&redeliver).await.expect(409).shows("WEBHOOK_DISABLED");
    // What happens meanwhile is not for it; what happens later is.
    set().await;
    receiver.says(&["HTTP/1.1 204 No Content\r\n\r\n"]);
    api.act(&format!("/webhooks/{hook}/enable")).await.expect(200);
    assert_eq!(deliveries(&api, &hook).await.len(), 1);
    api.act(&redeliver).await.expect(202);
    delivery(&api, &hook, |one| one["state"] == "delivered").await;
    receiver.says(&["HTTP/1.1 410 Gone\r\n\r\n"]);
    set().await;
    let gone = wait_until(SOON, "the webhook is disabled again", async || {
        let shown = api.get(&format!("/webhooks/{hook}")).await.expect(200).json();
        Some(shown).filter(|shown| shown["disabled_at"].is_string())
    })
    .await;
    assert_eq!(text(&gone, "disabled_reason"), "it answered 410 Gone");
    api.stop().await;
}

#[tokio::test]
async fn what_happened_while_no_api_ran_is_sent_by_the_next_one() {
    let mut api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    // It takes the delivery and never answers: the API stops in the middle of it.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let port = silent.local_addr().expect("an address").port();
    let hook = add(&api, &format!("http://127.0.0.1:{port}/"), &["app.*"]).await;
    let other = add(&api, &receiver.url(), &["app.deleted"]).await;
    let app = api.app("hello").await;
    let (_open, _) = silent.accept().await.expect("it calls");
    api.stop_service().await;
    // As the scheduler or a build worker would write it, while no API is there.
    rows::event(&api.pool, "app.deleted", &app).await;
    sqlx::query("UPDATE webhook_deliveries SET next_attempt_at = now()")
        .execute(&api.pool)
        .await
        .expect("there");
    api.start_service().await;
    let (_again, _) = silent.accept().await.expect("it calls again");
    receiver.called(1).await;
    delivery(&api, text(&other, "id"), |one| one["state"] == "delivered").await;
    assert_eq!(deliveries(&api, text(&hook, "id")).await.len(), 2);
    api.stop().await;
}

#[tokio::test]
async fn a_webhook_gets_its_own_organizations_events_only() {
    let api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    let organization = rows::organization(&api.pool).await;
    let (user, key) = rows::user(&api.pool, false).await;
    rows::member(&api.pool, user, organization.id, "admin").await;
    let slug = &organization.slug;
    let post = async |body: Value| api.call(&key, Method::POST, "/webhooks", Some(body)).await;
    let foreign = api.app("foreign").await;
    for body in [
        json!({ "url": receiver.url() }),
        json!({ "url": receiver.url(), "organization": "default" }),
        json!({ "url": receiver.url(), "application_id": foreign }),
    ] {
        assert_eq!(post(body).await.status, 404);
    }
    let app = async |name: &str| {
        let body = json!({ "name": name, "namespace": slug });
        api.post("/apps", body).await.expect(201).id()
    };
    let (one, other) = (app("one").await, app("other").await);
    let made =
        post(json!({ "url": receiver.url(), "application_id": one, "events": ["variable.set"] })).await;
    let made = made.expect(201).json();
    assert_eq!(text(&made, "organization"), slug);
    for id in [&foreign, &other, &one] {
        let path = format!("/apps/{id}/env/KEY");
        api.call(&api.admin, Method::PUT, &path, Some(json!({ "value": "x" })))
            .await
            .expect(200);
    }
    let calls = receiver.called(1).await;
    delivery(&api, text(&made, "id"), |delivery| {
        delivery["state"] == "delivered"
    })
    .await;
    assert!(calls.len() == 1 && calls[0].body.contains(&one));
    let unknown = post(json!({ "url": receiver.url(), "organization": slug, "events": ["deployed"] })).await;
    assert_eq!(unknown.expect(400).code(), "INVALID_INPUT");
    let listed = api
        .call(&key, Method::GET, "/webhooks", None)
        .await
        .expect(200)
        .json();
    assert_eq!(listed["total"], 1);
    api.stop().await;
}

#[tokio::test]
async fn a_database_that_counts_anew_or_ran_far_ahead_does_not_silence_webhooks() {
    let api = Harness::start_with(PRIVATE).await;
    let receiver = Receiver::start(None).await;
    add(&api, &receiver.url(), &["app.*"]).await;
    // As after a restore into another server, and as after a long time without webhooks.
    for (calls, place) in [(1, i64::MAX), (2, 1)] {
        sqlx::query("UPDATE webhook_cursor SET txid = $1")
            .bind(place)
            .execute(&api.pool)
            .await
            .expect("the database is there");
        wait_until(SOON, "the cursor comes back", async || {
            api.call(
                &api.admin,
                Method::POST,
                "/namespaces",
                Some(json!({ "name": format!("n{}", calls) })),
            )
            .await;
            let at: i64 = sqlx::query_scalar("SELECT txid FROM webhook_cursor")
                .fetch_one(&api.pool)
                .await
                .expect("the database is there");
            (at != place).then_some(())
        })
        .await;
        let app = api.app(&format!("hello{calls}")).await;
        let heard = receiver.called(calls).await;
        assert!(
            heard.len() == calls && heard[calls - 1].body.contains(&app),
            "{heard:?}"
        );
    }
    api.stop().await;
}
