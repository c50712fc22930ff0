//! The id that follows a request across services: taken from `X-Request-Id` or made, logged with every line,
//! and handed on to every call made on the request's behalf.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::future::Future;
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
    let harmless = |id: &&str| {
        (1..=LEN_MAX).contains(&id.len())
            && id
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
    };
    headers
        .get(HEADER)
        .and_then(|value| value.to_str().ok())
        .filter(harmless)
        .map_or_else(|| Uuid::now_v7().simple().to_string(), str::to_owned)
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
    }
}
