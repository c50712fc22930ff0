//! How long a request may wait for a place: so long for a wake, and so long for a replacement, each from when it began to
//! wait for that. What a task had in its hands meanwhile is not waiting. Pure.

use std::time::{Duration, Instant};

/// The clocks of one request.
#[derive(Debug, Default)]
pub(super) struct Patience {
    first: Option<Instant>,
    wake: Option<Instant>,
    replacement: Option<Instant>,
}

impl Patience {
    /// When it first waited for anything.
    pub(super) fn first(&self) -> Option<Instant> {
        self.first
    }

    /// It waits at `now`, for a wake or for a replacement, no longer than `bound`; until when.
    pub(super) fn until(&mut self, now: Instant, wake: bool, bound: Duration) -> Instant {
        self.first.get_or_insert(now);
        let began = if wake {
            self.replacement = None;
            &mut self.wake
        } else {
            &mut self.replacement
        };
        *began.get_or_insert(now) + bound
    }

    /// A task had it: whatever it waits for next, it waits for anew. A place where nobody could be reached is none.
    pub(super) fn reached(&mut self) {
        (self.wake, self.replacement) = (None, None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAKE: Duration = Duration::from_secs(30);
    const REPLACE: Duration = Duration::from_secs(5);

    #[test]
    fn a_wake_takes_nothing_from_what_is_waited_for_after_it() {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(patience.until(at(0), true, WAKE), at(30));
        assert_eq!(patience.until(at(4), true, WAKE), at(30));
        assert_eq!(patience.until(at(6), false, REPLACE), at(11));
        assert_eq!(
            patience.until(at(7), false, REPLACE),
            at(11),
            "nobody was reached meanwhile"
        );
        assert_eq!(patience.first(), Some(start));
    }

    #[test]
    fn what_a_task_had_is_not_waiting() {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let at = |secs| start + Duration::from_secs(secs);
        assert_eq!(patience.until(at(0), false, REPLACE), at(5));
        patience.reached();
        assert_eq!(patience.until(at(11), false, REPLACE), at(16));
        assert_eq!(patience.first(), Some(start));
    }

    #[test]
    fn a_deployment_that_sleeps_and_wakes_is_not_waited_for_without_end() {
        let (start, mut patience) = (Instant::now(), Patience::default());
        let at = |secs| start + Duration::from_secs(secs);
        for secs in 0..60 {
            let until = patience.until(
                at(secs),
                secs % 2 == 0,
                if secs % 2 == 0 { WAKE } else { REPLACE },
            );
            assert!(until <= at(30).max(at(secs) + REPLACE), "{secs}");
        }
    }
}
