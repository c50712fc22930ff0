//! The registry's HTTP interface: bytes in, bytes out.

pub mod download;
pub mod upload;

use crate::{blobs::Blobs, metrics::Transfers};
use axum::Router;
use http::HeaderMap;
use sqlx::PgPool;
use std::sync::Arc;
use zectre_service::{auth, key::ServiceKey, problem::Failure, token::name};

/// What handlers share.
#[derive(Debug, Clone)]
pub struct App {
    /// The rows.
    pub pool: PgPool,
    /// The bytes.
    pub blobs: Arc<Blobs>,
    /// Checks tokens and signatures.
    pub key: ServiceKey,
    /// The largest artifact.
    pub artifact_bytes_max: u64,
    /// Counts bytes.
    pub transfers: Transfers,
}

/// Lets only the services `callers` through.
fn authorize(app: &App, headers: &HeaderMap, callers: &[&str]) -> Result<(), Failure> {
    auth::service(&app.key, headers, name::REGISTRY, callers).map(|_| ())
}

/// All routes.
pub fn router(app: App) -> Router {
    use axum::routing::{get, post};
    Router::new()
        .route("/api/v1/artifacts/{id}/upload", post(upload::upload))
        .route("/api/v1/artifacts/{id}/download", get(download::by_id))
        .route("/artifacts/{sha256}/{name}", get(download::by_content))
        .with_state(app)
}
