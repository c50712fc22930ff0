//! What is particular about gRPC: its clients read a status of its own, and say how long they wait.

use super::refusal::Refusal;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use std::{fmt::Write, time::Duration};

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// The longest that a client is believed to wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(24 * 3_600);

/// The content type of a call of gRPC or gRPC-Web; `None` for other requests.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&HeaderValue> {
    let kind = headers.get(header::CONTENT_TYPE)?;
    let rest = kind.as_bytes().strip_prefix(b"application/grpc")?;
    matches!(rest.first(), None | Some(b'+' | b'-' | b';')).then_some(kind)
}

/// How long the client of a call waits for its answer, when it says so: at most eight digits and a unit.
pub(super) fn timeout(headers: &HeaderMap) -> Option<Duration> {
    content_type(headers)?;
    let text = headers.get(TIMEOUT)?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if number.len() > 8 || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let number: u64 = number.parse().ok()?;
    let timeout = match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    };
    Some(timeout.min(TIMEOUT_MAX))
}

/// Makes a refusal one that clients of gRPC read: a status of gRPC in a head without a body, under HTTP's 200.
pub(super) fn tell<B>(refusal: &Refusal, http: StatusCode, kind: &HeaderValue, response: &mut Response<B>) {
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, kind.clone());
    headers.insert(STATUS, HeaderValue::from(status(http)));
    headers.insert(MESSAGE, message(&refusal.to_string()));
}

/// The status of gRPC for one of HTTP, as gRPC's own clients map it, but for two that they would call unknown and one
/// that they might try again though the task may be at work on it.
fn status(http: StatusCode) -> u16 {
    match http {
        StatusCode::BAD_REQUEST => 13, // INTERNAL
        StatusCode::NOT_FOUND => 12,   // UNIMPLEMENTED
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => 8, // RESOURCE_EXHAUSTED
        StatusCode::REQUEST_TIMEOUT | StatusCode::GATEWAY_TIMEOUT => 4,                   // DEADLINE_EXCEEDED
        StatusCode::TOO_MANY_REQUESTS | StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14, // UNAVAILABLE
        _ => 2, // UNKNOWN
    }
}

/// Percent-encoded, as gRPC wants its messages.
fn message(text: &str) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a String can't fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    HeaderValue::try_from(out).expect("printable ASCII only")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[test]
    fn only_calls_are_calls() {
        let is_call = |kind| content_type(&headers(&[("content-type", kind)])).is_some();
        assert!(
            is_call("application/grpc")
                && is_call("application/grpc+proto")
                && is_call("application/grpc-web")
        );
        assert!(!is_call("application/grpcx") && !is_call("application/json"));
    }

    #[test]
    fn a_deadline_is_digits_and_a_unit() {
        let timeout = |text| {
            timeout(&headers(&[
                ("content-type", "application/grpc"),
                ("grpc-timeout", text),
            ]))
        };
        assert_eq!(timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(timeout("5S"), Some(Duration::from_secs(5)));
        assert_eq!(timeout("99999999H"), Some(TIMEOUT_MAX));
        for wrong in ["", "S", "-1S", "123456789S", "5", "5s", "1\u{e9}"] {
            let mut headers = headers(&[("content-type", "application/grpc")]);
            headers.insert(
                "grpc-timeout",
                HeaderValue::from_bytes(wrong.as_bytes()).expect("a value"),
            );
            assert_eq!(super::timeout(&headers), None, "{wrong}");
        }
    }

    #[test]
    fn a_message_has_no_byte_that_a_header_may_not() {
        assert_eq!(message("100 % \u{e9}\n"), "100 %25 %C3%A9%0A");
    }
}
