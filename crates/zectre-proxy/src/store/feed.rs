//! Keeps the table at the database's epoch: a notification makes it fast, a timed look makes it sure. What changed is read by
//! itself; everything is read at the start, after a lost connection, and from time to time.

use crate::{
    store::{
        self,
        routes::{self, Seen},
    },
    tables::Tables,
};
use sqlx::PgPool;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zectre_common::db::{self, channel};
use zectre_service::tasks::Shutdown;

/// A notification that got lost delays a change by at most so much.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Everything is read anew so often, whatever was told: what would be wrong would be so for this long.
const WHOLE_EVERY: Duration = Duration::from_secs(600);
/// What changed is looked for so often even when nothing is said to have: much less than it is kept (an hour).
const CHANGES_EVERY: Duration = Duration::from_secs(60);
/// Whoever has not looked for so long may have missed what is kept no longer.
const CHANGES_TRUSTED: Duration = Duration::from_secs(1_800);
/// Between attempts while PostgreSQL is away.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Follows the database until `shutdown`, from what is `known` of it.
pub async fn run(pool: PgPool, tables: Arc<Tables>, mut known: Option<Known>, shutdown: Shutdown) {
    let mut told = false;
    while let Some(result) = shutdown
        .or_requested(follow(&pool, &tables, known.take(), &mut told))
        .await
    {
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
    known: Option<Known>,
    away: &mut bool,
) -> Result<std::convert::Infallible, sqlx::Error> {
    // Listen first, read second: what changes in between is told.
    let mut listener = db::listen(pool, &[channel::ROUTING]).await?;
    let mut known = match known {
        Some(known) => catch_up(pool, tables, known).await?,
        None => sync(pool, tables).await?,
    };
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
                Some(_) => known = catch_up(pool, tables, known).await?,
                // The connection was lost and made again; whatever was told meanwhile is lost.
                None => known = sync(pool, tables).await?,
            },
            _ = look.tick() => match known.due(Instant::now()) {
                Due::Whole => known = sync(pool, tables).await?,
                Due::Changes => known = catch_up(pool, tables, known).await?,
                Due::Epoch => if is_behind(pool, tables).await? {
                    known = catch_up(pool, tables, known).await?;
                },
            },
        }
    }
}

/// How much of the database is in the table.
#[derive(Debug)]
pub struct Known {
    seen: Seen,
    at: Instant,
    /// When everything was read.
    whole_at: Instant,
}

impl Known {
    /// What is to be read at that time though nothing tells of a change.
    fn due(&self, now: Instant) -> Due {
        due(
            now.saturating_duration_since(self.at),
            now.saturating_duration_since(self.whole_at),
        )
    }
}

/// What is read by a timed look.
#[derive(Debug, PartialEq, Eq)]
enum Due {
    /// Everything.
    Whole,
    /// What changed.
    Changes,
    /// The epoch, which tells whether anything did.
    Epoch,
}

/// What is due so long after the last look at what changed, and at everything.
fn due(changes: Duration, whole: Duration) -> Due {
    if whole >= WHOLE_EVERY || changes > CHANGES_TRUSTED {
        Due::Whole
    } else if changes >= CHANGES_EVERY {
        Due::Changes
    } else {
        Due::Epoch
    }
}

/// Reads the table of now.
pub(crate) async fn sync(pool: &PgPool, tables: &Tables) -> Result<Known, sqlx::Error> {
    let at = Instant::now();
    let (rows, seen) = timeout(store::STATEMENT_TIMEOUT, routes::load(pool))
        .await
        .map_err(too_slow)??;
    tables.apply(rows);
    Ok(Known {
        seen,
        at,
        whole_at: at,
    })
}

/// Reads what has changed since; everything, where that is not to be told.
async fn catch_up(pool: &PgPool, tables: &Tables, known: Known) -> Result<Known, sqlx::Error> {
    let at = Instant::now();
    if known.due(at) == Due::Whole {
        return sync(pool, tables).await;
    }
    let changes = timeout(store::STATEMENT_TIMEOUT, routes::changes(pool, &known.seen))
        .await
        .map_err(too_slow)?;
    match changes {
        // An older epoch is that of another database: one that was restored.
        Ok(Some((changes, seen))) if changes.rows.epoch >= tables.current().epoch() => {
            let nothing = changes.applications.is_empty() && changes.domains.is_empty();
            if !nothing || changes.rows.epoch > tables.current().epoch() {
                tables.change(changes);
            }
            Ok(Known { seen, at, ..known })
        }
        Ok(_) => sync(pool, tables).await,
        Err(error) => {
            // A database that does not keep changes yet, say; one that is away is so for the next statement, too.
            tracing::debug!(%error, "what changed can't be read");
            sync(pool, tables).await
        }
    }
}

async fn is_behind(pool: &PgPool, tables: &Tables) -> Result<bool, sqlx::Error> {
    let epoch = timeout(store::STATEMENT_TIMEOUT, store::epoch(pool))
        .await
        .map_err(too_slow)??;
    Ok(epoch != tables.current().epoch())
}

/// A statement ran out of time.
pub(super) fn too_slow(_: tokio::time::error::Elapsed) -> sqlx::Error {
    sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_read_from_time_to_time_and_where_changes_may_have_been_missed() {
        let secs = Duration::from_secs;
        for (changes, whole, what) in [
            (secs(0), secs(0), Due::Epoch),
            (secs(59), secs(599), Due::Epoch),
            (secs(60), secs(599), Due::Changes),
            (secs(0), secs(600), Due::Whole),
            // Away for so long, whenever everything was read: it never is after what changed.
            (secs(1_801), secs(1_801), Due::Whole),
            (secs(1_801), secs(0), Due::Whole),
        ] {
            assert_eq!(due(changes, whole), what, "{changes:?} and {whole:?}");
        }
    }
}
