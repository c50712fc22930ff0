//! Lines on their way to the API: the raw bytes as they were read, turned into the wire's form only while they
//! are sent.

use super::{journal::Place, line};
use serde::{Serialize, Serializer, ser::SerializeSeq};
use zectre_common::{
    time::Time,
    wire::log::{BATCH_LINES_MAX, LogLine, Stream},
};

/// The most raw bytes of a batch, but for its last stretch: well below what the API takes as a body.
pub(super) const BATCH_BYTES_MAX: u64 = 256 << 10;

/// Lines that lie together.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// What a task wrote.
    Raw {
        stream: Stream,
        time: Time,
        /// The number of the first line.
        seq: u64,
        count: u64,
        bytes: Vec<u8>,
    },
    /// What the platform has to say.
    Own(LogLine),
}

impl Chunk {
    /// Calls `each` with every line: number, and text.
    fn lines<E>(&self, mut each: impl FnMut(u64, &str) -> Result<(), E>) -> Result<(), E> {
        match self {
            Self::Own(line) => each(line.seq, &line.message),
            Self::Raw {
                seq, count, bytes, ..
            } => {
                let mut rest = bytes.as_slice();
                for index in 0..*count {
                    let Some(cut) = line::first(rest, true) else { break };
                    each(seq + index, &cut.text(rest))?;
                    rest = &rest[cut.raw_bytes..];
                }
                Ok(())
            }
        }
    }

    const fn stream(&self) -> Stream {
        match self {
            Self::Raw { stream, .. } => *stream,
            Self::Own(line) => line.stream,
        }
    }

    const fn time(&self) -> Time {
        match self {
            Self::Raw { time, .. } => *time,
            Self::Own(line) => line.time,
        }
    }

    /// The lines as such.
    pub(super) fn to_lines(&self) -> Vec<LogLine> {
        let mut lines = Vec::new();
        let collected: Result<(), std::convert::Infallible> = self.lines(|seq, text| {
            lines.push(LogLine {
                seq,
                time: self.time(),
                stream: self.stream(),
                message: text.into(),
            });
            Ok(())
        });
        match collected {
            Ok(()) => lines,
            Err(never) => match never {},
        }
    }
}

/// Lines on their way to the API; written as an `AppendLogsRequest`.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(super) chunks: Vec<Chunk>,
    /// How many lines; never 0.
    pub(super) lines: u64,
    /// Where it ends.
    pub(super) end: Place,
    /// Bytes of the spool that it frees.
    pub(super) weight: u64,
}

impl Batch {
    /// How many lines.
    pub(crate) const fn len(&self) -> u64 {
        self.lines
    }

    /// Whether more are likely to wait behind it.
    pub(crate) const fn is_large(&self) -> bool {
        self.lines >= BATCH_LINES_MAX as u64 / 2 || self.weight >= BATCH_BYTES_MAX / 2
    }
}

/// A line as the wire has it, without a copy of its text.
#[derive(Serialize)]
struct Line<'a> {
    seq: u64,
    time: &'a str,
    stream: Stream,
    message: &'a str,
}

#[derive(Serialize)]
struct Request<'a> {
    lines: Lines<'a>,
}

struct Lines<'a>(&'a Batch);

impl Serialize for Batch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Request { lines: Lines(self) }.serialize(serializer)
    }
}

impl Serialize for Lines<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut lines = serializer.serialize_seq(None)?;
        for chunk in &self.0.chunks {
            let (stream, time) = (chunk.stream(), chunk.time().to_string());
            chunk.lines(|seq, message| {
                lines.serialize_element(&Line {
                    seq,
                    time: &time,
                    stream,
                    message,
                })
            })?;
        }
        lines.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zectre_common::wire::log::AppendLogsRequest;

    #[test]
    fn the_wire_takes_it() {
        let time = Time::from_unix_ms(1_234);
        let own = LogLine {
            seq: 1,
            time,
            stream: Stream::System,
            message: "hello".into(),
        };
        let raw = Chunk::Raw {
            stream: Stream::Stderr,
            time,
            seq: 2,
            count: 2,
            bytes: b"quote \"\x01\"\r\nlast\xff".to_vec(),
        };
        let batch = Batch {
            chunks: vec![Chunk::Own(own), raw],
            lines: 3,
            end: Place::START,
            weight: 0,
        };
        let json = serde_json::to_vec(&batch).expect("text and numbers");
        let request: AppendLogsRequest = serde_json::from_slice(&json).expect("the wire's form");
        let seen: Vec<_> = request
            .lines
            .iter()
            .map(|line| (line.seq, line.stream, &*line.message))
            .collect();
        assert_eq!(
            seen,
            [
                (1, Stream::System, "hello"),
                (2, Stream::Stderr, "quote \"\u{1}\""),
                (3, Stream::Stderr, "last\u{FFFD}")
            ]
        );
        assert!(request.lines.iter().all(|line| line.time == time));
    }
}
