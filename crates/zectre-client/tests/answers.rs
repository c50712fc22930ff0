//! The client against a server that answers as the API does, and as it should not.

#[path = "answers/secure.rs"]
mod secure;

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::IntoResponse,
    routing::{get, post},
};
use secrecy::SecretString;
use serde_json::json;
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};
use zectre_client::{Client, ClientError, Credential};
use zectre_common::{id::BuildId, wire::app::CreateAppRequest};

/// Serves `router` for as long as the test's runtime lives; its address.
async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let address = listener.local_addr().expect("bound");
    #[expect(
        clippy::disallowed_methods,
        reason = "a test's server ends with the test's runtime"
    )]
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}")
}

fn client(url: &str) -> Client {
    Client::new(url, Credential::ApiKey(SecretString::from("zk_test"))).expect("a URL")
}

fn problem(status: StatusCode, code: &str) -> impl IntoResponse + use<> {
    let body = json!({
        "type": "about:blank", "title": "x", "status": status.as_u16(), "detail": "it is so; do this", "code": code,
        "request_id": "r1", "errors": [{ "field": "name", "message": "lower case" }],
    });
    (
        status,
        [(header::CONTENT_TYPE, "application/problem+json")],
        body.to_string(),
    )
}

#[tokio::test]
async fn a_refusal_is_told_in_the_apis_words() {
    let router = Router::new().route(
        "/api/v1/apps",
        post(async || problem(StatusCode::BAD_REQUEST, "INVALID_INPUT")),
    );
    let url = serve(router).await;
    let error = client(&url)
        .create_app(&CreateAppRequest::default())
        .await
        .expect_err("refused");
    assert_eq!((error.code(), error.status()), (Some("INVALID_INPUT"), Some(400)));
    assert_eq!(error.to_string(), "it is so; do this\n  name: lower case");
}

#[tokio::test]
async fn reads_are_repeated_and_writes_are_not() {
    let calls = Arc::new(AtomicU32::new(0));
    let answer = async |State(calls): State<Arc<AtomicU32>>, headers: HeaderMap| {
        assert_eq!(headers["x-api-key"], "zk_test");
        if calls.fetch_add(1, Ordering::SeqCst) < 2 {
            return problem(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED").into_response();
        }
        let status = json!({
            "version": "1", "domain": "d", "services": [], "nodes_ready": 1, "nodes_total": 1, "applications": 0,
            "tasks_running": 0, "added_later": true,
        });
        Json(status).into_response()
    };
    let refuse = async |State(calls): State<Arc<AtomicU32>>, headers: HeaderMap| {
        calls.fetch_add(1, Ordering::SeqCst);
        assert!(headers.contains_key("idempotency-key"));
        problem(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED").into_response()
    };
    let router = Router::new()
        .route("/api/v1/cluster/status", get(answer))
        .route("/api/v1/apps", post(refuse))
        .with_state(calls.clone());
    let url = serve(router).await;
    assert_eq!(
        client(&url)
            .cluster_status()
            .await
            .expect("the third try")
            .version,
        "1"
    );
    assert_eq!(calls.swap(0, Ordering::SeqCst), 3);
    let error = client(&url)
        .create_app(&CreateAppRequest::default())
        .await
        .expect_err("refused");
    assert_eq!((error.status(), calls.load(Ordering::SeqCst)), (Some(503), 1));
}

#[tokio::test]
async fn what_is_no_api_is_named_as_such() {
    let router = Router::new().route("/api/v1/user", get(async || "hello")).route(
        "/api/v1/cluster/status",
        get(async || (StatusCode::BAD_REQUEST, "<html>")),
    );
    let url = serve(router).await;
    let error = client(&url).user().await.expect_err("not JSON");
    assert!(
        matches!(error, ClientError::Protocol { .. }) && error.to_string().contains("--api-url"),
        "{error}"
    );
    let error = client(&url).cluster_status().await.expect_err("no reason");
    assert!(matches!(error, ClientError::Protocol { .. }), "{error}");
    let error = client("http://127.0.0.1:1")
        .user()
        .await
        .expect_err("nobody there");
    assert!(
        matches!(error, ClientError::Unreachable { .. }) && error.to_string().contains("zectre up"),
        "{error}"
    );
    for bad in ["localhost:1", "https://", "ftp://x", "http://x/?a=b"] {
        assert!(
            matches!(
                Client::new(bad, Credential::None),
                Err(ClientError::BadUrl { .. })
            ),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_stream_goes_on_after_a_lost_connection_without_gap_or_repeat() {
    // Each connection delivers two lines and is cut in the middle of the third; the one after line 4 ends.
    let lines = async |headers: HeaderMap| {
        let after: u64 = headers
            .get("last-event-id")
            .map_or(0, |id| id.to_str().expect("text").parse().expect("a number"));
        let line = |seq: u64| {
            let data = json!({ "seq": seq, "time": "2026-01-01T00:00:00Z", "stream": "stdout", "message": seq.to_string() });
            format!("id: {seq}\nevent: line\ndata: {data}\n\n")
        };
        let body = if after < 4 {
            format!(
                ": hello\n\n{}{}id: 9\ndata: {{\"cut",
                line(after + 1),
                line(after + 2)
            )
        } else {
            "event: end\ndata: {}\n\n".into()
        };
        ([(header::CONTENT_TYPE, "text/event-stream")], body)
    };
    let router = Router::new().route("/api/v1/builds/{id}/logs/stream", get(lines));
    let url = serve(router).await;
    let mut stream = client(&url).build_log_stream(BuildId::new());
    let mut seen = Vec::new();
    while let Some(line) = stream.next().await.expect("resumes") {
        seen.push(line.seq);
    }
    assert_eq!(seen, [1, 2, 3, 4]);
    assert_eq!(stream.next().await.expect("still ended"), None);
}
