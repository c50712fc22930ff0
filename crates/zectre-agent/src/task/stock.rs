//! What is made before a start needs it, and made up for once the start is over.

use std::{io, time::Duration};
use tokio::{sync::Notify, time::sleep};
use zectre_service::tasks::Shutdown;

/// Between a start and what makes up for it. To make a supervisor takes a processor for ten milliseconds, in which the first request, held until
/// the start was over, is on its way to the program; 20 ms are several times what that takes.
const REFILL_DELAY: Duration = Duration::from_millis(20);
/// The pause before the next try after one could not be made; doubled each time.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// That some of it was taken.
#[derive(Debug, Default)]
pub(super) struct Wanted(Notify);

impl Wanted {
    /// A start is over.
    pub(super) fn tell(&self) {
        self.0.notify_one();
    }

    /// Makes one after the other while it is not `full`, until `stop`. A try is not torn apart by that: it is to be bounded.
    pub(super) async fn keep<M>(&self, full: impl Fn() -> bool, make: impl Fn() -> M, stop: &Shutdown)
    where
        M: Future<Output = io::Result<()>>,
    {
        let mut pause = PAUSE_MIN;
        while !stop.is_requested() {
            if full() {
                let wanted = async {
                    self.0.notified().await;
                    sleep(REFILL_DELAY).await;
                };
                stop.or_requested(wanted).await;
                continue;
            }
            match make().await {
                Ok(()) => pause = PAUSE_MIN,
                Err(error) => {
                    tracing::warn!(%error, "what the next start is to find ready could not be made");
                    stop.or_requested(sleep(pause)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    }
}
