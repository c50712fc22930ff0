//! The log of one build on its way to the database: numbered here, stored in batches by a writer that runs
//! beside the build. While a batch is stored the next one gathers, so a line waits only as long as needed.

use crate::store::{builds::Claimed, logs};
use sqlx::PgPool;
use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt},
    sync::mpsc,
};
use zectre_common::{
    time::Time,
    wire::log::{BATCH_LINES_MAX, LINE_BYTES_MAX, LogLine, Stream},
};

/// The most lines of one attempt; a compiler that says more has stopped being read by anyone.
const LINES_MAX: usize = 20_000;
/// Lines between the build and its writer; more make the build wait.
const QUEUE_LINES_MAX: usize = 1_024;
/// Tries to store a batch, with growing pauses: about six seconds, less than a lease.
const STORE_TRIES: u32 = 6;
const STORE_PAUSE: Duration = Duration::from_millis(100);

type Unnumbered = (Time, Stream, String);

/// Takes lines; the last one dropped ends the writer.
#[derive(Debug)]
pub struct Log {
    lines: mpsc::Sender<Unnumbered>,
    said: AtomicUsize,
}

/// Stores what a [`Log`] takes.
pub struct Writer<'a> {
    pool: &'a PgPool,
    claimed: &'a Claimed,
    lines: mpsc::Receiver<Unnumbered>,
    seq: u64,
}

impl Log {
    /// A log and its writer, which numbers from `seq` on.
    pub fn new<'a>(pool: &'a PgPool, claimed: &'a Claimed, seq: u64) -> (Self, Writer<'a>) {
        let (sender, lines) = mpsc::channel(QUEUE_LINES_MAX);
        (
            Self {
                lines: sender,
                said: AtomicUsize::new(0),
            },
            Writer {
                pool,
                claimed,
                lines,
                seq,
            },
        )
    }

    /// The platform says something.
    pub async fn say(&self, message: impl Into<String>) {
        self.line(Stream::System, message.into()).await;
    }

    /// Adds a line; past the bound one line says so, and the rest is dropped.
    pub async fn line(&self, stream: Stream, message: String) {
        let line = match self.said.fetch_add(1, Ordering::Relaxed) {
            said if said < LINES_MAX => (Time::now(), stream, cut(message)),
            LINES_MAX => (
                Time::now(),
                Stream::System,
                format!("more than {LINES_MAX} lines: the rest is left out"),
            ),
            _ => return,
        };
        // The writer lives as long as the build; without it there is no one to tell.
        let _ = self.lines.send(line).await;
    }

    /// Adds what a program writes, line by line, each passed through `clean`.
    pub async fn copy(
        &self,
        stream: Stream,
        from: impl AsyncBufRead + Unpin,
        clean: impl Fn(&str) -> String,
    ) {
        let mut lines = Lines::new(from);
        while let Some(line) = lines.next().await {
            self.line(stream, clean(&line)).await;
        }
    }
}

impl Writer<'_> {
    /// Stores until the log is dropped and everything is stored.
    pub async fn run(mut self) {
        let mut batch = Vec::new();
        while self.lines.recv_many(&mut batch, BATCH_LINES_MAX).await > 0 {
            let lines: Vec<LogLine> = batch.drain(..).map(|line| self.number(line)).collect();
            self.store(&lines).await;
        }
    }

    fn number(&mut self, (time, stream, message): Unnumbered) -> LogLine {
        self.seq += 1;
        LogLine {
            seq: self.seq,
            time,
            stream,
            message,
        }
    }

    async fn store(&self, lines: &[LogLine]) {
        for tried in 1..=STORE_TRIES {
            match logs::append(self.pool, self.claimed, lines).await {
                Ok(()) => return,
                Err(error) if tried == STORE_TRIES => {
                    tracing::warn!(build = %self.claimed.id, lines = lines.len(), %error, "lost lines of a build log");
                }
                Err(_) => tokio::time::sleep(STORE_PAUSE * 2_u32.pow(tried - 1)).await,
            }
        }
    }
}

/// PostgreSQL's text can't hold NUL; everything else is kept, up to the bound.
fn cut(message: String) -> String {
    let mut message = if message.contains('\0') {
        message.replace('\0', "�")
    } else {
        message
    };
    if message.len() > LINE_BYTES_MAX {
        message.truncate(message.floor_char_boundary(LINE_BYTES_MAX - '…'.len_utf8()));
        message.push('…');
    }
    message
}

/// Lines of a program, in bounded memory however long they are.
pub struct Lines<R> {
    from: R,
}

impl<R: AsyncBufRead + Unpin> Lines<R> {
    /// Reads from `from`.
    pub const fn new(from: R) -> Self {
        Self { from }
    }

    /// The next line without its end; a long one is cut. A read error ends the lines like an end does.
    pub async fn next(&mut self) -> Option<String> {
        let mut line = Vec::new();
        let mut any = false;
        loop {
            let chunk = self.from.fill_buf().await.ok().filter(|chunk| !chunk.is_empty());
            let Some(chunk) = chunk else {
                return any.then(|| text(&line));
            };
            any = true;
            let end = chunk.iter().position(|byte| *byte == b'\n');
            let part = &chunk[..end.unwrap_or(chunk.len())];
            // One byte more than is kept, so that the cut shows.
            let room = (LINE_BYTES_MAX + 1).saturating_sub(line.len());
            line.extend_from_slice(&part[..part.len().min(room)]);
            let used = part.len() + usize::from(end.is_some());
            self.from.consume(used);
            if end.is_some() {
                return Some(text(&line));
            }
        }
    }
}

fn text(line: &[u8]) -> String {
    String::from_utf8_lossy(line).trim_end_matches('\r').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_split_and_long_ones_are_bounded() {
        let long = "x".repeat(LINE_BYTES_MAX * 3);
        let input = format!("one\r\n\n{long}\nlast");
        let mut lines = Lines::new(input.as_bytes());
        let mut all = Vec::new();
        while let Some(line) = lines.next().await {
            all.push(cut(line));
        }
        assert_eq!(
            (all[0].as_str(), all[1].as_str(), all[3].as_str()),
            ("one", "", "last")
        );
        assert!(all[2].len() <= LINE_BYTES_MAX && all[2].ends_with('…'));
    }

    #[test]
    fn a_cut_keeps_characters_whole() {
        let message = cut("ä".repeat(LINE_BYTES_MAX));
        assert!(message.len() <= LINE_BYTES_MAX && message.ends_with("ä…"));
        assert_eq!(cut("a\0b".into()), "a�b");
    }
}
