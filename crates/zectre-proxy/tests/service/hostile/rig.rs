//! A proxy, a server behind it and a tap between the two. Whatever a client sends is held against three readings: the
//! strict one of these tests, the server's own words, and the answers that the client got.

use super::{
    reading::{Answered, Asked, End, answers, requests},
    servers::{Kind, Server},
    tap::Tap,
};
use crate::{
    client::full,
    world::{Running, SOON, World},
};
use std::{collections::BTreeSet, net::SocketAddr};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

pub(crate) struct Rig {
    kind: Kind,
    proxy: Running,
    tap: Tap,
    /// Requests that clients got an answer of the server's for.
    told: BTreeSet<String>,
    /// Requests that the proxy answered by itself.
    refused: BTreeSet<String>,
    _server: Server,
    _world: World,
}

/// What a client got for what it sent.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) asked: Vec<Asked>,
    pub(crate) end: End,
    pub(crate) answered: Vec<Answered>,
}

impl Rig {
    pub(crate) async fn new(kind: Kind) -> Self {
        let world = World::new().await;
        let server = Server::start(kind).await;
        let tap = Tap::before(server.address).await;
        let app = world.app("victim").await;
        world.task(app.deployment, tap.address).await;
        let proxy = world.start().await;
        Self {
            kind,
            proxy,
            tap,
            told: BTreeSet::new(),
            refused: BTreeSet::new(),
            _server: server,
            _world: world,
        }
    }

    /// Sends `bytes` on a connection of their own, with the server's host in place of `HOST`, and judges what came of it.
    pub(crate) async fn talk(&mut self, bytes: &[u8]) -> Talk {
        let bytes = with_host(bytes);
        let (asked, end) = requests(&bytes);
        let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
        let got = timeout(SOON, self.exchange(&bytes, &methods))
            .await
            .unwrap_or_else(|_| panic!("no end of the answers to {}", shown(&bytes)));
        let (answered, whole) = answers(&got, &methods);
        assert_ne!(whole, End::Bad, "{} got {}", shown(&bytes), shown(&got));
        let talk = Talk { asked, end, answered };
        self.judge(&bytes, &talk);
        talk
    }

    /// Everything that comes back. The client stays until each of its requests is answered, or the proxy goes.
    async fn exchange(&self, bytes: &[u8], methods: &[&str]) -> Vec<u8> {
        let mut stream = TcpStream::connect(self.proxy.address).await.expect("it listens");
        let mut got = Vec::new();
        // It may be refused, and the connection gone, before all is written.
        let _ = stream.write_all(bytes).await;
        let mut closed = false;
        while !closed && answers(&got, methods).0.len() < methods.len() {
            closed = !matches!(stream.read_buf(&mut got).await, Ok(1..));
        }
        let _ = stream.shutdown().await;
        let _ = stream.read_to_end(&mut got).await;
        got
    }

    fn judge(&mut self, bytes: &[u8], talk: &Talk) {
        let case = || format!("{:?}: {}\n{talk:#?}", self.kind, shown(bytes));
        let surplus = usize::from(talk.end != End::Clean);
        assert!(
            talk.answered.len() <= talk.asked.len() + surplus,
            "more answers than requests: {}",
            case()
        );
        for (index, answered) in talk.answered.iter().enumerate() {
            let id = answered.header("x-request-id").unwrap_or_default().to_owned();
            let ours = answered.header("x-error-detail").is_some() || id.is_empty();
            if ours {
                self.refused.insert(id);
                assert!(answered.status >= 400, "{}", case());
                continue;
            }
            let Some(asked) = talk.asked.get(index) else {
                // Its body was no good in the end; a server that does not read bodies has not noticed.
                assert!(!self.kind.is_thorough(), "an answer to no request: {}", case());
                self.told.insert(id);
                continue;
            };
            if answered.status == 200 && says(asked) {
                let echo = self.echo(answered).unwrap_or_else(|| panic!("{}", case()));
                assert_eq!(echo.id, id, "somebody else's answer: {}", case());
                assert!(self.agree(&echo, asked), "{echo:?} instead of {}", case());
            }
            self.told.insert(id);
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.address
    }

    /// The server's answer to what a client asked by another protocol.
    pub(crate) fn understood(&mut self, asked: &Asked, answered: &Answered) {
        let echo = self.echo(answered);
        let agrees = echo
            .as_ref()
            .is_some_and(|echo| echo.id == asked.id && self.agree(echo, asked));
        assert!(
            answered.status == 200 && agrees,
            "{:?}: {echo:?} instead of {asked:?}: {answered:?}",
            self.kind
        );
        self.told.insert(asked.id.clone());
    }

    fn echo(&self, answered: &Answered) -> Option<Asked> {
        let mut echo = answered.echo()?;
        if self.kind == Kind::Haproxy {
            echo.body = unhex(&echo.body);
        }
        Some(echo)
    }

    /// Whether the server understood what was meant.
    fn agree(&self, echo: &Asked, asked: &Asked) -> bool {
        let (host, target) = destination(asked);
        let reads = self.kind.reads_body(&asked.method, asked.chunked);
        echo.method == asked.method
            && echo.target == target
            && echo.host == host
            && (!reads || echo.body == asked.body)
    }

    /// After the last talk: on no wire was there a request that the proxy did not mean, nor an answer that nobody
    /// asked for.
    pub(crate) async fn finish(self) {
        let mut seen = BTreeSet::new();
        for wire in self.tap.wires() {
            let (asked, end) = requests(&wire.asked);
            assert_ne!(end, End::Bad, "the proxy wrote {}", shown(&wire.asked));
            let methods: Vec<_> = asked.iter().map(|asked| asked.method.as_str()).collect();
            let (answered, _) = answers(&wire.answered, &methods);
            // One that reads no bodies answers before it has all of one that breaks off.
            let early = usize::from(end == End::Cut);
            assert!(
                answered.len() <= asked.len() + early,
                "{:?} read more requests than the proxy wrote:\n{}\n{}",
                self.kind,
                shown(&wire.asked),
                shown(&wire.answered)
            );
            for (asked, answered) in asked.iter().zip(&answered) {
                if answered.status == 200 && says(asked) {
                    let echo = self.echo(answered).expect("it says what it understood");
                    assert!(
                        self.agree(&echo, asked) && echo.id == asked.id,
                        "{echo:?} is not {asked:?}"
                    );
                }
            }
            seen.extend(asked.into_iter().map(|asked| asked.id));
        }
        let unknown: Vec<_> = seen.difference(&(&self.told | &self.refused)).cloned().collect();
        assert!(unknown.is_empty(), "nobody sent the requests {unknown:?}");
        if self.kind.is_thorough() {
            let invented: Vec<_> = self.told.difference(&seen).collect();
            assert!(
                invented.is_empty(),
                "the server never saw the requests {invented:?}"
            );
        }
        assert!(seen.len() > 10, "the server was asked");
        self.proxy.stop().await;
    }
}

/// Whether the answer tells what was understood: Apache's own to `OPTIONS *` does not.
fn says(asked: &Asked) -> bool {
    asked.method != "HEAD" && asked.target != "*"
}

/// Host and target as the server should see them.
fn destination(asked: &Asked) -> (&str, &str) {
    let (host, target) = match asked.target.strip_prefix("http://") {
        Some(rest) => match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        },
        None => (asked.host.as_str(), asked.target.as_str()),
    };
    // What is behind it is for browsers.
    (host, target.split('#').next().unwrap_or_default())
}

fn with_host(bytes: &[u8]) -> Vec<u8> {
    let (host, mut out, mut rest) = (full("victim-default"), Vec::new(), bytes);
    while let Some(at) = rest.windows(4).position(|window| window == b"HOST") {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(host.as_bytes());
        rest = &rest[at + 4..];
    }
    out.extend_from_slice(rest);
    out
}

fn unhex(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).expect("a digit") as u8;
    text.chunks(2)
        .map(|pair| digit(pair[0]) << 4 | digit(pair[1]))
        .collect()
}

/// For people: as it would stand in a test.
pub(crate) fn shown(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}
