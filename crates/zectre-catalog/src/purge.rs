//! Deletes what has ended, once in a while.

use crate::{error::Error, store};
use sqlx::PgPool;
use std::time::Duration;
use zectre_service::tasks::Shutdown;

/// How often. What has ended is refused wherever it is looked at; this only keeps tables small.
const EVERY: Duration = Duration::from_secs(600);

/// Purges until shutdown; an error is logged and the next round tries again.
pub async fn run(pool: &PgPool, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        match shutdown.or_requested(round(pool)).await {
            None => return,
            Some(Ok(0)) => {}
            Some(Ok(rows)) => tracing::debug!(rows, "purged what has ended"),
            Some(Err(error)) => tracing::warn!(%error, "could not purge; it is tried again in ten minutes"),
        }
    }
}

/// One round; tells how many rows went.
pub async fn round(pool: &PgPool) -> Result<u64, Error> {
    store::purge::round(pool).await
}
