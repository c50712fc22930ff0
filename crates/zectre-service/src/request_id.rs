//! The id that follows a request across services: taken from `X-Request-Id` or made, logged with every line,
//! and handed on to every call made on the request's behalf.

use crate::{dice::roll, scrap};
use http::{HeaderMap, HeaderName, HeaderValue};
use std::{
    future::Future,
    time::{SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// The header.
pub const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// A longer id from outside is replaced.
const LEN_MAX: usize = 64;

tokio::task_local! {
    static CURRENT: String;
}

/// The id in the headers when it is harmless, else a fresh one.
pub fn from_headers(headers: &HeaderMap) -> String {
    let given = given(headers).and_then(|value| value.to_str().ok());
    given.map_or_else(
        || {
            fresh()
                .simple()
                .encode_lower(&mut Uuid::encode_buffer())
                .to_owned()
        },
        str::to_owned,
    )
}

/// The same as a header value.
pub fn value_from_headers(headers: &HeaderMap) -> HeaderValue {
    match given(headers) {
        Some(value) => value.clone(),
        None => {
            let id = fresh();
            let mut digits = Uuid::encode_buffer();
            let digits = id.simple().encode_lower(&mut digits);
            scrap::header_value(digits.as_bytes()).expect("hexadecimal digits")
        }
    }
}

/// The id in the headers, when it is harmless.
fn given(headers: &HeaderMap) -> Option<&HeaderValue> {
    headers.get(HEADER).filter(|value| {
        let id = value.as_bytes();
        let is_harmless = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
        (1..=LEN_MAX).contains(&id.len()) && id.iter().all(is_harmless)
    })
}

/// A UUIDv7 that costs no system call: it has to be unlike others, not hard to guess.
fn fresh() -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let mut random = [0; 10];
    random[..8].copy_from_slice(&roll().to_le_bytes());
    random[8..].copy_from_slice(&roll().to_le_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(now.as_millis() as u64, &random).into_uuid()
}

/// The id as a header value.
pub fn header_value(id: &str) -> HeaderValue {
    HeaderValue::from_str(id).unwrap_or_else(|_| HeaderValue::from_static("invalid"))
}

/// Runs `future` on behalf of the request `id`.
pub async fn scope<F: Future>(id: String, future: F) -> F::Output {
    CURRENT.scope(id, future).await
}

/// The request this code runs for, if any.
pub fn current() -> Option<String> {
    CURRENT.try_with(Clone::clone).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_harmful_id_is_replaced() {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_static("abc-1"));
        assert_eq!(from_headers(&headers), "abc-1");
        headers.insert(HEADER, HeaderValue::from_static("a b\"c"));
        assert_eq!(from_headers(&headers).len(), 32);
        assert_eq!(value_from_headers(&headers).len(), 32);
    }

    #[test]
    fn fresh_ids_are_unlike_each_other_and_in_the_order_of_time() {
        let ids: std::collections::BTreeSet<Uuid> = (0..10_000).map(|_| fresh()).collect();
        assert_eq!(ids.len(), 10_000);
        assert!(ids.iter().all(|id| id.get_version_num() == 7));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
        let (secs, _) = fresh().get_timestamp().expect("version 7 has one").to_unix();
        assert!(secs.abs_diff(now.as_secs()) <= 1);
    }
}
