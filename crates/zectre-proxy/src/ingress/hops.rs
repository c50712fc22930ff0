//! `Max-Forwards` of OPTIONS and TRACE: how often they may yet be passed on (RFC 9110, section 7.6.2).

use super::Refusal;
use http::{HeaderName, HeaderValue, Method, header, request::Parts};

const NAME: HeaderName = header::MAX_FORWARDS;

/// Counts one down; a request that may be passed on no more is answered here.
pub(super) fn count_down(parts: &mut Parts) -> Result<(), Refusal> {
    if ![Method::OPTIONS, Method::TRACE].contains(&parts.method) {
        return Ok(());
    }
    // What is no number says nothing.
    let Some(left) = parts.headers.get(NAME).and_then(number) else {
        return Ok(());
    };
    let less = left.checked_sub(1).ok_or(Refusal::LastHop)?;
    parts.headers.insert(NAME, HeaderValue::from(less));
    Ok(())
}

/// What is more than can be counted is as much as can be.
fn number(value: &HeaderValue) -> Option<u64> {
    let digits = value.to_str().ok()?;
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::headers::tests::parts;

    #[test]
    fn one_is_counted_down_and_none_is_the_end() {
        let passed = |method: &Method, value: &str| {
            let mut head = parts("/", &[("max-forwards", value)]);
            head.method = method.clone();
            count_down(&mut head).map(|()| head.headers[NAME].to_str().expect("text").to_owned())
        };
        for method in [Method::OPTIONS, Method::TRACE] {
            assert!(matches!(passed(&method, "0"), Err(Refusal::LastHop)));
            assert!(matches!(passed(&method, "00"), Err(Refusal::LastHop)));
            for (value, next) in [
                ("1", "0"),
                ("10", "9"),
                ("99999999999999999999999", "18446744073709551614"),
                ("", ""),
                ("-1", "-1"),
                ("one", "one"),
            ] {
                assert_eq!(passed(&method, value).ok().as_deref(), Some(next), "{value}");
            }
        }
        assert_eq!(
            passed(&Method::GET, "0").ok().as_deref(),
            Some("0"),
            "it is for these two"
        );
        assert!(count_down(&mut parts("/", &[])).is_ok());
    }
}
