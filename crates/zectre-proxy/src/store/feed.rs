//! Keeps the table at the database's epoch: a notification makes it fast, a timed look makes it sure.

use crate::{store, tables::Tables};
use sqlx::{PgPool, postgres::PgListener};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zectre_common::db::channel;
use zectre_service::tasks::Shutdown;

/// A notification that got lost delays a change by at most so much.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Between attempts while PostgreSQL is away.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Follows the database until `shutdown`.
pub async fn run(pool: PgPool, tables: Arc<Tables>, shutdown: Shutdown) {
    let mut told = false;
    while let Some(result) = shutdown.or_requested(follow(&pool, &tables, &mut told)).await {
        let Err(error) = result;
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(%error, epoch = tables.current().epoch(), "PostgreSQL is away; serving the last known table");
        }
        shutdown.or_requested(tokio::time::sleep(RETRY_AFTER)).await;
    }
}

/// Runs until the database fails. `away` is cleared with the first table read.
async fn follow(
    pool: &PgPool,
    tables: &Tables,
    away: &mut bool,
) -> Result<std::convert::Infallible, sqlx::Error> {
    let mut listener = PgListener::connect_with(pool).await?;
    // Listen first, read second: what changes in between is told.
    listener.listen(channel::ROUTING).await?;
    sync(pool, tables).await?;
    if std::mem::take(away) {
        tracing::info!(epoch = tables.current().epoch(), "PostgreSQL is back");
    }
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            told = listener.try_recv() => match told? {
                // One read covers every epoch up to the one it finds: a burst of changes costs one or two.
                Some(note) if note.payload().parse().is_ok_and(|epoch: u64| epoch <= tables.current().epoch()) => {}
                // None: the connection was lost and made again; whatever was told meanwhile is lost.
                Some(_) | None => sync(pool, tables).await?,
            },
            _ = look.tick() => sync_if_behind(pool, tables).await?,
        }
    }
}

/// Reads the table of now.
pub(crate) async fn sync(pool: &PgPool, tables: &Tables) -> Result<(), sqlx::Error> {
    let read_from = Instant::now();
    let rows = timeout(store::STATEMENT_TIMEOUT, store::load(pool))
        .await
        .map_err(too_slow)??;
    tables.apply(rows, read_from);
    Ok(())
}

async fn sync_if_behind(pool: &PgPool, tables: &Tables) -> Result<(), sqlx::Error> {
    let epoch = timeout(store::STATEMENT_TIMEOUT, store::epoch(pool))
        .await
        .map_err(too_slow)??;
    if epoch == tables.current().epoch() {
        Ok(())
    } else {
        sync(pool, tables).await
    }
}

/// A statement ran out of time.
pub(super) fn too_slow(_: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}
