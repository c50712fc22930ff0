//! When a failed delivery is tried again, when it is given up, and when its webhook is. Pure.

use std::time::Duration;

/// Attempts of a delivery: over about 13 hours.
pub(crate) const ATTEMPTS_MAX: u32 = 9;
/// After the first attempt.
const PAUSE_FIRST: Duration = Duration::from_secs(5);
/// How much longer each pause is than the one before.
const PAUSE_FACTOR: u32 = 4;
/// The longest pause, a receiver's own wish included.
const PAUSE_MAX: Duration = Duration::from_secs(6 * 3_600);
/// A webhook is given up when so many attempts failed, one after the other,
const FAILURES_MAX: u32 = 20;
/// and for so long: a burst of events during a short outage is no reason.
const FAILING_MAX: Duration = Duration::from_secs(24 * 3_600);

/// How long after its `attempts`th attempt a delivery is tried again: four times longer each time, give or take a quarter
/// (`jitter` is from 0 to 1), so that what failed together doesn't come back together. Not before the receiver asked
/// for it. `None`: it is given up.
pub(crate) fn retry_after(attempts: u32, jitter: f64, asked: Option<Duration>) -> Option<Duration> {
    if attempts >= ATTEMPTS_MAX {
        return None;
    }
    let exact = PAUSE_FIRST
        .saturating_mul(PAUSE_FACTOR.saturating_pow(attempts.saturating_sub(1)))
        .min(PAUSE_MAX);
    let pause = exact.mul_f64(0.75 + jitter.clamp(0.0, 1.0) / 2.0);
    Some(pause.max(asked.unwrap_or_default().min(PAUSE_MAX)))
}

/// Whether a webhook of which these attempts failed, for so long, is not called any more.
pub(crate) fn gives_up(failures: u32, failing_for: Duration) -> bool {
    failures >= FAILURES_MAX && failing_for >= FAILING_MAX
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pauses_grow_and_end() {
        let secs = |attempts| retry_after(attempts, 0.5, None).map(|pause| pause.as_secs());
        assert_eq!(
            [1, 2, 3, 4, 5].map(secs),
            [Some(5), Some(20), Some(80), Some(320), Some(1_280)]
        );
        assert_eq!([7, 8, 9, 10].map(secs), [Some(20_480), Some(21_600), None, None]);
        let asked = |secs| retry_after(1, 0.5, Some(Duration::from_secs(secs)));
        assert_eq!(asked(60), Some(Duration::from_secs(60)));
        assert_eq!(asked(u64::MAX), Some(PAUSE_MAX), "nobody asks for ever");
        assert_eq!(asked(1), Some(PAUSE_FIRST));
    }

    #[test]
    fn only_what_fails_long_and_often_is_given_up() {
        let hours = |n: u64| Duration::from_secs(n * 3_600);
        assert!(!gives_up(10_000, hours(1)) && !gives_up(3, hours(100)) && !gives_up(0, hours(0)));
        assert!(gives_up(20, hours(24)));
    }

    proptest! {
        #[test]
        fn jitter_moves_a_pause_by_a_quarter_at_most(attempts in 0..ATTEMPTS_MAX, jitter in 0.0..=1.0f64) {
            let pause = |jitter| retry_after(attempts, jitter, None).expect("not the last one");
            let exact = pause(0.5).as_secs_f64();
            let moved = pause(jitter).as_secs_f64() / exact;
            prop_assert!((0.7499..=1.2501).contains(&moved));
        }
    }
}
