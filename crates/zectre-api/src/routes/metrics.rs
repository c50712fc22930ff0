//! Time series of applications and nodes.

use crate::handler::routes;
use crate::{
    code,
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid, invalid_field, refuse},
    metrics::{
        points,
        span::{Asked, Span},
    },
    policy::{Policy, Thing},
    store::{
        metric::{self, RequestsOf, Sources},
        node,
    },
};
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use zectre_common::{
    histogram,
    id::{ApplicationId, NodeId},
    state::Role,
    time::Time,
    wire::metrics::{AppMetrics, NodeMetrics},
};
use zectre_service::extract::{Json, Path, Query};

/// Events are kept for so long (see `maintenance`), and wakes are counted from them.
const WAKES_KEEP_MS: i64 = 90 * 86_400_000;

/// Which steps.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SpanQuery {
    /// Since when; default an hour before `to`.
    from: Option<Time>,
    /// Until when; default now.
    to: Option<Time>,
    /// The finest step that is wanted, in seconds; the next one that is kept is taken: 10, 60 or 3600.
    step: Option<u32>,
}

/// Which steps, and of which environment.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AppSpanQuery {
    /// Since when; default an hour before `to`.
    from: Option<Time>,
    /// Until when; default now.
    to: Option<Time>,
    /// The finest step that is wanted, in seconds; the next one that is kept is taken: 10, 60 or 3600.
    step: Option<u32>,
    /// Slug of an environment; default all of them.
    environment: Option<String>,
}

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::App), routes!(of_app)),
        endpoint(Policy::ClusterAdmin, routes!(of_node)),
    ]
}

fn span(context: &Context, asked: Asked, now: Time) -> Result<Span, Error> {
    Span::choose(asked, now, context.settings.metrics_keep).map_err(|error| invalid(vec![error]))
}

fn ends(span: Span) -> (Time, Time) {
    (Time::from_unix_ms(span.from_ms), Time::from_unix_ms(span.to_ms))
}

/// What an application was asked for and what it used, step by step. Six hours are kept in steps of 10 s, a week in steps of
/// a minute, three months in steps of an hour, unless the cluster says otherwise; what nobody measured is null.
#[utoipa::path(get, path = "/metrics/apps/{id}", tag = "metrics",
               params(("id" = ApplicationId, Path, description = "The application's id"), AppSpanQuery),
               responses((status = 200, description = "The series", body = AppMetrics)))]
async fn of_app(
    State(context): State<Context>,
    Path(id): Path<ApplicationId>,
    Query(query): Query<AppSpanQuery>,
) -> Result<Json<AppMetrics>, Error> {
    let now = Time::now();
    let asked = Asked {
        from: query.from,
        to: query.to,
        step_secs: query.step,
    };
    let span = span(&context, asked, now)?;
    if query
        .environment
        .as_deref()
        .is_some_and(|slug| slug.contains('\0'))
    {
        return Err(invalid_field("environment", "the slug of an environment"));
    }
    let environments = metric::environments(&context.pool, id, query.environment.as_deref()).await?;
    if let (Some(slug), []) = (&query.environment, &*environments) {
        return Err(refuse(
            &code::ENVIRONMENT_NOT_FOUND,
            format!("the application has no environment `{slug}`"),
        ));
    }
    let sources = Sources::of(span.step_secs, metric::done(&context.pool).await?);
    let (from, to) = ends(span);
    let requests = metric::requests(
        &context.pool,
        RequestsOf::Environments(&environments),
        (from, to),
        sources,
    )
    .await?;
    let usage = metric::usage(&context.pool, &environments, (from, to), sources).await?;
    let wakes = metric::wakes(&context.pool, id, &environments, (from, to), span.step_secs).await?;
    let wakes_since = Time::from_unix_ms(now.unix_ms() - WAKES_KEEP_MS);
    Ok(Json(AppMetrics {
        application_id: id,
        environment: query.environment,
        from,
        to,
        step_secs: span.step_secs,
        latency_error: histogram::ERROR,
        points: points::of_app(span, (&requests, &usage), &wakes, (wakes_since, now)),
    }))
}

/// What the tasks of a node answered and used, step by step; kept like those of applications.
#[utoipa::path(get, path = "/metrics/nodes/{id}", tag = "metrics",
               params(("id" = NodeId, Path, description = "The node's id"), SpanQuery),
               responses((status = 200, description = "The series", body = NodeMetrics)))]
async fn of_node(
    State(context): State<Context>,
    Path(id): Path<NodeId>,
    Query(query): Query<SpanQuery>,
) -> Result<Json<NodeMetrics>, Error> {
    let asked = Asked {
        from: query.from,
        to: query.to,
        step_secs: query.step,
    };
    let now = Time::now();
    let span = span(&context, asked, now)?;
    let known = node::get(&context.pool, id)
        .await?
        .ok_or_else(|| refuse(&code::NODE_NOT_FOUND, format!("there is no node {id}")))?;
    let sources = Sources::of(span.step_secs, metric::done(&context.pool).await?);
    let (from, to) = ends(span);
    let node = id.get();
    let requests = metric::requests(&context.pool, RequestsOf::Node(&node), (from, to), sources).await?;
    let usage = metric::usage(&context.pool, &[node], (from, to), sources).await?;
    let (wakes, counted) = metric::node_wakes(&context.pool, node, (from, to), sources).await?;
    // Nothing was started on it before it was there, and what is too old is forgotten.
    let [.., keep] = context.settings.metrics_keep;
    let kept_since = Time::from_unix_ms(now.unix_ms() - keep.as_millis() as i64);
    let wakes_since = counted.map_or(now, |counted| counted.max(known.registered_at).max(kept_since));
    Ok(Json(NodeMetrics {
        node_id: id,
        from,
        to,
        step_secs: span.step_secs,
        latency_error: histogram::ERROR,
        points: points::of_node(span, (&requests, &usage), &wakes, (wakes_since, now)),
    }))
}
