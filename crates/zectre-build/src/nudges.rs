//! Hints from the database: something happened to a build, or to a log. They only make things fast.

use sqlx::PgPool;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;
use zectre_common::db::{self, channel};
use zectre_service::tasks::Shutdown;

/// Pause before listening again after the connection was lost.
const RECONNECT: Duration = Duration::from_secs(1);

/// Counts hints; whoever waits sees the count change.
#[derive(Debug, Clone, Default)]
pub struct Nudges {
    builds: Arc<watch::Sender<u64>>,
    logs: Arc<watch::Sender<u64>>,
}

impl Nudges {
    /// Changes when a build was queued, cancelled or ended.
    pub fn builds(&self) -> watch::Receiver<u64> {
        self.builds.subscribe()
    }

    /// Changes when lines were stored.
    pub fn logs(&self) -> watch::Receiver<u64> {
        self.logs.subscribe()
    }

    /// Look at the builds now.
    pub fn nudge_builds(&self) {
        self.builds.send_modify(|count| *count += 1);
    }

    /// Listens until shutdown, over all interruptions.
    pub async fn run(self, pool: PgPool, stop: Shutdown) {
        while !stop.is_requested() {
            let Some(Err(error)) = stop.or_requested(self.listen(&pool)).await else {
                return;
            };
            tracing::debug!(%error, "listening was interrupted");
            stop.or_requested(tokio::time::sleep(RECONNECT)).await;
        }
    }

    async fn listen(&self, pool: &PgPool) -> Result<std::convert::Infallible, sqlx::Error> {
        let mut listener = db::listen(pool, &[channel::BUILDS, channel::LOGS]).await?;
        loop {
            // What was missed while nobody listened.
            self.nudge_builds();
            self.logs.send_modify(|count| *count += 1);
            while let Some(hint) = listener.try_recv().await? {
                match hint.channel() {
                    channel::LOGS => self.logs.send_modify(|count| *count += 1),
                    _ => self.nudge_builds(),
                }
            }
        }
    }
}
