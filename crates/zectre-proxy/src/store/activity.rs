//! Tells the scheduler which deployments are in use: once a second, one statement for all that changed.

use crate::{
    live::{Activity, Traffic},
    store::{STATEMENT_TIMEOUT, feed::too_slow},
    tables::Tables,
};
use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};
use uuid::Uuid;
use zectre_common::{db::channel, id::ProxyId, time::Time};
use zectre_service::tasks::Shutdown;

/// How exact idle times are.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Deployments in one statement; the rest comes with the next one.
const ROWS_MAX: usize = 5_000;

/// Tells activity until `shutdown`.
pub async fn run(pool: PgPool, tables: Arc<Tables>, proxy: ProxyId, shutdown: Shutdown) {
    let mut ticks = interval(TELL_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failing = false;
    while shutdown.or_requested(ticks.tick()).await.is_some() {
        match flush(&pool, &tables, proxy).await {
            Ok(()) => failing = false,
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "activity could not be told; it is kept");
            }
            Err(_) => {}
        }
    }
}

/// Tells what is new; on failure it stays to be told.
pub async fn flush(pool: &PgPool, tables: &Tables, proxy: ProxyId) -> Result<(), sqlx::Error> {
    let news = tables.ledger().take_activity(Time::now(), ROWS_MAX);
    if news.is_empty() {
        return Ok(());
    }
    let written = timeout(STATEMENT_TIMEOUT, write(pool, proxy, &news))
        .await
        .map_err(too_slow);
    let result = written.and_then(|result| result);
    if result.is_err() {
        tables.ledger().return_activity(&news);
    }
    result
}

async fn write(pool: &PgPool, proxy: ProxyId, news: &[(Arc<Traffic>, Activity)]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = news
        .iter()
        .map(|(_, activity)| activity.deployment.get())
        .collect();
    let idle_ms: Vec<i64> = news
        .iter()
        .map(|(_, activity)| activity.idle.as_millis() as i64)
        .collect();
    let counts: Vec<i32> = news
        .iter()
        .map(|(_, activity)| activity.in_flight as i32)
        .collect();
    // A deployment may have been deleted since; its activity interests nobody.
    sqlx::query!(
        "WITH news AS (
             SELECT deployment_id, now() - idle_ms * interval '1 ms' AS last_active_at, in_flight
               FROM UNNEST($2::uuid[], $3::bigint[], $4::int[]) AS n (deployment_id, idle_ms, in_flight)),
         told AS (
             INSERT INTO deployment_activity (deployment_id, proxy_id, last_active_at, in_flight)
             SELECT n.deployment_id, $1, n.last_active_at, n.in_flight FROM news n JOIN deployments d ON d.id = n.deployment_id
             ON CONFLICT (deployment_id, proxy_id) DO UPDATE SET in_flight = excluded.in_flight,
                 last_active_at = GREATEST(deployment_activity.last_active_at, excluded.last_active_at)
             RETURNING 1 AS one)
         SELECT pg_notify($5, $1::uuid::text) FROM (SELECT count(*) FROM told) AS counted",
        proxy.get(),
        &ids,
        &idle_ms,
        &counts,
        channel::PROXY,
    )
    .fetch_one(pool)
    .await
    .map(drop)
}
