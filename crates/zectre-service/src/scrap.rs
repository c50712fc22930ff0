//! Short header values of which every request gets new ones, cut from one piece of memory a thread: to ask for memory for each of
//! them, and once more when it is cloned, costs more than to make it.

use bytes::BytesMut;
use http::header::{HeaderValue, InvalidHeaderValue};
use std::cell::RefCell;

/// Some ten requests' worth. A value keeps all of its piece: what lasts as long as a tunnel should not keep much.
const PIECE_BYTES: usize = 1_024;

thread_local! {
    static PIECE: RefCell<BytesMut> = RefCell::default();
}

/// `text` as a header value.
pub fn header_value(text: &[u8]) -> Result<HeaderValue, InvalidHeaderValue> {
    let cut = PIECE.with_borrow_mut(|piece| {
        if piece.capacity() < text.len() {
            *piece = BytesMut::with_capacity(PIECE_BYTES.max(text.len()));
        }
        piece.extend_from_slice(text);
        piece.split().freeze()
    });
    HeaderValue::from_maybe_shared(cut)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_what_they_were_when_others_are_cut() {
        let texts = (0..200).map(|at| format!("{at}-").repeat(1 + at % 40));
        let values: Vec<_> = texts
            .map(|text| (header_value(text.as_bytes()).expect("a value"), text))
            .collect();
        for (value, text) in &values {
            assert_eq!(value, text.as_str());
        }
        let long = "x".repeat(3 * PIECE_BYTES);
        assert_eq!(header_value(long.as_bytes()).expect("a value"), long.as_str());
        assert!(header_value(b"a\nb").is_err());
    }
}
