//! Where the scheduler that leads is reached: it is asked for wakes without a detour. The database is looked at for it every two
//! seconds; nobody waits for one that did not answer a moment ago, nor goes on waiting for one that does not lead any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;

/// How long one that did not answer is passed over, at first. A leader that is gone has a successor within five seconds.
const SHUNNED_MIN: Duration = Duration::from_secs(10);
/// The most, where it never answers: doubled each time, for it may be that no way leads there from this proxy, and each try is a wake that waits.
const SHUNNED_MAX: Duration = Duration::from_mins(10);

/// The leader, as far as this proxy knows.
#[derive(Debug, Default)]
pub struct Leader(watch::Sender<Known>);

#[derive(Debug, Default)]
struct Known {
    term: Option<Term>,
    /// It did not answer, the last time that it was asked.
    silent: Option<Silence>,
}

/// A leader, from its election on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Term {
    /// One that comes back where it was before has another one.
    epoch: i64,
    /// Without a slash at the end.
    pub url: Arc<str>,
}

#[derive(Debug, Clone, Copy)]
struct Silence {
    since: Instant,
    shunned: Duration,
}

impl Leader {
    /// The database says that the leader of this epoch is there.
    pub fn is_at(&self, epoch: i64, url: Option<&str>) {
        let url = url
            .map(|url| url.trim_end_matches('/'))
            .filter(|url| !url.is_empty());
        let term = url.map(|url| Term {
            epoch,
            url: url.into(),
        });
        self.0.send_if_modified(|known| {
            let is_news = known.term != term;
            if is_news {
                *known = Known { term, silent: None };
            }
            is_news
        });
    }

    /// The one that is worth asking at `now`.
    pub fn term(&self, now: Instant) -> Option<Term> {
        let known = self.0.borrow();
        let is_shunned = known
            .silent
            .is_some_and(|silence| now.saturating_duration_since(silence.since) < silence.shunned);
        known.term.clone().filter(|_| !is_shunned)
    }

    /// Resolves when the database names another one than that.
    pub async fn is_over(&self, term: &Term) {
        let mut known = self.0.subscribe();
        // It ends with the leader that we are, which is there.
        let _ = known.wait_for(|known| known.term.as_ref() != Some(term)).await;
    }

    /// It did not answer by `now` what it was asked at `asked`. Of many calls that fail together the first one counts: they are one try.
    pub fn is_silent(&self, term: &Term, asked: Instant, now: Instant) {
        self.0.send_if_modified(|known| {
            let is_known = known.silent.is_some_and(|silence| asked <= silence.since);
            if known.term.as_ref() == Some(term) && !is_known {
                let shunned = known
                    .silent
                    .map_or(SHUNNED_MIN, |silence| (silence.shunned * 2).min(SHUNNED_MAX));
                known.silent = Some(Silence { since: now, shunned });
            }
            false
        });
    }

    /// It answered.
    pub fn has_answered(&self, term: &Term) {
        self.0.send_if_modified(|known| {
            if known.term.as_ref() == Some(term) {
                known.silent = None;
            }
            false
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        pin::pin,
        task::{Context, Waker},
    };

    fn at(leader: &Leader, now: Instant) -> Option<String> {
        leader.term(now).map(|term| term.url.to_string())
    }

    fn is_silent(leader: &Leader, asked: Instant, now: Instant) {
        let known = leader.0.borrow().term.clone().expect("one leads");
        leader.is_silent(&known, asked, now);
    }

    #[test]
    fn it_is_where_the_database_said_last() {
        let (leader, now) = (Leader::default(), Instant::now());
        assert_eq!(at(&leader, now), None);
        leader.is_at(1, Some("http://a:1/"));
        assert_eq!(at(&leader, now).as_deref(), Some("http://a:1"));
        leader.is_at(2, Some("http://b:1"));
        assert_eq!(at(&leader, now).as_deref(), Some("http://b:1"));
        for nowhere in [Some(""), None] {
            leader.is_at(2, nowhere);
            assert_eq!(at(&leader, now), None);
        }
    }

    #[test]
    fn one_that_did_not_answer_is_passed_over_for_a_while_and_its_successor_is_not() {
        let (leader, now) = (Leader::default(), Instant::now());
        leader.is_at(1, Some("http://b:1"));
        let before = leader.term(now).expect("one leads");
        leader.is_at(2, Some("http://a:1"));
        leader.is_silent(&before, now, now);
        assert!(leader.term(now).is_some(), "that was another one");
        is_silent(&leader, now, now);
        leader.is_at(2, Some("http://a:1"));
        assert_eq!(
            at(&leader, now),
            None,
            "also when the database has nothing new to say"
        );
        assert!(leader.term(now + SHUNNED_MIN).is_some());
        leader.is_at(3, Some("http://a:1"));
        assert!(
            leader.term(now).is_some(),
            "it was started again, and leads again"
        );
    }

    #[test]
    fn one_that_never_answers_is_tried_ever_more_rarely() {
        let (leader, mut now) = (Leader::default(), Instant::now());
        leader.is_at(1, Some("http://a:1"));
        for secs in [10, 20, 40, 80, 160, 320, 600, 600] {
            let asked = now;
            now += Duration::from_millis(1);
            // All that were under way.
            for _ in 0..7 {
                is_silent(&leader, asked, now);
            }
            let (shunned, before) = (Duration::from_secs(secs), Duration::from_secs(secs - 1));
            assert!(leader.term(now + before).is_none(), "{secs} s");
            now += shunned;
            assert!(leader.term(now).is_some(), "{secs} s");
        }
        leader.has_answered(&leader.term(now).expect("one leads"));
        is_silent(&leader, now, now);
        assert!(leader.term(now + SHUNNED_MIN).is_some(), "as at first");
    }

    #[test]
    fn nobody_waits_for_one_that_does_not_lead_any_more() {
        let leader = Leader::default();
        leader.is_at(1, Some("http://a:1"));
        let term = leader.term(Instant::now()).expect("one leads");
        let mut waiting = pin!(leader.is_over(&term));
        let mut cx = Context::from_waker(Waker::noop());
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        leader.is_at(1, Some("http://a:1"));
        assert!(waiting.as_mut().poll(&mut cx).is_pending());
        leader.is_at(2, Some("http://a:1"));
        assert!(waiting.as_mut().poll(&mut cx).is_ready());
    }
}
