//! Lines of one read that follow each other, on their way into the journal.

use super::STREAMS;
use crate::log::{TAIL_LINES_MAX, journal::Entry, line};
use zectre_common::{
    time::Time,
    wire::log::{BATCH_LINES_MAX, LogLine},
};

/// Entries in the making.
pub(super) struct Stretch {
    raw: usize,
    at: u64,
    seq: u64,
    time: Time,
    from: u64,
    count: u64,
    pub(super) passed: u64,
    done: Vec<Entry>,
}

impl Stretch {
    pub(super) const fn new(raw: usize, at: u64, seq: u64, time: Time) -> Self {
        Self {
            raw,
            at,
            seq,
            time,
            from: at,
            count: 0,
            passed: 0,
            done: Vec::new(),
        }
    }

    /// One more line. After one that doesn't pass, none does.
    pub(super) fn add(&mut self, bytes: u64, passes: bool) {
        if passes {
            // An entry must fit into a batch, beside a notice.
            if self.count + 2 > BATCH_LINES_MAX as u64 {
                self.close();
            }
            self.count += 1;
        } else {
            self.close();
            self.passed += 1;
        }
        self.at += bytes;
    }

    fn close(&mut self) {
        if self.count > 0 {
            self.done.push(Entry::Lines {
                raw: self.raw,
                from: self.from,
                to: self.at,
                seq: self.seq,
                count: self.count,
                time: self.time,
            });
            (self.seq, self.from, self.count) = (self.seq + self.count, self.at, 0);
        }
    }

    pub(super) fn finish(mut self) -> Vec<Entry> {
        self.close();
        if self.passed > 0 {
            self.done.push(Entry::Passed {
                raw: self.raw,
                from: self.from,
                to: self.at,
                lines: self.passed,
            });
        }
        self.done
    }
}

/// New lines for those who look.
pub(super) fn show(entries: &[Entry], buffer: &[u8], start: u64, watched: bool, lines: &mut Vec<LogLine>) {
    for entry in entries {
        let Entry::Lines {
            raw,
            from,
            to,
            seq,
            count,
            time,
        } = entry
        else {
            continue;
        };
        let mut rest = &buffer[(from - start) as usize..(to - start) as usize];
        for index in 0..*count {
            let Some(cut) = line::first(rest, true) else { break };
            if watched || index + TAIL_LINES_MAX as u64 >= *count {
                lines.push(LogLine {
                    seq: seq + index,
                    time: *time,
                    stream: STREAMS[*raw],
                    message: cut.text(rest).into_owned(),
                });
            }
            rest = &rest[cut.raw_bytes..];
        }
    }
}
