//! Tasks that left the table not long ago. A wake's answer that was longer on its way than that may still name them.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use zectre_common::id::TaskId;

/// Longer than any answer is waited for (`proxy.wake_timeout_ms`, 30 s unless configured).
const REMEMBERED: Duration = Duration::from_secs(120);
/// The most that are remembered.
const DEPARTED_MAX: usize = 16_384;

/// The tasks, and when each left.
#[derive(Debug, Default)]
pub(super) struct Departed(HashMap<TaskId, Instant>);

impl Departed {
    /// It left the table.
    pub(super) fn add(&mut self, task: TaskId, now: Instant) {
        if self.0.len() < DEPARTED_MAX {
            self.0.insert(task, now);
        }
    }

    /// What left so long ago that no answer names it.
    pub(super) fn forget_old(&mut self, now: Instant) {
        self.0
            .retain(|_, left| now.saturating_duration_since(*left) < REMEMBERED);
    }

    /// A table has it again.
    pub(super) fn is_back(&mut self, task: TaskId) {
        self.0.remove(&task);
    }

    /// Whether it left, and did not come back.
    pub(super) fn has(&self, task: TaskId) -> bool {
        self.0.contains_key(&task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_left_is_known_until_it_is_back_or_long_gone() {
        let (mut departed, now) = (Departed::default(), Instant::now());
        let [one, two] = [(); 2].map(|()| TaskId::new());
        departed.add(one, now);
        departed.add(two, now);
        departed.is_back(two);
        assert!(departed.has(one) && !departed.has(two));
        departed.forget_old(now + REMEMBERED);
        assert!(!departed.has(one));
    }
}
