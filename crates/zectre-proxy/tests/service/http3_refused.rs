//! What a request of HTTP/3 may not be for: the same as for one of any other version, said in the same words.

use crate::{
    client::full,
    http3::{CONFIG, head, quic},
    origin::{Origin, text},
    world::{SOON, World},
};
use h3::error::Code;
use quinn::VarInt;
use tokio::time::timeout;

/// Fields of the static table of QPACK: `:method`, `:scheme: https`, `:path: /`.
const CONNECT: u8 = 0xc0 | 15;
const GET: u8 = 0xc0 | 0x11;
const OPTIONS: u8 = 0xc0 | 0x13;
const HTTPS: u8 = 0xc0 | 0x17;
const ROOT: u8 = 0xc0 | 1;

/// A literal `:path`.
fn path(path: &str) -> Vec<u8> {
    [&[0x50 | 1, path.len() as u8][..], path.as_bytes()].concat()
}

/// A literal `:scheme`.
fn scheme(scheme: &str) -> Vec<u8> {
    [&[0x50 | 15, 22 - 15, scheme.len() as u8][..], scheme.as_bytes()].concat()
}

/// A literal `host`.
fn host_field(host: &str) -> Vec<u8> {
    [&[0x20 | 4][..], b"host", &[host.len() as u8], host.as_bytes()].concat()
}

/// What is said in answer to a head, or the reset.
async fn say(quic: &quinn::Connection, head: &[u8]) -> Result<String, VarInt> {
    let (mut send, mut recv) = quic.open_bi().await.expect("open");
    send.write_all(head).await.expect("taken");
    send.finish().expect("open");
    match timeout(SOON, recv.read_to_end(65_536)).await.expect("in time") {
        Ok(heard) => Ok(String::from_utf8_lossy(&heard).into_owned()),
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(code))) => Err(code),
        Err(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whom_and_what_a_request_is_for_is_held_to_the_same_as_everywhere() {
    let mut world = World::new().await;
    world.configure(CONFIG);
    let origin = Origin::new(|request| async move { text(format!("asked for {}.", request.uri())) }).await;
    world.app_at("hello", &[&origin]).await;
    world.raise().await;
    let proxy = world.start().await;
    let host = full("hello-default");
    let (_endpoint, quic) = quic(&proxy, &host).await;
    let get = |path: &[u8]| [&[GET, HTTPS], path].concat();
    let port = format!("{host}:99999");
    let user = format!("user@{host}");
    for (name, head) in [
        ("GET *", head(&get(&path("*")), &host, b"")),
        ("a port beyond 65535", head(&get(&[ROOT]), &port, b"")),
        ("a name of a user", head(&get(&[ROOT]), &user, b"")),
        ("bytes beyond ASCII", head(&get(&path("/é")), &host, b"")),
        (
            "another scheme",
            head(&[&[GET][..], &scheme("ftp"), &[ROOT]].concat(), &host, b""),
        ),
    ] {
        let answer = say(&quic, &head).await.expect("an answer");
        assert!(answer.contains("\"BAD_REQUEST\""), "{name}: {answer}");
    }
    let answer = say(&quic, &head(&[CONNECT], &host, b""))
        .await
        .expect("an answer");
    assert!(answer.contains("\"METHOD_NOT_ALLOWED\""), "{answer}");
    // Two that differ are no request.
    let two = head(&get(&[ROOT]), &host, &host_field("other.example"));
    let malformed = VarInt::from_u64(Code::H3_MESSAGE_ERROR.value()).expect("small");
    assert_eq!(say(&quic, &two).await, Err(malformed));
    assert_eq!(origin.requests(), 0, "none of them reached the program");

    // Nothing of a fragment goes on; `*` does where it may, and a port that there is.
    let fragment = head(&get(&path("/a?b#c")), &host, b"");
    let answer = say(&quic, &fragment).await.expect("an answer");
    assert!(answer.ends_with("asked for /a?b."), "{answer}");
    let server = head(&[&[OPTIONS, HTTPS], &path("*")[..]].concat(), &host, b"");
    let answer = say(&quic, &server).await.expect("an answer");
    assert!(answer.ends_with("asked for *."), "{answer}");
    let port = format!("{host}:65535");
    let answer = say(&quic, &head(&get(&[ROOT]), &port, b""))
        .await
        .expect("an answer");
    assert!(answer.ends_with("asked for /."), "{answer}");
    let twice = head(&get(&[ROOT]), &host, &host_field(&host));
    let answer = say(&quic, &twice).await.expect("an answer");
    assert!(answer.ends_with("asked for /."), "{answer}");
    proxy.stop().await;
}
