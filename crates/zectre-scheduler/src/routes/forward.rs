//! A follower answers by asking the leader; the caller's own credential goes along, and the leader verifies it.

use super::App;
use crate::error::Error;
use axum::{
    body::{Body, to_bytes},
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderName, HeaderValue, StatusCode, header};
use std::time::Duration;
use zectre_service::{problem::Failure, request_id, server::body_too_large};

/// Marks what was handed on once: it is never handed on again.
const FORWARDED: HeaderName = HeaderName::from_static("x-zectre-forwarded");
/// The longest wait for the leader; a wake may hold its caller this long.
const TIMEOUT: Duration = Duration::from_secs(60);
/// A digest of thousands of tasks fits.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Handles the request here when this scheduler leads, else at the leader.
pub(super) async fn to_leader(State(app): State<App>, request: Request, next: Next) -> Response {
    if app.term.borrow().is_some() {
        return next.run(request).await;
    }
    forward(&app, request)
        .await
        .unwrap_or_else(IntoResponse::into_response)
}

async fn forward(app: &App, request: Request) -> Result<Response, Failure> {
    let leader = app.store.leader().await.map_err(Error::from)?;
    let address = leader.address.filter(|address| *address != app.address);
    let (Some(address), false) = (address, request.headers().contains_key(FORWARDED)) else {
        return Err(Error::NotLeader.into());
    };
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, BODY_BYTES_MAX)
        .await
        .map_err(|_| body_too_large())?;
    let path = parts
        .uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let mut onward = app
        .caller
        .raw()
        .request(parts.method, format!("{address}{path}"))
        .body(body);
    for name in [header::AUTHORIZATION, header::CONTENT_TYPE, request_id::HEADER] {
        if let Some(value) = parts.headers.get(&name) {
            onward = onward.header(name, value);
        }
    }
    let onward = onward
        .header(FORWARDED, HeaderValue::from_static("1"))
        .timeout(TIMEOUT);
    // The leader may be gone and the next one not elected yet.
    let answer = onward
        .send()
        .await
        .map_err(|error| Failure::from(Error::NotLeader).because(error))?;
    let status = StatusCode::from_u16(answer.status().as_u16()).unwrap_or(StatusCode::BAD_GATEWAY);
    let kept: Vec<(HeaderName, HeaderValue)> = [
        header::CONTENT_TYPE,
        header::RETRY_AFTER,
        header::WWW_AUTHENTICATE,
    ]
    .into_iter()
    .filter_map(|name| answer.headers().get(&name).cloned().map(|value| (name, value)))
    .collect();
    let body = answer
        .bytes()
        .await
        .map_err(|error| Failure::from(Error::NotLeader).because(error))?;
    let mut response = (status, Body::from(body)).into_response();
    for (name, value) in kept {
        response.headers_mut().insert(name, value);
    }
    Ok(response)
}
