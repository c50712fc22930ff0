//! Where the scheduler that leads is reached: it is asked for wakes without a detour. The database says so with each renewal of
//! the proxy's lease; nobody waits for one that did not answer a moment ago.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long one that did not answer is passed over, at first. A leader that is gone has a successor within five seconds, at another address.
const SHUNNED_MIN: Duration = Duration::from_secs(10);
/// The most, where it never answers: doubled each time, for it may be that no way leads there from this proxy, and each try is a wake that waits.
const SHUNNED_MAX: Duration = Duration::from_mins(10);

/// The leader, as far as this proxy knows.
#[derive(Debug, Default)]
pub struct Leader(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Without a slash at the end.
    url: Option<Arc<str>>,
    /// It did not answer, the last time that it was asked.
    silent: Option<Silence>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    shunned: Duration,
}

impl Leader {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database says that it is there now.
    pub fn is_at(&self, url: Option<&str>) {
        let url = url
            .map(|url| url.trim_end_matches('/'))
            .filter(|url| !url.is_empty());
        let mut known = self.known();
        if known.url.as_deref() != url {
            *known = Known {
                url: url.map(Into::into),
                silent: None,
            };
        }
    }

    /// Where it is worth asking at `now`.
    pub fn url(&self, now: Instant) -> Option<Arc<str>> {
        let known = self.known();
        let is_shunned = known
            .silent
            .is_some_and(|silence| now.saturating_duration_since(silence.since) < silence.shunned);
        known.url.clone().filter(|_| !is_shunned)
    }

    /// The one at `url` did not answer at `now`.
    pub fn is_silent(&self, url: &str, now: Instant) {
        let mut known = self.known();
        if known.url.as_deref() == Some(url) {
            let shunned = known
                .silent
                .map_or(SHUNNED_MIN, |silence| (silence.shunned * 2).min(SHUNNED_MAX));
            known.silent = Some(Silence { since: now, shunned });
        }
    }

    /// The one at `url` answered.
    pub fn has_answered(&self, url: &str) {
        let mut known = self.known();
        if known.url.as_deref() == Some(url) {
            known.silent = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(leader: &Leader, now: Instant) -> Option<String> {
        leader.url(now).map(|url| url.to_string())
    }

    #[test]
    fn it_is_where_the_database_said_last() {
        let (leader, now) = (Leader::default(), Instant::now());
        assert_eq!(at(&leader, now), None);
        leader.is_at(Some("http://a:1/"));
        assert_eq!(at(&leader, now).as_deref(), Some("http://a:1"));
        leader.is_at(Some("http://b:1"));
        assert_eq!(at(&leader, now).as_deref(), Some("http://b:1"));
        for nowhere in [Some(""), None] {
            leader.is_at(nowhere);
            assert_eq!(at(&leader, now), None);
        }
    }

    #[test]
    fn one_that_did_not_answer_is_passed_over_for_a_while_and_its_successor_is_not() {
        let (leader, now) = (Leader::default(), Instant::now());
        leader.is_at(Some("http://a:1"));
        leader.is_silent("http://b:1", now);
        assert!(leader.url(now).is_some(), "that was another one");
        leader.is_silent("http://a:1", now);
        leader.is_at(Some("http://a:1"));
        assert_eq!(
            at(&leader, now),
            None,
            "also when the database has nothing new to say"
        );
        assert!(leader.url(now + SHUNNED_MIN).is_some());
        leader.is_at(Some("http://c:1"));
        assert_eq!(at(&leader, now).as_deref(), Some("http://c:1"));
    }

    #[test]
    fn one_that_never_answers_is_tried_ever_more_rarely() {
        let (leader, mut now) = (Leader::default(), Instant::now());
        leader.is_at(Some("http://a:1"));
        for secs in [10, 20, 40, 80, 160, 320, 600, 600] {
            leader.is_silent("http://a:1", now);
            let (shunned, before) = (Duration::from_secs(secs), Duration::from_secs(secs - 1));
            assert!(leader.url(now + before).is_none(), "{secs} s");
            now += shunned;
            assert!(leader.url(now).is_some(), "{secs} s");
        }
        leader.has_answered("http://a:1");
        leader.is_silent("http://a:1", now);
        assert!(leader.url(now + SHUNNED_MIN).is_some(), "as at first");
    }
}
