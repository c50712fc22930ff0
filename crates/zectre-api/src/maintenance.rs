//! Housekeeping: partitions ahead, retention behind, forgotten keys, deleted applications.

use crate::{error::Error, store::maintenance as store};
use sqlx::PgPool;
use std::time::Duration;
use zectre_service::tasks::Shutdown;

/// Partitions of task logs that are made ahead.
const DAYS_AHEAD: i32 = 3;
/// How long the answer to a repeated request is kept.
const IDEMPOTENCY_KEEP_HOURS: i32 = 24;
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
    let forgotten = store::forget_expired(pool, IDEMPOTENCY_KEEP_HOURS).await?;
    let purged = store::purge_deleted(pool).await?;
    tracing::debug!(days, forgotten, purged, "housekeeping done");
    Ok(())
}
