//! Whether a forge's call is about something older than what was seen already. Pure.
//!
//! GitHub promises no order of its calls, and repeats those that failed whenever somebody asks for it. What it does say is its own clock:
//! `repository.pushed_at` in a push (the time of the repository's newest push) and `pull_request.updated_at`. The time of a commit
//! (`head_commit.timestamp`) says nothing: it is the author's clock, and who pushes an older commit to undo a newer one means it.
//! GitHub's times are whole seconds; within one, the commits tell: a push from A to B comes before one from B to C.

use std::time::Duration;
use zectre_common::time::Time;

/// How long it is remembered which calls had their effect, and what was the newest of a pull request.
pub(crate) const KEEP_DAYS: i32 = 365;
/// What happened longer ago is not believed to be news: nobody remembers whether it was seen. A day less than what is
/// remembered, so that the forge's clock and ours may differ.
const NEWS: Duration = Duration::from_secs((KEEP_DAYS as u64 - 1) * 24 * 3_600);
/// By how much the forge's clock and ours may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(24 * 3_600);

/// What a call says about a branch or a pull request, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Moment {
    /// `refs/heads/BRANCH`, or a pull request's `pr-N`.
    pub(crate) subject: String,
    pub(crate) seen: Seen,
    /// Whether a pull request begins anew with it.
    pub(crate) reopens: bool,
}

/// The same as kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    /// By GitHub's clock.
    pub(crate) at: Time,
    /// The commit before; empty where the call names none.
    pub(crate) before: String,
    /// The commit that is the head now.
    pub(crate) after: String,
    /// The pull request is closed.
    pub(crate) closed: bool,
}

/// Whether `moment` is so long ago that a call about it can only be an old one, sent again.
pub(crate) fn is_forgotten(moment: &Moment, now: Time) -> bool {
    moment.seen.at.plus(NEWS) < now
}

/// Whether `moment` is yet to come, by more than clocks differ: kept as the newest it would make every other call late, for as long.
pub(crate) fn is_yet_to_come(moment: &Moment, now: Time) -> bool {
    moment.seen.at > now.plus(CLOCKS_DIFFER)
}

/// Whether `moment` is older than what was seen `last` of the same branch or pull request.
pub(crate) fn is_late(last: &Seen, moment: &Moment) -> bool {
    let this = &moment.seen;
    if this.at != last.at {
        return this.at < last.at;
    }
    if last.closed && !this.closed {
        return !moment.reopens;
    }
    let precedes = !this.after.is_empty() && this.after == last.before;
    let follows = !this.before.is_empty() && this.before == last.after;
    !this.closed && precedes && !follows
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moment(at_secs: i64, before: &str, after: &str) -> Moment {
        Moment {
            subject: "refs/heads/main".into(),
            seen: Seen {
                at: Time::from_unix_ms(at_secs * 1_000),
                before: before.into(),
                after: after.into(),
                closed: false,
            },
            reopens: false,
        }
    }

    #[test]
    fn the_clock_of_the_forge_tells() {
        let last = moment(100, "a", "b").seen;
        assert!(is_late(&last, &moment(99, "b", "c")));
        // Also where an older commit is pushed later, to undo a newer one.
        assert!(!is_late(&last, &moment(101, "x", "a")));
    }

    #[test]
    fn what_nobody_remembers_is_no_news() {
        let now = Time::from_unix_ms(1_800_000_000_000);
        let day = 24 * 3_600;
        let days_ago = |days: i64| moment(1_800_000_000 - days * day, "a", "b");
        assert!(!is_forgotten(&days_ago(0), now) && !is_forgotten(&days_ago(363), now));
        assert!(is_forgotten(&days_ago(365), now) && is_forgotten(&days_ago(5_000), now));
        assert!(!is_yet_to_come(&days_ago(0), now) && !is_yet_to_come(&days_ago(-1), now));
        assert!(is_yet_to_come(&days_ago(-2), now));
    }

    #[test]
    fn within_a_second_the_commits_tell() {
        let last = moment(100, "b", "c").seen;
        assert!(is_late(&last, &moment(100, "a", "b")));
        assert!(is_late(&last, &moment(100, "", "b")));
        assert!(!is_late(&last, &moment(100, "c", "d")));
        assert!(!is_late(&last, &moment(100, "c", "b")), "undone at once");
        // Nothing says: as they come.
        assert!(!is_late(&last, &moment(100, "", "")));
        assert!(!is_late(&last, &moment(100, "x", "y")));
    }

    #[test]
    fn within_a_second_a_closed_pull_request_stays_closed_unless_it_is_reopened() {
        let mut last = moment(100, "", "b").seen;
        last.closed = true;
        let mut this = moment(100, "b", "c");
        assert!(is_late(&last, &this));
        this.reopens = true;
        assert!(!is_late(&last, &this));
        let mut close = moment(100, "", "b");
        close.seen.closed = true;
        assert!(!is_late(&moment(100, "b", "c").seen, &close));
    }
}
