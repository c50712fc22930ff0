//! Failed logins per address and client, bounded in memory.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Failures within the window after which further tries wait.
const FAILURES_MAX: u32 = 10;
/// How long failures are remembered.
const WINDOW: Duration = Duration::from_secs(300);
/// The most (address, client) pairs remembered; beyond that the oldest are forgotten.
const ENTRIES_MAX: usize = 10_000;

type Key = (String, Option<IpAddr>);

/// The failures seen.
#[derive(Default)]
pub(crate) struct LoginLimit(Mutex<HashMap<Key, (u32, Instant)>>);

impl LoginLimit {
    /// Seconds to wait when there were too many failures.
    pub(crate) fn wait_secs(&self, email: &str, client: Option<IpAddr>) -> Option<u32> {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (count, since) = failures.get(&(email.to_lowercase(), client))?;
        let left = WINDOW.checked_sub(since.elapsed())?;
        (*count >= FAILURES_MAX).then(|| left.as_secs() as u32 + 1)
    }

    /// Remembers a failure.
    pub(crate) fn failed(&self, email: &str, client: Option<IpAddr>) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ENTRIES_MAX {
            failures.retain(|_, (_, since)| since.elapsed() < WINDOW);
        }
        if failures.len() >= ENTRIES_MAX
            && let Some(oldest) = failures
                .iter()
                .min_by_key(|(_, (_, since))| *since)
                .map(|(key, _)| key.clone())
        {
            failures.remove(&oldest);
        }
        let entry = failures
            .entry((email.to_lowercase(), client))
            .or_insert((0, Instant::now()));
        if entry.1.elapsed() >= WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }

    /// A success forgives.
    pub(crate) fn succeeded(&self, email: &str, client: Option<IpAddr>) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&(email.to_lowercase(), client));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eleventh_try_waits_and_others_do_not() {
        let limit = LoginLimit::default();
        for _ in 0..FAILURES_MAX {
            assert_eq!(limit.wait_secs("a@b.c", None), None);
            limit.failed("A@b.c", None);
        }
        assert!(limit.wait_secs("a@b.c", None).is_some());
        assert_eq!(limit.wait_secs("other@b.c", None), None);
        limit.succeeded("a@b.c", None);
        assert_eq!(limit.wait_secs("a@b.c", None), None);
    }

    #[test]
    fn memory_is_bounded() {
        let limit = LoginLimit::default();
        for n in 0..ENTRIES_MAX + 10 {
            limit.failed(&format!("{n}@b.c"), None);
        }
        assert_eq!(limit.0.lock().expect("not poisoned").len(), ENTRIES_MAX);
    }
}
