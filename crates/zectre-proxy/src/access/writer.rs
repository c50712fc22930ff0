//! The thread that writes: it may wait for a disk or a pipe, and nobody waits for it.

use super::line::Line;
use crate::metrics::LogMetrics;
use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use zectre_common::time::Time;
use zectre_service::tasks::Shutdown;

/// Lines that are written at once.
const BATCH_MAX: usize = 256;
/// How often the file is looked for under its name: a log that was moved away is begun anew.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// To the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// One more line.
    Line(String),
    /// The last one has come.
    End,
}

/// Where lines go.
#[derive(Debug)]
enum Sink {
    Stdout,
    File {
        path: PathBuf,
        file: File,
        looked: Instant,
    },
}

/// What writes the log; to be run.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::Sender<Message>,
    ended: oneshot::Receiver<()>,
}

/// Opens `target` (`stdout` or a path) and starts the thread behind a queue of `lines_max`.
pub(super) fn open(
    target: &str,
    lines_max: usize,
    metrics: LogMetrics,
) -> io::Result<(mpsc::Sender<Message>, Writer)> {
    let sink = Sink::open(target)?;
    let (queue, messages) = mpsc::channel(lines_max);
    let (tell, ended) = oneshot::channel();
    let work = move || {
        write_all(messages, sink, &metrics);
        // Nobody listens any more where the proxy could not wait.
        let _ = tell.send(());
    };
    thread::Builder::new().name("access-log".into()).spawn(work)?;
    Ok((queue.clone(), Writer { queue, ended }))
}

impl Writer {
    /// Lets it write until `shutdown`, then what is left.
    pub async fn run(mut self, shutdown: Shutdown) {
        if shutdown.or_requested(&mut self.ended).await.is_some() {
            return;
        }
        if self.queue.send(Message::End).await.is_ok() {
            let _ = self.ended.await;
        }
    }
}

fn write_all(mut messages: mpsc::Receiver<Message>, mut sink: Sink, metrics: &LogMetrics) {
    let (mut batch, mut text, mut told) = (Vec::with_capacity(BATCH_MAX), String::new(), 0);
    let mut failing = false;
    while messages.blocking_recv_many(&mut batch, BATCH_MAX) > 0 {
        text.clear();
        if failing {
            // What was torn off ends here.
            text.push('\n');
        }
        let (mut lines, mut last) = (0, false);
        for message in batch.drain(..) {
            match message {
                Message::Line(line) => {
                    text.push_str(&line);
                    lines += 1;
                }
                Message::End => last = true,
            }
        }
        let dropped = metrics.dropped_lines();
        if dropped > told {
            let mut line = Line::begin(&mut text);
            line.text("time", Time::now());
            line.number("dropped_lines", dropped - told);
            line.end();
        }
        match sink.write(text.as_bytes()) {
            Ok(()) => {
                (told, failing) = (dropped, false);
                metrics.written(lines);
            }
            Err(error) => {
                metrics.dropped(lines);
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "the access log can't be written; its lines are dropped");
                }
            }
        }
        if last {
            return;
        }
    }
}

impl Sink {
    fn open(target: &str) -> io::Result<Self> {
        if target == "stdout" {
            return Ok(Self::Stdout);
        }
        let path = PathBuf::from(target);
        Ok(Self::File {
            file: append_to(&path)?,
            path,
            looked: Instant::now(),
        })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(bytes)?;
                stdout.flush()
            }
            Self::File { path, file, looked } => {
                if looked.elapsed() >= LOOK_EVERY {
                    *looked = Instant::now();
                    let now = std::fs::metadata(&*path).ok().map(|it| (it.dev(), it.ino()));
                    let open = file.metadata()?;
                    if now != Some((open.dev(), open.ino())) {
                        *file = append_to(path)?;
                    }
                }
                file.write_all(bytes)
            }
        }
    }
}

fn append_to(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_begun_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let (path, moved) = (
            directory.path().join("access.log"),
            directory.path().join("access.log.1"),
        );
        let mut sink = Sink::open(path.to_str().expect("text")).expect("opened");
        sink.write(b"one\n").expect("written");
        std::fs::rename(&path, &moved).expect("moved");
        if let Sink::File { looked, .. } = &mut sink {
            *looked = Instant::now()
                .checked_sub(LOOK_EVERY)
                .expect("the machine runs for longer");
        }
        sink.write(b"two\n").expect("written");
        assert_eq!(std::fs::read(&path).expect("there"), b"two\n");
        assert_eq!(std::fs::read(&moved).expect("there"), b"one\n");
    }
}
