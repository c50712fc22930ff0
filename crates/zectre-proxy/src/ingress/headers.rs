//! Headers that belong to one hop stay on it (RFC 9110, section 7.6.1), and what we say about the client
//! replaces what the client said about itself.

use super::{accept::Client, refusal::Refusal};
use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version, header, request::Parts};
use zectre_common::routing::normalize_host;
use zectre_service::request_id;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// Said by clients about themselves and believed by many programs; nobody we trust stands before us.
const UNTRUSTED: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
];
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Whom a request is for.
#[derive(Debug)]
pub(super) struct Host {
    /// To look it up.
    pub(super) name: String,
    /// As the client wrote it, for the task.
    pub(super) header: HeaderValue,
}

/// The one host of a request: the target's authority (HTTP/2, absolute form) or the `Host` header. None, two, or
/// two that differ are refused: another program might choose the other one.
pub(super) fn host(parts: &Parts) -> Result<Host, Refusal> {
    const NONE: Refusal = Refusal::Malformed("the request names no host: send exactly one Host header");
    const BAD: Refusal = Refusal::Malformed("the Host header is not a host name");
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

/// The protocol the client asks to change to on this connection, if any.
pub(super) fn upgrade(parts: &Parts) -> Option<HeaderValue> {
    if parts.version != Version::HTTP_11
        || !connection_options(&parts.headers).any(|option| option == "upgrade")
    {
        return None;
    }
    parts.headers.get(header::UPGRADE).cloned()
}

fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = String> {
    let values = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .map(|option| option.trim().to_ascii_lowercase())
}

/// Removes what belongs to the connection it came on.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = connection_options(headers)
            .filter_map(|option| option.parse().ok())
            .collect();
        for name in named {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// Turns the client's request head into the one for a task.
pub(super) fn rewrite(
    parts: &mut Parts,
    host: &Host,
    client: &Client,
    id: &HeaderValue,
    upgrade: Option<HeaderValue>,
    http2: bool,
) {
    let wants_trailers = parts.headers.get(header::TE).is_some_and(|te| {
        te.to_str().is_ok_and(|te| {
            te.split(',')
                .any(|coding| coding.trim().eq_ignore_ascii_case("trailers"))
        })
    });
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    for name in &UNTRUSTED {
        headers.remove(name);
    }
    // The client has been told to continue by then, by the connection that it speaks on.
    headers.remove(header::EXPECT);
    headers.insert(header::HOST, host.header.clone());
    headers.insert(FORWARDED_FOR, client.address_header.clone());
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(FORWARDED_HOST, host.header.clone());
    headers.insert(request_id::HEADER, id.clone());
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    } else if wants_trailers && !http2 {
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    parts.uri = target(&parts.uri, host, http2);
    parts.version = if http2 { Version::HTTP_2 } else { Version::HTTP_11 };
    if http2 {
        // It is in `:authority`.
        parts.headers.remove(header::HOST);
    }
    parts.extensions.clear();
}

/// Origin form for HTTP/1.1, with scheme and authority for HTTP/2.
fn target(uri: &Uri, host: &Host, http2: bool) -> Uri {
    if !http2 && uri.authority().is_none() {
        return uri.clone();
    }
    let path = uri.path_and_query().cloned();
    let mut target = http::uri::Parts::default();
    target.path_and_query = Some(path.unwrap_or_else(|| http::uri::PathAndQuery::from_static("/")));
    if http2 {
        target.scheme = Some(http::uri::Scheme::HTTP);
        target.authority = host
            .header
            .to_str()
            .ok()
            .and_then(|authority| authority.parse().ok());
    }
    // Only a host header that is no authority gets here, and `host` refused those.
    Uri::from_parts(target).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a valid request").into_parts().0
    }

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
        ] {
            assert!(matches!(host(&bad), Err(Refusal::Malformed(_))), "{bad:?}");
        }
    }

    #[test]
    fn what_belongs_to_the_hop_or_comes_from_the_client_is_not_passed_on() {
        let mut head = parts(
            "/",
            &[
                ("host", "a.test"),
                ("connection", "close, X-Secret, x-forwarded-for"),
                ("x-secret", "1"),
                ("keep-alive", "timeout=5"),
                ("te", "gzip, trailers"),
                ("forwarded", "for=1.2.3.4"),
                ("x-forwarded-for", "1.2.3.4"),
                ("x-forwarded-host", "evil"),
                ("accept", "*/*"),
            ],
        );
        let client = Client::new("192.0.2.7:1234".parse().expect("an address"));
        let named = host(&head).expect("one");
        rewrite(
            &mut head,
            &named,
            &client,
            &HeaderValue::from_static("id"),
            None,
            false,
        );
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        let expected = [
            "accept",
            "connection",
            "host",
            "te",
            "x-forwarded-for",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-request-id",
        ];
        assert_eq!(names, expected);
        assert_eq!(head.headers["x-forwarded-for"], "192.0.2.7");
        assert_eq!(head.headers["x-forwarded-host"], "a.test");
        assert_eq!(
            (&head.headers["te"], &head.headers["connection"]),
            (&"trailers".parse().expect("ok"), &"te".parse().expect("ok"))
        );
    }
}
