//! A kept connection rests between two requests. Who runs it must know whether it does: an end in its rest is the task's
//! doing, and tells for how long the task lets connections rest.

use crate::live::Lull;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

/// `since_us` of a connection at work, and of one that we close.
const AT_WORK: u64 = 0;

/// The rests of one connection.
#[derive(Debug)]
pub(super) struct Rests {
    opened: Instant,
    /// Microseconds after `opened`, and one more.
    since_us: AtomicU64,
    /// How many there have been.
    count: AtomicU32,
    /// What is known of its task.
    lull: Arc<Lull>,
}

impl Rests {
    /// Of a connection that is at work.
    pub(super) fn new(lull: &Arc<Lull>) -> Arc<Self> {
        Arc::new(Self {
            opened: Instant::now(),
            since_us: AtomicU64::new(AT_WORK),
            count: AtomicU32::new(0),
            lull: Arc::clone(lull),
        })
    }

    /// It rests since `now`.
    pub(super) fn begin(&self, now: Instant) {
        let since_us = now.duration_since(self.opened).as_micros() as u64 + 1;
        self.since_us.store(since_us, Relaxed);
        // Nobody else writes it: a connection is in one hand at a time.
        self.count
            .store(self.count.load(Relaxed).saturating_add(1), Relaxed);
    }

    /// It is taken for a request, or closed by us.
    pub(super) fn end(&self) {
        self.since_us.store(AT_WORK, Relaxed);
    }

    /// The connection has ended. That is news of the task if it did so in its rest, and not for what a client did: an answer
    /// may be done before the body that it answers.
    pub(super) fn ended(&self, how: &hyper::Result<()>) {
        let since_us = self.since_us.load(Relaxed);
        if since_us != AT_WORK && !how.as_ref().is_err_and(hyper::Error::is_user) {
            let since = self.opened + Duration::from_micros(since_us - 1);
            self.lull.closed(since.elapsed(), self.count.load(Relaxed));
        }
    }

    /// It rested since `since`, and ended `now` without an answer to the request that came at `asked`, and may have been had.
    pub(super) fn broke(&self, since: Instant, asked: Instant, now: Instant, lost: bool) {
        let rested = asked.saturating_duration_since(since);
        self.lull
            .broke(rested, now.saturating_duration_since(asked), lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_tells_of_the_task_only_in_a_rest() {
        let lull = Arc::default();
        let rests = Rests::new(&lull);
        rests.ended(&Ok(()));
        rests.begin(Instant::now());
        // Taken, or closed by us.
        rests.end();
        rests.ended(&Ok(()));
        assert_eq!(lull.shortest(), None);
        rests.begin(Instant::now());
        rests.ended(&Ok(()));
        assert!(lull.shortest().is_some());
    }

    #[test]
    fn a_rest_ends_with_its_request_which_is_no_part_of_it() {
        let lull = Arc::default();
        let rests = Rests::new(&lull);
        let (rest, since) = (Duration::from_millis(50), Instant::now());
        let asked = since + rest;
        rests.broke(since, asked, asked + Duration::from_secs(30), true);
        assert_eq!(lull.shortest(), None, "it died of the request");
        rests.broke(since, asked, asked + Duration::from_millis(500), true);
        assert_eq!(lull.shortest(), Some(rest));
    }
}
