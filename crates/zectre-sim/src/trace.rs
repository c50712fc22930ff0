//! What happened, line by line: its hash tells whether two runs are the same run, its end tells why one failed.

use std::{collections::VecDeque, fmt};
use uuid::Uuid;

/// Lines kept for the report of a failure.
const KEPT_MAX: usize = 80;

/// The lines so far.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    lines: u64,
    last: VecDeque<String>,
    echo: bool,
}

impl Trace {
    /// Empty; with `echo` every line is printed as it comes.
    pub(crate) fn new(echo: bool) -> Self {
        Self {
            hash: 0xcbf2_9ce4_8422_2325,
            lines: 0,
            last: VecDeque::with_capacity(KEPT_MAX),
            echo,
        }
    }

    /// One more line, at `now_us` of virtual time.
    pub(crate) fn note(&mut self, now_us: u64, what: fmt::Arguments<'_>) {
        let (secs, micros) = (now_us / 1_000_000, now_us % 1_000_000);
        let line = format!("{secs:>4}.{micros:06}  {what}");
        for byte in line.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines += 1;
        if self.echo {
            println!("{line}");
        }
        if self.last.len() >= KEPT_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The hash of all lines.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many lines there were.
    pub(crate) fn lines(&self) -> u64 {
        self.lines
    }

    /// The last ones.
    pub(crate) fn tail(&self) -> Vec<String> {
        self.last.iter().cloned().collect()
    }
}

/// An id as the trace names it: enough of it to tell things apart.
pub(crate) fn short(id: impl Into<Uuid>) -> String {
    format!("{:05x}", id.into().as_u128() & 0xf_ffff)
}
