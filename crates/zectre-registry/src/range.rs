//! The part of the content that a request asks for (RFC 9110, chapter 14). Pure.
//!
//! One range is honoured; a list of ranges is answered with everything, as the standard allows: no client
//! of ours asks for two, and multipart answers would cost more than they save.

use std::ops::Range;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Everything.
    All,
    /// These bytes (never empty).
    Part(Range<u64>),
    /// Bytes that aren't there: 416.
    Outside,
}

/// Reads a `Range` header against content of `size` bytes. A header that isn't understood counts as absent.
pub fn wanted(header: Option<&str>, size: u64) -> Wanted {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else {
        return Wanted::All;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Wanted::All;
    };
    match (number(first), number(last)) {
        (Bound::Absent, Bound::At(suffix)) => part(size.saturating_sub(suffix), size, size),
        (Bound::At(first), Bound::Absent) => part(first, size, size),
        (Bound::At(first), Bound::At(last)) if first <= last => part(first, last.saturating_add(1), size),
        _ => Wanted::All,
    }
}

fn part(start: u64, end: u64, size: u64) -> Wanted {
    let end = end.min(size);
    if start < end {
        Wanted::Part(start..end)
    } else {
        Wanted::Outside
    }
}

enum Bound {
    Absent,
    At(u64),
    Nonsense,
}

fn number(text: &str) -> Bound {
    match text.trim() {
        "" => Bound::Absent,
        // `parse` alone would take a plus sign.
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map_or(Bound::At(u64::MAX), Bound::At)
        }
        _ => Bound::Nonsense,
    }
}

/// Whether a list of entity tags (`If-None-Match`, `If-Range`) names `etag`, which carries its quotes.
pub fn names(header: &str, etag: &str) -> bool {
    header
        .split(',')
        .map(str::trim)
        .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_forms_of_one_range() {
        assert_eq!(wanted(None, 10), Wanted::All);
        assert_eq!(wanted(Some("bytes=0-0"), 10), Wanted::Part(0..1));
        assert_eq!(wanted(Some("bytes=2-5"), 10), Wanted::Part(2..6));
        assert_eq!(wanted(Some("bytes=7-"), 10), Wanted::Part(7..10));
        assert_eq!(wanted(Some("bytes=-3"), 10), Wanted::Part(7..10));
        assert_eq!(wanted(Some("bytes=-30"), 10), Wanted::Part(0..10));
        assert_eq!(
            wanted(Some("bytes=8-99999999999999999999999"), 10),
            Wanted::Part(8..10)
        );
    }

    #[test]
    fn what_is_not_there_and_what_is_not_understood() {
        assert_eq!(wanted(Some("bytes=10-"), 10), Wanted::Outside);
        assert_eq!(wanted(Some("bytes=-0"), 10), Wanted::Outside);
        assert_eq!(wanted(Some("bytes=0-"), 0), Wanted::Outside);
        for odd in [
            "bytes=5-2",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=+1-2",
        ] {
            assert_eq!(wanted(Some(odd), 10), Wanted::All, "{odd}");
        }
    }

    #[test]
    fn tags_match_weakly_and_in_lists() {
        assert!(names("\"a\", W/\"b\"", "\"b\""));
        assert!(names("*", "\"b\""));
        assert!(!names("\"a\"", "\"b\""));
    }

    proptest! {
        #[test]
        fn a_part_is_never_empty_and_never_beyond_the_end(header in "bytes=[0-9]{0,4}-[0-9]{0,4}", size in 0_u64..5_000) {
            if let Wanted::Part(range) = wanted(Some(&header), size) {
                prop_assert!(range.start < range.end && range.end <= size);
            }
        }
    }
}
