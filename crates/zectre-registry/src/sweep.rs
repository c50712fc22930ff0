//! Removes content that no artifact refers to any more (its artifacts were deleted, or an upload lost a race).
//!
//! Only what has been in the store for an hour is looked at, and an upload renews that: see
//! [`Blobs::remove_if`](crate::blobs::Blobs::remove_if) for why nothing that is wanted can be taken.

use crate::{blobs::Blobs, digest::Digest, error::Error, store};
use sqlx::PgPool;
use std::time::{Duration, SystemTime};
use zectre_service::tasks::Shutdown;

/// How often the store is gone through. Content costs disk only, so rarely.
const EVERY: Duration = Duration::from_secs(3_600);
/// How long content stays without an artifact.
pub const AGE_MIN: Duration = Duration::from_secs(3_600);
/// Asked about in one statement.
const BATCH_MAX: usize = 1_000;

/// Sweeps until shutdown; an error is logged and the next round tries again.
pub async fn run(blobs: &Blobs, pool: &PgPool, shutdown: Shutdown) {
    let mut rounds = tokio::time::interval(EVERY);
    loop {
        tokio::select! {
            () = shutdown.requested() => return,
            _ = rounds.tick() => {}
        }
        let swept = tokio::select! {
            () = shutdown.requested() => return,
            swept = round(blobs, pool, SystemTime::now() - AGE_MIN) => swept,
        };
        match swept {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "removed content that no artifact refers to"),
            Err(error) => {
                tracing::warn!(%error, "the store could not be swept; it is tried again in an hour");
            }
        }
    }
}

/// One round; tells how many contents it removed.
pub async fn round(blobs: &Blobs, pool: &PgPool, before: SystemTime) -> Result<usize, Error> {
    let mut removed = 0;
    for shard in blobs.shards().await? {
        for batch in blobs.old(shard, before).await?.chunks(BATCH_MAX) {
            let referred = store::artifacts::referred(pool, batch).await?;
            for digest in batch.iter().filter(|digest| !referred.contains(digest)) {
                let unwanted = async { unwanted(pool, digest).await };
                removed += usize::from(blobs.remove_if(digest, unwanted).await?);
            }
        }
    }
    Ok(removed)
}

async fn unwanted(pool: &PgPool, digest: &Digest) -> Result<bool, Error> {
    Ok(store::artifacts::referred(pool, std::slice::from_ref(digest))
        .await?
        .is_empty())
}
