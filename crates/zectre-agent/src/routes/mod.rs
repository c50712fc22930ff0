//! The agent's HTTP: orders in, tasks and their output out. Only the scheduler may call.

mod actions;
mod tasks;

use crate::{host::Host, identity::IdentityWatch, orders::Orders};
use axum::{
    Router,
    extract::{Request, State},
    middleware::{self, Next},
    response::Response,
    routing::{get, post},
};
use std::sync::Arc;
use zectre_service::{auth, problem::Failure, tasks::Shutdown, token};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) host: Arc<Host>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) identity: IdentityWatch,
    /// Ends streams.
    pub(crate) shutdown: Shutdown,
}

/// All routes, each behind the scheduler's token.
pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/api/v1/actions", post(actions::post_actions))
        .route("/api/v1/tasks", get(tasks::list))
        .route("/api/v1/tasks/{id}/logs/stream", get(tasks::stream_logs))
        .route_layer(middleware::from_fn_with_state(shared.clone(), scheduler_only))
        .with_state(shared)
}

async fn scheduler_only(
    State(shared): State<Shared>,
    request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let token = auth::bearer(request.headers()).ok_or_else(|| {
        Failure::unauthorized("only the scheduler may call an agent: send its token as bearer")
    })?;
    let identity = shared.identity.current().ok_or_else(|| {
        Failure::unavailable(
            "NOT_REGISTERED",
            "this agent has not registered with a scheduler yet",
            1,
        )
    })?;
    token::verify_for_node(&identity.key, identity.node_id, token)
        .map_err(|error| Failure::unauthorized("the token is not valid for this node").because(error))?;
    Ok(next.run(request).await)
}
