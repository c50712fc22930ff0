//! How many lines of a task are taken: a bucket that fills at a steady rate.

use std::time::Duration;

/// How many seconds' worth of lines may come at once.
const BURST_SECS: f64 = 5.0;

/// Counts what may pass. It is told the time instead of asking for it.
#[derive(Debug, Clone)]
pub(super) struct Rate {
    /// Lines a second; 0 lets everything pass.
    lines_per_sec: u32,
    left: f64,
}

impl Rate {
    /// A full bucket; a rate of 0 sets no bound.
    pub(super) fn new(lines_per_sec: u32) -> Self {
        Self {
            lines_per_sec,
            left: f64::from(lines_per_sec) * BURST_SECS,
        }
    }

    /// Lines a second.
    pub(super) const fn lines_per_sec(&self) -> u32 {
        self.lines_per_sec
    }

    /// Time has passed.
    pub(super) fn refill(&mut self, elapsed: Duration) {
        let rate = f64::from(self.lines_per_sec);
        self.left = (self.left + elapsed.as_secs_f64() * rate).min(rate * BURST_SECS);
    }

    /// Whether one more line passes.
    pub(super) fn take(&mut self) -> bool {
        if self.lines_per_sec == 0 {
            return true;
        }
        let passes = self.left >= 1.0;
        if passes {
            self.left -= 1.0;
        }
        passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn zero_is_no_bound() {
        let mut rate = Rate::new(0);
        assert!((0..1_000_000).all(|_| rate.take()));
    }

    proptest! {
        /// Over any stretch, what passes is at most the burst and the rate times the time; and who stays below
        /// the rate loses nothing.
        #[test]
        fn it_holds_to_its_rate(
            lines_per_sec in 1_u32..500,
            steps in proptest::collection::vec((0_u64..2_000, 0_u32..3_000), 1..40),
        ) {
            let (mut rate, mut passed, mut elapsed) = (Rate::new(lines_per_sec), 0_f64, Duration::ZERO);
            for (pause_ms, lines) in steps {
                let pause = Duration::from_millis(pause_ms);
                elapsed += pause;
                rate.refill(pause);
                passed += (0..lines).filter(|_| rate.take()).count() as f64;
                let bound = f64::from(lines_per_sec) * (BURST_SECS + elapsed.as_secs_f64());
                prop_assert!(passed <= bound + 1.0, "{passed} > {bound}");
            }
            rate.refill(Duration::from_secs(1));
            prop_assert!((0..lines_per_sec).all(|_| rate.take()));
        }
    }
}
