//! What a container writes, as it writes it.

use crate::{Engine, Error};
use bollard::{container::LogOutput, query_parameters::LogsOptions};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use zectre_common::time::Time;

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A piece of output, usually one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputChunk {
    /// Where it came from.
    pub stream: OutputStream,
    /// When the engine read it, in seconds since 1970.
    pub second: i64,
    /// The bytes, line end included.
    pub bytes: Bytes,
}

impl Engine {
    /// Follows the container's output until it ends, from what the engine read in the second `since` (since 1970) on.
    /// Within one stream the order is that of the container; what both wrote may be mixed in either way.
    pub fn output(
        &self,
        container: &str,
        since: i64,
    ) -> impl Stream<Item = Result<OutputChunk, Error>> + Send + use<> {
        let options = LogsOptions {
            follow: true,
            stdout: true,
            stderr: true,
            timestamps: true,
            since: i32::try_from(since).unwrap_or(0),
            ..LogsOptions::default()
        };
        let container = container.to_owned();
        self.docker
            .logs(&container, Some(options))
            .filter_map(move |item| {
                let chunk = match item {
                    Ok(output) => chunk(output).filter(|chunk| chunk.second >= since).map(Ok),
                    Err(error) => Some(Err(Error::about(&container, "read a container's output", error))),
                };
                std::future::ready(chunk)
            })
    }
}

/// Takes the engine's timestamp off the front.
fn chunk(output: LogOutput) -> Option<OutputChunk> {
    let (stream, message) = match output {
        LogOutput::StdErr { message } => (OutputStream::Stderr, message),
        LogOutput::StdOut { message } | LogOutput::Console { message } => (OutputStream::Stdout, message),
        LogOutput::StdIn { .. } => return None,
    };
    let space = message.iter().position(|byte| *byte == b' ')?;
    let second = unix_secs(std::str::from_utf8(&message[..space]).ok()?)?;
    Some(OutputChunk {
        stream,
        second,
        bytes: message.slice(space + 1..),
    })
}

/// Whole seconds since 1970 of an RFC 3339 time.
fn unix_secs(at: &str) -> Option<i64> {
    let at = at.parse().map(Time::from_timestamp).ok()?;
    Some(at.unix_ms().div_euclid(1_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_timestamp_is_taken_off() {
        let message = Bytes::from_static(b"2026-01-02T03:04:05.000000006Z hello there\n");
        let chunk = chunk(LogOutput::StdErr { message }).expect("a timestamp and a message");
        assert_eq!(chunk.stream, OutputStream::Stderr);
        assert_eq!(chunk.second, 1_767_323_045);
        assert_eq!(&chunk.bytes[..], b"hello there\n");
    }
}
