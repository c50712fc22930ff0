//! Which scheduler leads, as the database has it. While that is away nobody else is known to lead, either.

use crate::{
    leader::Leader,
    store::{STATEMENT_TIMEOUT, feed::too_slow},
};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zectre_service::tasks::Shutdown;

/// A new leader is elected within five seconds; until it is known the API is asked for wakes.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Looks until `shutdown`.
pub async fn run(pool: PgPool, leader: Arc<Leader>, shutdown: Shutdown) {
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while shutdown.or_requested(looks.tick()).await.is_some() {
        let row = sqlx::query!("SELECT epoch, address FROM scheduler_leader").fetch_one(&pool);
        let row = timeout(STATEMENT_TIMEOUT, row).await;
        match row.map_err(too_slow).and_then(|row| row) {
            Ok(row) => leader.is_at(row.epoch, row.address.as_deref()),
            Err(error) => tracing::debug!(%error, "which scheduler leads can't be read"),
        }
    }
}
