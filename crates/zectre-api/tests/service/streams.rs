//! Logs are stored exactly once, and streams resume without gap or repeat.

use crate::{
    harness::{Answer, Harness},
    rows,
};
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;
use uuid::Uuid;
use zectre_common::id::NodeId;
use zectre_service::{
    key::node_key,
    token::{mint_node, name},
};

const DEADLINE: Duration = Duration::from_secs(60);

/// One Server-Sent Event.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Sent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) data: Value,
}

pub(crate) struct Stream {
    response: reqwest::Response,
    text: String,
}

impl Stream {
    pub(crate) async fn open(api: &Harness, path: &str, last_event_id: Option<&str>) -> Self {
        let mut request = api.request(Method::GET, path).header("X-API-Key", &api.admin);
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        Self::of(request.send().await.expect("the service answers"))
    }

    /// The stream that an answer is.
    pub(crate) fn of(response: reqwest::Response) -> Self {
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            text: String::new(),
        }
    }

    /// The next event, or `None` when the stream has ended.
    pub(crate) async fn next(&mut self) -> Option<Sent> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if event.starts_with(':') {
                    continue;
                }
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name));
                    line.map(str::trim).unwrap_or_default().to_owned()
                };
                let data = serde_json::from_str(&field("data:")).expect("data is JSON");
                return Some(Sent {
                    id: field("id:"),
                    name: field("event:"),
                    data,
                });
            }
            let chunk = tokio::time::timeout(DEADLINE, self.response.chunk())
                .await
                .expect("something comes");
            let chunk = chunk.expect("the stream is whole")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }

    async fn take(&mut self, count: usize) -> Vec<Sent> {
        let mut events = Vec::new();
        while events.len() < count {
            let event = self.next().await.expect("more is to come");
            if event.name != "position" {
                events.push(event);
            }
        }
        events
    }
}

pub(crate) async fn append(api: &Harness, node: Uuid, task: Uuid, lines: &[(u64, &str)]) -> Answer {
    // Ahead of all clocks, so that no housekeeping takes it for past its retention.
    append_at(api, node, task, "2031-01-01T00:00:00.000001Z", lines).await
}

async fn append_at(api: &Harness, node: Uuid, task: Uuid, time: &str, lines: &[(u64, &str)]) -> Answer {
    let lines: Vec<_> = lines
        .iter()
        .map(|(seq, message)| json!({ "seq": seq, "time": time, "stream": "stdout", "message": message }))
        .collect();
    let node = NodeId::from_uuid(node);
    let key = node_key(&api.keys.service().expect("was made"), node);
    let request = api.request(Method::POST, &format!("/tasks/{task}/logs"));
    api.send(
        request
            .bearer_auth(mint_node(&key, node, name::AGENT, name::API))
            .json(&json!({ "lines": lines })),
    )
    .await
}

#[tokio::test]
async fn overlapping_batches_are_stored_once_also_at_once_and_with_other_times() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let lines: Vec<(u64, &str)> = (1..=100).map(|seq| (seq, "x")).collect();
    // Each hour lies in another partition or key: the sequence alone must decide.
    let times = [
        "2031-01-01T00:00:00Z",
        "2031-01-01T01:00:00Z",
        "2032-01-01T00:00:00Z",
    ];
    let (all, first, last) = (&lines[..], &lines[..60], &lines[40..]);
    let batches = [first, last, all, first, all, last].into_iter().enumerate();
    let sent = batches.map(|(at, batch)| append_at(&api, node, task, times[at % times.len()], batch));
    for answer in futures_util::future::join_all(sent).await {
        answer.expect(204);
    }
    append(&api, node, task, &[(101, "once"), (101, "twice"), (100, "x")])
        .await
        .expect(204);
    let stored: Vec<i64> = sqlx::query_scalar("SELECT seq FROM task_logs WHERE task_id = $1 ORDER BY seq")
        .bind(task)
        .fetch_all(&api.pool)
        .await
        .expect("valid");
    assert_eq!(stored, (1..=101).collect::<Vec<i64>>());
    api.stop().await;
}

#[tokio::test]
async fn whoever_writes_an_event_tells_the_streams() {
    let api = Harness::start().await;
    let mut told = sqlx::postgres::PgListener::connect_with(&api.pool)
        .await
        .expect("connected");
    told.listen(zectre_common::db::channel::EVENTS)
        .await
        .expect("listening");
    let mut stream = Stream::open(&api, "/events/stream", None).await;
    api.app("hello").await;
    tokio::time::timeout(DEADLINE, told.recv())
        .await
        .expect("a notification comes")
        .expect("the connection holds");
    assert_eq!(stream.take(1).await[0].data["action"], "app.created");
    // Nothing new is nothing to tell: the next notification is that of the second event.
    sqlx::query("INSERT INTO events SELECT * FROM events WHERE false")
        .execute(&api.pool)
        .await
        .expect("valid");
    sqlx::query("SELECT pg_notify('zectre_events', 'end')")
        .execute(&api.pool)
        .await
        .expect("valid");
    let next = tokio::time::timeout(DEADLINE, told.recv())
        .await
        .expect("a notification comes");
    assert_eq!(next.expect("the connection holds").payload(), "end");
    drop((told, stream));
    api.stop().await;
}

async fn opened(request: reqwest::RequestBuilder) -> Stream {
    Stream::of(request.send().await.expect("the service answers"))
}

/// What a stream that is refused ends with, whatever it says before.
async fn refusal(stream: &mut Stream) -> (u64, String) {
    loop {
        let event = stream.next().await.expect("a last word");
        if event.name == "refused" {
            assert_eq!(stream.next().await, None);
            let said = |field: &str| event.data[field].as_str().unwrap_or_default().to_owned();
            assert!(
                !said("detail").is_empty() && !said("request_id").is_empty(),
                "{event:?}"
            );
            return (event.data["status"].as_u64().expect("a number"), said("code"));
        }
    }
}

#[tokio::test]
async fn a_stream_ends_when_its_caller_s_key_login_or_membership_does() {
    let api = Harness::start_with("api.stream_recheck_ms = 50\nauth.signup = \"open\"").await;
    let (mine, other) = (
        rows::organization(&api.pool).await,
        rows::organization(&api.pool).await,
    );
    let body = json!({ "email": "ann@example.org", "password": "long enough" });
    let sign_up = api.request(Method::POST, "/auth/signup").json(&body);
    let ann: Uuid = api.send(sign_up).await.expect(201).id().parse().expect("an id");
    rows::member(&api.pool, ann, mine.id, "viewer").await;
    rows::member(&api.pool, ann, other.id, "viewer").await;
    let log_in = api.request(Method::POST, "/auth/login").json(&body);
    let login = api.send(log_in).await.expect(200).json();
    let login = login["token"].as_str().expect("a token").to_owned();
    let by_login = |method: Method, path: &str| api.request(method, path).bearer_auth(&login);
    let key = by_login(Method::POST, "/api-keys").json(&json!({ "name": "logs" }));
    let key = api.send(key).await.expect(201).json();
    let (id, secret) = (
        key["id"].as_str().expect("an id"),
        key["key"].as_str().expect("a key"),
    );
    let app = async |name: &str, namespace: &str| {
        let made = api
            .post("/apps", json!({ "name": name, "namespace": namespace }))
            .await;
        made.expect(201).id()
    };
    let shop = app("shop", &mine.slug).await;
    let deployed = api
        .post(&format!("/apps/{shop}/deployments"), json!({ "image": "nginx" }))
        .await;
    let path = format!("/deployments/{}/logs/stream", deployed.expect(201).id());
    let by_key = |path: &str| api.request(Method::GET, path).header("X-API-Key", secret);

    let mut logs = opened(by_key(&path)).await;
    let mut feed = opened(by_login(Method::GET, "/events/stream")).await;
    let leave = format!("/orgs/{}/members/{ann}", mine.slug);
    api.call(&api.admin, Method::DELETE, &leave, None)
        .await
        .expect(204);
    assert_eq!(refusal(&mut logs).await, (404, "DEPLOYMENT_NOT_FOUND".into()));
    // The feed goes on, soon without what is theirs no more.
    let mut rounds = 0;
    loop {
        rounds += 1;
        let theirs = app(&format!("theirs-{rounds}"), &mine.slug).await;
        let ours = app(&format!("ours-{rounds}"), &other.slug).await;
        let mut seen = false;
        loop {
            let about = feed.take(1).await.remove(0).data["application_id"].take();
            seen |= about == *theirs;
            if about == *ours {
                break;
            }
        }
        if !seen {
            break;
        }
        assert!(
            rounds < 1_000,
            "the feed still tells of an organization that was left"
        );
    }
    let mut by_key = opened(by_key("/events/stream")).await;
    let delete = by_login(Method::DELETE, &format!("/api-keys/{id}"));
    api.send(delete).await.expect(204);
    assert_eq!(refusal(&mut by_key).await, (401, "UNAUTHENTICATED".into()));
    api.send(by_login(Method::POST, "/auth/logout")).await.expect(204);
    assert_eq!(refusal(&mut feed).await, (401, "UNAUTHENTICATED".into()));
    api.stop().await;
}

#[tokio::test]
async fn lines_are_stored_once_whatever_is_repeated() {
    let api = Harness::start().await;
    let (deployment, node, other) = (
        api.deployment().await,
        rows::node(&api.pool).await,
        rows::node(&api.pool).await,
    );
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    append(&api, node, task, &[(1, "one"), (2, "two")])
        .await
        .expect(204);
    append(&api, node, task, &[(2, "two"), (3, "with a \0 byte")])
        .await
        .expect(204);
    assert_eq!(
        append(&api, other, task, &[(4, "forged")])
            .await
            .expect(404)
            .code(),
        "TASK_NOT_FOUND"
    );
    assert_eq!(
        append(&api, node, task, &[(0, "zero")]).await.expect(400).code(),
        "INVALID_INPUT"
    );
    let lines = api.get(&format!("/tasks/{task}/logs")).await.expect(200).json();
    insta::assert_json_snapshot!("task_logs", lines);
    let after = api
        .get(&format!("/tasks/{task}/logs?after=1&limit=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (after.as_array().map(Vec::len), &after[0]["seq"]),
        (Some(1), &json!(2))
    );
    let tail = api
        .get(&format!("/tasks/{task}/logs?tail=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (tail.as_array().map(Vec::len), &tail[0]["seq"]),
        (Some(1), &json!(3))
    );
    let all = api
        .get(&format!("/deployments/{deployment}/logs"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        (all.as_array().map(Vec::len), &all[0]["task_id"]),
        (Some(3), &json!(task))
    );
    api.stop().await;
}

#[tokio::test]
async fn a_task_stream_follows_resumes_and_ends() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let path = format!("/tasks/{task}/logs/stream");
    append(&api, node, task, &[(1, "one")]).await.expect(204);
    let mut stream = Stream::open(&api, &path, None).await;
    assert_eq!(stream.take(1).await[0].data["message"], "one");
    append(&api, node, task, &[(2, "two"), (3, "three")])
        .await
        .expect(204);
    let more = stream.take(2).await;
    assert_eq!(
        (more[0].id.as_str(), &more[1].data["message"]),
        ("2", &json!("three"))
    );
    drop(stream);
    append(&api, node, task, &[(4, "four")]).await.expect(204);
    let mut resumed = Stream::open(&api, &path, Some("2")).await;
    let seqs: Vec<_> = resumed.take(2).await.into_iter().map(|event| event.id).collect();
    assert_eq!(seqs, ["3", "4"]);
    sqlx::query("UPDATE tasks SET state = 'stopped', finished_at = now() - interval '1 hour'")
        .execute(&api.pool)
        .await
        .expect("valid");
    assert_eq!(resumed.next().await.expect("the end is told").name, "end");
    assert_eq!(resumed.next().await, None);
    api.stop().await;
}

#[tokio::test]
async fn a_deployment_stream_has_neither_gap_nor_repeat_over_many_tasks() {
    let api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let a = rows::task(&api.pool, deployment, Some(node), "running").await;
    let b = rows::task(&api.pool, deployment, Some(node), "running").await;
    let path = format!("/deployments/{deployment}/logs/stream");
    append(&api, node, b, &[(1, "b1")]).await.expect(204);
    append(&api, node, a, &[(1, "a1"), (2, "a2")]).await.expect(204);
    let mut stream = Stream::open(&api, &path, None).await;
    let first = stream.take(2).await;
    drop(stream);
    // A line that is written before another one but committed after it must not be skipped.
    let mut late = api.pool.begin().await.expect("the database is there");
    sqlx::query(
        "INSERT INTO task_logs (task_id, seq, time, stream, message) VALUES ($1, 2, now(), 'stdout', 'b2')",
    )
    .bind(b)
    .execute(&mut *late)
    .await
    .expect("valid");
    append(&api, node, a, &[(3, "a3")]).await.expect(204);
    let mut resumed = Stream::open(&api, &path, Some(&first[1].id)).await;
    // Nor by whoever begins behind what is there.
    let mut fresh = Stream::open(&api, &format!("{path}?tail=0"), None).await;
    let mut messages: Vec<_> = first.iter().map(|event| event.data["message"].clone()).collect();
    messages.extend(
        resumed
            .take(1)
            .await
            .iter()
            .map(|event| event.data["message"].clone()),
    );
    late.commit().await.expect("valid");
    messages.extend(
        resumed
            .take(2)
            .await
            .iter()
            .map(|event| event.data["message"].clone()),
    );
    assert_eq!(messages, ["b1", "a1", "a2", "b2", "a3"]);
    while fresh.take(1).await[0].data["message"] != "b2" {}
    assert_eq!(fresh.take(1).await[0].data["message"], "a3");
    let bad = api
        .request(Method::GET, &path)
        .header("X-API-Key", &api.admin)
        .header("Last-Event-ID", "x");
    assert_eq!(api.send(bad).await.expect(400).code(), "INVALID_LAST_EVENT_ID");
    api.stop().await;
}

#[tokio::test]
async fn a_build_stream_ends_with_the_build() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let request = api
        .request(Method::POST, &format!("/apps/{app}/builds"))
        .header("X-API-Key", &api.admin);
    let made = api
        .send(
            request
                .header("Content-Type", "application/gzip")
                .body("an archive"),
        )
        .await
        .expect(201);
    let build: Uuid = made.id().parse().expect("an id");
    let mut stream = Stream::open(&api, &format!("/builds/{build}/logs/stream"), None).await;
    rows::build_line(&api.pool, build, 1, "compiling").await;
    assert_eq!(stream.take(1).await[0].data["message"], "compiling");
    rows::build_line(&api.pool, build, 2, "done").await;
    rows::end_build(&api.pool, build, "failed", None).await;
    let rest = stream.take(2).await;
    assert_eq!(
        (
            rest[0].id.as_str(),
            rest[1].name.as_str(),
            &rest[1].data["status"]
        ),
        ("2", "end", &json!("failed"))
    );
    assert_eq!(stream.next().await, None);
    let lines = api
        .get(&format!("/builds/{build}/logs?after=1"))
        .await
        .expect(200)
        .json();
    assert_eq!(lines[0]["message"], "done");
    api.stop().await;
}

#[tokio::test]
async fn the_event_stream_shows_what_happens_to_those_who_may_see_it() {
    let api = Harness::start().await;
    let (_, outsider) = rows::user(&api.pool, false).await;
    let mut stream = Stream::open(&api, "/events/stream", None).await;
    let app = api.app("hello").await;
    let event = stream.take(1).await.remove(0);
    assert_eq!(
        (&event.data["action"], &event.data["application_id"]),
        (&json!("app.created"), &json!(app))
    );
    api.post(&format!("/apps/{app}/environments"), json!({ "slug": "staging" }))
        .await
        .expect(201);
    let mut resumed = Stream::open(&api, "/events/stream", Some(&event.id)).await;
    assert_eq!(resumed.take(1).await[0].data["action"], "environment.created");
    assert_eq!(
        api.call(&outsider, Method::GET, "/events", None)
            .await
            .expect(200)
            .json()["total"],
        0
    );
    // Open streams end when the service stops, or it would never stop.
    api.stop().await;
    assert_eq!(resumed.next().await, None);
}

#[tokio::test]
async fn where_a_change_came_from_is_told_to_those_who_govern() {
    let api = Harness::start().await;
    let app = api.app("hello").await;
    let organization: Uuid = sqlx::query_scalar(
        "SELECT n.organization_id FROM applications a JOIN namespaces n ON n.id = a.namespace_id WHERE a.id = $1::uuid",
    )
    .bind(app.parse::<Uuid>().expect("an id"))
    .fetch_one(&api.pool)
    .await
    .expect("it has one");
    let told = async |key: &str| {
        let events = api
            .call(key, Method::GET, "/events?action=app.created", None)
            .await;
        let events = events.expect(200).json();
        assert_eq!(events["total"], 1, "{events}");
        events["data"][0]["source_address"].clone()
    };
    assert_eq!(told(&api.admin).await, "127.0.0.1");
    for (role, address) in [
        ("owner", json!("127.0.0.1")),
        ("admin", json!("127.0.0.1")),
        ("developer", json!(null)),
        ("viewer", json!(null)),
    ] {
        let (user, key) = rows::user(&api.pool, false).await;
        rows::member(&api.pool, user, organization, role).await;
        assert_eq!(told(&key).await, address, "{role}");
    }
    api.stop().await;
}
