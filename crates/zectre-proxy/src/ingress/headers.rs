//! Headers that belong to one hop stay on it (RFC 9110, section 7.6.1), and what we say about the client
//! replaces what the client said about itself.

use super::{
    client::Client,
    forwarded::{FORWARDED_FOR, FORWARDED_HOST, FORWARDED_PROTO, Sender},
    host::Host,
    refusal::Refusal,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version, header, request::Parts};
use zectre_service::request_id;

/// Said by clients about themselves and believed by many programs. What is true of it goes on as `X-Forwarded-*`.
static UNTRUSTED: [HeaderName; 4] = [
    header::FORWARDED,
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-forwarded-port"),
    HeaderName::from_static("x-forwarded-server"),
];
static HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Meant for whoever reads the message, however many stand between: an option of a connection must not name them (RFC 9110, section
/// 7.6.1), and one that does takes nothing away. By these a message is framed, led and bounded on its way, and its reader tells who
/// asks; they must say to the task what they said here. What else an option names goes, as it must.
static END_TO_END: [HeaderName; 13] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::HOST,
    header::MAX_FORWARDS,
    header::SET_COOKIE,
    header::VIA,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Headers that a request has mostly more when it leaves: those of `Forwarded`'s kind, its id and its trace.
const ADDED: usize = 5;

/// Whether the head of a request is as small as it must be, counted as HTTP/2 and HTTP/3 do (RFC 9113, section 6.5.2), or about as it
/// was sent over HTTP/1.1. The library holds the latter to its buffer, which is filled with more than that at once.
pub(super) fn check_size<B>(request: &Request<B>, bytes_max: usize) -> Result<(), Refusal> {
    let each = match request.version() {
        Version::HTTP_2 | Version::HTTP_3 => 32,
        _ => ": \r\n".len(),
    };
    let line = |name: usize, value: usize| name + value + each;
    let uri = request.uri();
    let path = uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = uri.authority().map_or(0, |authority| authority.as_str().len());
    let target = line(":path".len(), path) + line(":authority".len(), authority);
    let lines = request.headers().iter();
    let bytes: usize = lines
        .map(|(name, value)| line(name.as_str().len(), value.len()))
        .sum();
    if target + bytes > bytes_max {
        return Err(Refusal::HeadTooLarge(bytes_max));
    }
    Ok(())
}

/// What the library for HTTP/2 looks at by itself, and that for HTTP/3 does not: headers that belong to a connection of HTTP/1.1
/// (RFC 9114, section 4.2), and a length that is none.
pub(super) fn check_fields(parts: &Parts) -> Result<(), Refusal> {
    if parts.version != Version::HTTP_3 {
        return Ok(());
    }
    let strange = |name: &HeaderName, value: &HeaderValue| match *name {
        header::TE => !value.as_bytes().eq_ignore_ascii_case(b"trailers"),
        header::CONTENT_LENGTH => {
            !value.as_bytes().iter().all(u8::is_ascii_digit)
                || value
                    .to_str()
                    .map_or(true, |digits| digits.parse::<u64>().is_err())
        }
        header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE => true,
        _ => ["keep-alive", "proxy-connection"].contains(&name.as_str()),
    };
    if parts.headers.iter().any(|(name, value)| strange(name, value)) {
        return Err(Refusal::Malformed(
            "the request has a header that HTTP/3 has no place for, or a content-length that is no number",
        ));
    }
    Ok(())
}

/// The protocol the client asks to change to on this connection, if any. Not to another HTTP: what came then would reach
/// the task without having been looked at. Nor behind a body: where it ends and the other protocol begins is a guess. Nor with
/// another method than WebSockets have (RFC 6455, section 4.1): some programs then read a body that never ends.
pub(super) fn upgrade(parts: &Parts, has_body: bool) -> Option<HeaderValue> {
    if has_body
        || parts.method != Method::GET
        || parts.version != Version::HTTP_11
        || !connection_options(&parts.headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
    {
        return None;
    }
    let mut named = parts.headers.get_all(header::UPGRADE).iter();
    let (protocol, None) = (named.next()?, named.next()) else {
        return None;
    };
    let is_http = |name: &str| ["h2c", "http", "tls"].contains(&name.trim().to_ascii_lowercase().as_str());
    let mut protocols = protocol.to_str().ok()?.split(',');
    (!protocols.any(|protocol| is_http(protocol.split('/').next().unwrap_or_default())))
        .then(|| protocol.clone())
}

/// Frames a body for a task of HTTP/1.1; `length` in bytes, where it is known.
///
/// Some servers read no body that comes in chunks, or with a method that rarely has one: to them it is the next request
/// of the connection. Such a request is the last one on its connection, so that there is no next one.
pub(super) fn frame(parts: &mut Parts, length: Option<u64>) {
    let usual = [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
    if length.is_none() {
        // The HTTP library would leave out the body of a GET.
        parts
            .headers
            .insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if length.is_none() || !usual {
        // Alone: there are servers that know the word only so.
        parts.headers.remove(header::TE);
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

/// What a message says of its connection, as far as it is text.
pub(crate) fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let values = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok());
    // By bytes: to split text by characters takes twice as long.
    values
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
}

/// Removes what belongs to the connection it came on.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    strip(headers, |_| false);
}

/// Removes from a client's trailers what the head that is passed on says, or must not say: there are programs that take the one for the
/// other (RFC 9110, section 6.5.1).
pub(super) fn strip_trailers(trailers: &mut HeaderMap) {
    let ours = [
        &FORWARDED_FOR,
        &FORWARDED_PROTO,
        &FORWARDED_HOST,
        &request_id::HEADER,
    ];
    strip(trailers, |name| {
        ours.contains(&name) || UNTRUSTED.contains(name) || END_TO_END.contains(name) || is_look_alike(name)
    });
}

/// Removes what belongs to the connection it came on, and what else is `unwanted`. One look at each header that is there
/// costs less than one for each that could be.
fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let mut found: Vec<HeaderName> = headers
        .keys()
        .filter(|&name| HOP_BY_HOP.contains(name) || unwanted(name))
        .cloned()
        .collect();
    if found.contains(&header::CONNECTION) {
        // The usual one is known, and found already.
        let named = connection_options(headers).filter(|option| !option.eq_ignore_ascii_case(b"keep-alive"));
        let named = named.filter_map(|option| HeaderName::from_bytes(option).ok());
        found.extend(named.filter(|name| !END_TO_END.contains(name)));
    }
    for name in found {
        headers.remove(name);
    }
}

/// Whether an answer tells in one way where its body ends. The HTTP library reads it in some way in any case, and would
/// pass on the other one to the client.
pub(super) fn check_framing(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let digits = |value: &HeaderValue| value.as_bytes().iter().all(u8::is_ascii_digit);
    let sound = match (lengths.next(), codings.next()) {
        (None, None) => true,
        (Some(length), None) => digits(length) && lengths.next().is_none(),
        (None, Some(coding)) => {
            coding.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none()
        }
        (Some(_), Some(_)) => false,
    };
    if sound {
        Ok(())
    } else {
        Err(Refusal::BadGateway(
            "its answer says in two ways how long it is".into(),
        ))
    }
}

/// HTTP/2 may split a cookie into several headers; to HTTP/1.1 it is one (RFC 9113, section 8.2.3).
fn join_crumbs(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers
        .get_all(header::COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if crumbs.len() < 2 {
        return;
    }
    let joined =
        HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).expect("values joined by a value are a value");
    headers.insert(header::COOKIE, joined);
}

/// Whether many programs can't tell it from a header of ours: CGI and its heirs turn `-` into `_`.
fn is_look_alike(name: &HeaderName) -> bool {
    if !name.as_str().contains('_') {
        return false;
    }
    let name = name.as_str().replace('_', "-");
    let ours = [
        &FORWARDED_FOR,
        &FORWARDED_PROTO,
        &FORWARDED_HOST,
        &request_id::HEADER,
    ];
    let framing = [&header::CONTENT_LENGTH, &header::TRANSFER_ENCODING];
    ours.into_iter()
        .chain(&UNTRUSTED)
        .chain(framing)
        .any(|known| known.as_str() == name)
}

/// Turns the client's request head into the one for a task.
pub(super) fn rewrite(
    parts: &mut Parts,
    host: &Host,
    client: &Client,
    sender: Option<Sender>,
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
    // At once, in place of twice.
    headers.reserve(ADDED);
    // What is expected goes on where the body waits for it.
    strip(headers, |name| {
        *name == header::EXPECT || UNTRUSTED.contains(name) || is_look_alike(name)
    });
    if !http2 {
        join_crumbs(headers);
    }
    headers.insert(header::HOST, host.header.clone());
    let (way, secure, asked_host) = match sender {
        Some(Sender {
            way, secure, host, ..
        }) => (way, secure, host),
        None => (client.address_header.clone(), None, None),
    };
    let proto = if secure.unwrap_or(client.tls.is_some()) {
        "https"
    } else {
        "http"
    };
    headers.insert(FORWARDED_FOR, way);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
    headers.insert(FORWARDED_HOST, asked_host.unwrap_or_else(|| host.header.clone()));
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
pub(super) mod tests {
    use super::*;
    use crate::ingress::host::host;

    pub(in crate::ingress) fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a valid request").into_parts().0
    }

    #[test]
    fn only_a_lone_protocol_that_is_not_http_is_changed_to() {
        let asked = |has_body, headers: &[(&str, &str)]| upgrade(&parts("/", headers), has_body);
        let lone = [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
        assert_eq!(asked(false, &lone).expect("asked for"), "websocket");
        let other = [lone[0], ("upgrade", "x-chat/1.2")];
        assert_eq!(asked(false, &other).expect("asked for"), "x-chat/1.2");
        assert_eq!(asked(true, &lone), None);
        assert_eq!(asked(false, &lone[1..]), None);
        for bad in ["h2c", "H2C", "websocket, h2c", "HTTP/2.0", "TLS/1.0"] {
            assert_eq!(
                asked(false, &[("connection", "upgrade"), ("upgrade", bad)]),
                None,
                "{bad}"
            );
        }
        let two = [
            ("connection", "upgrade"),
            ("upgrade", "websocket"),
            ("upgrade", "h2c"),
        ];
        assert_eq!(asked(false, &two), None);
    }

    #[test]
    fn a_body_that_a_server_may_overlook_is_the_last_thing_on_its_connection() {
        let framed = |method: Method, length| {
            let mut head = parts("/", &[("te", "trailers"), ("connection", "te")]);
            head.method = method;
            frame(&mut head, length);
            let header = |name| {
                head.headers
                    .get(name)
                    .map(|value: &HeaderValue| value.to_str().expect("text").to_owned())
            };
            (header("transfer-encoding"), header("connection"))
        };
        let (chunked, close) = (Some("chunked".to_owned()), Some("close".to_owned()));
        assert_eq!(framed(Method::POST, Some(3)), (None, Some("te".to_owned())));
        assert_eq!(framed(Method::POST, None), (chunked.clone(), close.clone()));
        assert_eq!(framed(Method::GET, None), (chunked, close.clone()));
        assert_eq!(framed(Method::DELETE, Some(3)), (None, close));
    }

    #[test]
    fn an_option_of_the_connection_takes_nothing_that_is_for_the_task() {
        let options = "Max-Forwards, host, AUTHORIZATION, cookie, content-length, content-type, traceparent, cache-control, \
                       x-forwarded-for, x-request-id, x-own";
        let mut head = parts(
            "/",
            &[
                ("host", "a.test"),
                ("connection", options),
                ("max-forwards", "3"),
                ("authorization", "Bearer 1"),
                ("cookie", "a=b"),
                ("content-length", "3"),
                ("content-type", "text/plain"),
                ("traceparent", "00-1-2-00"),
                ("cache-control", "no-cache"),
                ("x-own", "1"),
            ],
        );
        let client = Client::new("192.0.2.7:1234".parse().expect("an address"), None, false);
        let named = host(&head).expect("one");
        let id = HeaderValue::from_static("id");
        rewrite(&mut head, &named, &client, None, &id, None, false);
        for (name, value) in [
            ("max-forwards", "3"),
            ("host", "a.test"),
            ("authorization", "Bearer 1"),
            ("cookie", "a=b"),
            ("content-length", "3"),
            ("content-type", "text/plain"),
            ("traceparent", "00-1-2-00"),
            ("cache-control", "no-cache"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-request-id", "id"),
        ] {
            assert_eq!(head.headers.get(name).expect(name), value, "{name}");
        }
        for gone in ["connection", "x-own"] {
            assert!(!head.headers.contains_key(gone), "{gone}");
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
                ("x_forwarded-for", "1.2.3.4"),
                ("x_request_id", "1"),
                ("transfer_encoding", "chunked"),
                ("not_ours", "1"),
                ("accept", "*/*"),
            ],
        );
        let client = Client::new("192.0.2.7:1234".parse().expect("an address"), None, false);
        let named = host(&head).expect("one");
        rewrite(
            &mut head,
            &named,
            &client,
            None,
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
            "not_ours",
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
