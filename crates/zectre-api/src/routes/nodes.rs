//! Nodes, for admins of the cluster.

use super::accepted;
use crate::handler::routes;
use crate::{
    bootstrap::make_join_token,
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, refuse},
    identity::Actor,
    page::list_query,
    policy::Policy,
    scheduler,
    store::{
        change::{About, Change},
        node,
    },
};
use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::StatusCode;
use secrecy::ExposeSecret;
use serde::Deserialize;
use std::time::{Duration, Instant};
use utoipa::IntoParams;
use zectre_common::{
    id::NodeId,
    spec::FieldError,
    state::{Eligibility, NodeStatus, OperationKind},
    time::Time,
    wire::{
        node::{JoinToken, Node},
        page::Page,
        problem::Problem,
    },
};
use zectre_service::extract::{Json, Path, Query};

/// How long a join token made here admits a node.
const JOIN_TOKEN_TTL: Duration = Duration::from_secs(3_600);
/// How long `?wait` waits for a node to be empty; the description of the endpoint names it.
const DRAIN_WAIT_MAX: Duration = Duration::from_secs(120);
/// How often it looks when no event hints at news.
const DRAIN_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Tasks that the answer names when the wait is over.
const TASKS_NAMED_MAX: usize = 20;

list_query! {
    /// Of nodes.
    NodesQuery sorted by NodeSort { Name = "name", RegisteredAt = "registered_at" } smallest first, filtered by {
        /// Only those with this status.
        status: NodeStatus,
        /// Only those with this eligibility.
        eligibility: Eligibility,
    }
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::ClusterAdmin, routes!(list)),
        endpoint(Policy::ClusterAdmin, routes!(join_token)).creates(),
        endpoint(Policy::ClusterAdmin, routes!(get)),
        endpoint(Policy::ClusterAdmin, routes!(delete)),
        endpoint(Policy::ClusterAdmin, routes!(cordon)),
        endpoint(Policy::ClusterAdmin, routes!(uncordon)),
        endpoint(Policy::ClusterAdmin, routes!(drain)).patient(),
    ]
}

/// The nodes of the cluster.
#[utoipa::path(get, path = "/nodes", tag = "nodes", params(NodesQuery),
               responses((status = 200, description = "A page", body = Page<Node>)))]
async fn list(
    State(context): State<Context>,
    Query(query): Query<NodesQuery>,
) -> Result<Json<Page<Node>>, Error> {
    let window = query.window()?;
    let (rows, total) = node::list(&context.lists, query.status, query.eligibility, &window).await?;
    Ok(Json(window.page(rows, total)))
}

/// A node.
#[utoipa::path(get, path = "/nodes/{id}", tag = "nodes", params(("id" = NodeId, Path, description = "Its id")),
               responses((status = 200, description = "The node", body = Node)))]
async fn get(State(context): State<Context>, Path(id): Path<NodeId>) -> Result<Json<Node>, Error> {
    Ok(Json(show(&context, id).await?))
}

/// Makes a token that admits one node once, within the hour.
#[utoipa::path(post, path = "/nodes/join-tokens", tag = "nodes",
               responses((status = 201, description = "The token, shown once", body = JoinToken)))]
async fn join_token(State(context): State<Context>, actor: Actor) -> Result<Response, Error> {
    let expires_at = Time::now().plus(JOIN_TOKEN_TTL);
    let mut change = Change::begin(&context.pool, &actor).await?;
    let token = make_join_token(&mut change, actor.user_id, expires_at).await?;
    let body = JoinToken {
        token: token.expose_secret().to_owned(),
        expires_at,
    };
    super::created(change, "/nodes", body).await
}

/// Places no new tasks on a node.
#[utoipa::path(post, path = "/nodes/{id}/cordon", tag = "nodes", params(("id" = NodeId, Path, description = "Its id")),
               responses((status = 200, description = "The node", body = Node)))]
async fn cordon(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<Json<Node>, Error> {
    set(&context, &actor, id, Eligibility::Cordoned, "node.cordoned").await?;
    Ok(Json(show(&context, id).await?))
}

/// Places tasks on a node again.
#[utoipa::path(post, path = "/nodes/{id}/uncordon", tag = "nodes", params(("id" = NodeId, Path, description = "Its id")),
               responses((status = 200, description = "The node", body = Node)))]
async fn uncordon(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<Json<Node>, Error> {
    set(&context, &actor, id, Eligibility::Eligible, "node.uncordoned").await?;
    Ok(Json(show(&context, id).await?))
}

/// Whether to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct DrainQuery {
    /// `?wait` (or `?wait=true`) answers once nothing runs on the node, and waits for at most 120 seconds; `?wait=30`
    /// for at most 30.
    wait: Option<String>,
}

/// Moves all tasks away from a node.
///
/// Each goes once another serves in its place. With `?wait` the answer comes when the node is empty; when the wait is over
/// it is a 504 that names the tasks which are left, and the drain goes on.
#[utoipa::path(post, path = "/nodes/{id}/drain", tag = "nodes", params(("id" = NodeId, Path, description = "Its id"), DrainQuery),
               responses((status = 200, description = "Nothing runs on it any more", body = Node),
                         (status = 202, description = "Being drained", body = Node),
                         (status = 504, description = "Tasks are left; it goes on being drained", body = Problem)))]
async fn drain(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<NodeId>,
    Query(query): Query<DrainQuery>,
) -> Result<Response, Error> {
    let wait = drain_wait(query.wait.as_deref())?;
    set(
        &context,
        &actor,
        id,
        Eligibility::Draining,
        "node.drain_requested",
    )
    .await?;
    if let Some(wait) = wait {
        empty(&context, id, wait).await?;
        return Ok(Json(show(&context, id).await?).into_response());
    }
    Ok(accepted(show(&context, id).await?))
}

/// How long to wait, if at all.
fn drain_wait(wait: Option<&str>) -> Result<Option<Duration>, Error> {
    let (none, longest) = (Ok(None), Ok(Some(DRAIN_WAIT_MAX)));
    match wait {
        None | Some("false") => none,
        Some("" | "true") => longest,
        Some(secs) => match secs.parse().map(Duration::from_secs) {
            Ok(wait) if wait <= DRAIN_WAIT_MAX => Ok(Some(wait)),
            _ => Err(refuse(
                &code::INVALID_QUERY,
                format!(
                    "`wait` is `true`, `false` or a number of seconds up to {}",
                    DRAIN_WAIT_MAX.as_secs()
                ),
            )),
        },
    }
}

/// Waits until nothing runs on a node.
async fn empty(context: &Context, id: NodeId, wait: Duration) -> Result<(), Error> {
    let began = Instant::now();
    let mut news = context.fanout.subscribe();
    loop {
        let left = node::live_tasks(&context.pool, id).await?;
        if left.is_empty() {
            return Ok(());
        }
        let waited = began.elapsed();
        if waited >= wait || context.shutdown.is_requested() {
            return Err(not_empty(&show(context, id).await?, &left, waited));
        }
        let hint = tokio::time::timeout(DRAIN_LOOK_EVERY.min(wait.saturating_sub(waited)), news.recv());
        // Whatever ended the wait, it is time to look; one look answers all hints that are there.
        let _ = context.shutdown.or_requested(hint).await;
        while news.try_recv().is_ok() {}
    }
}

fn not_empty(node: &Node, left: &[node::Left], waited: Duration) -> Error {
    let named = left.iter().take(TASKS_NAMED_MAX);
    Error::Refused {
        code: &code::DRAIN_INCOMPLETE,
        detail: format!(
            "node `{}` holds {} {} after {} s (see errors): each goes once another serves in its place, which needs room \
             elsewhere. It goes on being drained",
            node.name,
            left.len(),
            if left.len() == 1 { "task" } else { "tasks" },
            waited.as_secs()
        ),
        errors: named
            .map(|left| {
                let (app, version, state) = (&left.application, left.version, left.state);
                FieldError::new(
                    left.task_id.to_string(),
                    format!("version {version} of `{app}`, {state}"),
                )
            })
            .collect(),
        retry_after_secs: None,
    }
}

/// Forgets a node on which nothing runs, or which is lost: then what it held is replaced elsewhere.
#[utoipa::path(delete, path = "/nodes/{id}", tag = "nodes", params(("id" = NodeId, Path, description = "Its id")),
               responses((status = 204, description = "Deleted")))]
async fn delete(
    State(context): State<Context>,
    actor: Actor,
    Path(id): Path<NodeId>,
) -> Result<StatusCode, Error> {
    let node = show(&context, id).await?;
    let mut change = Change::begin(&context.pool, &actor).await?;
    if node::delete(change.connection(), id).await?.is_none() {
        let detail = format!(
            "tasks run on node `{}`; drain it first: POST /nodes/{id}/drain",
            node.name
        );
        return Err(refuse(&code::NODE_IN_USE, detail));
    }
    change.operation(OperationKind::Node, About::node(id)).await?;
    change
        .event(
            "node.deleted",
            About::node(id),
            &format!("node `{}` was removed", node.name),
        )
        .await?;
    change.commit().await?;
    scheduler::nudge(&context, None).await;
    Ok(StatusCode::NO_CONTENT)
}

async fn set(
    context: &Context,
    actor: &Actor,
    id: NodeId,
    eligibility: Eligibility,
    event: &str,
) -> Result<(), Error> {
    let mut change = Change::begin(&context.pool, actor).await?;
    let name = node::set_eligibility(change.connection(), id, eligibility)
        .await?
        .ok_or_else(|| unknown(id))?;
    change.operation(OperationKind::Node, About::node(id)).await?;
    change
        .event(event, About::node(id), &format!("node `{name}` is {eligibility}"))
        .await?;
    change.commit().await?;
    scheduler::nudge(context, None).await;
    Ok(())
}

async fn show(context: &Context, id: NodeId) -> Result<Node, Error> {
    node::get(&context.pool, id).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: NodeId) -> Error {
    refuse(&code::NODE_NOT_FOUND, format!("there is no node {id}"))
}
