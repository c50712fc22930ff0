//! What breaks RFC 9113, in the manner of h2spec, and who is to be told.

use super::frames::{
    ACK, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PADDED, PING, PUSH_PROMISE,
    RST_STREAM, SETTINGS, WHOLE, WINDOW_UPDATE, block, frame, headers,
};

const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const COMPRESSION: u32 = 9;

/// Who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Told {
    /// The connection, with one of these codes.
    Connection(&'static [u32]),
    /// The stream, with one of these codes; the connection will do.
    Stream(&'static [u32]),
    /// The visitor, with 400.
    Visitor,
}
use Told::{Connection, Stream, Visitor};

pub(crate) type Case = (&'static str, Vec<u8>, Told);

pub(crate) fn get(extra: &[(&str, &str)]) -> Vec<u8> {
    headers(1, WHOLE, &with(extra))
}

pub(crate) fn with<'a>(extra: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "victim-default.zectre.localhost"),
    ];
    fields.extend_from_slice(extra);
    fields
}

/// A request with one of the four fields set to something else, or left out.
pub(crate) fn but(name: &str, value: Option<&str>) -> Vec<u8> {
    let mut fields = with(&[]);
    fields.retain(|(known, _)| *known != name);
    if let Some(value) = value {
        fields.insert(0, (name, value));
    }
    headers(1, WHOLE, &fields)
}

pub(crate) fn post(extra: &[(&str, &str)], rest: &[Vec<u8>]) -> Vec<u8> {
    let mut fields = with(extra);
    fields[0].1 = "POST";
    let mut bytes = headers(1, END_HEADERS, &fields);
    bytes.extend(rest.concat());
    bytes
}

#[expect(clippy::too_many_lines, reason = "it is a table")]
pub(crate) fn connection_cases() -> Vec<Case> {
    let setting = |id: u16, value: u32| {
        let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
        frame(SETTINGS, 0, 0, &payload)
    };
    let max = (u32::MAX >> 1).to_be_bytes();
    vec![
        (
            "DATA on stream 0",
            frame(DATA, END_STREAM, 0, b"a"),
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS on stream 0",
            headers(0, WHOLE, &with(&[])),
            Connection(&[PROTOCOL]),
        ),
        (
            "an even stream",
            headers(2, WHOLE, &with(&[])),
            Connection(&[PROTOCOL]),
        ),
        (
            "a stream in the past",
            [headers(5, WHOLE, &with(&[])), headers(3, WHOLE, &with(&[]))].concat(),
            Connection(&[PROTOCOL, STREAM_CLOSED]),
        ),
        (
            "DATA on an idle stream",
            frame(DATA, END_STREAM, 1, b"a"),
            Connection(&[PROTOCOL]),
        ),
        (
            "RST_STREAM on an idle stream",
            frame(RST_STREAM, 0, 1, &[0, 0, 0, 8]),
            Connection(&[PROTOCOL]),
        ),
        (
            "RST_STREAM on stream 0",
            frame(RST_STREAM, 0, 0, &[0, 0, 0, 8]),
            Connection(&[PROTOCOL]),
        ),
        (
            "a short RST_STREAM",
            [post(&[], &[]), frame(RST_STREAM, 0, 1, &[0; 3])].concat(),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE on an idle stream",
            frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE of 0",
            frame(WINDOW_UPDATE, 0, 0, &[0; 4]),
            Connection(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE beyond 2^31",
            [frame(WINDOW_UPDATE, 0, 0, &max), frame(WINDOW_UPDATE, 0, 0, &max)].concat(),
            Connection(&[FLOW_CONTROL]),
        ),
        (
            "a short WINDOW_UPDATE",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "SETTINGS on a stream",
            frame(SETTINGS, 0, 1, &[]),
            Connection(&[PROTOCOL]),
        ),
        (
            "SETTINGS of 5 bytes",
            frame(SETTINGS, 0, 0, &[0; 5]),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "SETTINGS, acknowledged, with a payload",
            frame(SETTINGS, ACK, 0, &[0; 6]),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        ("ENABLE_PUSH of 2", setting(2, 2), Connection(&[PROTOCOL])),
        (
            "INITIAL_WINDOW_SIZE of 2^31",
            setting(4, 1 << 31),
            Connection(&[FLOW_CONTROL, PROTOCOL]),
        ),
        ("MAX_FRAME_SIZE of 1", setting(5, 1), Connection(&[PROTOCOL])),
        (
            "PING on a stream",
            frame(PING, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL]),
        ),
        (
            "PING of 7 bytes",
            frame(PING, 0, 0, &[0; 7]),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "GOAWAY on a stream",
            frame(GOAWAY, 0, 1, &[0; 8]),
            Connection(&[PROTOCOL]),
        ),
        (
            "PUSH_PROMISE",
            frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2]),
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION of nothing",
            frame(CONTINUATION, END_HEADERS, 1, &block(&with(&[]))),
            Connection(&[PROTOCOL]),
        ),
        (
            "HEADERS torn by a PING",
            [headers(1, END_STREAM, &with(&[])), frame(PING, 0, 0, &[0; 8])].concat(),
            Connection(&[PROTOCOL]),
        ),
        (
            "CONTINUATION of another stream",
            [
                headers(1, END_STREAM, &with(&[])),
                frame(CONTINUATION, END_HEADERS, 3, &[]),
            ]
            .concat(),
            Connection(&[PROTOCOL]),
        ),
        (
            "a frame that is too large",
            post(&[], &[frame(DATA, 0, 1, &[0; 16_385])]),
            Connection(&[FRAME_SIZE, PROTOCOL]),
        ),
        (
            "an index that HPACK doesn't have",
            frame(HEADERS, WHOLE, 1, &[0xff, 0xff, 0x03]),
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
        (
            "a Huffman code that is none",
            frame(HEADERS, WHOLE, 1, &[0x00, 0x81, 0xff, 0x00]),
            Connection(&[COMPRESSION, PROTOCOL]),
        ),
        (
            "more padding than payload",
            frame(HEADERS, WHOLE | PADDED, 1, &[200, 0]),
            Connection(&[PROTOCOL]),
        ),
        (
            "DATA after the end",
            [get(&[]), frame(DATA, END_STREAM, 1, b"a")].concat(),
            Stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
        (
            "HEADERS after the end",
            [get(&[]), headers(1, WHOLE, &with(&[]))].concat(),
            Stream(&[STREAM_CLOSED, PROTOCOL]),
        ),
    ]
}

#[expect(clippy::too_many_lines, reason = "it is a table")]
pub(crate) fn stream_cases() -> Vec<Case> {
    let end = || vec![frame(DATA, END_STREAM, 1, b"abc")];
    let mut cases = vec![
        ("no :method", but(":method", None), Stream(&[PROTOCOL])),
        ("no :scheme", but(":scheme", None), Stream(&[PROTOCOL])),
        ("no :path", but(":path", None), Stream(&[PROTOCOL])),
        ("an empty :path", but(":path", Some("")), Stream(&[PROTOCOL])),
        (
            "a :path with a space",
            but(":path", Some("/a b")),
            Stream(&[PROTOCOL]),
        ),
        (
            "a :path with a request behind it",
            but(":path", Some("/ HTTP/1.1\r\nX: y\r\n\r\nGET /smuggled")),
            Stream(&[PROTOCOL]),
        ),
        (
            "a :path without a slash",
            but(":path", Some("a")),
            Stream(&[PROTOCOL]),
        ),
        (
            "a :method with a line end",
            but(":method", Some("GET / HTTP/1.1\r\nX:")),
            Stream(&[PROTOCOL]),
        ),
        (
            "a :scheme with a line end",
            but(":scheme", Some("http\r\nX: y")),
            Stream(&[PROTOCOL]),
        ),
        (
            "an :authority with a line end",
            but(":authority", Some("a\r\nX: y")),
            Stream(&[PROTOCOL]),
        ),
        (
            "an :authority with a user",
            but(":authority", Some("evil@victim-default.zectre.localhost")),
            Stream(&[PROTOCOL]),
        ),
        ("two :method", get(&[(":method", "GET")]), Stream(&[PROTOCOL])),
        ("two :path", get(&[(":path", "/b")]), Stream(&[PROTOCOL])),
        (
            "a pseudo header of answers",
            get(&[(":status", "200")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "a pseudo header that is none",
            get(&[(":foo", "a")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "a pseudo header behind others",
            headers(
                1,
                WHOLE,
                &[
                    (":method", "GET"),
                    (":scheme", "http"),
                    ("x", "y"),
                    (":path", "/"),
                    (":authority", "victim-default.zectre.localhost"),
                ],
            ),
            Stream(&[PROTOCOL]),
        ),
        ("a capital letter", get(&[("X-A", "b")]), Stream(&[PROTOCOL])),
        ("a name with a space", get(&[("x a", "b")]), Stream(&[PROTOCOL])),
        ("a name with a colon", get(&[("x:a", "b")]), Stream(&[PROTOCOL])),
        (
            "a name with a line end",
            get(&[("x\r\ny", "b")]),
            Stream(&[PROTOCOL]),
        ),
        ("no name", get(&[("", "b")]), Stream(&[PROTOCOL])),
        ("a value with CR", get(&[("x", "a\rb")]), Stream(&[PROTOCOL])),
        ("a value with LF", get(&[("x", "a\nb: c")]), Stream(&[PROTOCOL])),
        ("a value with NUL", get(&[("x", "a\0b")]), Stream(&[PROTOCOL])),
        ("connection", get(&[("connection", "close")]), Stream(&[PROTOCOL])),
        (
            "keep-alive",
            get(&[("keep-alive", "timeout=5")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "proxy-connection",
            get(&[("proxy-connection", "close")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "transfer-encoding",
            post(&[("transfer-encoding", "chunked")], &end()),
            Stream(&[PROTOCOL]),
        ),
        ("upgrade", get(&[("upgrade", "websocket")]), Stream(&[PROTOCOL])),
        (
            "te that is not trailers",
            get(&[("te", "gzip")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "less than content-length",
            post(&[("content-length", "4")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "more than content-length",
            post(&[("content-length", "2")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length of nothing",
            get(&[("content-length", "2")]),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length that is none",
            post(&[("content-length", "3a")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length twice",
            post(&[("content-length", "3"), ("content-length", "0")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length twice, the other way",
            post(&[("content-length", "0"), ("content-length", "3")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length twice, the same",
            post(&[("content-length", "3"), ("content-length", "3")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "content-length with a sign",
            post(&[("content-length", "+3")], &end()),
            Stream(&[PROTOCOL]),
        ),
        (
            "trailers that do not end",
            post(
                &[],
                &[frame(DATA, 0, 1, b"abc"), headers(1, END_HEADERS, &[("x", "y")])],
            ),
            Stream(&[PROTOCOL]),
        ),
        (
            "WINDOW_UPDATE of 0 on a stream",
            post(&[], &[frame(WINDOW_UPDATE, 0, 1, &[0; 4])]),
            Stream(&[PROTOCOL]),
        ),
        (
            "CONNECT with a :protocol",
            headers(
                1,
                WHOLE,
                &[
                    (":method", "CONNECT"),
                    (":protocol", "websocket"),
                    (":scheme", "http"),
                    (":path", "/"),
                    (":authority", "victim-default.zectre.localhost"),
                ],
            ),
            Stream(&[PROTOCOL]),
        ),
    ];
    let visitor = |name, bytes| (name, bytes, Visitor);
    cases.extend([
        visitor("no host", but(":authority", None)),
        visitor("another host", get(&[("host", "evil")])),
        visitor(
            "the same host, twice",
            get(&[
                ("host", "victim-default.zectre.localhost"),
                ("host", "victim-default.zectre.localhost"),
            ]),
        ),
        visitor("another scheme", but(":scheme", Some("ftp"))),
        visitor(
            "two in one :authority",
            but(":authority", Some("victim-default.zectre.localhost,evil")),
        ),
    ]);
    cases
}
