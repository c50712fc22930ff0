//! Streams across a restart of the API: what their clients see has neither gap nor repeat.

use crate::{
    harness::Harness,
    rows,
    streams::{Stream, append},
};
use reqwest::Method;
use serde_json::Value;
use std::time::Duration;
use uuid::Uuid;
use zectre_testkit::wait_until;

/// For what comes at once on an idle machine.
const SOON: Duration = Duration::from_secs(60);
/// How often the API is started again while something is written.
const RESTARTS: usize = 2;
/// What is written before, during and after each.
const EACH: u64 = 20;

/// Reads until the stream ends with the API, or `wanted` items are there; what was seen, and where.
async fn read(stream: &mut Stream, seen: &mut Vec<Value>, position: &mut Option<String>, wanted: usize) {
    while seen.len() < wanted {
        let Some(event) = stream.next().await else { return };
        if !event.id.is_empty() {
            *position = Some(event.id);
        }
        if event.name != "position" {
            seen.push(event.data);
        }
    }
}

/// Opens the stream anew after each restart, with what the client knows, while `write` goes on with and without an API.
async fn follow(api: &mut Harness, path: &str, write: impl AsyncFn(&Harness, u64, bool)) -> Vec<Value> {
    let (mut seen, mut position) = (Vec::new(), None);
    let mut written = 0;
    for _ in 0..RESTARTS {
        let mut stream = Stream::open(api, path, position.as_deref()).await;
        // A build's stream begins with its first line: nothing can be missed.
        if position.is_none() && !path.contains("/builds/") {
            // From now on something is missed, or it isn't.
            let first = stream.next().await.expect("the stream says where it begins");
            assert_eq!(first.name, "position");
            position = Some(first.id);
        }
        for _ in 0..EACH {
            written += 1;
            write(api, written, true).await;
        }
        // In the middle of what was written.
        let half = seen.len() + EACH as usize / 2;
        read(&mut stream, &mut seen, &mut position, half).await;
        api.stop_service().await;
        read(&mut stream, &mut seen, &mut position, usize::MAX).await;
        for _ in 0..EACH {
            written += 1;
            write(api, written, false).await;
        }
        api.start_service().await;
    }
    let mut stream = Stream::open(api, path, position.as_deref()).await;
    let wanted = usize::try_from(written).expect("small");
    read(&mut stream, &mut seen, &mut position, wanted).await;
    seen
}

fn numbers(seen: &[Value], field: &str) -> Vec<u64> {
    let number = |value: &Value| value[field].as_str().and_then(|text| text.parse().ok());
    seen.iter()
        .map(|value| number(value).expect("a number"))
        .collect()
}

fn all() -> Vec<u64> {
    (1..=2 * EACH * RESTARTS as u64).collect()
}

#[tokio::test]
async fn one_caller_has_so_many_streams_and_leaves_the_others_theirs() {
    let api = Harness::start().await;
    let open = async |key: &str| {
        let request = api.request(Method::GET, "/events/stream");
        request.header("X-API-Key", key).send().await.expect("it answers")
    };
    let mut streams = Vec::new();
    for _ in 0..64 {
        let stream = open(&api.admin).await;
        assert_eq!(stream.status(), 200);
        streams.push(stream);
    }
    let answer = api.get("/events/stream").await.expect(429);
    answer.shows("TOO_MANY_STREAMS");
    assert!(answer.headers.contains_key("retry-after"));
    let (_, other) = rows::user(&api.pool, false).await;
    assert_eq!(open(&other).await.status(), 200);
    // One that is closed makes room for another.
    streams.pop();
    wait_until(SOON, "there is room again", async || {
        (open(&api.admin).await.status() == 200).then_some(())
    })
    .await;
    drop(streams);
    api.stop().await;
}

#[tokio::test]
async fn the_activity_feed_goes_on() {
    let mut api = Harness::start().await;
    let app = api.app("hello").await;
    let write = async |api: &Harness, n: u64, _: bool| {
        rows::event_saying(&api.pool, "app.updated", &app, &n.to_string()).await;
    };
    let seen = follow(&mut api, "/events/stream", write).await;
    assert_eq!(numbers(&seen, "message"), all());
    api.stop().await;
}

#[tokio::test]
async fn the_lines_of_all_replicas_go_on_in_order() {
    let mut api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let tasks = [
        rows::task(&api.pool, deployment, Some(node), "running").await,
        rows::task(&api.pool, deployment, Some(node), "running").await,
    ];
    let write = async |api: &Harness, n: u64, there: bool| {
        let task = tasks[(n % 2) as usize];
        if there {
            append(api, node, task, &[(n, &n.to_string())]).await.expect(204);
        } else {
            // Another API takes them meanwhile.
            rows::task_line(&api.pool, task, n as i64, &n.to_string()).await;
        }
    };
    let path = format!("/deployments/{deployment}/logs/stream?tail=0");
    let seen = follow(&mut api, &path, write).await;
    assert_eq!(numbers(&seen, "message"), all());
    let of_two = |value: &Value| value["task_id"].as_str().and_then(|id| id.parse::<Uuid>().ok());
    assert!(
        tasks
            .iter()
            .all(|task| seen.iter().any(|value| of_two(value) == Some(*task)))
    );
    api.stop().await;
}

#[tokio::test]
async fn the_lines_of_a_task_go_on() {
    let mut api = Harness::start().await;
    let (deployment, node) = (api.deployment().await, rows::node(&api.pool).await);
    let task = rows::task(&api.pool, deployment, Some(node), "running").await;
    let write = async |api: &Harness, n: u64, there: bool| {
        if there {
            append(api, node, task, &[(n, &n.to_string())]).await.expect(204);
        } else {
            rows::task_line(&api.pool, task, n as i64, &n.to_string()).await;
        }
    };
    let path = format!("/tasks/{task}/logs/stream?tail=0");
    let seen = follow(&mut api, &path, write).await;
    assert_eq!(numbers(&seen, "message"), all());
    api.stop().await;
}

#[tokio::test]
async fn the_lines_of_a_build_go_on() {
    let mut api = Harness::start().await;
    let app = api.app("hello").await;
    let request = api.request(Method::POST, &format!("/apps/{app}/builds"));
    let request = request
        .header("X-API-Key", &api.admin)
        .header("Content-Type", "application/gzip");
    let build: Uuid = api
        .send(request.body("an archive"))
        .await
        .expect(201)
        .id()
        .parse()
        .expect("an id");
    // Build workers write them themselves, with an API or without.
    let write = async |api: &Harness, n: u64, _: bool| {
        rows::build_line(&api.pool, build, n as i64, &n.to_string()).await;
    };
    let seen = follow(&mut api, &format!("/builds/{build}/logs/stream"), write).await;
    assert_eq!(numbers(&seen, "message"), all());
    api.stop().await;
}
