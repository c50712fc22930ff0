//! HTTP/2 that would become something else in HTTP/1.1: one server after the other gets what is well-formed for what it
//! is, and of the rest not one request.

use super::{
    frames::{DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, WHOLE, frame, headers, next, open},
    http2::fits,
    http2_cases::{
        Case,
        Told::{Stream, Visitor},
        but, get, post, stream_cases, with,
    },
    reading::{Answered, Asked},
    rig::Rig,
};

const HOST: &str = "victim-default.zectre.localhost";
const PROTOCOL: u32 = 1;
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// What the list of the protocol's breaches lacks: texts that end a line, a header or a body of HTTP/1.1.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn injections() -> Vec<Case> {
    let stream = |name, bytes| (name, bytes, Stream(&[PROTOCOL]));
    let end = || vec![frame(DATA, END_STREAM, 1, b"abc")];
    let trailers = |fields: &[(&str, &str)]| {
        let body = frame(DATA, 0, 1, b"abc");
        post(&[], &[body, headers(1, WHOLE, fields)])
    };
    vec![
        stream("a :path with a tab", but(":path", Some("/a\tb"))),
        stream("a :path with CR", but(":path", Some("/a\rb"))),
        stream("a :path with LF", but(":path", Some("/a\nX: y"))),
        stream("a :path with NUL", but(":path", Some("/a\0b"))),
        stream("a :path with a version", but(":path", Some("/smuggled HTTP/1.1"))),
        stream(
            "a :method with a target",
            but(":method", Some("GET /smuggled HTTP/1.1")),
        ),
        stream("an empty :method", but(":method", Some(""))),
        stream("a :method with NUL", but(":method", Some("GET\0"))),
        stream("two :authority", get(&[(":authority", "evil")])),
        stream("two :scheme", get(&[(":scheme", "http")])),
        stream("an :authority with a space", but(":authority", Some("a b"))),
        stream("an :authority with NUL", but(":authority", Some("a\0b"))),
        stream(
            "a name that is a line",
            get(&[("x: y\r\ntransfer-encoding", "chunked")]),
        ),
        stream(
            "a name with NUL",
            post(&[("transfer-encoding\0", "chunked")], &end()),
        ),
        stream(
            "a name with a space behind it",
            post(&[("transfer-encoding ", "chunked")], &end()),
        ),
        stream(
            "a value with a header",
            post(&[("x", "y\r\ntransfer-encoding: chunked")], &end()),
        ),
        stream("a value with a request", get(&[("x", "\r\n\r\nGET /smuggled")])),
        stream("a value that ends with CR", get(&[("x", "y\r")])),
        stream(
            "transfer-encoding of identity",
            post(&[("transfer-encoding", "identity")], &end()),
        ),
        stream(
            "transfer-encoding and content-length",
            post(
                &[("content-length", "3"), ("transfer-encoding", "chunked")],
                &end(),
            ),
        ),
        stream("connection of a length", get(&[("connection", "content-length")])),
        stream(
            "content-length as a list",
            post(&[("content-length", "3, 3")], &end()),
        ),
        stream(
            "content-length in hexadecimal",
            post(&[("content-length", "0x3")], &end()),
        ),
        stream("an empty content-length", post(&[("content-length", "")], &end())),
        stream(
            "a request beyond content-length",
            post(
                &[("content-length", "0")],
                &[frame(DATA, END_STREAM, 1, SMUGGLED.as_bytes())],
            ),
        ),
        stream("trailers with a line end", trailers(&[("x", "y\r\n\r\n")])),
        ("two hosts", get(&[("host", HOST), ("host", "evil")]), Visitor),
        ("an asterisk with GET", but(":path", Some("*")), Visitor),
        (
            "a port that is none",
            but(":authority", Some("victim-default.zectre.localhost:99999")),
            Visitor,
        ),
        (
            "an :authority with a path",
            but(":authority", Some("victim-default.zectre.localhost/evil")),
            Stream(&[PROTOCOL]),
        ),
    ]
}

/// A request, as it is sent and as it is to be understood.
struct Good {
    method: &'static str,
    target: &'static str,
    extra: Vec<(&'static str, &'static str)>,
    body: Option<&'static str>,
    trailers: Vec<(&'static str, &'static str)>,
}

fn good() -> Vec<Good> {
    let one = |method, target, extra: &[_], body, trailers: &[_]| Good {
        method,
        target,
        extra: extra.to_vec(),
        body,
        trailers: trailers.to_vec(),
    };
    vec![
        one("GET", "/a?b", &[("te", "trailers")], None, &[]),
        one("PURGE", "/a", &[("host", HOST)], None, &[]),
        one("GET", "/%0d%0aX:%20y//%2e%2e;a", &[], None, &[]),
        // `h2` leaves out what is behind the `#` before we see it.
        one("GET", "/a?b#c", &[], None, &[]),
        one("POST", "/a", &[("content-length", "3")], Some("abc"), &[]),
        one("POST", "/a", &[("content-length", "0")], Some(""), &[]),
        one("POST", "/a", &[], Some(SMUGGLED), &[]),
        one(
            "POST",
            "/a",
            &[],
            Some("0\r\n\r\nGET /smuggled HTTP/1.1\r\n\r\n"),
            &[],
        ),
        // Servers that take no body with these would read it as a request.
        one("GET", "/a", &[], Some(SMUGGLED), &[]),
        one("GET", "/a", &[("content-length", "3")], Some("abc"), &[]),
        one("DELETE", "/a", &[], Some("abc"), &[]),
        one(
            "POST",
            "/a",
            &[
                ("content_length", "90"),
                ("transfer_encoding", "chunked"),
                ("x-transfer-encoding", "chunked"),
            ],
            Some("abc"),
            &[],
        ),
        one(
            "POST",
            "/a",
            &[("trailer", "x")],
            Some("abc"),
            &[("x", "y"), ("content-length", "9"), ("host", "evil")],
        ),
        // `h2` leaves it out and does not refuse it: nothing of it goes on.
        one(
            "POST",
            "/a",
            &[],
            Some("abc"),
            &[(":path", "/smuggled"), ("x", "y")],
        ),
    ]
}

impl Good {
    fn bytes(&self, id: &str) -> Vec<u8> {
        let mut fields = with(&[("x-request-id", id)]);
        fields.extend_from_slice(&self.extra);
        (fields[0].1, fields[2].1) = (self.method, self.target);
        let Some(body) = self.body else {
            return headers(1, WHOLE, &fields);
        };
        let mut bytes = headers(1, END_HEADERS, &fields);
        if self.trailers.is_empty() {
            bytes.extend(frame(DATA, END_STREAM, 1, body.as_bytes()));
        } else {
            bytes.extend(frame(DATA, 0, 1, body.as_bytes()));
            bytes.extend(headers(1, WHOLE, &self.trailers));
        }
        bytes
    }

    fn asked(&self, id: &str) -> Asked {
        Asked {
            method: self.method.into(),
            target: self.target.split('#').next().unwrap_or_default().into(),
            host: HOST.into(),
            body: self.body.unwrap_or_default().into(),
            // It has no length unless it is told.
            chunked: self.body.is_some() && !self.extra.iter().any(|(name, _)| *name == "content-length"),
            id: id.into(),
            last: false,
        }
    }

    /// Is answered by the server, for what it is.
    async fn is_understood(&self, rig: &mut Rig, id: &str) {
        let mut stream = open(rig.address(), &self.bytes(id)).await;
        let mut answered = Answered::default();
        while let Some(frame) = next(&mut stream).await {
            assert!(!matches!(frame.kind, RST_STREAM | GOAWAY), "{id}: {frame:?}");
            if frame.kind == HEADERS {
                answered.status = answered.status.max(frame.status().unwrap_or_default());
            }
            if frame.kind == DATA {
                answered.body.extend_from_slice(&frame.payload);
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                break;
            }
        }
        rig.understood(&self.asked(id), &answered);
    }
}

/// Tells the client that `case` is none; else in what way not.
async fn refused(rig: &Rig, (name, bytes, told): &Case) -> Option<String> {
    let mut stream = open(rig.address(), bytes).await;
    let mut seen = Vec::new();
    while let Some(frame) = next(&mut stream).await {
        if fits(&frame, *told) {
            return None;
        }
        let over = frame.kind == GOAWAY || (frame.kind == DATA && frame.flags & END_STREAM != 0);
        seen.push(frame);
        if over {
            break;
        }
    }
    Some(format!("{name}: {told:?} expected, {seen:?} seen"))
}

pub(crate) async fn table(rig: &mut Rig) {
    for (index, good) in good().iter().enumerate() {
        good.is_understood(rig, &format!("good-{index}")).await;
    }
    let sentinel = Good {
        method: "GET",
        target: "/sentinel",
        extra: Vec::new(),
        body: None,
        trailers: Vec::new(),
    };
    let mut wrong = Vec::new();
    for (index, case) in stream_cases().into_iter().chain(injections()).enumerate() {
        wrong.extend(refused(rig, &case).await);
        // The connections to the server are shared: what came of the cases would be answered to this one.
        if index % 8 == 7 {
            let id = format!("sentinel-{index}");
            sentinel.is_understood(rig, &id).await;
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
