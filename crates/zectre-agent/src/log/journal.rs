//! The record of how a task's output was numbered: which bytes of which raw file are which lines.
//!
//! The text stays where the program wrote it; an entry here names a stretch of it. What was numbered once keeps
//! its number and its time, so that a batch that is sent again is the same batch.

use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
};
use zectre_common::time::Time;

/// Bytes read at once: some hundred entries.
const READ_BYTES: usize = 64 << 10;

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Entry {
    /// Whole lines of a raw file.
    Lines {
        /// Which file.
        raw: usize,
        from: u64,
        to: u64,
        /// The number of the first.
        seq: u64,
        count: u64,
        time: Time,
    },
    /// Lines of a raw file that came too fast and were passed over.
    Passed {
        /// Which file.
        raw: usize,
        from: u64,
        to: u64,
        lines: u64,
    },
    /// A line of the platform's own.
    Note {
        seq: u64,
        time: Time,
        message: String,
        /// How many lines that were passed over it tells of.
        tells: u64,
    },
}

impl Entry {
    /// How many numbers it took.
    pub(super) const fn numbers(&self) -> u64 {
        match self {
            Self::Lines { count, .. } => *count,
            Self::Passed { .. } => 0,
            Self::Note { .. } => 1,
        }
    }

    /// Raw bytes that it keeps on the disk.
    pub(super) const fn raw_bytes(&self) -> u64 {
        match self {
            Self::Lines { from, to, .. } => *to - *from,
            Self::Passed { .. } | Self::Note { .. } => 0,
        }
    }
}

/// A place between two entries, and what holds there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    /// The offset in the journal.
    pub(super) at: u64,
    /// How far the raw files are read.
    pub(super) raw: [u64; 2],
    /// The next number.
    pub(super) seq: u64,
    /// Lines that were passed over and not told of yet.
    pub(super) untold: u64,
}

impl Place {
    /// Before everything.
    pub(super) const START: Self = Self {
        at: 0,
        raw: [0; 2],
        seq: 1,
        untold: 0,
    };

    /// The place after `entry`, which ends at `end`.
    pub(super) fn pass(&mut self, entry: &Entry, end: u64) {
        self.at = end;
        self.seq += entry.numbers();
        match entry {
            Entry::Lines { raw, to, .. } => self.raw[*raw] = *to,
            Entry::Passed { raw, to, lines, .. } => {
                self.raw[*raw] = *to;
                self.untold += lines;
            }
            Entry::Note { tells, .. } => self.untold = self.untold.saturating_sub(*tells),
        }
    }
}

/// The file of entries, one line of JSON each.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) file: File,
}

impl Journal {
    /// Takes it up, or makes it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        open(path).map(|file| Self { file })
    }

    /// Whole entries from `at` (as many as one read holds), each with its end; a torn one ends them.
    pub(super) fn read(&self, at: u64) -> io::Result<Vec<(Entry, u64)>> {
        let mut buffer = vec![0; READ_BYTES];
        let length = read_up_to(&self.file, &mut buffer, at)?;
        let (mut entries, mut end) = (Vec::new(), at);
        for text in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
            if !text.ends_with(b"\n") {
                break;
            }
            let Ok(entry) = serde_json::from_slice::<Entry>(text) else {
                break;
            };
            // Nothing of ours: a raw file that isn't one of the two.
            if matches!(entry, Entry::Lines { raw, .. } | Entry::Passed { raw, .. } if raw > 1) {
                break;
            }
            end += text.len() as u64;
            entries.push((entry, end));
        }
        Ok(entries)
    }

    /// Writes `entries` at `place` and gives the place after them.
    pub(super) fn append(&self, mut place: Place, entries: &[Entry]) -> io::Result<Place> {
        let (mut bytes, start) = (Vec::with_capacity(256 * entries.len()), place.at);
        for entry in entries {
            serde_json::to_writer(&mut bytes, entry)?;
            bytes.push(b'\n');
            place.pass(entry, start + bytes.len() as u64);
        }
        self.file.write_all_at(&bytes, start)?;
        Ok(place)
    }
}

/// Opens a file of this agent's own to read and write; never through a link.
pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
}

/// Fills `buffer` from `at`, as far as the file goes.
pub(super) fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], at + length as u64) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}
