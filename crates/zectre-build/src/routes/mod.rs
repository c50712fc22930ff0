//! The worker's HTTP interface, for the API: hints, states, logs.

pub mod builds;
pub mod logs;

use crate::nudges::Nudges;
use axum::{Router, middleware};
use sqlx::PgPool;
use zectre_service::{
    auth::{self, Guard},
    key::ServiceKey,
    tasks::Shutdown,
    token::name,
};

/// What handlers share.
#[derive(Debug, Clone)]
pub struct App {
    /// The rows.
    pub pool: PgPool,
    /// When to look at them.
    pub nudges: Nudges,
    /// Ends streams.
    pub shutdown: Shutdown,
}

/// All routes; only the API may call them.
pub fn router(app: App, key: ServiceKey) -> Router {
    use axum::routing::{get, post};
    let guard = Guard {
        key,
        audience: name::BUILD,
        callers: &[name::API],
    };
    Router::new()
        .route("/api/v1/builds", post(builds::nudge))
        .route("/api/v1/builds/{id}", get(builds::get))
        .route("/api/v1/builds/{id}/cancel", post(builds::cancel))
        .route("/api/v1/builds/{id}/logs/stream", get(logs::stream))
        .route_layer(middleware::from_fn_with_state(guard, auth::guard))
        .with_state(app)
}
