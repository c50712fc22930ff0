//! How many connections may be opened to a task at once. A program's queue of connections that it has not accepted
//! yet may be short, and what doesn't fit is dropped in silence and tried again by TCP only after a second. So only a
//! few connections wait for their first answer at a time. More may where a program takes its time, which says that it
//! works on many at once, until a connection finds the queue full: that is how long it is.
//!
//! Requests beyond that stand in line here, and go on a new connection or on one that another request is done with.
//!
//! Many programs read as many connections as they have threads, and stay at those that are kept: one that they don't
//! get to would wait until a kept one is closed for its age. So a new connection that waits for much longer than
//! answers take gives one *place*: a kept connection is closed for it, or the next one that is done.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// New connections without an answer, of a task that nothing is known of: fits the shortest queues in use.
const LIMIT_START: u32 = 8;
/// The most such connections.
const LIMIT_MAX: u32 = 1_024;
/// How long a queue that was found full counts as that short.
const CEILING_MS: u64 = 10_000;
/// A connection that takes so long to open found the queue full, if others came in quickly.
const STALL_MIN: Duration = Duration::from_millis(100);
/// The same for tasks that are far away, in times of the quickest connection so far.
const STALL_FACTOR: u32 = 8;

/// A new connection gives its first place when it has waited for so many times of a usual answer.
const USUAL_FACTOR: u32 = 4;
/// At the latest after this time: to close a connection that seldom costs nothing.
const UNREAD_MAX: Duration = Duration::from_secs(2);

/// How many new connections may be without an answer; pure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Window {
    limit: u32,
    ceiling: u32,
    ceiling_until_ms: u64,
}

impl Window {
    const NEW: Self = Self {
        limit: LIMIT_START,
        ceiling: LIMIT_MAX,
        ceiling_until_ms: 0,
    };

    /// A connection has been without an answer for long: the program works on it. Two more instead of it doubles
    /// the window each time that all of it is slow.
    fn slow(&mut self, now_ms: u64) {
        let ceiling = if now_ms < self.ceiling_until_ms {
            self.ceiling
        } else {
            LIMIT_MAX
        };
        self.limit = (self.limit + 2).min(ceiling).max(self.limit);
    }

    /// One of `outstanding` found the queue full; one place is left to whoever only knocks.
    fn overflowed(&mut self, outstanding: u32, now_ms: u64) {
        self.limit = self.limit.min(outstanding.saturating_sub(2)).max(1);
        self.ceiling = self.limit;
        self.ceiling_until_ms = now_ms + CEILING_MS;
    }
}

#[derive(Debug)]
struct State {
    window: Window,
    /// New connections without an answer.
    outstanding: u32,
    /// In the order of their turns.
    line: BTreeMap<i64, Arc<Notify>>,
}

/// The pace of one task.
#[derive(Debug)]
pub struct Pace {
    state: Mutex<State>,
    /// How many stand in line, for whoever need not lock to see that none does.
    in_line: AtomicUsize,
    /// The quickest connection so far; `u64::MAX` before the first.
    quickest_us: AtomicU64,
    /// What an answer takes, of late; 0 before the first.
    usual_us: AtomicU64,
    /// Connections that are to be closed for those that wait.
    places: AtomicUsize,
    /// New connections that have been without an answer for long.
    slow: AtomicU64,
    started: Instant,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            state: Mutex::new(State {
                window: Window::NEW,
                outstanding: 0,
                line: BTreeMap::new(),
            }),
            in_line: AtomicUsize::new(0),
            quickest_us: AtomicU64::new(u64::MAX),
            usual_us: AtomicU64::new(0),
            places: AtomicUsize::new(0),
            slow: AtomicU64::new(0),
            started: Instant::now(),
        }
    }
}

impl Pace {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// Whether others wait: a newcomer gets in line.
    pub fn is_crowded(&self) -> bool {
        self.in_line.load(SeqCst) > 0
    }

    /// The right to open a connection, if there is room; asked for by who is first in line, or by anyone when no one
    /// is. A `shared` connection is opened once for all.
    pub fn open(&self, shared: bool) -> Option<Opening<'_>> {
        let mut state = self.lock();
        let limit = if shared { 1 } else { state.window.limit };
        if state.outstanding >= limit {
            return None;
        }
        state.outstanding += 1;
        Some(Opening {
            pace: self,
            slow: false,
        })
    }

    /// A place in line: the last one, or, for who had a turn that came to nothing, the first.
    pub fn line_up(&self, first: bool) -> Turn<'_> {
        let mut state = self.lock();
        let place = if first {
            state.line.first_key_value().map_or(0, |(place, _)| place - 1)
        } else {
            state.line.last_key_value().map_or(0, |(place, _)| place + 1)
        };
        let called = Arc::new(Notify::new());
        if state.line.is_empty() || first {
            // There may be room by now.
            called.notify_one();
        }
        state.line.insert(place, Arc::clone(&called));
        self.in_line.store(state.line.len(), SeqCst);
        Turn {
            pace: self,
            place,
            called,
        }
    }

    /// There may be something for the first in line: room, or a connection that is free again.
    pub fn call(&self) {
        if self.is_crowded()
            && let Some((_, first)) = self.lock().line.first_key_value()
        {
            first.notify_one();
        }
    }

    /// A connection was made in `took`.
    pub fn connected(&self, took: Duration) {
        self.quickest_us.fetch_min(took.as_micros() as u64, Relaxed);
    }

    /// An answer came after `took`.
    pub fn answered(&self, took: Duration) {
        let took_us = (took.as_micros() as u64).max(1);
        let usual_us = match self.usual_us.load(Relaxed) {
            0 => took_us,
            usual_us => smoothed(usual_us, took_us).max(1),
        };
        // Of two that do so at once one is not counted, which changes little.
        self.usual_us.store(usual_us, Relaxed);
    }

    /// How many new connections waited so long for an answer that the program was taken to work on many at once.
    pub fn slow_openings(&self) -> u64 {
        self.slow.load(Relaxed)
    }

    /// How long a new connection may wait before it is taken for one that the program does not read.
    pub fn unread_after(&self) -> Duration {
        match self.usual_us.load(Relaxed) {
            0 => UNREAD_MAX,
            usual_us => UNREAD_MAX.min(Duration::from_micros(usual_us) * USUAL_FACTOR),
        }
    }

    /// A new connection waits, and there is none that could be closed for it: the next one that is done will be.
    pub fn want_place(&self) {
        self.places.fetch_add(1, Relaxed);
    }

    /// Whether a connection that is done is to be closed for one that waits.
    pub fn gives_place(&self) -> bool {
        // Nearly always there is nobody who wants one.
        self.places.load(Relaxed) > 0
            && self
                .places
                .fetch_update(Relaxed, Relaxed, |places| places.checked_sub(1))
                .is_ok()
    }

    /// A connection that takes longer than this found the queue full; `None`: there is nothing to tell it by.
    pub fn stall_after(&self) -> Option<Duration> {
        let quickest_us = self.quickest_us.load(Relaxed);
        let known = quickest_us != u64::MAX && self.lock().outstanding > 1;
        known.then(|| STALL_MIN.max(Duration::from_micros(quickest_us) * STALL_FACTOR))
    }
}

/// The new average, an eighth of which is the latest.
fn smoothed(average: u64, latest: u64) -> u64 {
    average - average / 8 + latest / 8
}

/// The right to have a connection without an answer; given back when dropped.
#[derive(Debug)]
pub struct Opening<'p> {
    pace: &'p Pace,
    slow: bool,
}

impl Opening<'_> {
    /// It has been connected for long, and not answered.
    pub fn slow(&mut self) {
        if !std::mem::replace(&mut self.slow, true) {
            self.pace.slow.fetch_add(1, Relaxed);
            self.pace.lock().window.slow(self.pace.now_ms());
            self.pace.call();
        }
    }

    /// The program's queue is full.
    pub fn overflowed(self) {
        let mut state = self.pace.lock();
        let outstanding = state.outstanding;
        state.window.overflowed(outstanding, self.pace.now_ms());
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        let outstanding = {
            let mut state = self.pace.lock();
            state.outstanding -= 1;
            state.outstanding
        };
        // Nobody keeps a place for one that waits no more.
        if outstanding == 0 {
            self.pace.places.store(0, Relaxed);
        }
        self.pace.call();
    }
}

/// A place in line. Whoever leaves it, with a connection or without, calls the next one.
#[derive(Debug)]
pub struct Turn<'p> {
    pace: &'p Pace,
    place: i64,
    called: Arc<Notify>,
}

impl Turn<'_> {
    /// Resolves when it is first in line and there may be something for it.
    pub async fn come(&self) {
        self.called.notified().await;
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut state = self.pace.lock();
        state.line.remove(&self.place);
        self.pace.in_line.store(state.line.len(), SeqCst);
        if let Some((_, first)) = state.line.first_key_value() {
            first.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    fn has_come(turn: &Turn<'_>) -> bool {
        pin!(turn.come())
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn a_slow_program_gets_twice_as_many_each_time_all_are_slow() {
        let mut window = Window::NEW;
        let mut opened = 0;
        let mut rounds = 0;
        while window.limit < LIMIT_MAX {
            let fresh = window.limit - opened;
            opened = window.limit;
            (0..fresh).for_each(|_| window.slow(0));
            rounds += 1;
        }
        assert!(rounds <= 7, "{rounds}");
    }

    #[test]
    fn a_full_queue_is_not_filled_again_for_a_while() {
        let mut window = Window::NEW;
        (0..20).for_each(|_| window.slow(0));
        window.overflowed(13, 1_000);
        assert_eq!(window.limit, 11);
        window.overflowed(12, 1_000);
        (0..20).for_each(|_| window.slow(1_000 + CEILING_MS - 1));
        assert_eq!(window.limit, 10);
        window.slow(1_000 + CEILING_MS);
        assert_eq!(window.limit, 12);
    }

    #[test]
    fn turns_come_in_order_and_a_stalled_one_is_first_again() {
        let pace = Pace::default();
        let mut held: Vec<_> = (0..LIMIT_START)
            .map(|_| pace.open(false).expect("room"))
            .collect();
        assert!(pace.open(false).is_none() && !pace.is_crowded());
        let (a, b, c) = (pace.line_up(false), pace.line_up(false), pace.line_up(false));
        // The first may look for itself once: there may have been room since it looked last.
        assert!(has_come(&a) && !has_come(&a) && !has_come(&b));
        held.pop();
        assert!(has_come(&a) && !has_come(&b));
        held.push(pace.open(false).expect("room"));
        drop(a);
        assert!(has_come(&b), "the next one looks, too");
        drop(b);
        assert!(has_come(&c));
        held.pop().expect("many").overflowed();
        assert!(has_come(&c));
        let again = pace.line_up(true);
        assert!(has_come(&again));
        assert!(
            pace.open(false).is_none(),
            "the window is as small as what fitted"
        );
        held.truncate(2);
        assert!(has_come(&again) && !has_come(&c));
        drop(again);
        assert!(has_come(&c));
        drop(c);
        assert!(!pace.is_crowded());
    }

    #[test]
    fn who_leaves_the_line_takes_nobody_along() {
        let pace = Pace::default();
        let held: Vec<_> = (0..LIMIT_START)
            .map(|_| pace.open(false).expect("room"))
            .collect();
        let (a, b, c) = (pace.line_up(false), pace.line_up(false), pace.line_up(false));
        assert!(has_come(&a));
        drop(held);
        drop(b);
        drop(a);
        assert!(has_come(&c), "what the first was called for is the next one's");
    }

    #[test]
    fn places_are_given_once_and_not_kept_for_nobody() {
        let pace = Pace::default();
        assert!(!pace.gives_place());
        let held = [pace.open(false).expect("room"), pace.open(false).expect("room")];
        pace.want_place();
        pace.want_place();
        assert!(pace.gives_place());
        drop(held);
        assert!(!pace.gives_place());
    }

    #[test]
    fn what_is_usual_follows_the_answers() {
        let pace = Pace::default();
        assert_eq!(pace.unread_after(), UNREAD_MAX, "nothing is known of it");
        pace.answered(Duration::from_millis(100));
        assert_eq!(pace.unread_after(), Duration::from_millis(400));
        (0..100).for_each(|_| pace.answered(Duration::from_millis(50)));
        let settled = pace.unread_after().as_millis();
        assert!((199..=201).contains(&settled), "{settled}");
        pace.answered(Duration::from_secs(30));
        assert_eq!(pace.unread_after(), UNREAD_MAX);
    }

    proptest! {
        #[test]
        fn there_is_always_room_for_one_and_never_for_too_many(
            events in prop::collection::vec((any::<bool>(), 0_u32..2_000, 0_u64..30_000), 0..200)
        ) {
            let mut window = Window::NEW;
            let mut now_ms = 0;
            for (slow, outstanding, passed_ms) in events {
                now_ms += passed_ms;
                let before = window.limit;
                if slow {
                    window.slow(now_ms);
                    prop_assert!(window.limit >= before);
                } else {
                    window.overflowed(outstanding, now_ms);
                    prop_assert!(window.limit <= before);
                }
                prop_assert!((1..=LIMIT_MAX).contains(&window.limit));
            }
        }
    }
}
