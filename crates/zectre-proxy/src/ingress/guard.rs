//! Watches what a client sends, byte for byte, and breaks it off where two programs could read it differently:
//! both framings at once, a repeated or odd length, bare line feeds, folded headers. The HTTP library would repair
//! some of these; a request that needs repair is refused instead.
//!
//! It follows HTTP/1.1 framing only as far as needed to know where the next head begins. HTTP/2 and upgraded
//! connections pass as they are.

use super::{
    frames::{Allowance, Frames, TooMany},
    vigil::Vigil,
    watch::Watch,
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// No program that means well writes a longer chunk-size line.
const CHUNK_LINE_MAX: usize = 1_024;
/// Takes the place of what must not be read: no parser takes it for a part of HTTP, so the answer is a 400. The empty
/// line ends the head, which is looked at only then.
const POISON: &[u8] = b"\0\r\n\r\n";

/// For a client that began a head and did not end it in time.
const LATE: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nx-error-detail: the head of the request did not come in time\r\n\
    content-length: 0\r\nconnection: close\r\n\r\n";

/// The bytes can be read in two ways, or in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ambiguous;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Lines of a request head.
    Head,
    /// A body of known length.
    Body(u64),
    /// The line before a chunk.
    ChunkSize,
    /// A chunk and how much of it is to come, with its CRLF.
    Chunk(u64),
    /// Lines after the last chunk.
    Trailers,
    /// Frames of HTTP/2.
    Frames,
    /// Not HTTP.
    Opaque,
    /// Broken off.
    Broken,
}

#[derive(Debug, Default)]
struct Head {
    request_line: bool,
    length: Option<u64>,
    chunked: bool,
    bytes: usize,
}

/// Where in a client's stream of requests we are.
#[derive(Debug)]
struct Framing {
    part: Part,
    head: Head,
    /// A line of which the end has not come yet.
    line: Vec<u8>,
    head_bytes_max: usize,
    frames: Frames,
}

impl Framing {
    fn new(head_bytes_max: usize, allowance: Allowance) -> Self {
        Self {
            frames: Frames::new(allowance),
            part: Part::Head,
            head: Head::default(),
            line: Vec::new(),
            head_bytes_max,
        }
    }

    /// Reads on, at `now_ns` of any clock; `Err` with the number of bytes that are good.
    fn read(&mut self, bytes: &[u8], now_ns: impl Fn() -> u64) -> Result<(), usize> {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            at += match self.part {
                Part::Frames => {
                    return match self.frames.read(rest, now_ns()) {
                        Ok(()) => Ok(()),
                        Err(TooMany) => self.broken(at),
                    };
                }
                Part::Opaque => return Ok(()),
                Part::Broken => return Err(at),
                Part::Body(left) => {
                    let (taken, left) = pass(rest, left);
                    self.part = if left == 0 { Part::Head } else { Part::Body(left) };
                    taken
                }
                Part::Chunk(left) => match self.chunk(rest, left) {
                    Ok(taken) => taken,
                    Err(Ambiguous) => return self.broken(at),
                },
                Part::Head | Part::ChunkSize | Part::Trailers => match self.line(rest) {
                    Ok(taken) => taken,
                    Err(Ambiguous) => return self.broken(at),
                },
            };
        }
        Ok(())
    }

    /// Whether the client owes the rest of a head. Empty lines before one are none of it.
    fn owes_head(&self) -> bool {
        self.part == Part::Head && (self.head.request_line || !matches!(&self.line[..], b"" | b"\r"))
    }

    fn broken(&mut self, good: usize) -> Result<(), usize> {
        self.part = Part::Broken;
        Err(good)
    }

    fn chunk(&mut self, bytes: &[u8], left: u64) -> Result<usize, Ambiguous> {
        // The last two bytes are the CRLF.
        if left > 2 {
            let (taken, rest) = pass(bytes, left - 2);
            self.part = Part::Chunk(rest + 2);
            return Ok(taken);
        }
        let expected = if left == 2 { b'\r' } else { b'\n' };
        self.part = if left == 2 {
            Part::Chunk(1)
        } else {
            Part::ChunkSize
        };
        if bytes[0] == expected {
            Ok(1)
        } else {
            Err(Ambiguous)
        }
    }

    /// Takes a line, or as much of it as there is.
    fn line(&mut self, bytes: &[u8]) -> Result<usize, Ambiguous> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(bytes.len(), |end| end + 1);
        self.head.bytes += taken;
        let max = if self.part == Part::ChunkSize {
            CHUNK_LINE_MAX
        } else {
            self.head_bytes_max
        };
        if self.head.bytes > max {
            return Err(Ambiguous);
        }
        if end.is_none() {
            self.line.extend_from_slice(bytes);
            return Ok(taken);
        }
        if self.line.is_empty() {
            self.whole_line(&bytes[..taken])?;
        } else {
            let mut line = std::mem::take(&mut self.line);
            line.extend_from_slice(&bytes[..taken]);
            self.whole_line(&line)?;
            line.clear();
            self.line = line;
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line
            .strip_suffix(b"\r\n")
            .filter(|line| !line.contains(&b'\r'))
            .ok_or(Ambiguous)?;
        match self.part {
            Part::ChunkSize => {
                self.head.bytes = 0;
                let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
                let size = parse(trimmed_end(digits), 16).ok_or(Ambiguous)?;
                self.part = match size {
                    0 => Part::Trailers,
                    size => Part::Chunk(size.checked_add(2).ok_or(Ambiguous)?),
                };
            }
            Part::Trailers if line.is_empty() => self.next_head(Part::Head),
            Part::Trailers => field_name(line).map(drop)?,
            _ if !self.head.request_line => {
                // An empty line before a request is tolerated everywhere (RFC 9112, section 2.2).
                self.head.request_line = !line.is_empty();
                if line == b"PRI * HTTP/2.0" {
                    self.part = Part::Frames;
                }
            }
            _ if line.is_empty() => {
                let Head { length, chunked, .. } = self.head;
                self.next_head(match (chunked, length) {
                    (true, Some(_)) => return Err(Ambiguous),
                    (true, None) => Part::ChunkSize,
                    (false, None | Some(0)) => Part::Head,
                    (false, Some(length)) => Part::Body(length),
                });
            }
            _ => self.field(line)?,
        }
        Ok(())
    }

    fn next_head(&mut self, part: Part) {
        self.head = Head::default();
        self.part = part;
    }

    fn field(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let name = field_name(line)?;
        let value = || trimmed(&line[name.len() + 1..]);
        if name.eq_ignore_ascii_case(b"content-length") {
            let length = parse(value(), 10).ok_or(Ambiguous)?;
            if self.head.length.replace(length).is_some() {
                return Err(Ambiguous);
            }
        } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
            // Any other coding would have to be undone before the request can be framed anew.
            if !value().eq_ignore_ascii_case(b"chunked") || std::mem::replace(&mut self.head.chunked, true) {
                return Err(Ambiguous);
            }
        }
        Ok(())
    }
}

/// The name of a header line: a token right before the colon. A line that begins with white space continues the one
/// before it for some programs, and is a header of its own for others.
fn field_name(line: &[u8]) -> Result<&[u8], Ambiguous> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguous)?;
    let name = &line[..colon];
    let token = |byte: &u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(byte);
    if name.is_empty() || !name.iter().all(token) {
        Err(Ambiguous)
    } else {
        Ok(name)
    }
}

/// Without spaces and tabs at its ends: to HTTP nothing else is white space.
fn trimmed(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = text {
        text = rest;
    }
    trimmed_end(text)
}

fn trimmed_end(mut text: &[u8]) -> &[u8] {
    while let [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// Digits and nothing else.
fn parse(digits: &[u8], radix: u32) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |sum, digit| {
        let digit = char::from(*digit).to_digit(radix)?;
        sum.checked_mul(u64::from(radix))?.checked_add(u64::from(digit))
    })
}

fn pass(bytes: &[u8], left: u64) -> (usize, u64) {
    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
    (taken, left - taken as u64)
}

/// A connection whose incoming bytes are watched, and whose client is expected to read.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    framing: Framing,
    vigil: Arc<Vigil>,
    writing: Option<Watch>,
    /// What is left to give instead of the client's bytes, once they are broken off.
    poison: &'static [u8],
}

impl<S> Guarded<S> {
    /// Watches `stream`; a head may have `head_bytes_max`, and the client reads as `writing` wants it.
    pub fn new(
        stream: S,
        head_bytes_max: usize,
        vigil: Arc<Vigil>,
        writing: Option<Watch>,
        allowance: Allowance,
    ) -> Self {
        // The HTTP library knows the bound too, and has a status of its own for it; it shall find out first.
        Self {
            stream,
            framing: Framing::new(head_bytes_max.saturating_mul(2), allowance),
            vigil,
            writing,
            poison: POISON,
        }
    }

    /// Looks at what came of writing so many bytes.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        let Some(watch) = &mut self.writing else {
            return polled;
        };
        let slow = match &polled {
            Poll::Ready(Ok(done)) => watch.moved(bytes(done) as u64),
            Poll::Ready(Err(_)) => false,
            Poll::Pending => watch.is_too_slow(cx),
        };
        if !slow {
            return polled;
        }
        self.vigil.write_timed_out();
        self.writing = None;
        let cause = "the client does not read";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, cause)))
    }

    fn give_poison(&mut self, buf: &mut ReadBuf<'_>) {
        let (now, later) = self.poison.split_at(self.poison.len().min(buf.remaining()));
        buf.put_slice(now);
        self.poison = later;
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// Tells the client, if it can be told at once, and hears nothing more from it.
    fn break_off(&mut self, cx: &mut Context<'_>) {
        self.framing.part = Part::Broken;
        self.poison = b"";
        let mut stream = Pin::new(&mut self.stream);
        if matches!(stream.as_mut().poll_write(cx, LATE), Poll::Ready(Ok(_))) {
            let _ = stream.poll_flush(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.vigil.is_late() && this.framing.part != Part::Broken {
            this.break_off(cx);
        }
        if this.framing.part == Part::Broken {
            // After the poison as if the client had hung up.
            this.give_poison(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.framing.part == Part::Opaque || !matches!(polled, Poll::Ready(Ok(()))) {
            return polled;
        }
        if this.vigil.is_upgraded() {
            this.framing.part = Part::Opaque;
            return polled;
        }
        let frames = this.framing.part == Part::Frames;
        if let Err(good) = this.framing.read(&buf.filled()[before..], || this.vigil.now_ns()) {
            buf.set_filled(before + good);
            if frames {
                this.vigil.set_flooded();
                let cause = "too many frames that carry nothing";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, cause)));
            }
            this.give_poison(buf);
        }
        if this.framing.part == Part::Frames {
            this.vigil.spoke();
        }
        this.vigil.in_head(this.framing.owes_head());
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, polled, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, polled, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framing() -> Framing {
        let (resets, idle) = (None, None);
        Framing::new(4_096, Allowance { resets, idle })
    }

    fn read(bytes: &[u8]) -> Result<Part, usize> {
        let mut framing = framing();
        framing.read(bytes, || 1).map(|()| framing.part)
    }

    const GOOD: &str = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\nc\n\
        \r\nPOST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=y\r\na\r\nbc\r\n0\r\nTrailer-A: 1\r\n\r\n";

    #[test]
    fn requests_in_a_row_are_followed_to_their_ends() {
        assert_eq!(read(GOOD.as_bytes()), Ok(Part::Head));
        assert_eq!(
            read(b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc"),
            Ok(Part::Body(6))
        );
        assert_eq!(read(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\n\n\n"), Ok(Part::Frames));
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_broken_off() {
        for bad in [
            "GET / HTTP/1.1\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n\n",
            "GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n",
            "GET / HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET / HTTP/1.1\r\nno colon\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551616\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: identity\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: \u{c}chunked\r\n\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n 1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\na\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\na",
            "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nA: b\n\r\n",
        ] {
            assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(bytes in proptest::collection::vec(prop_oneof![
            Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b':'), Just(b'a'), Just(b' '), any::<u8>()
        ], 0..60), good in any::<bool>(), cuts in proptest::collection::vec(1_usize..40, 0..12)) {
            let mut all = if good { GOOD.as_bytes().to_vec() } else { Vec::new() };
            all.extend(bytes);
            let whole = read(&all);
            let mut framing = framing();
            let (mut rest, mut failed) = (all.as_slice(), false);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (first, later) = rest.split_at(cut.min(rest.len()));
                failed |= framing.read(first, || 1).is_err();
                rest = later;
            }
            prop_assert_eq!(failed, whole.is_err());
            if let Ok(part) = whole {
                prop_assert_eq!(framing.part, part);
            }
        }
    }
}
