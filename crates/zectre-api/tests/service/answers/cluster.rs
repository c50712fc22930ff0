//! What runs where, and what the cluster tells of it.

use super::{
    deploys::uuid,
    walk::{By, Walk, text},
    written,
};
use crate::{rows, streams::append};
use serde_json::json;
use uuid::Uuid;
use zectre_common::id::NodeId;
use zectre_service::{
    key::node_key,
    token::{mint_node, name},
};

/// A deployment of an application of this name; the two's ids.
async fn deployed(walk: &Walk, name: &str) -> (String, Uuid) {
    let app = walk.api.app(name).await;
    let image = json!({ "image": "nginx:1.29", "environment": "production" });
    let made = walk
        .api
        .post(&format!("/apps/{app}/deployments"), image)
        .await
        .expect(201);
    (app, uuid(&made.id()))
}

pub(super) async fn tasks(walk: &mut Walk) {
    let (app, deployment) = deployed(walk, "running").await;
    let node = written::node(&walk.api.pool, "node-of-running").await;
    let failed = written::failed_task(&walk.api.pool, deployment, node).await;
    let task = written::running_task(&walk.api.pool, deployment, node)
        .await
        .to_string();
    walk.call("GET /tasks?application_id={a}", &[&app])
        .answers(200)
        .await;
    walk.call("GET /tasks/{id}", &[&task]).answers(200).await;
    walk.call("GET /tasks/{id}", &[&failed.to_string()])
        .answers(200)
        .await;
    let key = node_key(
        &walk.api.keys.service().expect("was made"),
        NodeId::from_uuid(node),
    );
    let agent = mint_node(&key, NodeId::from_uuid(node), name::AGENT, name::API);
    let line = |seq: u64, stream: &str, message: &str| {
        // Ahead of all clocks, so that no housekeeping takes it for past its retention.
        json!({ "seq": seq, "time": "2031-01-01T00:00:00Z", "stream": stream, "message": message })
    };
    let lines = json!({ "lines": [line(1, "stdout", "listening"), line(2, "stderr", "a warning")] });
    walk.call("POST /tasks/{id}/logs", &[&task])
        .by(&By::Token(&agent))
        .json(&lines)
        .answers(204)
        .await;
    walk.call("GET /tasks/{id}/logs", &[&task]).answers(200).await;
    walk.call("GET /tasks/{id}/logs/stream", &[&task])
        .streams(&["position", "line", "line"])
        .await;
    append(&walk.api, node, failed, &[(1, "no such file")])
        .await
        .expect(204);
    let ended = walk.call("GET /tasks/{id}/logs/stream", &[&failed.to_string()]);
    ended.streams(&["position", "line", "end"]).await;
    walk.call("POST /tasks/{id}/stop", &[&task]).answers(202).await;
}

pub(super) async fn nodes(walk: &mut Walk) {
    let (_, deployment) = deployed(walk, "drained").await;
    let busy = written::node(&walk.api.pool, "node-a").await;
    let idle = rows::node(&walk.api.pool).await;
    let task = written::running_task(&walk.api.pool, deployment, busy).await;
    let (busy, idle) = (busy.to_string(), idle.to_string());
    walk.call("GET /nodes/{id}", &[&busy]).answers(200).await;
    walk.call("GET /nodes/{id}", &[&idle]).answers(200).await;
    walk.call("POST /nodes/{id}/cordon", &[&busy]).answers(200).await;
    walk.call("GET /nodes?eligibility=cordoned", &[])
        .answers(200)
        .await;
    walk.call("POST /nodes/{id}/uncordon", &[&busy])
        .answers(200)
        .await;
    walk.call("POST /nodes/{id}/drain", &[&busy]).answers(202).await;
    rows::end_task(&walk.api.pool, task).await;
    walk.call("POST /nodes/{id}/drain?wait", &[&busy])
        .answers(200)
        .await;
    walk.call("DELETE /nodes/{id}", &[&busy]).answers(204).await;
    walk.call("POST /nodes/join-tokens", &[]).answers(201).await;
}

/// Two steps of ten seconds: something is told of the first, and nothing of the second.
pub(super) async fn metrics(walk: &mut Walk) {
    let (app, _) = deployed(walk, "measured").await;
    let node = written::node(&walk.api.pool, "node-of-measured").await;
    let (from, to) = written::measurements(&walk.api.pool, uuid(&app), node).await;
    let of_app = "GET /metrics/apps/{id}?environment=production&from={f}&to={t}";
    walk.call(of_app, &[&app, &from, &to]).answers(200).await;
    let of_node = "GET /metrics/nodes/{id}?from={f}&to={t}";
    walk.call(of_node, &[&node.to_string(), &from, &to])
        .answers(200)
        .await;
}

pub(super) async fn events(walk: &mut Walk) {
    let (app, _) = deployed(walk, "noticed").await;
    walk.call("GET /events?application_id={a}&sort_order=asc", &[&app])
        .answers(200)
        .await;
    let place = last_place(walk, &app).await;
    rows::event(&walk.api.pool, "deployment.failed", &app).await;
    let resumed = walk.call("GET /events/stream?application_id={a}", &[&app]);
    resumed
        .quiet_header("Last-Event-ID", &place)
        .streams(&["event"])
        .await;
    walk.call("GET /events/stream?application_id={a}", &[&app])
        .streams(&["position"])
        .await;
}

/// Where a stream of the application's events stands by now.
async fn last_place(walk: &Walk, app: &str) -> String {
    let path = format!("/events/stream?application_id={app}");
    let mut stream = crate::streams::Stream::open(&walk.api, &path, None).await;
    stream.next().await.expect("the position").id
}

pub(super) async fn status(walk: &mut Walk) {
    written::proxy(&walk.api.pool).await;
    let status = walk.call("GET /cluster/status", &[]).answers(200).await;
    assert_eq!(text(&status, "domain"), "zectre.localhost");
}
