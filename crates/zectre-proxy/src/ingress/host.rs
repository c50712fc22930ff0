//! For whom a request is: one host, one target, one length, or it is refused, because another program might choose otherwise.

use super::refusal::Refusal;
use http::{HeaderMap, HeaderValue, Method, header, request::Parts};
use zectre_common::routing::normalize_host;

/// Whom a request is for.
#[derive(Debug)]
pub(super) struct Host {
    /// To look it up.
    pub(super) name: String,
    /// As the client wrote it, for the task.
    pub(super) header: HeaderValue,
}

/// One length at most, and one that programs can count to. HTTP/2 has a framing of its own and lets two pass; in HTTP/1.1 they
/// would be two framings.
fn check_length(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else {
        return Ok(());
    };
    if lengths.next().is_some() {
        return Err(Refusal::Malformed("the request says twice how long it is"));
    }
    // Many count with a sign: what is more would be less than nothing to them. What is no number is refused elsewhere.
    let digits = length.to_str().unwrap_or_default();
    if digits.parse::<u64>().is_ok_and(|length| length > i64::MAX as u64) {
        return Err(Refusal::Malformed(
            "the request is longer than any program can count",
        ));
    }
    Ok(())
}

/// The one host of a request: the target's authority (HTTP/2, absolute form) or the `Host` header. None, two, or
/// two that differ are refused: another program might choose the other one.
pub(super) fn host(parts: &Parts) -> Result<Host, Refusal> {
    const NONE: Refusal = Refusal::Malformed("the request names no host: send exactly one Host header");
    const BAD: Refusal =
        Refusal::Malformed("the Host header is not a host name, with a port of at most 65535 or none");
    check_length(&parts.headers)?;
    let mut named = parts.headers.get_all(header::HOST).iter();
    let (first, second) = (named.next(), named.next());
    if second.is_some() {
        return Err(Refusal::Malformed(
            "the request names more than one host: send exactly one Host header",
        ));
    }
    let in_header = match first {
        Some(value) => Some((
            normalize_host(value.to_str().map_err(|_| BAD)?).ok_or(BAD)?,
            value,
        )),
        None => None,
    };
    if let Some(scheme) = parts.uri.scheme_str()
        && !["http", "https"].contains(&scheme)
    {
        return Err(Refusal::Malformed(
            "the request's target is not an http(s) address",
        ));
    }
    if parts.uri.scheme().is_none() && parts.uri.authority().is_some() {
        return Err(Refusal::Malformed(
            "the request's target is not a path: begin it with `/`",
        ));
    }
    if parts.uri.path() == "*" && parts.method != Method::OPTIONS {
        // RFC 9112, section 3.2.4.
        return Err(Refusal::Malformed(
            "the target `*` is for OPTIONS alone: name a path",
        ));
    }
    // No address holds such bytes (RFC 3986, section 2), and what a program would make of them is a guess; to encode them
    // would be one, too (RFC 9112, section 3.2).
    if parts
        .uri
        .path_and_query()
        .is_some_and(|target| !target.as_str().is_ascii())
    {
        return Err(Refusal::Malformed(
            "the request's target holds bytes that no address may hold: encode them, as %C3%A9 for é",
        ));
    }
    let Some(authority) = parts.uri.authority() else {
        let (name, value) = in_header.ok_or(NONE)?;
        return Ok(Host {
            name,
            header: value.clone(),
        });
    };
    let name = normalize_host(authority.as_str()).ok_or(BAD)?;
    if in_header.is_some_and(|(in_header, _)| in_header != name) {
        return Err(Refusal::Malformed(
            "the request's target and its Host header name different hosts",
        ));
    }
    let header = HeaderValue::from_str(authority.as_str()).map_err(|_| BAD)?;
    Ok(Host { name, header })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::headers::tests::parts;

    #[test]
    fn exactly_one_host() {
        assert_eq!(
            host(&parts("/", &[("host", "A.test:80")])).expect("one").name,
            "a.test"
        );
        assert_eq!(
            host(&parts("http://a.test/x", &[])).expect("target").name,
            "a.test"
        );
        assert_eq!(
            host(&parts("http://a.test/x", &[("host", "a.test")]))
                .expect("same")
                .name,
            "a.test"
        );
        for bad in [
            parts("/", &[]),
            parts("/", &[("host", "a.test"), ("host", "a.test")]),
            parts("http://a.test/", &[("host", "b.test")]),
            parts("/", &[("host", "a.test,b.test")]),
            parts("/", &[("host", "user@a.test")]),
            parts("/", &[("host", "a.test:99999")]),
            parts("http://a.test:99999/", &[]),
            parts(
                "/",
                &[("host", "a.test"), ("content-length", "9223372036854775808")],
            ),
        ] {
            assert!(matches!(host(&bad), Err(Refusal::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_an_http_address() {
        let named = |method: Method, target: &str| {
            let mut head = parts("/", &[("host", "a.test")]);
            (head.method, head.uri) = (method, target.parse().expect("a target"));
            host(&head).map(|host| host.name)
        };
        for good in ["/b", "/*", "http://a.test", "https://a.test/b"] {
            assert_eq!(named(Method::GET, good).ok().as_deref(), Some("a.test"), "{good}");
        }
        for bad in ["a.test", "a.test:80", "ftp://a.test/", "*"] {
            let refused = named(Method::GET, bad);
            assert!(matches!(refused, Err(Refusal::Malformed(_))), "{bad}");
        }
        assert!(named(Method::OPTIONS, "*").is_ok());
    }
}
