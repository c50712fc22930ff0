//! Whether a client that is waited for moves enough. Only the time that is spent on waiting for it counts: a task that
//! is slow to read is no fault of the client's.

use std::time::Duration;

/// The least movement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    window: Duration,
    bytes_min: u64,
    waited: Duration,
    bytes: u64,
}

impl Pace {
    /// At least `bytes_min` within each `window` of waiting.
    pub fn new(window: Duration, bytes_min: u64) -> Self {
        Self {
            window,
            bytes_min,
            waited: Duration::ZERO,
            bytes: 0,
        }
    }

    /// So much came.
    pub fn moved(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// It was waited for so long; whether that was too long for what came.
    pub fn waited(&mut self, time: Duration) -> bool {
        self.waited += time;
        if self.waited < self.window {
            return false;
        }
        let slow = self.bytes < self.bytes_min.max(1);
        (self.waited, self.bytes) = (Duration::ZERO, 0);
        slow
    }

    /// For how long to wait before looking again.
    pub fn left(&self) -> Duration {
        self.window.saturating_sub(self.waited)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WINDOW: Duration = Duration::from_secs(10);

    #[test]
    fn a_trickle_is_too_slow_and_a_pause_is_not() {
        let mut pace = Pace::new(WINDOW, 100);
        pace.moved(100);
        assert!(!pace.waited(WINDOW));
        pace.moved(99);
        assert!(!pace.waited(Duration::from_secs(9)));
        assert_eq!(pace.left(), Duration::from_secs(1));
        assert!(pace.waited(Duration::from_secs(1)));
        // Nothing at all is too slow whatever the least is.
        assert!(Pace::new(WINDOW, 0).waited(WINDOW));
    }

    proptest! {
        /// A client that brings the least in every half window of waiting is never cut; one that brings less than a
        /// whole least over two windows always is.
        #[test]
        fn steady_clients_live_and_trickles_end(steps in 2_u32..50) {
            let step = WINDOW / steps;
            let (mut steady, mut trickle) = (Pace::new(WINDOW, 1_000), Pace::new(WINDOW, 1_000));
            let (mut cut, each) = (false, u64::from(2_000_u32.div_ceil(steps)));
            for turn in 0..=2 * steps {
                steady.moved(each);
                prop_assert!(!steady.waited(step), "turn {turn}");
                trickle.moved(u64::from(900 / (2 * steps + 1)));
                cut |= trickle.waited(step);
            }
            prop_assert!(cut);
        }
    }
}
