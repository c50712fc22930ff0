//! One LISTEN connection wakes every open stream; a lost notification only delays, because streams also look
//! by themselves.

use sqlx::PgPool;
use std::time::Duration;
use tokio::sync::broadcast;
use uuid::Uuid;
use zectre_common::db::{self, channel};
use zectre_service::tasks::Shutdown;

/// Notifications kept for a slow stream; one that falls further behind just looks.
const BACKLOG: usize = 1_024;
/// Pause before the connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// What has news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hint {
    /// The task or build with this id.
    About(Uuid),
    /// The activity feed.
    Events,
}

/// Tells what has news.
#[derive(Clone)]
pub(crate) struct Fanout(broadcast::Sender<Hint>);

impl Fanout {
    /// Without listeners yet.
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// News from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Hint> {
        self.0.subscribe()
    }

    /// Listens until the shutdown.
    pub(crate) async fn run(self, pool: PgPool, shutdown: Shutdown) {
        while !shutdown.is_requested() {
            match shutdown.or_requested(self.listen(&pool)).await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::warn!(%error, "not listening to the database; streams look by themselves meanwhile");
                    shutdown.or_requested(tokio::time::sleep(RECONNECT_PAUSE)).await;
                }
            }
        }
    }

    async fn listen(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let mut listener = db::listen(pool, &[channel::LOGS, channel::BUILDS, channel::EVENTS]).await?;
        while let Some(notification) = listener.try_recv().await? {
            let hint = match notification.channel() {
                channel::EVENTS => Some(Hint::Events),
                _ => Uuid::try_parse(notification.payload()).ok().map(Hint::About),
            };
            if let Some(hint) = hint {
                // Without open streams there is nobody to tell.
                let _ = self.0.send(hint);
            }
        }
        Ok(())
    }
}
