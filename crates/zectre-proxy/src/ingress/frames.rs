//! HTTP/2 frames that carry nothing, counted as they come. Each costs its sender a few bytes and us an answer, a
//! write-off or a look at a table, so whoever sends very many of them has no other aim. Only the frames' heads are read.

use super::rate::Rate;

const HEAD_BYTES: usize = 9;
/// The client's half of the preface that is left when `PRI * HTTP/2.0` has been read as a line.
const PREFACE_REST: u32 = b"\r\nSM\r\n\r\n".len() as u32;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// How many of them a connection may send.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// Requests taken back (RST_STREAM): each has been begun with.
    pub resets: Option<Rate>,
    /// PING, SETTINGS, PRIORITY, empty DATA and what nobody knows.
    pub idle: Option<Rate>,
}

/// Follows a client's frames.
#[derive(Debug)]
pub(super) struct Frames {
    allowance: Allowance,
    resets_full_at_ns: u64,
    idle_full_at_ns: u64,
    head: [u8; HEAD_BYTES],
    known: usize,
    /// Bytes of a frame's payload that are to come.
    payload: u32,
}

/// There were more than may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooMany;

impl Frames {
    /// From the line `PRI * HTTP/2.0` on.
    pub(super) fn new(allowance: Allowance) -> Self {
        Self {
            allowance,
            resets_full_at_ns: 0,
            idle_full_at_ns: 0,
            head: [0; HEAD_BYTES],
            known: 0,
            payload: PREFACE_REST,
        }
    }

    /// Reads on, at `now_ns` of any clock.
    pub(super) fn read(&mut self, mut bytes: &[u8], now_ns: u64) -> Result<(), TooMany> {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let passed = bytes.len().min(self.payload as usize);
                self.payload -= passed as u32;
                bytes = &bytes[passed..];
                continue;
            }
            let taken = bytes.len().min(HEAD_BYTES - self.known);
            self.head[self.known..self.known + taken].copy_from_slice(&bytes[..taken]);
            (self.known, bytes) = (self.known + taken, &bytes[taken..]);
            if self.known == HEAD_BYTES {
                self.known = 0;
                self.frame(now_ns)?;
            }
        }
        Ok(())
    }

    fn frame(&mut self, now_ns: u64) -> Result<(), TooMany> {
        let [a, b, c, kind, flags, ..] = self.head;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        let (rate, full_at_ns) = match kind {
            RST_STREAM => (self.allowance.resets, &mut self.resets_full_at_ns),
            DATA if self.payload > 0 || flags & END_STREAM != 0 => return Ok(()),
            // They belong to requests and answers, or end the connection anyway; blocks of headers have bounds of their own.
            HEADERS | PUSH_PROMISE | GOAWAY | WINDOW_UPDATE | CONTINUATION => return Ok(()),
            _ => (self.allowance.idle, &mut self.idle_full_at_ns),
        };
        if let Some(rate) = rate {
            *full_at_ns = rate.take(*full_at_ns, now_ns).map_err(|_| TooMany)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn frames() -> Frames {
        let allowance = Allowance {
            resets: Rate::new(1, 3),
            idle: Rate::new(1, 5),
        };
        let mut frames = Frames::new(allowance);
        frames.read(b"\r\nSM\r\n\r\n", 1).expect("the preface");
        frames
    }

    #[test]
    fn what_carries_nothing_has_a_bound_and_what_carries_something_has_none() {
        for (kind, flags, payload, max) in [
            (RST_STREAM, 0, &[0; 4][..], Some(3)),
            (6, 0, &[0; 8], Some(5)),
            (4, 0, &[], Some(5)),
            (2, 0, &[0; 5], Some(5)),
            (0x77, 0, &[], Some(5)),
            (DATA, 0, &[], Some(5)),
            (DATA, END_STREAM, &[], None),
            (DATA, 0, &[0; 700], None),
            (HEADERS, 4, &[0x82], None),
            (WINDOW_UPDATE, 0, &[0, 0, 0, 1], None),
        ] {
            let (mut frames, bytes) = (frames(), frame(kind, flags, payload));
            let passed = (0..1_000).take_while(|_| frames.read(&bytes, 1).is_ok()).count();
            assert_eq!(passed, max.unwrap_or(1_000), "{kind} {flags}");
            // In time there may be more.
            assert!(frames.read(&bytes, 3_000_000_000).is_ok());
        }
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(
            kinds in proptest::collection::vec((0_u8..10, 0_usize..20), 1..30),
            cuts in proptest::collection::vec(1_usize..30, 1..40),
        ) {
            let all: Vec<u8> = kinds.iter().flat_map(|(kind, length)| frame(*kind, 0, &vec![9; *length])).collect();
            let whole = frames().read(&all, 1);
            let (mut cut, mut rest, mut result) = (frames(), &all[..], Ok(()));
            for length in cuts.into_iter().chain([usize::MAX]) {
                let (first, later) = rest.split_at(length.min(rest.len()));
                result = result.and_then(|()| cut.read(first, 1));
                rest = later;
            }
            prop_assert_eq!(result, whole);
        }
    }
}
