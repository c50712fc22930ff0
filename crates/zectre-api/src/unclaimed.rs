//! Every build ends: what no worker takes, or takes up again, fails in the end, and with it the deployments that wait
//! for it. Workers end what they hold; this is for the time when none lives.

use crate::{error::Error, store::build};
use sqlx::PgPool;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use zectre_service::tasks::Shutdown;

/// Looks in a row that found the database before anything is failed: whoever comes back, with the workers or just before
/// them, can't tell who was silent.
const LOOKS_MIN: u32 = 3;

/// Looks until the shutdown; `patience` is how long a build waits while no worker gives a sign.
pub(crate) async fn run(pool: PgPool, patience: Duration, shutdown: Shutdown) {
    let every = (patience / 10).clamp(Duration::from_secs(1), Duration::from_secs(60));
    let mut looks = tokio::time::interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen: u32 = 0;
    while shutdown.or_requested(looks.tick()).await.is_some() {
        seen = match shutdown.or_requested(look(&pool, patience, seen)).await {
            Some(Ok(seen)) => seen,
            Some(Err(error)) => {
                tracing::warn!(%error, "builds that nobody takes could not be looked for; trying again");
                0
            }
            None => return,
        };
    }
}

/// One look; how many there were in a row.
async fn look(pool: &PgPool, patience: Duration, seen: u32) -> Result<u32, Error> {
    if seen < LOOKS_MIN {
        // The pool hands out no connection that doesn't answer.
        drop(pool.acquire().await?);
        return Ok(seen + 1);
    }
    let failed = build::fail_unclaimed(pool, patience.as_secs_f64()).await?;
    if failed > 0 {
        tracing::warn!(
            failed,
            "no build worker answers: builds that waited for one have failed"
        );
    }
    Ok(seen)
}
