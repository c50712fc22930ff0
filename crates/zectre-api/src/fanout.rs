//! One LISTEN connection wakes every open stream; a lost notification only delays, because streams also look
//! by themselves.

use sqlx::{PgPool, postgres::PgListener};
use std::time::Duration;
use tokio::sync::broadcast;
use uuid::Uuid;
use zectre_common::db::channel;
use zectre_service::tasks::Shutdown;

/// Notifications kept for a slow stream; one that falls further behind just looks.
const BACKLOG: usize = 1_024;
/// Pause before the connection is opened again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);

/// Tells which task or build has news.
#[derive(Clone)]
pub(crate) struct Fanout(broadcast::Sender<Uuid>);

impl Fanout {
    /// Without listeners yet.
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    /// News from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<Uuid> {
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
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen_all([channel::LOGS, channel::BUILDS]).await?;
        while let Some(notification) = listener.try_recv().await? {
            if let Ok(id) = Uuid::try_parse(notification.payload()) {
                // Without open streams there is nobody to tell.
                let _ = self.0.send(id);
            }
        }
        Ok(())
    }
}
