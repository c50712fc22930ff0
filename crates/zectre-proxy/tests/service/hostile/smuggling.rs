//! A request that one program takes for one and another for two is how a request gets past a proxy. Each case ends
//! where such a second request would begin; the one behind it, the sentinel, must be answered if and only if all that
//! came before it was a well-formed request, and answered for what it is.

use super::{
    downgrade,
    reading::{Answered, End},
    rig::Rig,
    servers::Kind,
};

const SENTINEL: &str = "GET /sentinel HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";

/// Goes through as so many requests, and the sentinel.
const GOOD: &[(usize, &str)] = &[
    (1, "GET /a HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (1, "HEAD /a HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (1, "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (1, "PURGE /a HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (1, "\r\n\r\nGET /a HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (1, "GET http://HOST/a?b HTTP/1.1\r\nHost: HOST\r\n\r\n"),
    (
        1,
        "GET /%2e%2e//b;c=%0d%0aX:%20y?d=e&f HTTP/1.1\r\nHost: HOST\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 7\r\n\r\na\r\n\0\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length:  0009\t\r\n\r\nGET / HTT",
    ),
    (1, "PUT /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTRANSFER-encoding:\tCHUNKED \r\n\r\n00a\r\n0123456789\r\n000\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3;a=b;c=\"d\"\r\nabc\r\n0;e\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTrailer: X-A\r\n\r\n3\r\nabc\r\n0\r\nX-A: b\r\nContent-Length: 9\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n23\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n\r\n0\r\n\r\n",
    ),
    // Servers that take no body with these would read it as a request.
    (
        1,
        "GET /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 35\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n",
    ),
    (
        1,
        "GET /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        1,
        "DELETE /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        1,
        "DELETE /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        1,
        "OPTIONS /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    ),
    // What is not ours to pass on stays here.
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nConnection: content-length, host\r\n\r\nabc",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nConnection: transfer-encoding\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nContent_Length: 90\r\nContent-Length: 3\r\nTransfer_Encoding: chunked\r\n\r\nabc",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nX-Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        1,
        "GET /a HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n",
    ),
    (
        1,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\nabc",
    ),
    (
        2,
        "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabcPOST /b HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ndef\r\n0\r\n\r\n",
    ),
];

/// Is refused, with all behind it.
const BAD: &[&str] = &[
    // Two framings.
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nX",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n1\r\nA\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3, 3\r\n\r\nabc",
    // Lengths that are none.
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: +3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: -3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3.0\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length:\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551615\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551619\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length : 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length\t: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\x0b\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: \x0c3\r\n\r\nabc",
    // Codings that are not just chunked.
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: identity\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: identity, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked;q=1\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: ,chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \x0cchunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\n\0Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n\r\n",
    "POST /a HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    // Lines that end or begin in two ways.
    "POST /a HTTP/1.1\r\nHost: HOST\r\nX: y\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\n Host: HOST\r\nContent-Length: 0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nX: y\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nX: y\rContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nX: y\r\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\nabc",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\n\r\nabc",
    "POST /a HTTP/1.1\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.1\rHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    "\nGET /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    " GET /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nno colon\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\n: no name\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nX y: z\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nX: a\0b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nX: a\x08b\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nX: a\x7fb\r\n\r\n",
    // Request lines.
    "GET /a b HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET  /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a  HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET\t/a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a\tHTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/1.1 \r\nHost: HOST\r\n\r\n",
    "GET /a\0b HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/1.2\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/2.0\r\nHost: HOST\r\n\r\n",
    "GET /a http/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/1.10\r\nHost: HOST\r\n\r\n",
    "GET /a\r\n\r\n",
    "G(T /a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET ?a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET \\a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a#b HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /a?b#c HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET #a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://HOST/a#b HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://HOST#a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    // Chunks.
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\rabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabXX0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3;a\rb\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3 a\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nabc\r\n0\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n X: y\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nno colon\r\n\r\n",
    "POST /a HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\n",
];

/// Is refused by itself: for whom or what it is, is in doubt; where it ends is not.
const NO_TARGET: &[&str] = &[
    "GET a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET HOST HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET HOST:80 HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET ftp://HOST/a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET * HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "POST * HTTP/1.1\r\nHost: HOST\r\nContent-Length: 3\r\n\r\nabc",
    "GET /a HTTP/1.1\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST\r\nHost: evil\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST, evil\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST evil\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: evil@HOST\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST/evil\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST:80:80\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST:x\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST:99999\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST:65536\r\n\r\n",
    "GET http://HOST:99999/a HTTP/1.1\r\nHost: HOST:99999\r\n\r\n",
    "GET /a HTTP/1.1\r\nHost: HOST%00evil\r\n\r\n",
    "GET http://HOST/a HTTP/1.1\r\nHost: evil\r\n\r\n",
    "GET http://evil/a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://evil@HOST/a HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET http://HOST/a HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n",
];

/// An answer of unknown length ends an old client's connection, else it is kept.
const OLD: &[&str] = &[
    "GET /a HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\n\r\n",
    "POST /a HTTP/1.0\r\nHost: HOST\r\nConnection: keep-alive\r\nContent-Length: 3\r\n\r\nabc",
    "POST /a HTTP/1.0\r\nHost: HOST\r\n\r\n",
];

async fn table(kind: Kind) {
    let mut rig = Rig::new(kind).await;
    let mut wrong = Vec::new();
    for (count, good) in GOOD {
        let talk = rig.talk(format!("{good}{SENTINEL}").as_bytes()).await;
        assert_eq!((talk.asked.len(), talk.end), (count + 1, End::Clean), "{good:?}");
        let statuses: Vec<_> = talk.answered.iter().map(|answered| answered.status).collect();
        if statuses.len() != count + 1 || statuses.last() != Some(&200) {
            wrong.push(format!("{statuses:?} {good:?}"));
        }
    }
    for old in OLD {
        let talk = rig.talk(format!("{old}{SENTINEL}").as_bytes()).await;
        let statuses: Vec<_> = talk.answered.iter().map(|answered| answered.status).collect();
        if !matches!(statuses[..], [200] | [200, 200]) {
            wrong.push(format!("{statuses:?} {old:?}"));
        }
    }
    for bad in BAD {
        let talk = rig.talk(format!("{bad}{SENTINEL}").as_bytes()).await;
        let statuses: Vec<_> = talk.answered.iter().map(|answered| answered.status).collect();
        let reached = talk
            .answered
            .iter()
            .filter_map(Answered::echo)
            .any(|echo| echo.target == "/sentinel");
        if reached || !(statuses == [400] || (statuses.len() < 2 && !kind.reads_body("POST", true))) {
            wrong.push(format!("{statuses:?} {bad:?}"));
        }
    }
    for bad in NO_TARGET {
        let talk = rig.talk(format!("{bad}{SENTINEL}").as_bytes()).await;
        let statuses: Vec<_> = talk.answered.iter().map(|answered| answered.status).collect();
        if !matches!(statuses[..], [400] | [400, 200]) {
            wrong.push(format!("{statuses:?} {bad:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    downgrade::table(&mut rig).await;
    rig.finish().await;
}

#[tokio::test]
async fn nginx_understands_what_the_proxy_does() {
    table(Kind::Nginx).await;
}

#[tokio::test]
async fn apache_understands_what_the_proxy_does() {
    table(Kind::Apache).await;
}

#[tokio::test]
async fn haproxy_understands_what_the_proxy_does() {
    table(Kind::Haproxy).await;
}

#[tokio::test]
async fn node_understands_what_the_proxy_does() {
    table(Kind::Node).await;
}

#[tokio::test]
async fn python_understands_what_the_proxy_does() {
    table(Kind::Python).await;
}

#[tokio::test]
async fn tish_understands_what_the_proxy_does() {
    table(Kind::Tish).await;
}

#[tokio::test]
async fn hyper_understands_what_the_proxy_does() {
    table(Kind::Hyper).await;
}
