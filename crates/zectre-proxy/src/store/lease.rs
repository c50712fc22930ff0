//! The proxy's own row: that it lives, which epoch it routes by, and which one has drained. The scheduler
//! stops a task only after every live proxy has acknowledged an epoch without it.

use crate::{
    live::Acknowledgement,
    raw::ports::Ports,
    store::{STATEMENT_TIMEOUT, feed::too_slow, succession::Place},
    tables::Tables,
};
use sqlx::{PgPool, types::Json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zectre_common::{db::channel, id::ProxyId};
use zectre_service::tasks::Shutdown;

/// Renewed long before the ten seconds of the lease are over.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// Who renews.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Another one with every start.
    pub id: ProxyId,
    /// For people.
    pub name: String,
}

/// Renews the lease of `proxy` until `shutdown`: in time, at each new table, and when an old one has drained. The rows of
/// those who had its `place` before go.
pub async fn run(
    pool: PgPool,
    tables: Arc<Tables>,
    ports: Arc<Ports>,
    proxy: Proxy,
    mut place: Option<Place>,
    shutdown: Shutdown,
) {
    let mut changes = tables.changes();
    let mut renewal = interval(RENEW_EVERY);
    renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut failing, mut swept, mut known) = (false, false, false);
    loop {
        let due = async {
            tokio::select! {
                _ = renewal.tick() => {}
                _ = changes.changed() => {}
                () = tables.ledger().drained() => {}
            }
        };
        if shutdown.or_requested(due).await.is_none() {
            return;
        }
        // Before the first table from the database there is nothing to acknowledge, and nobody to wait for.
        let Some(acknowledgement) = tables.acknowledgement() else {
            continue;
        };
        if let Some(place) = &mut place
            && let Err(error) = place.take(proxy.id)
        {
            tracing::warn!(%error, "who was here before this proxy can't be read; its lease will run out");
        }
        let row = Row {
            proxy: &proxy,
            acknowledged: acknowledgement,
            ports_failed: ports.failed(),
        };
        let written = async {
            if known {
                row.renew(&pool).await
            } else {
                row.put(&pool).await
            }
        };
        let written = timeout(STATEMENT_TIMEOUT, written).await;
        match written.map_err(too_slow).and_then(|result| result) {
            Ok(is_there) => {
                (failing, known) = (false, is_there);
                if !is_there {
                    renewal.reset_immediately();
                    continue;
                }
                if let Some(place) = &mut place {
                    succeed(&pool, place, proxy.id).await;
                }
                if !std::mem::replace(&mut swept, true) {
                    sweep(&pool).await;
                }
            }
            Err(error) if !failing => {
                failing = true;
                tracing::warn!(%error, "the proxy's lease could not be renewed");
            }
            Err(_) => {}
        }
    }
}

/// What is told of a proxy.
struct Row<'p> {
    proxy: &'p Proxy,
    acknowledged: Acknowledgement,
    ports_failed: BTreeMap<u16, String>,
}

impl Row<'_> {
    /// Writes it for the first time.
    async fn put(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let put = sqlx::query!(
            "WITH put AS (
                 INSERT INTO proxies (id, name, lease_expires_at, applied_epoch, drained_epoch, ports_failed)
                 VALUES ($1, $2, now() + interval '10 seconds', $3, $4, $6)
                 ON CONFLICT (id) DO UPDATE SET lease_expires_at = excluded.lease_expires_at,
                     applied_epoch = excluded.applied_epoch, drained_epoch = excluded.drained_epoch,
                     ports_failed = excluded.ports_failed
                 RETURNING id)
             SELECT pg_notify($5, id::text) FROM put",
            self.proxy.id as _,
            self.proxy.name,
            self.acknowledged.applied_epoch as i64,
            self.acknowledged.drained_epoch as i64,
            channel::PROXY,
            Json(&self.ports_failed) as _,
        );
        put.fetch_one(pool).await.map(|_| true)
    }

    /// Renews it; false when it is not there any more. It never makes one: a renewal that PostgreSQL gets to late must not bring
    /// back the row of a proxy that has said goodbye meanwhile.
    async fn renew(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let renewed = sqlx::query!(
            "WITH renewed AS (
                 UPDATE proxies SET lease_expires_at = now() + interval '10 seconds', applied_epoch = $2, drained_epoch = $3,
                     ports_failed = $5
                 WHERE id = $1 RETURNING id)
             SELECT pg_notify($4, id::text) FROM renewed",
            self.proxy.id as _,
            self.acknowledged.applied_epoch as i64,
            self.acknowledged.drained_epoch as i64,
            channel::PROXY,
            Json(&self.ports_failed) as _,
        );
        renewed.fetch_optional(pool).await.map(|row| row.is_some())
    }
}

/// Nobody waits any longer for those who were where `proxy` is now. It has its own row already: there is never none.
async fn succeed(pool: &PgPool, place: &mut Place, proxy: ProxyId) {
    if place.former().is_empty() {
        return;
    }
    if let Err(error) = release(pool, place.former()).await {
        tracing::warn!(%error, "the row of the proxy before this one could not be taken away yet");
        return;
    }
    if let Err(error) = place.cleared(proxy) {
        tracing::warn!(%error, "that nobody was here before this proxy could not be written");
    }
}

/// Nobody waits for these `proxies` any longer.
pub async fn release(pool: &PgPool, proxies: &[ProxyId]) -> Result<(), sqlx::Error> {
    let released = sqlx::query!(
        "WITH gone AS (DELETE FROM proxies WHERE id = ANY($1) RETURNING id) SELECT pg_notify($2, id::text) FROM gone",
        proxies as _,
        channel::PROXY,
    )
    .fetch_all(pool);
    timeout(Duration::from_secs(2), released)
        .await
        .map_err(too_slow)?
        .map(drop)
}

/// Clears away what proxies left behind that did not stop in order; a new start is a good time for it.
async fn sweep(pool: &PgPool) {
    let swept = async {
        sqlx::query!("DELETE FROM proxies WHERE lease_expires_at < now() - interval '1 hour'")
            .execute(pool)
            .await?;
        // Longer than any sensible idle time-out, so that no deployment is put to sleep for it.
        sqlx::query!("DELETE FROM deployment_activity WHERE last_active_at < now() - interval '30 days'")
            .execute(pool)
            .await
    };
    match timeout(STATEMENT_TIMEOUT, swept)
        .await
        .map_err(too_slow)
        .and_then(|result| result)
    {
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "rows of former proxies could not be cleared away"),
    }
}
