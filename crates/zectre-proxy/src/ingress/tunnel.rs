//! An upgraded connection (a WebSocket, say): bytes both ways until either side ends or the proxy is cut off. It
//! counts as a request under way, and so as activity, all its life.

use super::{Ingress, body::Counts};
use crate::access::Entry;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::{io::copy_bidirectional, time::timeout};
use tokio_util::io::InspectReader;

/// From the 101 to both connections being free; it is our own turn, so it takes no time.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

impl Ingress {
    /// Joins the two once both have been upgraded.
    pub(super) fn tunnel(&self, client: OnUpgrade, task: OnUpgrade, counts: Counts, entry: Entry) {
        let cut = self.cut.clone();
        let work = async move {
            let (_counts, entry) = (counts, entry);
            let both = timeout(UPGRADE_TIMEOUT, async { tokio::try_join!(client, task) });
            let (client, task) = match both.await {
                Ok(Ok(both)) => both,
                Ok(Err(error)) => return tracing::debug!(%error, "an upgrade did not come about"),
                Err(_) => return tracing::debug!("an upgrade did not come about in time"),
            };
            // How it ends is between the two; both sides are closed either way.
            let mut client =
                InspectReader::new(TokioIo::new(client), |bytes| entry.received(bytes.len() as u64));
            let mut task = InspectReader::new(TokioIo::new(task), |bytes| entry.sent(bytes.len() as u64));
            let _ = copy_bidirectional(&mut client, &mut task).await;
        };
        self.connections
            .spawn(async move { cut.run_until_cancelled(work).await });
    }
}
