//! From bytes and sources to what runs of them.

use super::{
    walk::{Walk, text},
    written,
};
use crate::{rows, streams::append};
use serde_json::json;
use uuid::Uuid;

pub(super) async fn artifacts(walk: &mut Walk) {
    let named = json!({ "name": "hello", "content_type": "application/x-executable" });
    let id = text(
        &walk.call("POST /artifacts", &[]).json(&named).answers(201).await,
        "id",
    );
    let upload = walk.call("POST /artifacts/{id}/upload", &[&id]);
    upload
        .body("application/octet-stream", "the program's bytes")
        .answers(200)
        .await;
    let got = walk.call("GET /artifacts/{id}", &[&id]).answers(200).await;
    walk.call("GET /artifacts?sha256={h}", &[&text(&got, "sha256")])
        .answers(200)
        .await;
    let download = "GET /artifacts/{id}/download";
    walk.call(download, &[&id]).answers(200).await;
    walk.call(download, &[&id])
        .header("Range", "bytes=0-3")
        .answers(206)
        .await;
    walk.call(download, &[&id])
        .header("If-None-Match", "\"tag\"")
        .answers(304)
        .await;
    walk.call("DELETE /artifacts/{id}", &[&id]).answers(204).await;
}

/// One that fails, one that is not waited for, and one from a repository.
pub(super) async fn builds(walk: &mut Walk) {
    let app = walk.api.app("built").await;
    let create = "POST /apps/{id}/builds";
    let archive = walk
        .call(create, &[&app])
        .body("application/gzip", "an archive")
        .answers(201)
        .await;
    let id = text(&archive, "id");
    written::failed_build(&walk.api.pool, uuid(&id)).await;
    walk.call("GET /builds/{id}", &[&id]).answers(200).await;
    walk.call("GET /builds/{id}/logs", &[&id]).answers(200).await;
    walk.call("GET /builds/{id}/logs/stream", &[&id])
        .streams(&["line", "line", "end"])
        .await;
    let source = json!({ "repository": "https://github.com/acme/shop" });
    let path = format!("/apps/{app}/source");
    walk.api
        .call(&walk.api.admin, reqwest::Method::PUT, &path, Some(source))
        .await
        .expect(200);
    let from_git = walk
        .call(create, &[&app])
        .json(&json!({ "git_ref": "main" }))
        .answers(201)
        .await;
    walk.call("POST /builds/{id}/cancel", &[&text(&from_git, "id")])
        .answers(202)
        .await;
    walk.call("GET /builds?application_id={a}", &[&app])
        .answers(200)
        .await;
}

/// The first serves, the second is given up, the third fails, and the fourth serves after the first.
pub(super) async fn deployments(walk: &mut Walk) {
    let app = walk.api.app("shop").await;
    let (create, artifact) = (
        "POST /apps/{id}/deployments",
        walk.api.artifact("a program").await,
    );
    let first = json!({
        "artifact_id": artifact, "environment": "production", "replicas": 2, "args": ["--verbose"],
        "resources": { "cpu": "250m", "memory": "64Mi" }, "env": { "GREETING": "hello" },
        "networking": { "port": 8080, "health_path": "/healthy" }, "constraints": ["disk=ssd"],
        "strategy": { "type": "canary", "weight": 10, "auto_promote_secs": 60 }, "max_runtime_secs": 3_600,
    });
    let first = text(&walk.call(create, &[&app]).json(&first).answers(201).await, "id");
    rows::serve(&walk.api.pool, uuid(&first), None).await;
    let image = json!({ "image": "nginx:1.29", "environment": "production", "process_type": "docker" });
    let made = walk.call(create, &[&app]).json(&image).answers(201).await;
    walk.call("POST /deployments/{id}/cancel", &[&text(&made, "id")])
        .answers(202)
        .await;
    let failed = uuid(&text(
        &walk.call(create, &[&app]).json(&image).answers(201).await,
        "id",
    ));
    let node = written::node(&walk.api.pool, "node-of-shop").await;
    let task = written::failed_task(&walk.api.pool, failed, node).await;
    written::failed_rollout(&walk.api.pool, failed, task).await;
    walk.call("GET /deployments/{id}", &[&failed.to_string()])
        .answers(200)
        .await;
    walk.call("GET /deployments/{id}/tasks", &[&failed.to_string()])
        .answers(200)
        .await;
    walk.call(
        "GET /apps/{id}/deployments?sort_by=version&sort_order=asc",
        &[&app],
    )
    .answers(200)
    .await;
    asked_of(walk, (&app, &first), node).await;
}

/// What can be asked of one that serves.
async fn asked_of(walk: &mut Walk, (app, first): (&str, &str), node: Uuid) {
    walk.call("GET /deployments/{id}", &[first]).answers(200).await;
    let scale = json!({ "replicas": 3, "idle_timeout_secs": 600, "cold_start_enabled": false });
    walk.call("PATCH /deployments/{id}", &[first])
        .json(&scale)
        .answers(200)
        .await;
    for action in ["restart", "sleep", "promote"] {
        walk.call(&format!("POST /deployments/{{id}}/{action}"), &[first])
            .answers(202)
            .await;
    }
    walk.call("POST /deployments/{id}/wake", &[first])
        .answers(202)
        .await;
    walk.call("POST /deployments/{id}/wake?wait=ready", &[first])
        .answers(200)
        .await;
    let task = written::running_task(&walk.api.pool, uuid(first), node).await;
    append(&walk.api, node, task, &[(1, "listening"), (2, "hello")])
        .await
        .expect(204);
    walk.call("GET /deployments/{id}/logs", &[first])
        .answers(200)
        .await;
    walk.call("GET /deployments/{id}/logs/stream", &[first])
        .streams(&["position", "line", "line"])
        .await;
    let image = json!({ "image": "nginx:1.29", "environment": "production", "process_type": "docker" });
    let fourth = walk
        .api
        .post(&format!("/apps/{app}/deployments"), image)
        .await
        .expect(201)
        .id();
    rows::serve(&walk.api.pool, uuid(&fourth), Some(uuid(first))).await;
    walk.call("POST /deployments/{id}/rollback", &[&fourth])
        .answers(202)
        .await;
    walk.call("GET /deployments/{id}/events", &[first])
        .answers(200)
        .await;
}

pub(super) fn uuid(text: &str) -> Uuid {
    text.parse().expect("an id")
}
