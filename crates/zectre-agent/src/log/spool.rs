//! One task's lines on disk, between the program and the API.
//!
//! The text of a line is written once, by the program, into a raw file. Lines are numbered in a journal of
//! stretches of those files, so that after a crash nothing is numbered twice or passed over. What the API has
//! acknowledged is freed by punching holes. All of it is bounded: past the bound the oldest lines go, and past
//! the task's rate the newest, and a system line says how many.

mod skip;
mod stretch;
#[cfg(test)]
mod tests;

use super::{
    TAIL_LINES_MAX,
    batch::{BATCH_BYTES_MAX, Batch, Chunk},
    journal::{self, Entry, Journal, Place},
    line,
    rate::Rate,
};
use crate::{
    record,
    shim::{STDERR_FILE, STDOUT_FILE},
};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use stretch::{Stretch, show};
use zectre_common::{
    time::Time,
    wire::log::{BATCH_LINES_MAX, LogLine, Stream},
};

const JOURNAL_FILE: &str = "lines.journal";
const STATE_FILE: &str = "lines.json";
/// Bytes taken from a raw file at once, and the most that one entry stands for.
const READ_BYTES: usize = 256 << 10;
/// How often lines that were passed over are told of, at most.
pub(super) const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// The streams of the two raw files.
const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// What bounds the output of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Bytes on disk that are not shipped yet.
    pub bytes_max: u64,
    /// Lines a second, 0 for any number.
    pub lines_per_sec: u32,
}

/// Numbered lines that were dropped before they could be shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Gap {
    from: Place,
    to: Place,
    lost: u64,
    time: Time,
}

/// What is kept of the way to the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// The API has what lies before it.
    shipped: Place,
    gaps: Vec<Gap>,
}

/// The lines of one task that are not shipped yet.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    raw: [File; 2],
    journal: Journal,
    /// After the last entry.
    head: Place,
    state: State,
    /// Where the batch under way ends.
    flight: Option<Place>,
    /// Bytes that unshipped entries take, those of their text included.
    kept_bytes: u64,
    bounds: Bounds,
    rate: Rate,
    refilled_at: Instant,
    told_at: Option<Instant>,
    /// Lines dropped since the last look.
    dropped: u64,
}

/// What a look at the raw files gave.
#[derive(Debug, Default)]
pub(crate) struct Pumped {
    /// New lines: all of them for a watched task, else only the last ones.
    pub lines: Vec<LogLine>,
    /// Whether there may be more to read at once.
    pub more: bool,
}

impl Spool {
    /// Takes up what is in the task's directory, or starts anew. Also gives the last lines that are still there.
    pub(crate) fn open(dir: &Path, bounds: Bounds) -> io::Result<(Self, Vec<LogLine>)> {
        let kept: Option<State> = record::read(&dir.join(STATE_FILE))?;
        let state = kept.unwrap_or(State {
            shipped: Place::START,
            gaps: Vec::new(),
        });
        let [stdout, stderr] = Self::raw_files(dir);
        let mut spool = Self {
            dir: dir.into(),
            raw: [journal::open(&stdout)?, journal::open(&stderr)?],
            journal: Journal::open(&dir.join(JOURNAL_FILE))?,
            head: state.shipped,
            state,
            flight: None,
            kept_bytes: 0,
            bounds,
            rate: Rate::new(bounds.lines_per_sec),
            refilled_at: Instant::now(),
            told_at: None,
            dropped: 0,
        };
        let tail = spool.recover()?;
        Ok((spool, tail))
    }

    /// The paths of the raw files.
    pub(crate) fn raw_files(dir: &Path) -> [PathBuf; 2] {
        [dir.join(STDOUT_FILE), dir.join(STDERR_FILE)]
    }

    /// What is written first in a task's directory.
    pub(crate) fn first_files(dir: &Path) -> [PathBuf; 4] {
        let [stdout, stderr] = Self::raw_files(dir);
        [
            stdout,
            stderr,
            dir.join(JOURNAL_FILE),
            record::beside(&dir.join(STATE_FILE)),
        ]
    }

    /// Finds the end of the last whole entry; a torn one after it was never used.
    fn recover(&mut self) -> io::Result<Vec<LogLine>> {
        let mut last: Vec<Entry> = Vec::new();
        loop {
            let entries = self.journal.read(self.head.at)?;
            if entries.is_empty() {
                break;
            }
            for (entry, end) in entries {
                let gaps = &self.state.gaps;
                let dropped = gaps
                    .iter()
                    .any(|gap| (gap.from.at..gap.to.at).contains(&self.head.at));
                let bytes = end - self.head.at + entry.raw_bytes();
                self.head.pass(&entry, end);
                if !dropped {
                    self.kept_bytes += bytes;
                    last.push(entry);
                }
            }
            // Every entry but those that were passed over is a line at least.
            last.retain(|entry| entry.numbers() > 0);
            last.drain(..last.len().saturating_sub(TAIL_LINES_MAX));
        }
        self.journal.file.set_len(self.head.at)?;
        let mut lines = Vec::new();
        for entry in &last {
            if let Some(chunk) = self.chunk(entry)? {
                lines.extend(chunk.to_lines());
            }
            lines.drain(..lines.len().saturating_sub(TAIL_LINES_MAX));
        }
        Ok(lines)
    }

    /// Numbers new lines of the raw files, and gives them. An incomplete line at the end waits, unless this is
    /// the `last` time.
    pub(crate) fn pump(&mut self, now: Time, last: bool, watched: bool) -> io::Result<Pumped> {
        self.rate.refill(self.refilled_at.elapsed());
        self.refilled_at = Instant::now();
        let mut pumped = Pumped::default();
        for raw in 0..self.raw.len() {
            self.skip_stretched(raw, now, &mut pumped)?;
            self.skip_hole(raw, now, &mut pumped)?;
            self.take_lines(raw, now, last, watched, &mut pumped)?;
        }
        let due = self.told_at.is_none_or(|at| at.elapsed() >= TELL_INTERVAL);
        if self.head.untold > 0 && (due || last && !pumped.more) {
            self.tell_passed(now, &mut pumped)?;
        }
        self.drop_surplus(now)?;
        Ok(pumped)
    }

    fn take_lines(
        &mut self,
        raw: usize,
        now: Time,
        last: bool,
        watched: bool,
        pumped: &mut Pumped,
    ) -> io::Result<()> {
        let start = self.head.raw[raw];
        let unread_bytes = self.raw[raw].metadata()?.len().saturating_sub(start);
        if unread_bytes == 0 {
            return Ok(());
        }
        // What came faster than it could be read goes the way of what came too fast.
        let too_far_behind = unread_bytes > self.bounds.bytes_max;
        let mut buffer = vec![0; READ_BYTES.min(usize::try_from(unread_bytes).unwrap_or(READ_BYTES))];
        let length = journal::read_up_to(&self.raw[raw], &mut buffer, start)?;
        let at_end = length as u64 >= unread_bytes;
        let mut stretch = Stretch::new(raw, start, self.head.seq, now);
        let mut rest = &buffer[..length];
        while let Some(cut) = line::first(rest, last && at_end) {
            let passes = !too_far_behind && stretch.passed == 0 && self.rate.take();
            stretch.add(cut.raw_bytes as u64, passes);
            rest = &rest[cut.raw_bytes..];
        }
        let entries = stretch.finish();
        pumped.more |= !at_end && !entries.is_empty();
        self.append(&entries)?;
        for entry in &entries {
            if let Entry::Passed { raw, from, to, lines } = entry {
                free(&self.raw[*raw], *from, *to);
                self.dropped += lines;
            }
        }
        show(&entries, &buffer, start, watched, &mut pumped.lines);
        Ok(())
    }

    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        if entries.is_empty() {
            return Ok(());
        }
        let place = self.journal.append(self.head, entries)?;
        self.kept_bytes += place.at - self.head.at + entries.iter().map(Entry::raw_bytes).sum::<u64>();
        self.head = place;
        Ok(())
    }

    /// Adds a line of the platform's own.
    pub(crate) fn note(&mut self, now: Time, message: impl Into<String>) -> io::Result<LogLine> {
        self.note_telling(now, message.into(), 0)
    }

    fn note_telling(&mut self, now: Time, message: String, tells: u64) -> io::Result<LogLine> {
        let line = LogLine {
            seq: self.head.seq,
            time: now,
            stream: Stream::System,
            message: message.clone(),
        };
        self.append(&[Entry::Note {
            seq: line.seq,
            time: now,
            message,
            tells,
        }])?;
        Ok(line)
    }

    fn tell_passed(&mut self, now: Time, pumped: &mut Pumped) -> io::Result<()> {
        let lines = self.head.untold;
        let message = match self.rate.lines_per_sec() {
            0 => format!("{lines} lines dropped: they came faster than they could be kept"),
            rate => {
                format!(
                    "{lines} lines dropped: the task wrote more than agent.log_lines_per_sec_max ({rate})"
                )
            }
        };
        let line = self.note_telling(now, message, lines)?;
        pumped.lines.push(line);
        self.told_at = Some(Instant::now());
        Ok(())
    }

    /// Drops the oldest unshipped lines when they are too many, a quarter of the bound at once. What is on its
    /// way stays.
    fn drop_surplus(&mut self, now: Time) -> io::Result<()> {
        if self.kept_bytes <= self.bounds.bytes_max {
            return Ok(());
        }
        let start = self.flight.unwrap_or(self.state.shipped);
        let extends = self.state.gaps.last().is_some_and(|gap| gap.from.at >= start.at);
        if !extends {
            self.state.gaps.push(Gap {
                from: start,
                to: start,
                lost: 0,
                time: now,
            });
        }
        let Some(mut gap) = self.state.gaps.pop() else {
            return Ok(());
        };
        let goal = self.bounds.bytes_max / 4 * 3;
        let mut freed = Vec::new();
        'drop: while self.kept_bytes > goal {
            let entries = self.journal.read(gap.to.at)?;
            if entries.is_empty() {
                break;
            }
            for (entry, end) in entries {
                if self.kept_bytes <= goal {
                    break 'drop;
                }
                self.kept_bytes -= (end - gap.to.at + entry.raw_bytes()).min(self.kept_bytes);
                gap.to.pass(&entry, end);
                let told = if let Entry::Note { tells, .. } = entry {
                    tells
                } else {
                    0
                };
                gap.lost += entry.numbers() + told;
                self.dropped += entry.numbers();
                if let Entry::Lines { raw, from, to, .. } = entry {
                    freed.push((raw, from, to));
                }
            }
        }
        if gap.lost > 0 {
            self.state.gaps.push(gap);
            self.save()?;
        }
        // Only now: lines that the next agent still believes in must have their text.
        for (raw, from, to) in freed {
            free(&self.raw[raw], from, to);
        }
        Ok(())
    }

    /// Whether there is something to ship.
    pub(crate) fn has_unshipped(&self) -> bool {
        self.state.shipped.at < self.head.at
    }

    /// Whether lines were passed over that nobody was told of yet.
    pub(crate) const fn has_untold(&self) -> bool {
        self.head.untold > 0
    }

    /// How many lines were dropped since this was last asked.
    pub(crate) fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    /// The next lines to ship, which are under way from now on; `None` when all are shipped.
    pub(crate) fn batch(&mut self) -> io::Result<Option<Batch>> {
        let mut batch = Batch {
            chunks: Vec::new(),
            lines: 0,
            end: self.state.shipped,
            weight: 0,
        };
        let mut bytes = 0;
        'fill: loop {
            if let Some(gap) = self.state.gaps.iter().find(|gap| gap.from.at == batch.end.at) {
                batch.chunks.push(Chunk::Own(gap.notice()));
                (batch.lines, batch.end) = (batch.lines + 1, gap.to);
            }
            let entries = self.journal.read(batch.end.at)?;
            if entries.is_empty() {
                break;
            }
            for (entry, end) in entries {
                // One line is left for the notice of a gap.
                let fits = batch.lines + entry.numbers() < BATCH_LINES_MAX as u64 && bytes < BATCH_BYTES_MAX;
                if !fits && batch.lines > 0 {
                    break 'fill;
                }
                batch.weight += end - batch.end.at + entry.raw_bytes();
                bytes += entry.raw_bytes();
                batch.lines += entry.numbers();
                batch.end.pass(&entry, end);
                batch.chunks.extend(self.chunk(&entry)?);
                if self.state.gaps.iter().any(|gap| gap.from.at == end) {
                    continue 'fill;
                }
            }
        }
        if batch.lines == 0 && batch.end.at > self.state.shipped.at {
            // Nothing but what was passed over.
            self.acknowledge(&batch)?;
            return Ok(None);
        }
        if batch.lines == 0 {
            return Ok(None);
        }
        self.flight = Some(batch.end);
        Ok(Some(batch))
    }

    fn chunk(&self, entry: &Entry) -> io::Result<Option<Chunk>> {
        match entry {
            Entry::Lines {
                raw,
                from,
                to,
                seq,
                count,
                time,
            } => {
                let mut bytes = vec![0; usize::try_from(to - from).unwrap_or(READ_BYTES).min(READ_BYTES)];
                let length = journal::read_up_to(&self.raw[*raw], &mut bytes, *from)?;
                bytes.truncate(length);
                Ok(Some(Chunk::Raw {
                    stream: STREAMS[*raw],
                    time: *time,
                    seq: *seq,
                    count: *count,
                    bytes,
                }))
            }
            Entry::Passed { .. } => Ok(None),
            Entry::Note {
                seq, time, message, ..
            } => Ok(Some(Chunk::Own(LogLine {
                seq: *seq,
                time: *time,
                stream: Stream::System,
                message: message.clone(),
            }))),
        }
    }

    /// The batch is stored: frees it.
    pub(crate) fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        let (old, new) = (self.state.shipped, batch.end);
        self.flight = None;
        self.state.shipped = new;
        self.state.gaps.retain(|gap| gap.from.at >= new.at);
        self.kept_bytes -= batch.weight.min(self.kept_bytes);
        self.save()?;
        for (file, (from, to)) in self.raw.iter().zip(old.raw.into_iter().zip(new.raw)) {
            free(file, from, to);
        }
        free(&self.journal.file, old.at, new.at);
        Ok(())
    }

    /// The batch was not delivered; its lines are taken again.
    pub(crate) const fn give_back(&mut self) {
        self.flight = None;
    }

    fn save(&self) -> io::Result<()> {
        record::write(&self.dir.join(STATE_FILE), &self.state)
    }
}

impl Gap {
    /// It takes the number of the last line that it stands for.
    fn notice(&self) -> LogLine {
        LogLine {
            seq: self.to.seq - 1,
            time: self.time,
            stream: Stream::System,
            message: format!(
                "{} lines dropped here: they could not be shipped in time",
                self.lost
            ),
        }
    }
}

/// Gives the disk back what lies between the two offsets; the offsets after it stay as they are. A file system
/// without holes keeps it until the task is forgotten.
fn free(file: &File, from: u64, to: u64) {
    if to > from {
        let _ = rustix::fs::fallocate(
            file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            from,
            to - from,
        );
    }
}
