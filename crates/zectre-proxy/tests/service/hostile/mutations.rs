//! Requests put together at random from pieces that parsers disagree about. The seed is fixed: a failure shows the bytes,
//! and comes again.

use super::{rig::Rig, servers::Kind};
use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    strategy::ValueTree,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

const CASES: usize = 250;
const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n";

const FIELDS: &[&str] = &[
    "Content-Length: 0",
    "Content-Length: 3",
    "Content-Length: 5",
    "Content-Length: 40",
    "content-length:3 ",
    "Content-Length: 03",
    "Content-Length: 3,3",
    "Content-Length : 3",
    "Content_Length: 3",
    "Transfer-Encoding: chunked",
    "transfer-encoding:Chunked\t",
    "Transfer-Encoding: chunked, identity",
    "Transfer-Encoding: xchunked",
    " Transfer-Encoding: chunked",
    "X: y\r\n\tz",
    "Transfer_Encoding: chunked",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: content-length, transfer-encoding",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Expect: 100-continue",
    "TE: trailers",
    "Trailer: X-T",
    "Host: evil",
    "X: y",
    "X: \u{e9}",
    "Max-Forwards: 0",
    "Range: bytes=0-0",
];
const BODIES: &[&str] = &[
    "",
    "abc",
    "abcde",
    "0\r\n\r\n",
    "3\r\nabc\r\n0\r\n\r\n",
    "3;x=y\r\nabc\r\n00\r\nX-T: u\r\n\r\n",
    "3\nabc\n0\n\n",
    "5\r\nabc\r\n\r\n0\r\n\r\n",
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n",
    "GET /smuggled HTTP/1.1\r\nHost: HOST\r\nX: ",
];
/// Put somewhere by chance.
const SPLINTERS: &[&[u8]] = &[
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b";",
    b",",
    b"0",
    b"3",
    b"\x0b",
    b"\x0c",
    b"\xff",
    b"/",
    b"#",
    b"\\",
    b"%00",
    b"HOST",
];

fn request() -> impl Strategy<Value = Vec<u8>> {
    let method = select(
        &[
            "GET", "POST", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "M-SEARCH",
        ][..],
    );
    let target = select(&["/a", "/a?b=c", "//a/../b", "/%2f;x", "http://HOST/a", "/a#b"][..]);
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0")];
    let fields = vec(select(FIELDS), 0..4);
    let host_last = any::<bool>();
    (method, target, version, fields, host_last, select(BODIES)).prop_map(
        |(method, target, version, mut fields, host_last, body)| {
            let place = if host_last { fields.len() } else { 0 };
            fields.insert(place, "Host: HOST");
            format!(
                "{method} {target} {version}\r\n{}\r\n\r\n{body}",
                fields.join("\r\n")
            )
            .into_bytes()
        },
    )
}

fn conversation() -> impl Strategy<Value = Vec<u8>> {
    let splinters = vec(
        (any::<prop::sample::Index>(), select(SPLINTERS), 0..3_usize),
        0..3,
    );
    (
        vec(request(), 1..4),
        prop_oneof![Just(true), Just(false)],
        splinters,
    )
        .prop_map(|(requests, whole, splinters)| {
            let mut bytes = requests.concat();
            if !whole {
                for (place, splinter, cut) in splinters {
                    let at = place.index(bytes.len());
                    let end = (at + cut).min(bytes.len());
                    bytes.splice(at..end, splinter.iter().copied());
                }
            }
            bytes.extend_from_slice(SENTINEL);
            bytes
        })
}

async fn mutated(kind: Kind) {
    let mut rig = Rig::new(kind).await;
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"what a client sends to a proxy..");
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut forwarded, mut refused) = (0, 0);
    for _ in 0..CASES {
        let bytes = conversation()
            .new_tree(&mut runner)
            .expect("nothing is filtered")
            .current();
        let talk = rig.talk(&bytes).await;
        let good = talk
            .answered
            .iter()
            .filter(|answered| answered.status < 400)
            .count();
        forwarded += good;
        refused += talk.answered.len() - good;
    }
    // Else the pieces would be badly chosen.
    assert!(
        forwarded > CASES / 4 && refused > CASES / 4,
        "{forwarded} and {refused}"
    );
    rig.finish().await;
}

#[tokio::test]
async fn nginx_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Nginx).await;
}

#[tokio::test]
async fn apache_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Apache).await;
}

#[tokio::test]
async fn haproxy_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Haproxy).await;
}

#[tokio::test]
async fn node_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Node).await;
}

#[tokio::test]
async fn python_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Python).await;
}

#[tokio::test]
async fn tish_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Tish).await;
}

#[tokio::test]
async fn hyper_and_the_proxy_agree_about_mutations() {
    mutated(Kind::Hyper).await;
}
