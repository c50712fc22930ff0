//! What clusters and clients read about the catalog: its keys and its endpoints.

use super::App;
use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use serde_json::json;

/// Far shorter than a new key is known before it signs.
const CACHE: HeaderValue = HeaderValue::from_static("public, max-age=300");

/// `GET /.well-known/jwks.json`
pub(super) async fn jwks(State(app): State<App>) -> Response {
    ([(header::CACHE_CONTROL, CACHE)], Json(app.keyring.jwks())).into_response()
}

/// `GET /.well-known/openid-configuration`, and the same by its newer name (RFC 8414).
pub(super) async fn metadata(State(app): State<App>) -> Response {
    let issuer = &app.issuer;
    let document = json!({
        "issuer": issuer,
        "authorization_endpoint": format!("{issuer}/oauth/authorize"),
        "token_endpoint": format!("{issuer}/oauth/token"),
        "revocation_endpoint": format!("{issuer}/oauth/revoke"),
        "jwks_uri": format!("{issuer}/.well-known/jwks.json"),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": ["none"],
        "revocation_endpoint_auth_methods_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": app.keyring.algorithms(),
        "authorization_response_iss_parameter_supported": true,
        "claims_supported": [
            "iss", "sub", "aud", "exp", "iat", "jti", "client_id", "sid", "email", "email_verified", "name", "orgs",
        ],
    });
    ([(header::CACHE_CONTROL, CACHE)], Json(document)).into_response()
}
