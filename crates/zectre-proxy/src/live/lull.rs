//! How long the tasks of a deployment let a kept connection rest. Where it closes one without having said so, a request that is on its way at
//! that moment is lost, and one that may not be repeated is an error to its visitor. So such a request goes only on a
//! connection that rests for far shorter than any that one of these tasks has closed so, of late.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// A request that can't be repeated goes only on a connection that was in use so recently, whatever its task does: programs
/// that close what rests do so after seconds.
const TRUSTED_MAX: Duration = Duration::from_secs(1);
/// What is closed within this time is closed for what came before and not for its rest: no rest is short enough then,
const AT_ONCE: Duration = Duration::from_millis(10);
/// unless it came through more rests than these: a program that closes now and then what it answers often loses little, and
/// would lose much by a connection for each request.
const RESTS_MAX: u32 = 8;
/// Of the shortest rest that ended so, a connection is trusted for one part in so many: timers are late, and so are packets.
const PART: u32 = 4;
/// One that breaks with a request after so short a rest may do so for what was asked. A task of which so many did hangs up on kept
/// connections, or on requests that need not be on one: nobody else's is put to that risk.
const EARLY_MAX: u32 = 3;
/// What was seen counts for so long, and for at most twice as long.
const MEMORY_MS: u64 = 60_000;

/// What is known; pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    /// The shortest rest that ended in a close, of this span of [`MEMORY_MS`] and of the one before: what is seen again and again must
    /// not keep what was seen once.
    shortest: [Duration; 2],
    /// Those that broke with a request after a rest that was too short to be the cause, of the same two spans.
    early: [u32; 2],
    span: u64,
}

impl Known {
    const NOTHING: Self = Self {
        shortest: [TRUSTED_MAX; 2],
        early: [0; 2],
        span: 0,
    };

    /// The same, at that time.
    fn at(self, now_ms: u64) -> Self {
        let (span, [shortest, _], [early, _]) = (now_ms / MEMORY_MS, self.shortest, self.early);
        match span.saturating_sub(self.span) {
            0 => self,
            1 => Self {
                shortest: [TRUSTED_MAX, shortest],
                early: [0, early],
                span,
            },
            _ => Self {
                span,
                ..Self::NOTHING
            },
        }
    }

    /// A connection was closed without a word when it had rested for so long, in so many-th a rest.
    fn closed(&mut self, rested: Duration, rests: u32, now_ms: u64) {
        if rested >= TRUSTED_MAX || (rested <= AT_ONCE && rests > RESTS_MAX) {
            return;
        }
        *self = self.at(now_ms);
        self.shortest[0] = self.shortest[0].min(rested);
    }

    /// One broke with a request before its rest can have been the cause.
    fn broke_early(&mut self, now_ms: u64) {
        *self = self.at(now_ms);
        self.early[0] = self.early[0].saturating_add(1);
    }

    fn shortest(self, now_ms: u64) -> Option<Duration> {
        let [this, before] = self.at(now_ms).shortest;
        Some(this.min(before)).filter(|shortest| *shortest < TRUSTED_MAX)
    }

    fn trusted(self, now_ms: u64) -> Duration {
        let [this, before] = self.at(now_ms).early;
        if this.saturating_add(before) >= EARLY_MAX {
            return Duration::ZERO;
        }
        match self.shortest(now_ms) {
            None => TRUSTED_MAX,
            Some(shortest) if shortest <= AT_ONCE => Duration::ZERO,
            Some(shortest) => shortest / PART,
        }
    }
}

/// Why a connection ended with a request on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    /// The rest before, as far as can be told.
    Rest,
    /// The rest was too short for that: what was asked, or a task that hangs up on kept connections. See [`EARLY_MAX`].
    Early,
    /// The request.
    Request,
}

/// The cause of an end after such a rest and so long at work. A close that crosses a request is heard of at once, however busy the machine:
/// who was at it for longer than any rest is trusted for had read it, and died of it.
fn cause(rested: Duration, worked: Duration) -> Cause {
    if worked > TRUSTED_MAX {
        Cause::Request
    } else if rested > AT_ONCE {
        Cause::Rest
    } else {
        Cause::Early
    }
}

/// What is known of one deployment's tasks.
#[derive(Debug)]
pub struct Lull {
    known: Mutex<Known>,
    /// Something is, for whoever need not lock to see that nothing is.
    any: AtomicBool,
    started: Instant,
}

impl Default for Lull {
    fn default() -> Self {
        Self {
            known: Mutex::new(Known::NOTHING),
            any: AtomicBool::new(false),
            started: Instant::now(),
        }
    }
}

impl Lull {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// The task closed a connection without a word when it had rested for so long, in so many-th a rest.
    pub fn closed(&self, rested: Duration, rests: u32) {
        self.lock().closed(rested, rests, self.now_ms());
        self.any.store(true, Relaxed);
    }

    /// It ended one that had rested for so long, without an answer to a request that had come so long before, and that it may have had
    /// if it is `lost`.
    pub fn broke(&self, rested: Duration, worked: Duration, lost: bool) {
        match cause(rested, worked) {
            Cause::Rest => self.closed(rested, 1),
            Cause::Early if lost => {
                self.lock().broke_early(self.now_ms());
                self.any.store(true, Relaxed);
            }
            Cause::Early | Cause::Request => {}
        }
    }

    /// How long a connection may have rested that carries a request which can't be repeated.
    pub fn trusted(&self) -> Duration {
        if self.any.load(Relaxed) {
            self.lock().trusted(self.now_ms())
        } else {
            TRUSTED_MAX
        }
    }

    /// After how short a rest it closed a connection of late, without a word.
    pub fn shortest(&self) -> Option<Duration> {
        self.lock().shortest(self.now_ms())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_rest_is_trusted_for_a_part_of_the_shortest_that_ended_of_late() {
        let mut known = Known::NOTHING;
        assert_eq!(known.trusted(0), TRUSTED_MAX);
        known.closed(Duration::from_secs(5), 1, 0);
        assert_eq!(known.trusted(0), TRUSTED_MAX, "nobody waits for that one");
        known.closed(Duration::from_millis(200), 100, 0);
        known.closed(Duration::from_millis(400), 1, 10);
        assert_eq!(known.trusted(10), Duration::from_millis(50));
        known.closed(Duration::from_millis(3), RESTS_MAX + 1, 20);
        assert_eq!(
            known.trusted(20),
            Duration::from_millis(50),
            "it was used often before"
        );
        known.closed(Duration::from_millis(3), RESTS_MAX, 20);
        assert_eq!(known.trusted(20), Duration::ZERO);
        assert_eq!(known.trusted(20 + MEMORY_MS), Duration::ZERO);
        assert_eq!(known.trusted(20 + 2 * MEMORY_MS), TRUSTED_MAX);
        // What is forgotten is not the shortest any more.
        known.closed(Duration::from_millis(400), 1, 20 + 2 * MEMORY_MS);
        assert_eq!(known.trusted(20 + 2 * MEMORY_MS), Duration::from_millis(100));
    }

    #[test]
    fn what_was_seen_once_is_forgotten_though_longer_rests_end_all_the_time() {
        let mut known = Known::NOTHING;
        known.closed(Duration::from_millis(12), 1, 0);
        for second in 1..=3 * MEMORY_MS / 1_000 {
            known.closed(Duration::from_millis(800), 1, second * 1_000);
            let trusted = known.trusted(second * 1_000);
            // Never more than what is true of all that was closed within the last minute.
            let most = if second * 1_000 < MEMORY_MS { 3 } else { 200 };
            assert!(
                trusted <= Duration::from_millis(most),
                "{trusted:?} after {second} s"
            );
        }
        assert_eq!(known.trusted(3 * MEMORY_MS), Duration::from_millis(200));
    }

    #[test]
    fn a_crash_in_a_long_request_says_nothing_of_the_rest_before() {
        let rested = Duration::from_millis(50);
        for worked in [Duration::ZERO, TRUSTED_MAX] {
            assert_eq!(cause(rested, worked), Cause::Rest, "{worked:?}");
            assert_eq!(cause(AT_ONCE, worked), Cause::Early, "{worked:?}");
        }
        for worked in [TRUSTED_MAX + Duration::from_millis(1), Duration::from_secs(3_600)] {
            assert_eq!(cause(rested, worked), Cause::Request, "{worked:?}");
            assert_eq!(cause(AT_ONCE, worked), Cause::Request, "{worked:?}");
        }
    }

    #[test]
    fn a_task_that_hangs_up_again_and_again_is_not_trusted_for_a_while() {
        let mut known = Known::NOTHING;
        for _ in 1..EARLY_MAX {
            known.broke_early(0);
            assert_eq!(known.trusted(0), TRUSTED_MAX);
        }
        known.broke_early(MEMORY_MS);
        assert_eq!(known.trusted(MEMORY_MS), Duration::ZERO);
        assert_eq!(known.shortest(MEMORY_MS), None, "none of them was of its rest");
        assert_eq!(known.trusted(2 * MEMORY_MS), TRUSTED_MAX);
    }

    #[test]
    fn it_is_told_what_was_seen() {
        let lull = Lull::default();
        assert_eq!((lull.trusted(), lull.shortest()), (TRUSTED_MAX, None));
        for lost in [false, false, false, true, true] {
            lull.broke(AT_ONCE, Duration::ZERO, lost);
            assert_eq!((lull.trusted(), lull.shortest()), (TRUSTED_MAX, None));
        }
        lull.broke(Duration::from_millis(80), Duration::ZERO, true);
        let shortest = Some(Duration::from_millis(80));
        assert_eq!(
            (lull.trusted(), lull.shortest()),
            (Duration::from_millis(20), shortest)
        );
    }

    proptest! {
        #[test]
        fn nothing_is_trusted_for_as_long_as_it_was_seen_to_last(rests in prop::collection::vec(0_u64..3_000, 1..50)) {
            let mut known = Known::NOTHING;
            for rested_ms in rests {
                let rested = Duration::from_millis(rested_ms);
                known.closed(rested, 1, 0);
                let short = known.trusted(0) < rested.max(Duration::from_nanos(1));
                prop_assert!(short || rested >= TRUSTED_MAX);
            }
        }
    }
}
