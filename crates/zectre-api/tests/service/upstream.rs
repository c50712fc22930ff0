//! A listener that stands where the scheduler, the registry and the build service are: it checks the API's
//! tokens, stores uploads as the registry would, and remembers what it was told.

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use http::{HeaderMap, StatusCode, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};
use uuid::Uuid;
use zectre_common::wire::problem::Problem;
use zectre_service::{
    auth,
    key::{ServiceKey, to_hex},
    listen,
    server::{self, Limits},
    tasks::{Shutdown, Tasks},
    token::name,
};

/// What was told, and what to answer.
#[derive(Clone)]
pub(crate) struct Upstream {
    pub(crate) url: String,
    told: Arc<Mutex<Vec<(String, Value)>>>,
    bytes: Arc<Mutex<HashMap<Uuid, Bytes>>>,
    no_capacity: Arc<Mutex<bool>>,
    pool: PgPool,
    key: ServiceKey,
}

impl Upstream {
    /// Listens on a port of its own.
    pub(crate) async fn start(tasks: &Tasks, shutdown: &Shutdown, pool: PgPool, key: ServiceKey) -> Self {
        let listener = listen::bind("upstream", "api", "127.0.0.1", 0)
            .await
            .expect("a port is free");
        let address = listener.local_addr().expect("a listener has an address");
        let upstream = Self {
            url: format!("http://{address}"),
            told: Arc::default(),
            bytes: Arc::default(),
            no_capacity: Arc::default(),
            pool,
            key,
        };
        let router = Router::new()
            .route("/api/v1/scheduler/deploy", post(scheduler_told))
            .route("/api/v1/scheduler/wake", post(wake))
            .route("/api/v1/builds", post(build_told))
            .route("/api/v1/builds/{id}/cancel", post(build_told))
            .route("/api/v1/artifacts/{id}/upload", post(upload))
            .route("/api/v1/artifacts/{id}/download", get(download))
            .route(
                "/ready",
                get(async || axum::Json(json!({ "ready": true, "reasons": [] }))),
            )
            .with_state(upstream.clone());
        let stop = shutdown.clone();
        tasks.spawn("upstream", move |_| {
            server::serve(listener, router, Limits::default(), stop)
        });
        upstream
    }

    /// What was told since the last time this was asked.
    pub(crate) fn told(&self) -> Vec<(String, Value)> {
        std::mem::take(&mut *self.told.lock().expect("not poisoned"))
    }

    /// From now on wakes find no room.
    pub(crate) fn have_no_capacity(&self) {
        *self.no_capacity.lock().expect("not poisoned") = true;
    }

    fn remember(&self, what: &str, body: &[u8]) {
        let body = serde_json::from_slice(body).unwrap_or(Value::Null);
        self.told
            .lock()
            .expect("not poisoned")
            .push((what.to_owned(), body));
    }

    fn is_the_api(&self, headers: &HeaderMap, audience: &str) -> bool {
        auth::service(&self.key, headers, audience, &[name::API]).is_ok()
    }
}

async fn scheduler_told(State(upstream): State<Upstream>, headers: HeaderMap, body: Bytes) -> StatusCode {
    assert!(upstream.is_the_api(&headers, name::SCHEDULER) && headers.contains_key("x-request-id"));
    upstream.remember("deploy", &body);
    StatusCode::ACCEPTED
}

async fn build_told(
    State(upstream): State<Upstream>,
    headers: HeaderMap,
    uri: http::Uri,
    body: Bytes,
) -> StatusCode {
    assert!(upstream.is_the_api(&headers, name::BUILD));
    upstream.remember(
        if uri.path().ends_with("/cancel") {
            "build cancel"
        } else {
            "build"
        },
        &body,
    );
    StatusCode::ACCEPTED
}

async fn wake(State(upstream): State<Upstream>, headers: HeaderMap, body: Bytes) -> Response {
    assert!(upstream.is_the_api(&headers, name::SCHEDULER));
    upstream.remember("wake", &body);
    if *upstream.no_capacity.lock().expect("not poisoned") {
        let problem = Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no_capacity",
            "no eligible node has room",
        );
        return (StatusCode::SERVICE_UNAVAILABLE, axum::Json(problem)).into_response();
    }
    let backend = json!({ "task_id": Uuid::nil(), "address": "127.0.0.1", "port": 20000 });
    axum::Json(json!({ "backends": [backend], "phases": { "start_us": 900 } })).into_response()
}

async fn upload(
    State(upstream): State<Upstream>,
    Path(id): Path<Uuid>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    assert!(upstream.is_the_api(&headers, name::REGISTRY));
    let hash = Sha256::digest(&body);
    let digest = headers.get("digest").and_then(|value| value.to_str().ok());
    if digest.is_some_and(|digest| digest != format!("sha-256={}", STANDARD.encode(hash))) {
        let problem = Problem::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "HASH_MISMATCH",
            "the bytes are others",
        );
        return (StatusCode::UNPROCESSABLE_ENTITY, axum::Json(problem)).into_response();
    }
    let (size, sha256) = (body.len() as i64, to_hex(&hash));
    sqlx::query("UPDATE artifacts SET state = 'ready', size_bytes = $2, sha256 = $3 WHERE id = $1")
        .bind(id)
        .bind(size)
        .bind(&sha256)
        .execute(&upstream.pool)
        .await
        .expect("the database is there");
    upstream.bytes.lock().expect("not poisoned").insert(id, body);
    axum::Json(json!({ "id": id, "size": size, "sha256": sha256 })).into_response()
}

async fn download(State(upstream): State<Upstream>, Path(id): Path<Uuid>, headers: HeaderMap) -> Response {
    assert!(upstream.is_the_api(&headers, name::REGISTRY));
    let bytes = upstream.bytes.lock().expect("not poisoned").get(&id).cloned();
    let Some(bytes) = bytes else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let (etag, caching) = (
        (header::ETAG, "\"tag\""),
        (header::CACHE_CONTROL, "private, no-cache"),
    );
    if headers
        .get(header::IF_NONE_MATCH)
        .is_some_and(|tag| tag == "\"tag\"")
    {
        return (StatusCode::NOT_MODIFIED, [etag, caching]).into_response();
    }
    if headers
        .get(header::RANGE)
        .is_some_and(|range| range == "bytes=0-3")
    {
        let range = format!("bytes 0-3/{}", bytes.len());
        return (
            StatusCode::PARTIAL_CONTENT,
            [etag, caching],
            [(header::CONTENT_RANGE, range)],
            bytes.slice(0..4),
        )
            .into_response();
    }
    let beyond = headers
        .get(header::RANGE)
        .is_some_and(|range| range == "bytes=9999999-");
    if beyond {
        let status = StatusCode::RANGE_NOT_SATISFIABLE;
        let problem = Problem::new(status, "RANGE_NOT_SATISFIABLE", "it ends before");
        return (status, axum::Json(problem)).into_response();
    }
    ([etag, caching], bytes).into_response()
}
