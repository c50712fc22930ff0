//! Where in a client's stream of requests we are, and whether its bytes could be read in two ways: both framings at
//! once, a repeated or odd length, bare line feeds, folded headers. Pure: it is handed bytes, and says how many are good.
//!
//! It follows HTTP/1.1 framing only as far as needed to know where the next head begins. HTTP/2 and upgraded
//! connections pass as they are.

use super::frames::{Allowance, Frames, TooMany};
use memchr::memchr;

/// No program that means well writes a longer chunk-size line.
const CHUNK_LINE_MAX: usize = 1_024;

/// Room for a line that comes in parts stays with a connection up to this size: what a client wrote once is not kept for as long as
/// it is idle.
const LINE_KEPT_BYTES: usize = 256;

/// The longest body that the HTTP library counts to the end; of a longer one it would say that its head is too large.
const LENGTH_MAX: u64 = u64::MAX - 2;

/// The bytes can be read in two ways, or in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ambiguous;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
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
pub(super) struct Framing {
    pub(super) part: Part,
    head: Head,
    /// A line of which the end has not come yet.
    line: Vec<u8>,
    head_bytes_max: usize,
    frames: Frames,
    /// Heads that have come whole.
    heads: u32,
}

impl Framing {
    pub(super) fn new(head_bytes_max: usize, allowance: Allowance) -> Self {
        Self {
            frames: Frames::new(allowance),
            part: Part::Head,
            head: Head::default(),
            line: Vec::new(),
            head_bytes_max,
            heads: 0,
        }
    }

    /// Reads on, at `now_ns` of any clock; `Err` with the number of bytes that are good.
    pub(super) fn read(&mut self, bytes: &[u8], now_ns: impl Fn() -> u64) -> Result<(), usize> {
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
    pub(super) fn owes_head(&self) -> bool {
        self.part == Part::Head && (self.head.request_line || !matches!(&self.line[..], b"" | b"\r"))
    }

    /// How many heads have come whole, where the last request has, too, and no next one has begun.
    pub(super) fn between(&self) -> Option<u32> {
        (self.part == Part::Head && !self.owes_head()).then_some(self.heads)
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
        let end = memchr(b'\n', bytes);
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
            if line.capacity() <= LINE_KEPT_BYTES {
                line.clear();
                self.line = line;
            }
        }
        Ok(taken)
    }

    fn whole_line(&mut self, line: &[u8]) -> Result<(), Ambiguous> {
        let line = line
            .strip_suffix(b"\r\n")
            .filter(|line| memchr(b'\r', line).is_none())
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
                // What is behind it is for clients alone (RFC 9112, section 3.2); the HTTP library would drop it in silence.
                if line.contains(&b'#') {
                    return Err(Ambiguous);
                }
                if line == b"PRI * HTTP/2.0" {
                    self.part = Part::Frames;
                }
            }
            _ if line.is_empty() => {
                let Head { length, chunked, .. } = self.head;
                self.heads = self.heads.wrapping_add(1);
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
            let length = parse(value(), 10)
                .filter(|length| *length <= LENGTH_MAX)
                .ok_or(Ambiguous)?;
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

/// Which bytes a token may have (RFC 9110, section 5.6.2). A table, since each byte of each name is asked for.
static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = b'!';
    while byte <= b'~' {
        table[byte as usize] = true;
        byte += 1;
    }
    let (separators, mut at) = (b"\"(),/:;<=>?@[\\]{}", 0);
    while at < separators.len() {
        table[separators[at] as usize] = false;
        at += 1;
    }
    table
};

/// The name of a header line: a token right before the colon. A line that begins with white space continues the one
/// before it for some programs, and is a header of its own for others.
fn field_name(line: &[u8]) -> Result<&[u8], Ambiguous> {
    let colon = line.iter().position(|byte| *byte == b':').ok_or(Ambiguous)?;
    let name = &line[..colon];
    if name.is_empty() || !name.iter().all(|byte| TOKEN[usize::from(*byte)]) {
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

    #[test]
    fn of_a_long_line_in_two_parts_nothing_is_kept() {
        let mut framing = framing();
        let (first, second) = (
            format!("GET /{}", "a".repeat(3_000)),
            " HTTP/1.1\r\nHost: a\r\n\r\n",
        );
        for part in [&first, second] {
            framing.read(part.as_bytes(), || 1).expect("sound");
        }
        assert_eq!(framing.between(), Some(1));
        assert!(
            framing.line.capacity() <= LINE_KEPT_BYTES,
            "{}",
            framing.line.capacity()
        );
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
            "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: +1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\na",
            "POST / HTTP/1.1\r\nContent-Length: 18446744073709551614\r\n\r\na",
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

    #[test]
    fn a_name_is_a_token() {
        for byte in u8::MIN..=u8::MAX {
            let is_one = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            let line = [b'a', byte, b'b', b':'];
            // A colon ends it sooner.
            let name = if byte == b':' {
                Ok(&line[..1])
            } else {
                Ok(&line[..3])
            };
            let expected = if is_one || byte == b':' {
                name
            } else {
                Err(Ambiguous)
            };
            assert_eq!(field_name(&line), expected, "{byte}");
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
