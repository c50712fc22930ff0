//! What a task prints: agents append, people read and follow.

use crate::handler::routes;
use crate::{
    context::Context,
    endpoint::{Endpoint, endpoint},
    error::{Error, invalid_field},
    fanout::Hint,
    policy::{Policy, Standing, Thing},
    sse::{self, BATCH_ROWS, Batch, Feed},
    store::{task, task_log},
};
use axum::{extract::State, response::Response};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use sqlx::PgPool;
use std::time::Duration;
use utoipa::IntoParams;
use zectre_common::{
    id::TaskId,
    state::Role,
    time::Time,
    wire::log::{AppendLogsRequest, BATCH_LINES_MAX, LogLine},
};
use zectre_service::extract::{Json, Path, Query};

/// Lines of an answer unless asked otherwise, and the most.
const LINES_MAX: u32 = 1_000;
/// An agent sends half a MiB of text at once; as JSON it may grow sixfold (`\u001b`).
const BATCH_BYTES_MAX: usize = 4 << 20;
/// After a task's end its agent may still hold lines: a stream waits this long for them.
const LAST_LINES_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn endpoints() -> Vec<Endpoint> {
    vec![
        endpoint(Policy::Owned(Role::Viewer, Thing::Task), routes!(read)),
        endpoint(Policy::TaskAgent, routes!(append)).body_bytes_max(BATCH_BYTES_MAX),
        endpoint(Policy::Owned(Role::Viewer, Thing::Task), routes!(stream)).streams(),
    ]
}

/// Which lines.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct LinesQuery {
    /// Only lines after this sequence number.
    after: Option<u64>,
    /// At most so many, from 1 to 1,000; default 1,000.
    limit: Option<u32>,
    /// Instead of `after`: the newest so many lines.
    tail: Option<u32>,
}

/// Which lines a stream begins with.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct FollowQuery {
    /// Only lines after this sequence number.
    after: Option<u64>,
    /// Instead of `after`: the newest so many lines, then what follows.
    tail: Option<u32>,
}

/// Lines of a task, oldest first.
#[utoipa::path(get, path = "/tasks/{id}/logs", tag = "tasks", params(("id" = TaskId, Path, description = "Its id"), LinesQuery),
               responses((status = 200, description = "Lines", body = Vec<LogLine>)))]
async fn read(
    State(context): State<Context>,
    Path(id): Path<TaskId>,
    Query(query): Query<LinesQuery>,
) -> Result<Json<Vec<LogLine>>, Error> {
    let limit = query.limit.unwrap_or(LINES_MAX);
    if !(1..=LINES_MAX).contains(&limit) {
        return Err(invalid_field("limit", format!("from 1 to {LINES_MAX}")));
    }
    let after = start(&context.pool, id, query.after, query.tail).await?;
    Ok(Json(
        task_log::of_task(&context.pool, id, after, limit.into()).await?,
    ))
}

/// The sequence number before the first line that is wanted.
async fn start(pool: &PgPool, id: TaskId, after: Option<u64>, tail: Option<u32>) -> Result<i64, Error> {
    match (after, tail) {
        (Some(_), Some(_)) => Err(invalid_field("tail", "give `after` or `tail`, not both")),
        (Some(after), None) => {
            i64::try_from(after).map_err(|_| invalid_field("after", "no sequence number is that large"))
        }
        (None, Some(tail)) => task_log::before_tail_of_task(pool, id, tail.into()).await,
        (None, None) => Ok(0),
    }
}

/// Stores lines; for the agent of the task's node. Lines that are there already are ignored.
#[utoipa::path(post, path = "/tasks/{id}/logs", tag = "tasks", params(("id" = TaskId, Path, description = "Its id")),
               request_body = AppendLogsRequest, responses((status = 204, description = "Stored")))]
async fn append(
    State(context): State<Context>,
    Path(id): Path<TaskId>,
    Json(request): Json<AppendLogsRequest>,
) -> Result<StatusCode, Error> {
    if request.lines.len() > BATCH_LINES_MAX {
        return Err(invalid_field(
            "lines",
            format!("at most {BATCH_LINES_MAX} at once"),
        ));
    }
    if request
        .lines
        .iter()
        .any(|line| line.seq == 0 || i64::try_from(line.seq).is_err())
    {
        return Err(invalid_field("lines", "sequence numbers count from 1"));
    }
    let mut transaction = context.pool.begin().await?;
    task_log::append(&mut transaction, id, &request.lines).await?;
    transaction.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Lines of a task as Server-Sent Events named `line`, until it has ended (event `end`).
#[utoipa::path(get, path = "/tasks/{id}/logs/stream", tag = "tasks",
               params(("id" = TaskId, Path, description = "Its id"), FollowQuery,
                      ("Last-Event-ID" = Option<String>, Header, description = "Resumes after this event")),
               responses((status = 200, description = "First `position`, whose id resumes the stream too, then events `line`, each a LogLine, then `end`; `refused`, a Problem, ends it where the caller may not see it any more", content_type = "text/event-stream")))]
async fn stream(
    State(context): State<Context>,
    standing: Standing,
    Path(id): Path<TaskId>,
    Query(query): Query<FollowQuery>,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let (after, fresh) = match sse::last_event_id(&headers)? {
        Some(seq) => (seq, false),
        None => (start(&context.pool, id, query.after, query.tail).await?, true),
    };
    sse::stream(
        &context,
        standing,
        LogFeed {
            pool: context.pool.clone(),
            id,
            after,
            fresh,
        },
    )
}

struct LogFeed {
    pool: PgPool,
    id: TaskId,
    after: i64,
    fresh: bool,
}

impl Feed for LogFeed {
    async fn look(&mut self) -> Result<Batch, Error> {
        // Asked before reading: lines stored before the end are then among those read.
        let ended = match task::ended(&self.pool, self.id).await? {
            None => true,
            Some(at) => at.is_some_and(|at| Time::now().since(at) > LAST_LINES_TIMEOUT),
        };
        let lines = task_log::of_task(&self.pool, self.id, self.after, BATCH_ROWS).await?;
        if let Some(last) = lines.last() {
            self.after = last.seq as i64;
        }
        let ended = ended && (lines.len() as i64) < BATCH_ROWS;
        let mut events = lines
            .iter()
            .map(|line| sse::json_event(Some(line.seq.to_string()), "line", line))
            .collect::<Result<Vec<_>, _>>()?;
        if ended {
            events.push(sse::json_event(
                None,
                "end",
                &serde_json::json!({ "task_id": self.id }),
            )?);
        }
        Ok(Batch { events, ended })
    }

    fn begin(&self) -> Option<String> {
        self.fresh.then(|| self.after.to_string())
    }

    fn concerns(&self, hint: Hint) -> bool {
        hint == Hint::About(self.id.get())
    }
}
