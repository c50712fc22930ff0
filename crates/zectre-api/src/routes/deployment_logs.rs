//! What a deployment's tasks print, as one list or stream, and its events.

use super::events::of_deployment::DeploymentEventsQuery;
use crate::handler::routes;
use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::Error,
    fanout::Hint,
    policy::{Policy, Standing, Thing},
    sse::{self, BATCH_ROWS, Batch, Feed},
    store::{
        event,
        task_log::{self, Position},
    },
};
use axum::{extract::State, response::Response};
use http::HeaderMap;
use serde::Deserialize;
use sqlx::PgPool;
use std::time::Duration;
use utoipa::IntoParams;
use zectre_common::{
    id::DeploymentId,
    state::Role,
    wire::{event::Event, log::TaskLogLine, page::Page},
};
use zectre_service::extract::{Json, Path, Query};

/// The most lines of one answer.
const LINES_MAX: u32 = 1_000;

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::Deployment), routes!(logs)),
        endpoint(
            Policy::Owned(Role::Viewer, Thing::Deployment),
            routes!(logs_stream),
        )
        .streams(),
        endpoint(Policy::Owned(Role::Viewer, Thing::Deployment), routes!(events)),
    ]
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct TailQuery {
    /// How many of the newest lines (a list: default and at most 1,000; a stream begins with them, default all).
    tail: Option<u32>,
}

/// The newest lines of all tasks of a deployment, in the order in which they arrived.
#[utoipa::path(get, path = "/deployments/{id}/logs", tag = "deployments",
               params(("id" = DeploymentId, Path, description = "Its id"), TailQuery),
               responses((status = 200, description = "Lines", body = Vec<TaskLogLine>)))]
async fn logs(
    State(context): State<Context>,
    Path(id): Path<DeploymentId>,
    Query(query): Query<TailQuery>,
) -> Result<Json<Vec<TaskLogLine>>, Error> {
    let count = i64::from(query.tail.unwrap_or(LINES_MAX).min(LINES_MAX));
    let after = task_log::before_tail_of_deployment(&context.pool, id, count, false).await?;
    let lines = task_log::of_deployment(&context.pool, id, after, count, false).await?;
    Ok(Json(lines.into_iter().map(|(_, line)| line).collect()))
}

/// The same as Server-Sent Events named `line`; they go on while the stream is open.
#[utoipa::path(get, path = "/deployments/{id}/logs/stream", tag = "deployments",
               params(("id" = DeploymentId, Path, description = "Its id"), TailQuery,
                      ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this event")),
               responses((status = 200, description = "First `position`, whose id resumes the stream too, then events `line`, each a TaskLogLine; `refused`, a Problem, ends it where the caller may not see it any more", content_type = "text/event-stream")))]
async fn logs_stream(
    State(context): State<Context>,
    standing: Standing,
    Path(id): Path<DeploymentId>,
    Query(query): Query<TailQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (position, fresh) = match (sse::last_event_id(&headers)?, query.tail) {
        (Some(position), _) => (position, false),
        (None, Some(count)) => {
            let before = task_log::before_tail_of_deployment(&context.pool, id, count.into(), true).await?;
            (before, true)
        }
        (None, None) => (Position::START, true),
    };
    sse::stream(
        &context,
        standing,
        LogFeed {
            pool: context.pool.clone(),
            id,
            position,
            fresh,
        },
    )
}

struct LogFeed {
    pool: PgPool,
    id: DeploymentId,
    position: Position,
    fresh: bool,
}

impl Feed for LogFeed {
    async fn look(&mut self) -> Result<Batch, Error> {
        let lines = task_log::of_deployment(&self.pool, self.id, self.position, BATCH_ROWS, true).await?;
        if let Some((last, _)) = lines.last() {
            self.position = *last;
        }
        let events = lines
            .iter()
            .map(|(position, line)| sse::json_event(Some(position.to_string()), "line", line));
        Ok(Batch {
            events: events.collect::<Result<_, _>>()?,
            ended: false,
        })
    }

    fn begin(&self) -> Option<String> {
        self.fresh.then(|| self.position.to_string())
    }

    /// Hints name tasks; which of them are this deployment's changes over time, and looking is cheap.
    fn concerns(&self, hint: Hint) -> bool {
        matches!(hint, Hint::About(_))
    }

    fn resync(&self) -> Duration {
        Duration::from_secs(10)
    }
}

/// What happened to a deployment, newest first.
#[utoipa::path(get, path = "/deployments/{id}/events", tag = "deployments",
               params(("id" = DeploymentId, Path, description = "Its id"), DeploymentEventsQuery),
               responses((status = 200, description = "A page", body = Page<Event>)))]
async fn events(
    State(context): State<Context>,
    Path(id): Path<DeploymentId>,
    Query(query): Query<DeploymentEventsQuery>,
) -> Result<Json<Page<Event>>, Error> {
    let window = query.window()?;
    let filter = event::Filter {
        reach: None,
        application_id: None,
        deployment_id: Some(id),
        action: query.action,
        // The feed of the organization tells it, to those who may know.
        audited: Some(Vec::new()),
    };
    let (rows, total) = event::list(&context.lists, &filter, &window).await?;
    Ok(Json(window.page(rows, total)))
}
