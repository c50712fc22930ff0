//! The timer of whoever waits for an answer. Hardly anybody waits until it rings, and to set one for each request and take it back costs
//! more than to leave it: it rings for an earlier request, at most once in the time it was set for, and is set anew if somebody waits.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};
use tokio::time::{Sleep, sleep_until};

/// A timer that outlives those who wait.
#[derive(Debug, Default)]
pub(super) struct Alarm(Option<Pin<Box<Sleep>>>);

impl Alarm {
    /// Ready `at` that time, or as soon after it as timers are.
    pub(super) fn poll(&mut self, at: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self.0.get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if sleep.deadline().into_std() > at {
            sleep.as_mut().reset(at.into());
        }
        loop {
            ready!(sleep.as_mut().poll(cx));
            if sleep.deadline().into_std() == at {
                return Poll::Ready(());
            }
            // It was an earlier request's.
            sleep.as_mut().reset(at.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::poll_fn, time::Duration};

    const WAIT: Duration = Duration::from_millis(50);

    async fn ring(alarm: &mut Alarm, at: Instant) {
        poll_fn(|cx| alarm.poll(at, cx)).await;
    }

    /// Sets it, and does not wait: whether it had rung already.
    async fn set(alarm: &mut Alarm, at: Instant) -> bool {
        poll_fn(|cx| Poll::Ready(alarm.poll(at, cx).is_ready())).await
    }

    #[tokio::test]
    async fn it_rings_in_time_for_whoever_waits() {
        let (mut alarm, began) = (Alarm::default(), Instant::now());
        set(&mut alarm, began + WAIT).await;
        // A later one hears nothing of the earlier one's.
        ring(&mut alarm, began + 3 * WAIT).await;
        assert!(began.elapsed() >= 3 * WAIT);
        // One that has rung, and one that is set for later, wait for nobody.
        let again = Instant::now();
        assert!(
            !set(&mut alarm, again + 1_000 * WAIT).await,
            "it rang for another time"
        );
        ring(&mut alarm, again + WAIT).await;
        assert!((WAIT..500 * WAIT).contains(&again.elapsed()));
    }
}
