//! The task that samples what is in use every ten seconds, and sums finer steps up to coarser ones.
//!
//! Every API does so; a step is sampled once and summed up once, whoever comes first.

use super::{LATE, STEPS_SECS};
use crate::{error::Error, store::metric};
use sqlx::PgPool;
use std::time::Duration;
use zectre_common::time::Time;
use zectre_service::tasks::Shutdown;

/// Samples between two rounds of summing up: a minute.
const SAMPLES_A_ROUND: u32 = 6;
/// Steps of a minute in one transaction: with 10,000 environments in use some 600,000 rows.
const MINUTES_MAX: i64 = 10;
/// Transactions of one round and kind.
const BATCHES_MAX: u32 = 20;

/// Rounds until the shutdown; what failed is tried again with the next.
pub(crate) async fn run(pool: PgPool, shutdown: Shutdown) {
    let step_ms = i64::from(STEPS_SECS[0]) * 1_000;
    let mut samples = 0;
    loop {
        let now_ms = Time::now().unix_ms();
        let until_next = Duration::from_millis((step_ms - now_ms.rem_euclid(step_ms)).unsigned_abs());
        if shutdown
            .or_requested(tokio::time::sleep(until_next))
            .await
            .is_none()
        {
            return;
        }
        // A sleep may end a moment early or late.
        let now_ms = Time::now().unix_ms();
        let at = Time::from_unix_ms((now_ms + step_ms / 2).div_euclid(step_ms) * step_ms - step_ms);
        let work = async {
            metric::sample_usage(&pool, at).await?;
            samples += 1;
            if samples % SAMPLES_A_ROUND == 0 {
                round(&pool).await?;
            }
            Ok::<_, Error>(())
        };
        if let Some(Err(error)) = shutdown.or_requested(work).await {
            tracing::warn!(%error, "metrics could not be sampled or summed up; it is tried again");
        }
    }
}

/// Sums up as much as there is, within bounds.
pub(crate) async fn round(pool: &PgPool) -> Result<(), Error> {
    let [fine, minute, hour] = STEPS_SECS.map(|secs| secs as i32);
    let late_ms = LATE.as_millis() as i64;
    let settled = Time::from_unix_ms(Time::now().unix_ms() - late_ms);
    for _ in 0..BATCHES_MAX {
        if !metric::roll_up(pool, (fine, minute), settled, MINUTES_MAX).await? {
            break;
        }
    }
    let [minutes_done, _] = metric::done(pool).await?;
    for _ in 0..BATCHES_MAX {
        if !metric::roll_up(pool, (minute, hour), minutes_done, 1).await? {
            break;
        }
    }
    Ok(())
}
