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

/// The pause after a probe while somebody may wait for a tiny server, `waited` after its start: an eighth of that is
/// what may be lost.
pub fn early_pause(waited: Duration) -> Duration {
    (waited / 8).clamp(READY_PAUSE_MIN, READY_PAUSE_MAX)
}

/// What one more liveness probe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is well.
    Healthy,
    /// It failed, not yet often enough; or it has not passed often enough since.
    Shaky,
    /// It failed as often in a row as is allowed.
    Failed,
}

/// Counts failures and successes in a row.
#[derive(Debug, Clone, Copy)]
pub struct Liveness {
    is_shaky: bool,
    /// What the last probe was, and how many were in a row.
    last: bool,
    in_a_row: u32,
    failures_max: u32,
    successes_min: u32,
}

impl Liveness {
    /// Of a task that is well. Allows fewer than `failures_max` failures in a row, and after one wants
    /// `successes_min` successes in a row; both are at least one.
    pub fn new(failures_max: u32, successes_min: u32) -> Self {
        Self {
            is_shaky: false,
            last: true,
            in_a_row: 0,
            failures_max: failures_max.max(1),
            successes_min: successes_min.max(1),
        }
    }

    /// Of a task that has yet to become ready: it is once this says that it is healthy.
    pub fn unready(successes_min: u32) -> Self {
        Self {
            is_shaky: true,
            ..Self::new(u32::MAX, successes_min)
        }
    }

    /// One more probe.
    pub fn observe(&mut self, passed: bool) -> Verdict {
        let goes_on = passed == self.last;
        self.in_a_row = if goes_on {
            self.in_a_row.saturating_add(1)
        } else {
            1
        };
        self.last = passed;
        if passed {
            self.is_shaky &= self.in_a_row < self.successes_min;
        } else {
            self.is_shaky = true;
            if self.in_a_row >= self.failures_max {
                return Verdict::Failed;
            }
        }
        if self.is_shaky {
            Verdict::Shaky
        } else {
            Verdict::Healthy
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
        let mut liveness = Liveness::new(3, 1);
        let seen: Vec<_> = [false, false, true, false, false, false]
            .map(|ok| liveness.observe(ok))
            .into();
        assert_eq!(seen, [Shaky, Shaky, Healthy, Shaky, Shaky, Failed]);
    }

    #[test]
    fn it_must_pass_as_often_as_it_is_asked_to() {
        let mut liveness = Liveness::new(3, 2);
        let seen: Vec<_> = [true, false, true, true, false, true, false]
            .map(|ok| liveness.observe(ok))
            .into();
        assert_eq!(seen, [Healthy, Shaky, Shaky, Healthy, Shaky, Shaky, Shaky]);
        let mut ready = Liveness::unready(2);
        let seen: Vec<_> = [false, false, false, false, true, false, true, true]
            .map(|ok| ready.observe(ok))
            .into();
        assert_eq!(seen, [Shaky, Shaky, Shaky, Shaky, Shaky, Shaky, Shaky, Healthy]);
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let mut pause = READY_PAUSE_MIN;
        for _ in 0..30 {
            assert!(next_pause(pause) >= pause && next_pause(pause) <= READY_PAUSE_MAX);
            pause = next_pause(pause);
        }
        assert_eq!(pause, READY_PAUSE_MAX);
        assert_eq!(early_pause(Duration::ZERO), READY_PAUSE_MIN);
        assert_eq!(early_pause(Duration::from_millis(8)), Duration::from_millis(1));
        assert_eq!(early_pause(Duration::from_secs(8)), READY_PAUSE_MAX);
    }

    proptest! {
        #[test]
        fn it_fails_exactly_at_the_threshold(probes in proptest::collection::vec(any::<bool>(), 0..40), max in 0_u32..5) {
            let mut liveness = Liveness::new(max, 1);
            for (index, passed) in probes.iter().enumerate() {
                let in_a_row = probes[..=index].iter().rev().take_while(|ok| !**ok).count();
                let failed = liveness.observe(*passed) == Verdict::Failed;
                prop_assert_eq!(failed, in_a_row >= max.max(1) as usize);
            }
        }
    }
}
