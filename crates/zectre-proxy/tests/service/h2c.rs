//! HTTP/2 without TLS: a client whose calls stream, and servers that give calls back.

use crate::{origin::Body, program::Program, world::SOON};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{
    body::{Frame, Incoming},
    client::conn::http2,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// A body of what is sent.
pub(crate) fn streamed() -> (mpsc::Sender<Frame<Bytes>>, Body) {
    let (sender, receiver) = mpsc::channel(4);
    let frames = stream::unfold(receiver, |mut receiver| async move {
        let frame = receiver.recv().await?;
        Some((Ok(frame), receiver))
    });
    (sender, StreamBody::new(frames).boxed())
}

pub(crate) fn whole(bytes: impl AsRef<[u8]>) -> Body {
    let body = Full::new(Bytes::copy_from_slice(bytes.as_ref()));
    body.map_err(|never: Infallible| match never {}).boxed()
}

/// A connection; its clones share it.
#[derive(Clone)]
pub(crate) struct Client {
    sender: http2::SendRequest<Body>,
    _driver: Arc<JoinSet<hyper::Result<()>>>,
}

impl Client {
    pub(crate) async fn new<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Self {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .expect("HTTP/2");
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Self {
            sender,
            _driver: Arc::new(driver),
        }
    }

    pub(crate) async fn send(
        &mut self,
        path: &str,
        host: &str,
        headers: &[(&str, &str)],
        body: Body,
    ) -> Response<Incoming> {
        let mut request = Request::post(format!("http://{host}{path}"))
            .header("te", "trailers")
            .header("content-type", "application/grpc");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let sent = self.sender.send_request(request.body(body).expect("valid"));
        timeout(SOON, sent).await.expect("in time").expect("an answer")
    }

    /// A call of one message.
    pub(crate) async fn unary(&mut self, host: &str, message: Bytes) -> Response<Incoming> {
        self.send("/call", host, &[], whole(message)).await
    }

    /// A call of many; its server answers before it has any.
    pub(crate) async fn call(&mut self, host: &str, headers: &[(&str, &str)]) -> Call {
        let (says, body) = streamed();
        let response = self.send("/call", host, headers, body).await;
        Call {
            says,
            hears: response.into_body(),
        }
    }
}

/// A call whose messages go both ways.
pub(crate) struct Call {
    says: mpsc::Sender<Frame<Bytes>>,
    hears: Incoming,
}

impl Call {
    pub(crate) async fn say(&mut self, word: &'static str) {
        let sent = self.says.send(Frame::data(Bytes::from_static(word.as_bytes())));
        timeout(SOON, sent).await.expect("in time").expect("it is read");
    }

    pub(crate) async fn hear(&mut self) -> Bytes {
        let frame = timeout(SOON, self.hears.frame()).await.expect("in time");
        frame
            .expect("a frame")
            .expect("readable")
            .into_data()
            .expect("no trailers yet")
    }

    /// Says no more, and hears how it ended.
    pub(crate) async fn end(self) -> HeaderMap {
        let Self { says, hears } = self;
        drop(says);
        let body = timeout(SOON, hears.collect())
            .await
            .expect("in time")
            .expect("whole");
        body.trailers().expect("trailers").clone()
    }

    /// Whether it ends in an error, and not in an end.
    pub(crate) async fn breaks(mut self) -> bool {
        timeout(SOON, self.hears.frame())
            .await
            .expect("in time")
            .is_some_and(|frame| frame.is_err())
    }
}

/// How a server gives a call back that it has not begun with.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Giving {
    GoAway,
    Refused,
    /// Not at once.
    RefusedAfter(Duration),
}

/// Gives back the first call of its first connections, once it has all of it or much, and answers the others with themselves.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _running: JoinSet<()>,
}

impl Server {
    pub(crate) async fn new(giving: Giving, times: usize) -> Self {
        Self::slow(giving, times, Duration::ZERO).await
    }

    /// One that takes `time` for each answer.
    pub(crate) async fn slow(giving: Giving, times: usize, time: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut open = JoinSet::new();
            for turn in 0.. {
                let Ok((stream, _)) = listener.accept().await else {
                    return;
                };
                if turn < times {
                    open.spawn(give_back(stream, giving));
                } else {
                    open.spawn(serve(stream, 100, move |request: Request<Incoming>| async move {
                        tokio::time::sleep(time).await;
                        let mut trailers = HeaderMap::new();
                        trailers.insert("grpc-status", 0.into());
                        Response::new(
                            request
                                .into_body()
                                .with_trailers(async { Some(Ok(trailers)) })
                                .boxed(),
                        )
                    }));
                }
            }
        });
        Self {
            address,
            _running: running,
        }
    }
}

/// A server that allows so many calls at once on one connection.
pub(crate) struct Limited {
    pub(crate) address: SocketAddr,
    connections: Arc<AtomicUsize>,
    _program: Program,
}

impl Limited {
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(SeqCst)
    }
}

pub(crate) async fn limited<H, F>(streams_max: u32, handler: H) -> Limited
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let connections = Arc::new(AtomicUsize::new(0));
    let accepted = Arc::clone(&connections);
    let program = Program::new(move |stream| {
        accepted.fetch_add(1, SeqCst);
        serve(stream, streams_max, handler.clone())
    })
    .await;
    Limited {
        address: program.address,
        connections,
        _program: program,
    }
}

async fn serve<H, F>(stream: TcpStream, streams_max: u32, handler: H)
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Body>> + Send + 'static,
{
    let service = hyper::service::service_fn(move |request| {
        let answer = handler(request);
        async move { Ok::<_, Infallible>(answer.await) }
    });
    let mut server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    server.max_concurrent_streams(streams_max);
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
/// More than a proxy keeps of a body.
const MUCH: usize = 80 * 1024;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Written by hand: servers of libraries don't give back what they have read.
async fn give_back(mut stream: TcpStream, giving: Giving) {
    let work = async {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await?;
        stream.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
        let mut bytes = 0;
        loop {
            let mut head = [0; 9];
            stream.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags) = (head[3], head[4]);
            let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let mut payload = vec![0; length];
            stream.read_exact(&mut payload).await?;
            if kind == SETTINGS && flags & ACK == 0 {
                stream.write_all(&frame(SETTINGS, ACK, 0, &[])).await?;
            }
            if kind == HEADERS {
                for id in [0, id] {
                    let more = frame(WINDOW_UPDATE, 0, id, &(1_u32 << 20).to_be_bytes());
                    stream.write_all(&more).await?;
                }
            }
            bytes += if kind == DATA { length } else { 0 };
            if (kind == DATA || kind == HEADERS) && (flags & END_STREAM != 0 || bytes > MUCH) {
                if let Giving::RefusedAfter(time) = giving {
                    tokio::time::sleep(time).await;
                }
                let answer = match giving {
                    Giving::GoAway => frame(GOAWAY, 0, 0, &[0; 8]),
                    Giving::Refused | Giving::RefusedAfter(_) => {
                        frame(RST_STREAM, 0, id, &7_u32.to_be_bytes())
                    }
                };
                stream.write_all(&answer).await?;
                if !matches!(giving, Giving::GoAway) {
                    // It takes nothing more, on this connection either.
                    stream.write_all(&frame(GOAWAY, 0, 0, &[0; 8])).await?;
                }
                break;
            }
        }
        // It ends when the other side does.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let _: std::io::Result<u64> = work.await;
}
