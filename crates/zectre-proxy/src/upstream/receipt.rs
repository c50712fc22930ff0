//! What a task's host has taken of a connection. A program has read nothing that its kernel has not taken, and when a connection is
//! closed, the kernel says with that (FIN) how far it has come: every segment acknowledges all that was taken before it. What it is
//! sent after the close it answers with a reset, and takes none of it. So where a connection was closed *and* reset, and what was
//! acknowledged is what had been written before a request, no program has had a byte of the request: it may be sent again, whatever it is
//! (RFC 9110, section 9.2.2).
//!
//! A reset without a close before says nothing: a reset's acknowledgement is not looked at (RFC 9293, section 3.10.7.4), and a program that
//! ends with bytes unread may have read others. Nor does a close alone: it may be of one direction only, and what is sent be read yet.
//! (A program that closes one direction, so that it can't answer, and yet acts on what comes, and resets the connection before its host has
//! acknowledged that, within 40 ms, would be missed. No server does so.)

use std::sync::atomic::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

/// [`Receipt::taken`] of a connection that goes on, or of which it is not known.
const UNKNOWN: u64 = u64::MAX;

/// Of one connection, for whoever it is on loan to.
#[derive(Debug)]
pub(super) struct Receipt {
    written: AtomicU64,
    taken: AtomicU64,
}

impl Receipt {
    /// Of a new connection.
    pub(super) fn new() -> Self {
        Self {
            written: AtomicU64::new(0),
            taken: AtomicU64::new(UNKNOWN),
        }
    }

    /// Bytes that our kernel was given so far: no byte of what is handed over from now on is among them.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// So many more.
    pub(super) fn wrote(&self, bytes: usize) {
        self.written.fetch_add(bytes as u64, Relaxed);
    }

    /// The connection is over, and that is all that the task's host took.
    pub(super) fn end(&self, taken: u64) {
        self.taken.store(taken, Release);
    }

    /// Whether it is known that the task's host took all of the first `written` bytes and nothing beyond.
    pub(super) fn ends_at(&self, written: u64) -> bool {
        self.taken.load(Acquire) == written
    }
}

/// What is known of a connection that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    /// The task's host has ended its side (FIN).
    pub(super) is_ended: bool,
    /// The connection is no more: after an end it was reset.
    pub(super) is_closed: bool,
    /// Bytes that were acknowledged,
    pub(super) taken: u64,
    /// of so many.
    pub(super) written: u64,
    /// Nobody waits any longer.
    pub(super) is_late: bool,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The task's host took so many bytes, and will take no more.
    Took(u64),
    /// It is about to acknowledge what it was sent, or to refuse it.
    Wait,
    /// There is no telling.
    Unknown,
}

/// Decides by `facts`.
pub(super) fn fate(facts: Facts) -> Fate {
    if !facts.is_ended || facts.taken >= facts.written {
        // What was taken may be read yet, or was.
        Fate::Unknown
    } else if facts.is_closed {
        Fate::Took(facts.taken)
    } else if facts.is_late {
        Fate::Unknown
    } else {
        Fate::Wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 100 bytes were written before a request, and 50 of it.
    const BEFORE: u64 = 100;

    fn told(is_ended: bool, is_closed: bool, taken: u64, is_late: bool) -> (Fate, bool) {
        let receipt = Receipt::new();
        receipt.wrote(BEFORE as usize);
        let before = receipt.written();
        receipt.wrote(50);
        let fate = fate(Facts {
            is_ended,
            is_closed,
            taken,
            written: receipt.written(),
            is_late,
        });
        if let Fate::Took(taken) = fate {
            receipt.end(taken);
        }
        (fate, receipt.ends_at(before))
    }

    #[test]
    fn a_request_was_not_had_where_the_host_closed_before_it_took_any_of_it() {
        for is_late in [false, true] {
            assert_eq!(told(true, true, BEFORE, is_late), (Fate::Took(BEFORE), true));
        }
    }

    #[test]
    fn what_was_taken_in_part_or_wholly_was_had() {
        for is_late in [false, true] {
            assert_eq!(
                told(true, true, BEFORE + 1, is_late),
                (Fate::Took(BEFORE + 1), false)
            );
            for is_closed in [false, true] {
                let all = told(true, is_closed, BEFORE + 50, is_late);
                assert_eq!(all, (Fate::Unknown, false), "closed: {is_closed}");
            }
        }
    }

    #[test]
    fn a_reset_without_a_close_before_says_nothing() {
        for taken in [0, BEFORE, BEFORE + 1, BEFORE + 50] {
            for (is_closed, is_late) in [(false, false), (false, true), (true, false), (true, true)] {
                assert_eq!(told(false, is_closed, taken, is_late), (Fate::Unknown, false));
            }
        }
    }

    #[test]
    fn a_close_may_be_of_one_direction_until_what_was_sent_is_refused() {
        for taken in [BEFORE, BEFORE + 1] {
            assert_eq!(told(true, false, taken, false), (Fate::Wait, false));
            assert_eq!(told(true, false, taken, true), (Fate::Unknown, false));
        }
    }

    #[test]
    fn where_earlier_bytes_are_missing_nothing_is_known() {
        // Also what a kernel says that counts nothing.
        for taken in [0, BEFORE - 1] {
            assert_eq!(told(true, true, taken, true), (Fate::Took(taken), false));
        }
        assert!(!Receipt::new().ends_at(0), "it goes on");
    }
}
