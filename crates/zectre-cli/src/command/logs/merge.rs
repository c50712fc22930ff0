//! Lines of several replicas in the order in which they were printed, while they come in.
//!
//! Each replica's lines arrive in batches. So a line waits for a moment, and whatever was printed before it goes first.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};
use zectre_common::{id::TaskId, time::Time};

/// The longest that a line waits; agents ship what was printed a few times a second.
pub(super) const HOLD: Duration = Duration::from_millis(500);

/// Lines that wait.
#[derive(Debug)]
pub(super) struct Merge<L> {
    /// By when they were printed, those of one moment as they came.
    waiting: BTreeMap<(Time, u64), (Instant, L)>,
    /// Of each replica; its lines keep their order, whatever its node's clock does.
    newest: BTreeMap<Option<TaskId>, Time>,
    count: u64,
}

impl<L> Merge<L> {
    pub(super) fn new() -> Self {
        Self {
            waiting: BTreeMap::new(),
            newest: BTreeMap::new(),
            count: 0,
        }
    }

    /// A line of `task`, printed at `time`, came at `now`.
    pub(super) fn push(&mut self, task: Option<TaskId>, time: Time, line: L, now: Instant) {
        let newest = self.newest.entry(task).or_insert(time);
        *newest = time.max(*newest);
        self.count += 1;
        self.waiting.insert((*newest, self.count), (now, line));
    }

    /// When the next line has waited long enough; none while nothing waits.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let first = self.waiting.values().map(|(came, _)| *came).min()?;
        // With one replica there is nothing to wait for.
        Some(if self.newest.len() > 1 {
            first + HOLD
        } else {
            first
        })
    }

    /// The lines that need not wait any longer, in order: those that have, and what was printed before them.
    pub(super) fn due(&mut self, now: Instant) -> Vec<L> {
        let hold = if self.newest.len() > 1 {
            HOLD
        } else {
            Duration::ZERO
        };
        let is_due = |(came, _): &(Instant, L)| now.saturating_duration_since(*came) >= hold;
        let last = self.waiting.iter().rev().find(|(_, held)| is_due(held));
        let Some((place, count)) = last.map(|(key, _)| *key) else {
            return Vec::new();
        };
        let rest = self.waiting.split_off(&(place, count + 1));
        let due = std::mem::replace(&mut self.waiting, rest);
        due.into_values().map(|(_, line)| line).collect()
    }

    /// All that wait, in order: nothing more comes.
    pub(super) fn finish(&mut self) -> Vec<L> {
        let all = std::mem::take(&mut self.waiting);
        all.into_values().map(|(_, line)| line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_waits_for_an_earlier_one_of_another_replica_and_no_longer_than_it_may() {
        let (a, b) = (Some(TaskId::new()), Some(TaskId::new()));
        let at = Time::from_unix_ms;
        let now = Instant::now();
        let later = |ms| now + Duration::from_millis(ms);
        let mut merge = Merge::new();
        assert_eq!(merge.next_due(), None);
        merge.push(a, at(10), "a10", now);
        assert_eq!(merge.next_due(), Some(now), "there is one replica");
        assert_eq!(merge.due(now), ["a10"]);

        merge.push(a, at(30), "a30", now);
        merge.push(a, at(20), "a20", now);
        merge.push(b, at(15), "b15", later(300));
        merge.push(b, at(40), "b40", later(300));
        assert!(merge.due(later(499)).is_empty());
        assert_eq!(merge.next_due(), Some(now + HOLD));
        assert_eq!(
            merge.due(now + HOLD),
            ["b15", "a30", "a20"],
            "b15 went first, a's clock went back"
        );
        assert_eq!(merge.due(later(800)), ["b40"]);
        merge.push(b, at(50), "b50", later(900));
        assert_eq!(merge.finish(), ["b50"]);
    }
}
