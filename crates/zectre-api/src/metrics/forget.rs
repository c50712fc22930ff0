//! The task that forgets what is too old and summed up.
//!
//! Every API does so, each the rows that no other one is at. It has a time of its own: with however many environments, what a minute
//! brings is gone a minute later, and summing up doesn't wait for it.

use super::STEPS_SECS;
use crate::{error::Error, store::metric};
use sqlx::PgPool;
use std::time::{Duration, Instant};
use zectre_service::tasks::Shutdown;

/// Between two rounds.
const EVERY: Duration = Duration::from_secs(60);
/// Rows that one statement deletes.
const ROWS: i64 = 5_000;
/// For each step of a round: together less than [`EVERY`], so that no step waits for another one's.
const TIME_EACH: Duration = Duration::from_secs(15);

/// Rounds until the shutdown; what failed is tried again with the next.
pub(crate) async fn run(pool: PgPool, keeps: [Duration; 3], shutdown: Shutdown) {
    while shutdown.or_requested(tokio::time::sleep(EVERY)).await.is_some() {
        if let Some(Err(error)) = shutdown.or_requested(round(&pool, keeps)).await {
            tracing::warn!(%error, "old metrics could not be forgotten; it is tried again");
        }
    }
}

/// Forgets as much as there is, within its time.
pub(crate) async fn round(pool: &PgPool, keeps: [Duration; 3]) -> Result<(), Error> {
    for (step, keep) in STEPS_SECS.into_iter().zip(keeps) {
        let began = Instant::now();
        while began.elapsed() < TIME_EACH {
            if metric::forget(pool, step as i32, keep, ROWS).await? < ROWS.unsigned_abs() {
                break;
            }
        }
    }
    Ok(())
}
