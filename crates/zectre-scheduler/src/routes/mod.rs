//! The scheduler's HTTP: nodes speak about themselves with their own tokens, services with service tokens.
//! A follower hands what only the leader can answer on to the leader.

mod forward;
mod needed;
mod nodes;
mod scheduler;

use crate::{
    core::Settings,
    error::Error,
    leader::{CurrentTerm, Term},
    order::Composer,
    store::Store,
    usage::UsageBoard,
};
use axum::{
    Router, middleware,
    routing::{get, post},
};
use std::sync::Arc;
use zectre_service::{
    auth::{Guard, guard},
    call::Caller,
    key::ServiceKey,
    token::name,
};

/// Where nodes say that they live; there is room for them apart from all others.
pub const HEARTBEAT: &str = "/api/v1/nodes/heartbeat";
/// Where wakes are asked for, and waited for; there is room for those apart, too.
pub const WAKE: &str = "/api/v1/scheduler/wake";

/// What the handlers share.
#[derive(Clone)]
pub struct App {
    /// The term under way here, if any.
    pub term: CurrentTerm,
    /// The database.
    pub store: Store,
    /// Makes the orders that go into answers to heartbeats.
    pub composer: Composer,
    /// Hands on to the leader.
    pub caller: Caller,
    /// Verifies tokens, derives nodes' keys.
    pub key: ServiceKey,
    /// The rules' numbers.
    pub settings: Settings,
    /// What agents say that tasks use.
    pub usage: Arc<UsageBoard>,
    /// Where this scheduler is reached; the leader's row with this address is ours.
    pub address: String,
}

impl App {
    /// The term under way here.
    pub fn term(&self) -> Result<Term, Error> {
        self.term.borrow().clone().ok_or(Error::NotLeader)
    }
}

/// Everything but what [`zectre_service::server::Base`] adds.
pub fn router(app: App) -> Router {
    let guarded_for = |callers| Guard {
        key: app.key.clone(),
        audience: name::SCHEDULER,
        callers,
    };
    let guarded = guarded_for(&[name::API, name::BUILD, name::CLI]);
    let woken_by = guarded_for(&[name::API, name::BUILD, name::CLI, name::PROXY]);
    let services = Router::new()
        .route("/api/v1/nodes", get(nodes::list))
        .route("/api/v1/nodes/{id}", get(nodes::show))
        .route("/api/v1/scheduler/deploy", post(scheduler::nudge))
        .route("/api/v1/scheduler/assign-pending", post(scheduler::nudge))
        .route(
            "/api/v1/scheduler/reconcile-deployment/{id}",
            post(scheduler::nudge_one),
        )
        .route("/api/v1/scheduler/stop-task/{id}", post(scheduler::nudge_one))
        .layer(middleware::from_fn_with_state(app.clone(), forward::to_leader))
        .route("/api/v1/scheduler/status", get(scheduler::status))
        .layer(middleware::from_fn_with_state(guarded, guard));
    let wakes = Router::new()
        .route(WAKE, post(scheduler::wake))
        .layer(middleware::from_fn_with_state(app.clone(), forward::to_leader))
        .layer(middleware::from_fn_with_state(woken_by, guard));
    // Their bearer says which node it is; the handlers hold them to it.
    let agents = Router::new()
        .route("/api/v1/nodes/register", post(nodes::register))
        .route(HEARTBEAT, post(nodes::heartbeat))
        .route("/api/v1/nodes/task-published-port", post(nodes::reports))
        .layer(middleware::from_fn_with_state(app.clone(), forward::to_leader))
        .route("/api/v1/nodes/needed", post(needed::needed))
        .layer(middleware::from_fn_with_state(app.clone(), nodes::identified));
    services.merge(wakes).merge(agents).with_state(app)
}
