//! W3C Trace Context: the trace that a request belongs to, handed on to its task.
//!
//! Anybody's is taken when it is valid, as `X-Request-Id` is: it is a name and grants nothing, and what began in a browser or
//! in another system shall be one trace with what happens here. It is handed on as it came: the proxy records no spans, and
//! a parent that nobody recorded would be a hole in the trace. Where there is none, one begins here.

use http::{HeaderMap, HeaderName, HeaderValue};
use zectre_service::{dice::roll, scrap};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// `{version}-{trace id}-{parent id}-{flags}` of version 00.
const LEN: usize = 2 + 1 + 32 + 1 + 16 + 1 + 2;
/// A longer state may be dropped by anybody on the way (section 3.3.1.5).
const STATE_LEN_MAX: usize = 512;
const HEX: &[u8; 16] = b"0123456789abcdef";

/// The trace of a request.
#[derive(Debug)]
pub(super) struct Trace {
    parent: HeaderValue,
    /// By the proxy.
    made: bool,
}

impl Trace {
    /// The one in the headers, or a new one, of which tasks are asked to record `sample` of 2³².
    pub(super) fn new(headers: &HeaderMap, sample: u64) -> Self {
        let mut given = headers.get_all(TRACEPARENT).iter();
        match (given.next(), given.next()) {
            (Some(parent), None) if is_valid(parent.as_bytes()) => Self {
                parent: parent.clone(),
                made: false,
            },
            _ => Self {
                parent: make([roll(), roll(), roll()], (roll() >> 32) < sample),
                made: true,
            },
        }
    }

    /// 32 hexadecimal digits.
    pub(super) fn id(&self) -> &str {
        let id = self.parent.as_bytes().get(3..35).unwrap_or_default();
        std::str::from_utf8(id).unwrap_or_default()
    }

    /// The whole of it.
    pub(super) fn parent(&self) -> &HeaderValue {
        &self.parent
    }

    /// Puts it into the headers for the task.
    pub(super) fn hand_on(&self, headers: &mut HeaderMap) {
        if self.made {
            headers.insert(TRACEPARENT, self.parent.clone());
            headers.remove(TRACESTATE);
            return;
        }
        let length: usize = headers.get_all(TRACESTATE).iter().map(HeaderValue::len).sum();
        if length > STATE_LEN_MAX {
            headers.remove(TRACESTATE);
        }
    }
}

/// Whether it names a trace and a parent. Of a later version the beginning is like that of the first.
fn is_valid(parent: &[u8]) -> bool {
    let Some((known, more)) = parent.split_at_checked(LEN) else {
        return false;
    };
    let hex = |part: &[u8]| {
        part.iter()
            .all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
    };
    let zero = |part: &[u8]| part.iter().all(|digit| *digit == b'0');
    let (version, trace, span, flags) = (&known[..2], &known[3..35], &known[36..52], &known[53..]);
    [2, 35, 52].iter().all(|at| known[*at] == b'-')
        && [version, trace, span, flags].into_iter().all(hex)
        && version != b"ff"
        && !zero(trace)
        && !zero(span)
        && (more.is_empty() || (version != b"00" && more[0] == b'-'))
}

fn make(random: [u64; 3], sampled: bool) -> HeaderValue {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    let mut write = |from: usize, number: u64| {
        // All zeros would name nothing.
        let number = number.max(1);
        for (at, digit) in text[from..from + 16].iter_mut().enumerate() {
            *digit = HEX[(number >> (60 - 4 * at)) as usize & 0xF];
        }
    };
    write(3, random[0]);
    write(19, random[1]);
    write(36, random[2]);
    text[LEN - 1] = if sampled { b'1' } else { b'0' };
    scrap::header_value(&text).expect("digits and dashes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn a_valid_one_is_taken_and_handed_on_as_it_is() {
        let mut head = headers(&[
            ("traceparent", GOOD),
            ("tracestate", "a=1"),
            ("tracestate", "b=2"),
        ]);
        let trace = Trace::new(&head, 0);
        assert_eq!(trace.id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let before = head.clone();
        trace.hand_on(&mut head);
        assert_eq!(head, before);
        head.append(
            "tracestate",
            "c=".to_owned().repeat(300).parse().expect("a value"),
        );
        trace.hand_on(&mut head);
        assert!(!head.contains_key("tracestate") && head.contains_key("traceparent"));
    }

    #[test]
    fn what_is_none_is_replaced_with_all_that_hangs_on_it() {
        let long = format!("{GOOD}-more");
        let twice = [("traceparent", GOOD), ("traceparent", GOOD)];
        let bad = [
            "",
            "4bf92f3577b34da6a3ce929d0e0e4736",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0x",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            long.as_str(),
        ];
        let heads = bad
            .iter()
            .map(|bad| headers(&[("traceparent", bad), ("tracestate", "a=1")]));
        for mut head in heads.chain([headers(&twice), headers(&[])]) {
            let trace = Trace::new(&head, 1 << 32);
            trace.hand_on(&mut head);
            let made: Vec<_> = head.get_all("traceparent").iter().collect();
            assert!(
                made.len() == 1 && is_valid(made[0].as_bytes()) && made[0] != GOOD,
                "{made:?}"
            );
            assert!(
                made[0].as_bytes().ends_with(b"-01") && !head.contains_key("tracestate"),
                "{head:?}"
            );
        }
        let later = long.replacen("00", "cc", 1);
        assert_eq!(
            Trace::new(&headers(&[("traceparent", &later)]), 0).parent(),
            later.as_str()
        );
    }

    proptest! {
        #[test]
        fn what_is_made_is_valid(random in any::<[u64; 3]>(), sampled in any::<bool>()) {
            let made = make(random, sampled);
            prop_assert!(is_valid(made.as_bytes()), "{made:?}");
        }

        #[test]
        fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            is_valid(&bytes);
        }
    }
}
