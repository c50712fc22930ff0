//! One task's lines on disk, between the program and the API.
//!
//! Lines are taken from the raw files into a journal, which fixes their order, number and time; each journal
//! entry also says how far the raw files were read, so that after a crash nothing is read twice or passed over.
//! What the API has acknowledged is freed by punching holes. Both the journal and what is left unread in
//! the raw files are bounded; past the bound the oldest lines go, and a system line says how many.

use super::{TAIL_LINES_MAX, line};
use crate::{
    record,
    shim::{STDERR_FILE, STDOUT_FILE},
};
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};
use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
};
use zectre_common::{
    time::Time,
    wire::log::{BATCH_LINES_MAX, LINE_BYTES_MAX, LogLine, Stream},
};

const JOURNAL_FILE: &str = "lines.journal";
const CURSOR_FILE: &str = "cursor.json";
/// Bytes taken from a raw file at once.
const READ_BYTES: usize = 256 << 10;
/// The most bytes of a batch: well below what the API takes as a body.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// The raw part that was read is freed in steps of this many bytes.
const FREE_BYTES_MIN: u64 = 1 << 20;

/// An entry of the journal; one line of JSON each.
#[derive(Serialize, Deserialize)]
struct Entry {
    /// How far the raw files were read with it.
    #[serde(rename = "r")]
    raw: [u64; 2],
    #[serde(rename = "l")]
    line: LogLine,
}

/// Where the shipped part ends; what follows in the journal is not shipped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Cursor {
    shipped_bytes: u64,
    raw: [u64; 2],
    seq_next: u64,
    /// Lines dropped right before `shipped_bytes`, not yet told.
    dropped: u64,
}

#[derive(Debug)]
struct Raw {
    stream: Stream,
    file: File,
    read_bytes: u64,
    freed_bytes: u64,
}

/// Lines on their way to the API.
#[derive(Debug)]
pub(crate) struct Batch {
    /// At most [`BATCH_LINES_MAX`], never empty.
    pub lines: Vec<LogLine>,
    end_bytes: u64,
}

/// The lines of one task that are not shipped yet.
#[derive(Debug)]
pub(crate) struct Spool {
    dir: PathBuf,
    raw: [Raw; 2],
    journal: File,
    journal_bytes: u64,
    seq_next: u64,
    cursor: Cursor,
    bytes_max: u64,
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
}

impl Spool {
    /// Takes up what is in the task's directory, or starts anew. `bytes_max` bounds what is kept unshipped.
    /// Also gives the last lines that are still there.
    pub(crate) fn open(dir: &Path, bytes_max: u64) -> io::Result<(Self, Vec<LogLine>)> {
        let cursor: Cursor = record::read(&dir.join(CURSOR_FILE))?.unwrap_or_default();
        let raw = |stream, name| {
            Ok::<_, io::Error>(Raw {
                stream,
                file: open(&dir.join(name))?,
                read_bytes: 0,
                freed_bytes: 0,
            })
        };
        let raw = [
            raw(Stream::Stdout, STDOUT_FILE)?,
            raw(Stream::Stderr, STDERR_FILE)?,
        ];
        let journal = open(&dir.join(JOURNAL_FILE))?;
        let journal_bytes = journal.metadata()?.len();
        let seq_next = cursor.seq_next.max(1);
        let mut spool = Self {
            dir: dir.into(),
            raw,
            journal,
            journal_bytes,
            seq_next,
            cursor,
            bytes_max,
        };
        let tail = spool.recover()?;
        Ok((spool, tail))
    }

    /// The paths of the raw files.
    pub(crate) fn raw_files(dir: &Path) -> [PathBuf; 2] {
        [dir.join(STDOUT_FILE), dir.join(STDERR_FILE)]
    }

    /// Finds the end of the last whole entry; a torn one after it was never used.
    fn recover(&mut self) -> io::Result<Vec<LogLine>> {
        let (mut at, mut raw, mut tail) = (self.cursor.shipped_bytes, self.cursor.raw, Vec::new());
        loop {
            let (entries, end) = self.entries_from(at, usize::MAX)?;
            let Some(last) = entries.last() else { break };
            (at, raw, self.seq_next) = (end, last.raw, last.line.seq + 1);
            tail.extend(entries.into_iter().map(|entry| entry.line));
            tail.drain(..tail.len().saturating_sub(TAIL_LINES_MAX));
        }
        self.journal.set_len(at)?;
        self.journal_bytes = at;
        for (file, read_bytes) in self.raw.iter_mut().zip(raw) {
            (file.read_bytes, file.freed_bytes) = (read_bytes, read_bytes);
        }
        Ok(tail)
    }

    /// Whole entries from `at`, as many as one read holds and at most `entries_max`, and where they end.
    fn entries_from(&self, at: u64, entries_max: usize) -> io::Result<(Vec<Entry>, u64)> {
        // Room for at least one entry of the largest line: JSON can make six bytes of one.
        let mut buffer = vec![0; BATCH_BYTES_MAX.max(8 * LINE_BYTES_MAX)];
        let length = read_up_to(&self.journal, &mut buffer, at)?;
        let (mut entries, mut end) = (Vec::new(), at);
        for text in buffer[..length].split_inclusive(|byte| *byte == b'\n') {
            if !text.ends_with(b"\n") || entries.len() == entries_max {
                break;
            }
            let Ok(entry) = serde_json::from_slice::<Entry>(text) else {
                break;
            };
            entries.push(entry);
            end += text.len() as u64;
        }
        Ok((entries, end))
    }

    /// Takes new lines from the raw files into the journal, and gives them. An incomplete line at the end waits,
    /// unless this is the `last` time. Returns an empty list when there is nothing new.
    pub(crate) fn pump(&mut self, now: Time, last: bool) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for index in 0..self.raw.len() {
            self.skip_surplus(index, now, &mut lines)?;
            self.take_lines(index, now, last, &mut lines)?;
        }
        self.drop_surplus()?;
        Ok(lines)
    }

    fn take_lines(
        &mut self,
        index: usize,
        now: Time,
        last: bool,
        lines: &mut Vec<LogLine>,
    ) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        let length = read_up_to(&self.raw[index].file, &mut buffer, self.raw[index].read_bytes)?;
        let at_end = length < READ_BYTES;
        let (mut rest, mut bytes) = (&buffer[..length], Vec::new());
        while let Some(line) = line::first(rest, last && at_end) {
            rest = &rest[line.raw_bytes..];
            self.raw[index].read_bytes += line.raw_bytes as u64;
            lines.push(self.number(self.raw[index].stream, line.text, now, &mut bytes)?);
        }
        self.append(&bytes)?;
        let raw = &mut self.raw[index];
        if raw.read_bytes - raw.freed_bytes >= FREE_BYTES_MIN {
            free(&raw.file, raw.freed_bytes, raw.read_bytes);
            raw.freed_bytes = raw.read_bytes;
        }
        Ok(())
    }

    /// Gives a line its number and writes its entry to `bytes`.
    fn number(
        &mut self,
        stream: Stream,
        message: String,
        time: Time,
        bytes: &mut Vec<u8>,
    ) -> io::Result<LogLine> {
        let line = LogLine {
            seq: self.seq_next,
            time,
            stream,
            message,
        };
        self.seq_next += 1;
        let entry = Entry {
            raw: [self.raw[0].read_bytes, self.raw[1].read_bytes],
            line,
        };
        serde_json::to_writer(&mut *bytes, &entry)?;
        bytes.push(b'\n');
        Ok(entry.line)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.journal.write_all_at(bytes, self.journal_bytes)?;
        self.journal_bytes += bytes.len() as u64;
        Ok(())
    }

    /// Adds a line of the platform's own.
    pub(crate) fn note(&mut self, now: Time, message: impl Into<String>) -> io::Result<LogLine> {
        let mut bytes = Vec::new();
        let line = self.number(Stream::System, message.into(), now, &mut bytes)?;
        self.append(&bytes)?;
        Ok(line)
    }

    /// Passes over raw output that came faster than it can be kept.
    fn skip_surplus(&mut self, index: usize, now: Time, lines: &mut Vec<LogLine>) -> io::Result<()> {
        let raw = &mut self.raw[index];
        let unread_bytes = raw.file.metadata()?.len().saturating_sub(raw.read_bytes);
        if unread_bytes <= self.bytes_max {
            return Ok(());
        }
        let skipped_bytes = unread_bytes - self.bytes_max / 2;
        raw.read_bytes += skipped_bytes;
        let message = format!(
            "{skipped_bytes} bytes of {} were dropped here: they came too fast",
            raw.stream.as_str()
        );
        lines.push(self.note(now, message)?);
        Ok(())
    }

    /// Drops the oldest unshipped lines when they are too many, a quarter of the bound at once.
    fn drop_surplus(&mut self) -> io::Result<()> {
        if self.journal_bytes - self.cursor.shipped_bytes <= self.bytes_max {
            return Ok(());
        }
        while self.journal_bytes - self.cursor.shipped_bytes > self.bytes_max / 4 * 3 {
            let (entries, end) = self.entries_from(self.cursor.shipped_bytes, BATCH_LINES_MAX)?;
            let Some(last) = entries.last() else { break };
            let (raw, seq_next) = (last.raw, last.line.seq + 1);
            let dropped = self.cursor.dropped + entries.len() as u64;
            self.advance(Cursor {
                shipped_bytes: end,
                raw,
                seq_next,
                dropped,
            })?;
        }
        Ok(())
    }

    /// The next lines to ship; `None` when all are.
    pub(crate) fn batch(&self) -> io::Result<Option<Batch>> {
        let (entries, end_bytes) = self.entries_from(self.cursor.shipped_bytes, BATCH_LINES_MAX - 1)?;
        let mut lines: Vec<LogLine> = entries.into_iter().map(|entry| entry.line).collect();
        let Some(first) = lines.first() else {
            return Ok(None);
        };
        if self.cursor.dropped > 0 {
            // It takes the number of the last line that it stands for.
            let message = format!(
                "{} lines were dropped here: they could not be shipped in time",
                self.cursor.dropped
            );
            let notice = LogLine {
                seq: first.seq - 1,
                time: first.time,
                stream: Stream::System,
                message,
            };
            lines.insert(0, notice);
        }
        Ok(Some(Batch { lines, end_bytes }))
    }

    /// The batch is stored: frees it.
    pub(crate) fn acknowledge(&mut self, batch: &Batch) -> io::Result<()> {
        if batch.end_bytes <= self.cursor.shipped_bytes {
            // Dropped while it was on its way.
            return Ok(());
        }
        let (entries, end) = self.entries_from(self.cursor.shipped_bytes, batch.lines.len())?;
        let whole = entries
            .iter()
            .take_while(|entry| Some(entry.line.seq) <= batch.lines.last().map(|line| line.seq));
        let Some(last) = whole.last() else { return Ok(()) };
        let (raw, seq_next) = (last.raw, last.line.seq + 1);
        debug_assert!(end >= batch.end_bytes, "a batch is read from the cursor on");
        self.advance(Cursor {
            shipped_bytes: batch.end_bytes,
            raw,
            seq_next,
            dropped: 0,
        })
    }

    fn advance(&mut self, cursor: Cursor) -> io::Result<()> {
        record::write(&self.dir.join(CURSOR_FILE), &cursor)?;
        free(&self.journal, self.cursor.shipped_bytes, cursor.shipped_bytes);
        self.cursor = cursor;
        Ok(())
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

/// Fills `buffer` from `at`, as far as the file goes.
fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    const NOW: fn() -> Time = || Time::from_unix_ms(1_000);

    fn write(dir: &Path, name: &str, text: &str) {
        open(&dir.join(name))
            .expect("opened")
            .write_all(text.as_bytes())
            .expect("written");
    }

    fn texts(lines: &[LogLine]) -> Vec<(u64, &str)> {
        lines
            .iter()
            .map(|line| (line.seq, line.message.as_str()))
            .collect()
    }

    #[test]
    fn lines_are_numbered_once_also_across_a_crash() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut spool, tail) = Spool::open(dir.path(), 1 << 20).expect("opened");
        assert!(tail.is_empty() && spool.batch().expect("read").is_none());
        write(dir.path(), STDOUT_FILE, "one\ntwo\nthr");
        assert_eq!(
            texts(&spool.pump(NOW(), false).expect("pumped")),
            [(1, "one"), (2, "two")]
        );
        write(dir.path(), STDERR_FILE, "oops\n");
        assert_eq!(texts(&spool.pump(NOW(), false).expect("pumped")), [(3, "oops")]);
        let shipped = spool.batch().expect("read").expect("three lines");
        drop(spool);

        // A crash after the batch went out and before it was acknowledged: the very same lines again.
        let (mut spool, tail) = Spool::open(dir.path(), 1 << 20).expect("opened");
        assert_eq!(tail, shipped.lines);
        let again = spool.batch().expect("read").expect("three lines");
        assert_eq!(again.lines, shipped.lines);
        write(dir.path(), STDOUT_FILE, "ee\nlast");
        assert_eq!(texts(&spool.pump(NOW(), false).expect("pumped")), [(4, "three")]);
        spool.acknowledge(&again).expect("acknowledged");
        drop(spool);

        let (mut spool, _) = Spool::open(dir.path(), 1 << 20).expect("opened");
        assert_eq!(
            texts(&spool.batch().expect("read").expect("a line").lines),
            [(4, "three")]
        );
        assert_eq!(texts(&spool.pump(NOW(), true).expect("pumped")), [(5, "last")]);
        let rest = spool.batch().expect("read").expect("two lines");
        spool.acknowledge(&rest).expect("acknowledged");
        assert!(spool.batch().expect("read").is_none());
        drop(spool);

        // Everything shipped: the numbers go on.
        let (mut spool, _) = Spool::open(dir.path(), 1 << 20).expect("opened");
        write(dir.path(), STDOUT_FILE, "\nmore\n");
        assert_eq!(
            texts(&spool.pump(NOW(), false).expect("pumped")),
            [(6, ""), (7, "more")]
        );
    }

    #[test]
    fn a_torn_entry_is_read_again() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), STDOUT_FILE, "one\ntwo\n");
        let (mut spool, _) = Spool::open(dir.path(), 1 << 20).expect("opened");
        spool.pump(NOW(), false).expect("pumped");
        let journal = open(&dir.path().join(JOURNAL_FILE)).expect("opened");
        journal
            .set_len(journal.metadata().expect("there").len() - 3)
            .expect("torn");
        let (mut spool, tail) = Spool::open(dir.path(), 1 << 20).expect("opened");
        assert_eq!(texts(&tail), [(1, "one")]);
        assert_eq!(texts(&spool.pump(NOW(), false).expect("pumped")), [(2, "two")]);
    }

    #[test]
    fn what_can_not_be_kept_is_dropped_and_said() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut spool, _) = Spool::open(dir.path(), 16 << 10).expect("opened");
        for index in 0..500 {
            write(dir.path(), STDOUT_FILE, &format!("line {index}\n"));
            spool.pump(NOW(), false).expect("pumped");
        }
        let batch = spool.batch().expect("read").expect("lines");
        let (notice, first) = (&batch.lines[0], &batch.lines[1]);
        assert_eq!(notice.stream, Stream::System);
        assert_eq!(
            notice.message,
            format!(
                "{} lines were dropped here: they could not be shipped in time",
                first.seq - 1
            )
        );
        assert_eq!(
            (first.message.as_str(), notice.seq),
            (&*format!("line {}", first.seq - 1), first.seq - 1)
        );
        assert_eq!(batch.lines.last().expect("lines").message, "line 499");
        spool.acknowledge(&batch).expect("acknowledged");
        assert!(spool.batch().expect("read").is_none());
    }

    #[test]
    fn a_flood_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        write(dir.path(), STDOUT_FILE, &"0123456789\n".repeat(10_000));
        let (mut spool, _) = Spool::open(dir.path(), 16 << 10).expect("opened");
        let lines = spool.pump(NOW(), false).expect("pumped");
        assert!(
            lines[0]
                .message
                .ends_with("bytes of stdout were dropped here: they came too fast"),
            "{}",
            lines[0].message
        );
    }
}
