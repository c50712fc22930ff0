//! Who calls: bearer tokens of services and nodes, for internal endpoints.

use crate::{key::ServiceKey, problem::Failure, request_id, token};
use axum::{extract::Request, middleware::Next, response::Response};
use http::{HeaderMap, header};
use zectre_common::id::NodeId;

/// The service that calls; an extension of an authenticated request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallingService(pub String);

/// The token of `Authorization: Bearer …`.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The service that calls, if it is one of `callers`.
pub fn service(
    key: &ServiceKey,
    headers: &HeaderMap,
    audience: &str,
    callers: &[&str],
) -> Result<CallingService, Failure> {
    let token = bearer(headers).ok_or_else(missing)?;
    token::verify_service(key, token, audience, callers)
        .map(CallingService)
        .map_err(refused)
}

/// The node whose agent calls.
pub fn node(key: &ServiceKey, headers: &HeaderMap, audience: &str) -> Result<NodeId, Failure> {
    let token = bearer(headers).ok_or_else(missing)?;
    token::verify_node(key, token, audience).map_err(refused)
}

/// What a guarded router lets through: `from_fn_with_state(Guard { … }, auth::guard)`.
#[derive(Debug, Clone)]
pub struct Guard {
    /// Verifies the tokens.
    pub key: ServiceKey,
    /// This service's name.
    pub audience: &'static str,
    /// Who may call.
    pub callers: &'static [&'static str],
}

/// Lets only the services through that the guard names.
pub async fn guard(
    axum::extract::State(guard): axum::extract::State<Guard>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let caller = service(&guard.key, request.headers(), guard.audience, guard.callers)?;
    request.extensions_mut().insert(caller);
    Ok(next.run(request).await)
}

fn missing() -> Failure {
    Failure::unauthorized("this endpoint is for the platform's own services: send a service token as bearer")
}

#[expect(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn refused(error: token::TokenError) -> Failure {
    tracing::info!(%error, request_id = request_id::current(), "refused a token");
    match error {
        token::TokenError::Invalid(_) => Failure::unauthorized("the token is not valid here, or has expired"),
        token::TokenError::Caller(_) => Failure::forbidden("this caller may not use this endpoint"),
    }
}
