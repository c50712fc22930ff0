//! The frames of HTTP/3 (RFC 9114, section 7) on their way to the library, which reads all of a frame before it looks at it,
//! takes an empty DATA frame for the end of a body and does not mind a body that breaks off within a frame. So what it
//! gets is bounded, never empty, and whole or an error. Pure: it is handed bytes, and says which of them go on.

use bytes::Bytes;

/// The type of a frame and its length, each of eight bytes at most.
const HEAD_BYTES_MAX: usize = 16;
/// Of a frame that is none of a request: settings are some dozens of bytes.
const CONTROL_BYTES_MAX: u64 = 4_096;

const DATA: u64 = 0;
const HEADERS: u64 = 1;
/// Those that the library knows, or knows that they must not come.
const KNOWN: [u64; 9] = [0x2, 0x3, 0x4, 0x5, 0x6, 0x7, 0x8, 0x9, 0xd];
/// What a unidirectional stream that has frames begins with.
const CONTROL_STREAM: u64 = 0;

/// Where in a stream we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Before a unidirectional stream's type.
    Type,
    /// Between two frames, or inside of a frame's head.
    Head,
    /// Inside of a frame, of which so much is to come, for the library or not.
    Payload(u64, bool),
    /// Of a kind that has no frames.
    Opaque,
}

/// What must not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bad {
    /// A frame that is read as a whole is larger than it may be.
    TooLarge,
    /// The stream ended inside of a frame.
    Cut,
}

/// Follows the frames of one stream.
#[derive(Debug)]
pub(super) struct Frames {
    part: Part,
    head: [u8; HEAD_BYTES_MAX],
    known: usize,
    head_bytes_max: u64,
    /// Frames that carried nothing, and have not been asked for yet.
    idle: u32,
}

impl Frames {
    /// Of a request, of which a block of headers may have so many bytes.
    pub(super) fn of_request(head_bytes_max: u64) -> Self {
        Self {
            part: Part::Head,
            head: [0; HEAD_BYTES_MAX],
            known: 0,
            head_bytes_max,
            idle: 0,
        }
    }

    /// Of a stream with one direction.
    pub(super) fn one_way() -> Self {
        Self {
            part: Part::Type,
            ..Self::of_request(CONTROL_BYTES_MAX)
        }
    }

    /// The next piece for the library, taken from the front of `bytes`; `None` when there is none in them, and they are read.
    pub(super) fn next(&mut self, bytes: &mut Bytes) -> Result<Option<Bytes>, Bad> {
        while !bytes.is_empty() {
            match self.part {
                Part::Opaque => return Ok(Some(std::mem::take(bytes))),
                Part::Payload(left, wanted) => {
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left - taken as u64;
                    self.part = if left == 0 {
                        Part::Head
                    } else {
                        Part::Payload(left, wanted)
                    };
                    let piece = bytes.split_to(taken);
                    if wanted {
                        return Ok(Some(piece));
                    }
                }
                Part::Type | Part::Head => {
                    self.head[self.known] = bytes.split_to(1)[0];
                    self.known += 1;
                    let wanted = if self.part == Part::Type {
                        self.stream_type()
                    } else {
                        self.frame()?
                    };
                    if let Some(length) = wanted {
                        self.known = 0;
                        return Ok(Some(Bytes::copy_from_slice(&self.head[..length])));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The stream ends here.
    pub(super) fn end(&self) -> Result<(), Bad> {
        match self.part {
            Part::Opaque => Ok(()),
            Part::Type | Part::Head if self.known == 0 => Ok(()),
            Part::Type | Part::Head | Part::Payload(..) => Err(Bad::Cut),
        }
    }

    /// How many frames that carry nothing have come since this was asked last.
    pub(super) fn take_idle(&mut self) -> u32 {
        std::mem::take(&mut self.idle)
    }

    /// The length of the stream's type, once it is there.
    fn stream_type(&mut self) -> Option<usize> {
        let (kind, _) = number(&self.head[..self.known])?;
        self.part = if kind == CONTROL_STREAM {
            Part::Head
        } else {
            Part::Opaque
        };
        Some(self.known)
    }

    /// The length of the frame's head, once it is there, and the library is to see it.
    fn frame(&mut self) -> Result<Option<usize>, Bad> {
        let head = &self.head[..self.known];
        let Some((kind, length)) =
            number(head).and_then(|(kind, rest)| Some((kind, number(rest).map(|(length, _)| length)?)))
        else {
            return Ok(None);
        };
        let max = match kind {
            DATA if length > 0 => u64::MAX,
            HEADERS => self.head_bytes_max,
            _ => {
                self.idle += 1;
                CONTROL_BYTES_MAX
            }
        };
        let wanted = matches!(kind, DATA | HEADERS if length > 0) || KNOWN.contains(&kind);
        if wanted && length > max {
            return Err(Bad::TooLarge);
        }
        self.part = if length == 0 {
            Part::Head
        } else {
            Part::Payload(length, wanted)
        };
        let known = self.known;
        if !wanted {
            self.known = 0;
        }
        Ok(wanted.then_some(known))
    }
}

/// A number of QUIC (RFC 9000, section 16), and what follows it; `None` as long as it is not whole.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let length = 1 << (bytes.first()? >> 6);
    let (own, rest) = bytes.split_at_checked(length)?;
    let first = u64::from(own[0] & 0x3f);
    let value = own[1..]
        .iter()
        .fold(first, |value, byte| (value << 8) | u64::from(*byte));
    Some((value, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(mut frames: Frames, pieces: &[&[u8]]) -> Result<(Vec<u8>, u32), Bad> {
        let mut passed = Vec::new();
        for piece in pieces {
            let mut bytes = Bytes::copy_from_slice(piece);
            while let Some(piece) = frames.next(&mut bytes)? {
                assert!(!piece.is_empty());
                passed.extend_from_slice(&piece);
            }
            assert!(bytes.is_empty());
        }
        frames.end()?;
        Ok((passed, frames.take_idle()))
    }

    /// A head, a frame that nobody knows, DATA, an empty one, one with a longer head than it needs, trailers.
    const REQUEST: &[u8] = b"\x01\x03abc\x21\x04zzzz\x00\x02de\x00\x00\x40\x00\x40\x01f\x01\x01g";

    #[test]
    fn what_the_library_would_misread_does_not_reach_it() {
        let passed = read(Frames::of_request(3), &[REQUEST]);
        assert_eq!(
            passed,
            Ok((b"\x01\x03abc\x00\x02de\x40\x00\x40\x01f\x01\x01g".to_vec(), 2))
        );
        assert_eq!(read(Frames::of_request(2), &[REQUEST]), Err(Bad::TooLarge));
        // What nobody reads may have any length.
        assert_eq!(
            read(Frames::of_request(3), &[b"\x21\xbf\xff\xff\xff"]),
            Err(Bad::Cut)
        );
        for cut in [1, 4, 7, 12, 20] {
            assert_eq!(
                read(Frames::of_request(3), &[&REQUEST[..cut]]),
                Err(Bad::Cut),
                "{cut}"
            );
        }
    }

    #[test]
    fn streams_with_one_direction_have_frames_or_not() {
        let settings = b"\x00\x04\x02\x01\x00\x21\x01z";
        assert_eq!(
            read(Frames::one_way(), &[settings]),
            Ok((settings[..5].to_vec(), 2))
        );
        assert_eq!(
            read(Frames::one_way(), &[b"\x00\x04\x80\x01\x00\x00"]),
            Err(Bad::TooLarge)
        );
        let other = b"\x02\xff\xff";
        assert_eq!(read(Frames::one_way(), &[other]), Ok((other.to_vec(), 0)));
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_changes_nothing(cuts in proptest::collection::vec(1_usize..8, 0..12), end in 0..=REQUEST.len()) {
            let whole = read(Frames::of_request(3), &[&REQUEST[..end]]);
            let (mut rest, mut pieces) = (&REQUEST[..end], Vec::new());
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (first, later) = rest.split_at(cut.min(rest.len()));
                pieces.push(first);
                rest = later;
            }
            prop_assert_eq!(read(Frames::of_request(3), &pieces), whole);
        }
    }
}
