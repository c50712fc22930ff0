//! What probes mean: when to ask again before a task is ready, and when a running one has failed.

use std::time::Duration;

/// The first pause between two readiness probes: a tiny server is up within a millisecond.
pub const READY_PAUSE_MIN: Duration = Duration::from_micros(200);
/// The longest such pause: what a slow starter may lose at most.
pub const READY_PAUSE_MAX: Duration = Duration::from_millis(50);

/// The pause after `pause`: half as long again, so that the time lost stays in proportion to the time waited.
pub fn next_pause(pause: Duration) -> Duration {
    (pause * 3 / 2).clamp(READY_PAUSE_MIN, READY_PAUSE_MAX)
}

/// What one more liveness probe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It passed.
    Healthy,
    /// It failed, not yet often enough.
    Shaky,
    /// It failed as often in a row as is allowed.
    Failed,
}

/// Counts failures in a row.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    failures: u32,
    failures_max: u32,
}

impl Liveness {
    /// Allows fewer than `failures_max` failures in a row; at least one is needed to fail.
    pub fn new(failures_max: u32) -> Self {
        Self {
            failures: 0,
            failures_max: failures_max.max(1),
        }
    }

    /// One more probe.
    pub fn observe(&mut self, passed: bool) -> Verdict {
        if passed {
            self.failures = 0;
            return Verdict::Healthy;
        }
        self.failures = self.failures.saturating_add(1);
        if self.failures >= self.failures_max {
            Verdict::Failed
        } else {
            Verdict::Shaky
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Verdict::{Failed, Healthy, Shaky},
        *,
    };
    use proptest::prelude::*;

    #[test]
    fn a_success_forgives() {
        let mut liveness = Liveness::new(3);
        let seen: Vec<_> = [false, false, true, false, false, false]
            .map(|ok| liveness.observe(ok))
            .into();
        assert_eq!(seen, [Shaky, Shaky, Healthy, Shaky, Shaky, Failed]);
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let mut pause = READY_PAUSE_MIN;
        for _ in 0..30 {
            assert!(next_pause(pause) >= pause && next_pause(pause) <= READY_PAUSE_MAX);
            pause = next_pause(pause);
        }
        assert_eq!(pause, READY_PAUSE_MAX);
    }

    proptest! {
        #[test]
        fn it_fails_exactly_at_the_threshold(probes in proptest::collection::vec(any::<bool>(), 0..40), max in 0_u32..5) {
            let mut liveness = Liveness::new(max);
            for (index, passed) in probes.iter().enumerate() {
                let in_a_row = probes[..=index].iter().rev().take_while(|ok| !**ok).count();
                let failed = liveness.observe(*passed) == Verdict::Failed;
                prop_assert_eq!(failed, in_a_row >= max.max(1) as usize);
            }
        }
    }
}
