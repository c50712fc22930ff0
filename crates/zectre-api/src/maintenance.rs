//! Housekeeping: partitions ahead, retention behind, forgotten keys, deleted applications, old history.

use crate::{
    error::Error,
    store::{
        delivery,
        maintenance::{self as store, History},
        source,
    },
};
use sqlx::PgPool;
use std::time::Duration;
use zectre_service::tasks::Shutdown;

/// Partitions of task logs that are made ahead.
const DAYS_AHEAD: i32 = 3;
/// How long the answer to a repeated request is kept.
const IDEMPOTENCY_KEEP_HOURS: i32 = 24;
/// Tasks that ended are kept for so long, and at least as long as their logs.
const TASKS_KEEP_DAYS: i32 = 7;
/// The activity feed, which is the audit log too. A stream resumes without a gap as long as its last event is there. Never less than 90:
/// the database keeps an event from being deleted before.
const EVENTS_KEEP_DAYS: i32 = 90;
/// Operations that were applied; their effects are in the feed.
const OPERATIONS_KEEP_DAYS: i32 = 7;
/// Deliveries to webhooks that ended; less than events, which they show.
const DELIVERIES_KEEP_DAYS: i32 = 30;
/// Rows that one statement deletes: about 0.1 s.
const PURGE_BATCH_ROWS: i64 = 5_000;
/// Statements of one round and kind, so that others get their turn. Ten million rows a day and kind go at most.
const PURGE_BATCHES_MAX: u32 = 20;
/// Between two rounds.
const ROUND_EVERY: Duration = Duration::from_secs(60);

/// What must be there before the first line arrives.
pub(crate) async fn prepare(pool: &PgPool) -> Result<(), Error> {
    store::ensure_partitions(pool, DAYS_AHEAD).await
}

/// How much of the tasks' logs is kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogBounds {
    pub(crate) days: u32,
    pub(crate) bytes_max: u64,
}

/// Rounds until the shutdown; a failed one is tried again with the next.
pub(crate) async fn run(pool: PgPool, logs: LogBounds, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(ROUND_EVERY);
    while shutdown.or_requested(rounds.tick()).await.is_some() {
        if let Some(Err(error)) = shutdown.or_requested(round(&pool, logs)).await {
            tracing::warn!(%error, "housekeeping failed; it will be tried again");
        }
    }
}

async fn round(pool: &PgPool, logs: LogBounds) -> Result<(), Error> {
    store::ensure_partitions(pool, DAYS_AHEAD).await?;
    let days = store::drop_partitions(pool, i32::try_from(logs.days).unwrap_or(i32::MAX)).await?;
    let bytes_max = i64::try_from(logs.bytes_max).unwrap_or(i64::MAX);
    let cut = store::bound_task_logs(pool, bytes_max).await?;
    if cut > 0 {
        tracing::warn!(
            cut,
            "the stored logs of tasks reached logs.task_bytes_max: the oldest lines were dropped"
        );
    }
    let forgotten =
        store::forget_expired(pool, IDEMPOTENCY_KEEP_HOURS).await? + store::end_invitations(pool).await?;
    let purged = store::purge_deleted(pool).await?
        // A day more than its last event.
        + store::forget_former_applications(pool, EVENTS_KEEP_DAYS + 1).await?
        + source::forget(pool, crate::forge::order::KEEP_DAYS).await?;
    let history = purge_history(pool, logs).await?;
    tracing::debug!(days, forgotten, purged, history, "housekeeping done");
    Ok(())
}

/// Deletes what ended long ago, in batches; how many rows.
async fn purge_history(pool: &PgPool, logs: LogBounds) -> Result<u64, Error> {
    let tasks_days = TASKS_KEEP_DAYS.max(i32::try_from(logs.days).unwrap_or(i32::MAX));
    let mut purged = 0;
    for kind in [History::Tasks, History::Events, History::Operations] {
        let keep_days = match kind {
            History::Tasks => tasks_days,
            History::Events => EVENTS_KEEP_DAYS,
            History::Operations => OPERATIONS_KEEP_DAYS,
        };
        for _ in 0..PURGE_BATCHES_MAX {
            let gone = store::purge_history(pool, kind, keep_days, PURGE_BATCH_ROWS).await?;
            purged += gone;
            if gone < PURGE_BATCH_ROWS.unsigned_abs() {
                break;
            }
        }
    }
    for _ in 0..PURGE_BATCHES_MAX {
        let gone = delivery::forget(pool, DELIVERIES_KEEP_DAYS, PURGE_BATCH_ROWS).await?;
        purged += gone;
        if gone < PURGE_BATCH_ROWS.unsigned_abs() {
            break;
        }
    }
    Ok(purged)
}
