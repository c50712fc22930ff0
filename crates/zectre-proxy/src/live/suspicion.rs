//! When a task that is reached but fails its requests is passed over: after some failures in a row, for longer each
//! time, and never more than half of a deployment's tasks: what all of them fail is no fault of one. Pure.

/// Failures in a row that make a task suspect.
const RUN: u32 = 5;
/// How long it is passed over the first time; doubled with each further time.
const PAUSE_MS: u64 = 1_000;
/// The longest.
const PAUSE_MS_MAX: u64 = 30_000;
/// Whose last time is so long ago starts anew.
const FORGET_MS: u64 = 60_000;

/// What is held against a task.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Suspicion {
    /// Failures in a row.
    run: u32,
    /// Times it was passed over.
    times: u32,
    /// Until when it is.
    pub(super) until_ms: u64,
}

impl Suspicion {
    /// It failed a request; `others` of `all` tasks, this one included in `all` only, are passed over now.
    pub(super) fn fail(&mut self, now_ms: u64, others: usize, all: usize) {
        self.run = self.run.saturating_add(1);
        let half_stays = (others + 1) * 2 <= all;
        if self.run < RUN || self.until_ms > now_ms || !half_stays {
            return;
        }
        if now_ms.saturating_sub(self.until_ms) > FORGET_MS {
            self.times = 0;
        }
        self.until_ms = now_ms + (PAUSE_MS << self.times.min(8)).min(PAUSE_MS_MAX);
        self.times += 1;
        self.run = 0;
    }

    /// It served one.
    pub(super) fn serve(&mut self) {
        self.run = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn fail_until_out(suspicion: &mut Suspicion, now_ms: u64) -> u64 {
        (0..RUN).for_each(|_| suspicion.fail(now_ms, 0, 2));
        suspicion.until_ms - now_ms
    }

    #[test]
    fn it_takes_a_run_of_failures_and_each_time_lasts_longer() {
        let mut suspicion = Suspicion::default();
        for _ in 0..10 {
            (1..RUN).for_each(|_| suspicion.fail(0, 0, 2));
            suspicion.serve();
        }
        assert_eq!(suspicion.until_ms, 0);
        let mut now_ms = 0;
        for pause_ms in [1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000] {
            assert_eq!(fail_until_out(&mut suspicion, now_ms), pause_ms);
            now_ms += pause_ms;
        }
        assert_eq!(fail_until_out(&mut suspicion, now_ms + FORGET_MS + 1), PAUSE_MS);
    }

    proptest! {
        #[test]
        fn half_of_the_tasks_always_stay(
            all in 1_usize..10, events in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0_u64..2_000), 0..400)
        ) {
            let mut tasks = vec![Suspicion::default(); all];
            let mut now_ms = 0;
            for (which, failed, passed_ms) in events {
                now_ms += passed_ms;
                let which = which.index(all);
                let out = |tasks: &[Suspicion]| tasks.iter().filter(|task| task.until_ms > now_ms).count();
                let others = out(&tasks) - usize::from(tasks[which].until_ms > now_ms);
                if failed {
                    tasks[which].fail(now_ms, others, all);
                } else {
                    tasks[which].serve();
                }
                prop_assert!(out(&tasks) * 2 <= all);
            }
        }
    }
}
