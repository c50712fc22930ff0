//! Runs out when a stage of a connection has lasted too long. What begins a stage is not known to wake it, so it looks by
//! itself: as often as the shortest bound is long, so that none is over before it looks; more often where it could find
//! that the connection may rest.

use super::{
    connection::Call,
    vigil::{REST_AFTER, Stage, Times, Vigil},
};
use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Instant,
};
use tokio::time::Sleep;

/// Looks at a connection.
pub(super) struct Hourglass {
    vigil: Arc<Vigil>,
    times: Times,
    timer: Pin<Box<Sleep>>,
}

impl Hourglass {
    /// Whether the client still reads what the library has taken of an answer: how fast, is measured where it is written (`guard.rs`).
    fn is_paced(&self, stage: Stage) -> bool {
        matches!(stage, Stage::Idle | Stage::Stalled) && self.vigil.is_unsent() && !self.times.write.is_zero()
    }

    /// By `vigil`, of a client that may take `times`.
    pub(super) fn new(vigil: Arc<Vigil>, times: Times) -> Self {
        let timer = Box::pin(tokio::time::sleep(times.shortest().min(REST_AFTER)));
        Self { vigil, times, timer }
    }

    /// Ready when a stage is over, or the connection may rest; whether it is, is found out anew each time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Call> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let (stage, since) = self.vigil.stage();
            let now = Instant::now();
            let mut next = now + self.times.shortest();
            if stage == Stage::Idle && self.vigil.is_restful() {
                next = next.min(now + REST_AFTER);
            }
            let over = self.times.of(stage).map_or(next, |time| since + time);
            if over <= now && !self.is_paced(stage) {
                self.timer.as_mut().reset(next.into());
                return Poll::Ready(Call::Over(stage));
            }
            let over = if over <= now { next } else { over };
            self.timer.as_mut().reset(next.min(over).into());
            if self.vigil.may_rest(now) {
                return Poll::Ready(Call::Rest);
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    /// No longer than a test has to wait for.
    const BOUND: Duration = Duration::from_millis(40);

    fn hourglass(vigil: &Arc<Vigil>) -> Hourglass {
        let times = Times {
            header: BOUND,
            idle: BOUND,
            write: BOUND,
        };
        Hourglass::new(Arc::clone(vigil), times)
    }

    async fn next(hourglass: &mut Hourglass) -> Call {
        poll_fn(|cx| hourglass.poll(cx)).await
    }

    /// The library drops an answer's body when it has taken all of it, of which the client may have much to read.
    #[tokio::test]
    async fn who_reads_what_was_written_is_not_idle() {
        let vigil = Vigil::new(prometheus_client::metrics::counter::Counter::default(), None);
        drop(vigil.begin());
        vigil.set_unsent(true);
        let mut hourglass = hourglass(&vigil);
        let early = tokio::time::timeout(BOUND * 5, next(&mut hourglass)).await;
        assert!(early.is_err(), "its pace is measured elsewhere");
        let read_at = Instant::now();
        vigil.set_unsent(false);
        assert!(matches!(next(&mut hourglass).await, Call::Over(Stage::Idle)));
        assert!(
            read_at.elapsed() + Duration::from_millis(1) >= BOUND,
            "counted from when all was read"
        );
    }

    #[tokio::test]
    async fn who_is_waited_for_with_nothing_written_is_over() {
        let vigil = Vigil::new(prometheus_client::metrics::counter::Counter::default(), None);
        drop(vigil.begin());
        assert!(matches!(
            next(&mut hourglass(&vigil)).await,
            Call::Over(Stage::Idle)
        ));
    }
}
