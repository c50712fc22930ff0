//! Which steps a question is answered in.

use super::STEPS_SECS;
use std::time::Duration;
use zectre_common::{spec::FieldError, time::Time};

/// The most points of an answer: six hours of the finest step, three months of the coarsest, and some.
const POINTS_MAX: i64 = 2_500;
/// What is shown when nobody says since when.
const DEFAULT_SPAN_MS: i64 = 3_600_000;

/// What was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Asked {
    pub(crate) from: Option<Time>,
    pub(crate) to: Option<Time>,
    /// The finest step that is wanted, in seconds.
    pub(crate) step_secs: Option<u32>,
}

/// From where to where, in steps of which length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) from_ms: i64,
    pub(crate) to_ms: i64,
    pub(crate) step_secs: u32,
}

impl Span {
    /// The finest step that is kept since `from`, is not finer than asked for, and gives no more points than an answer has.
    pub(crate) fn choose(asked: Asked, now: Time, keeps: [Duration; 3]) -> Result<Self, FieldError> {
        let to_ms = asked.to.unwrap_or(now).unix_ms();
        let from_ms = asked.from.map_or(to_ms - DEFAULT_SPAN_MS, Time::unix_ms);
        if from_ms >= to_ms {
            return Err(FieldError::new("from", "must be before `to` (default: now)"));
        }
        if asked.step_secs == Some(0) {
            return Err(FieldError::new(
                "step",
                "seconds, from 1; the next kept step is taken: 10, 60 or 3600",
            ));
        }
        let wanted = asked.step_secs.unwrap_or(1).min(STEPS_SECS[2]);
        let steps = STEPS_SECS.into_iter().zip(keeps);
        let fits = steps.filter(|(step, _)| *step >= wanted).map(|(step, keep)| {
            let span = Self::snapped(from_ms, to_ms, step);
            let is_kept = step == STEPS_SECS[2] || now.unix_ms() - from_ms <= keep.as_millis() as i64;
            (span, is_kept && span.count() <= POINTS_MAX)
        });
        let chosen = fits.filter(|(_, fits)| *fits).map(|(span, _)| span).next();
        chosen.ok_or_else(|| {
            let days = POINTS_MAX / 24;
            FieldError::new("from", format!("at most {days} days before `to`"))
        })
    }

    fn snapped(from_ms: i64, to_ms: i64, step_secs: u32) -> Self {
        let step_ms = i64::from(step_secs) * 1_000;
        Self {
            from_ms: from_ms.div_euclid(step_ms) * step_ms,
            to_ms: (to_ms + step_ms - 1).div_euclid(step_ms) * step_ms,
            step_secs,
        }
    }

    pub(crate) fn step_ms(self) -> i64 {
        i64::from(self.step_secs) * 1_000
    }

    /// How many steps.
    pub(crate) fn count(self) -> i64 {
        (self.to_ms - self.from_ms) / self.step_ms()
    }

    /// The step that a time is in.
    pub(crate) fn place(self, at: Time) -> Option<usize> {
        let place = (at.unix_ms() - self.from_ms).div_euclid(self.step_ms());
        usize::try_from(place)
            .ok()
            .filter(|place| (*place as i64) < self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: Duration = Duration::from_secs(3_600);
    const KEEPS: [Duration; 3] = [
        Duration::from_secs(6 * 3_600),
        Duration::from_secs(7 * 86_400),
        Duration::from_secs(90 * 86_400),
    ];

    fn now() -> Time {
        Time::from_unix_ms(1_800_000_007_123)
    }

    fn ago(time: Duration) -> Time {
        Time::from_unix_ms(now().unix_ms() - time.as_millis() as i64)
    }

    #[test]
    fn the_finest_step_that_is_kept_and_wanted() {
        let step = |from, step_secs| {
            let asked = Asked {
                from,
                to: None,
                step_secs,
            };
            Span::choose(asked, now(), KEEPS)
                .map(|span| span.step_secs)
                .map_err(|error| error.field)
        };
        assert_eq!(step(None, None), Ok(10));
        assert_eq!(step(None, Some(11)), Ok(60));
        assert_eq!(step(None, Some(60)), Ok(60));
        assert_eq!(step(None, Some(100_000)), Ok(3_600));
        assert_eq!(step(Some(ago(HOUR * 7)), None), Ok(60));
        assert_eq!(
            step(Some(ago(HOUR * 48)), None),
            Ok(3_600),
            "too many points of a minute"
        );
        assert_eq!(step(Some(ago(HOUR * 24 * 100)), None), Ok(3_600));
        assert_eq!(step(Some(ago(HOUR * 24 * 200)), None), Err("from".to_owned()));
        assert_eq!(step(Some(now()), None), Err("from".to_owned()));
        assert_eq!(step(None, Some(0)), Err("step".to_owned()));
    }

    proptest! {
        #[test]
        fn a_span_holds_what_was_asked_in_whole_steps_and_bounds(from in any::<i64>(), to in any::<i64>(), step in any::<Option<u32>>()) {
            let asked = Asked { from: Some(Time::from_unix_ms(from)), to: Some(Time::from_unix_ms(to)), step_secs: step };
            if let Ok(span) = Span::choose(asked, now(), KEEPS) {
                prop_assert!(span.from_ms <= from && to <= span.to_ms && span.from_ms % span.step_ms() == 0);
                prop_assert!((1..=POINTS_MAX).contains(&span.count()));
            }
        }
    }
}
