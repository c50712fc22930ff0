//! Applications, and what is said of them before anything of them runs.

use super::walk::{Walk, text};
use serde_json::json;

pub(super) async fn applications(walk: &mut Walk) {
    let namespace = json!({ "name": "shops" });
    walk.api.post("/namespaces", namespace).await.expect(201);
    let app = json!({
        "name": "bakery", "namespace": "shops", "description": "Sells bread", "labels": { "team": "ovens" },
        "default_deployment_spec": { "replicas": 2, "resources": { "memory": "64Mi" } },
    });
    let made = walk.call("POST /apps", &[]).json(&app).answers(201).await;
    let id = text(&made, "id");
    let plain = json!({ "name": "cellar", "namespace": "shops" });
    walk.call("POST /apps", &[]).json(&plain).answers(201).await;
    walk.call("GET /apps?namespace=shops&sort_by=name&sort_order=asc", &[])
        .answers(200)
        .await;
    walk.call("GET /apps/{id}", &[&id]).answers(200).await;
    walk.call("GET /apps/by-subdomain/{subdomain}", &["bakery-shops"])
        .answers(200)
        .await;
    walk.call("GET /apps/{namespace}/{name}", &["shops", "bakery"])
        .answers(200)
        .await;
    let change = json!({ "description": "Sells bread and cake", "labels": { "team": "ovens", "tier": "1" } });
    walk.call("PUT /apps/{id}", &[&id])
        .json(&change)
        .answers(200)
        .await;
    walk.call("DELETE /apps/{id}", &[&id]).answers(204).await;
}

pub(super) async fn environments(walk: &mut Walk) {
    let app = walk.api.app("places").await;
    let slug = json!({ "slug": "staging" });
    walk.call("POST /apps/{id}/environments", &[&app])
        .json(&slug)
        .answers(201)
        .await;
    walk.call("GET /apps/{id}/environments", &[&app])
        .answers(200)
        .await;
    walk.call("DELETE /apps/{id}/environments/{slug}", &[&app, "staging"])
        .answers(204)
        .await;
}

pub(super) async fn variables(walk: &mut Walk) {
    let app = walk.api.app("settings").await;
    let set = json!({ "value": "good morning" });
    walk.call("PUT /apps/{id}/env/{key}", &[&app, "GREETING"])
        .json(&set)
        .answers(200)
        .await;
    let secret = json!({ "value": "hunter2", "environment": "production", "secret": true });
    walk.call("PUT /apps/{id}/env/{key}", &[&app, "PASSWORD"])
        .json(&secret)
        .answers(200)
        .await;
    let changes = json!([
        { "key": "GREETING", "value": "good evening", "environment": "production" },
        { "key": "LIMIT", "value": "10" },
        { "key": "GREETING" },
    ]);
    walk.call("PATCH /apps/{id}/env", &[&app])
        .json(&changes)
        .answers(200)
        .await;
    walk.call("GET /apps/{id}/env?sort_by=key", &[&app])
        .answers(200)
        .await;
    walk.call(
        "DELETE /apps/{id}/env/{key}?environment=production",
        &[&app, "PASSWORD"],
    )
    .answers(204)
    .await;
}
