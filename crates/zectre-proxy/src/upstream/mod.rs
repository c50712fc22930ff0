//! Connections to tasks. A request that never reached its task goes out again on a fresh connection; a kept
//! connection that turned out to be dead is nobody's error.
//!
//! A host that was cut off says nothing, and TCP waits for it for minutes. So a task that keeps a request waiting is
//! knocked at: a new connection that nobody answers tells that the host is gone, one that is made tells that the task
//! is only slow. Socket options can't tell the two apart: TCP_USER_TIMEOUT also breaks an upload that the task is slow to read.

mod alarm;
mod link;
mod pool;
mod receipt;
mod rest;
mod shared;
mod silence;
mod tcp_info;
mod turn;
mod witness;

pub use link::Link;

use crate::{
    ingress::{
        bell::until,
        body::{Fault, Upload},
        connection_options,
    },
    live::Replica,
    workers,
};
use alarm::Alarm;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response, Version, header};
use hyper::{
    body::{Body, Incoming},
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use link::{Sender, Single};
use pool::Pool;
use receipt::Receipt;
use rest::Rests;
use rustix::net::sockopt;
use shared::Shared;
use silence::Silence;
use std::{
    future::Future,
    io::{self, ErrorKind},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use turn::Turn;
use witness::Witness;

/// An HTTP/2 connection that doesn't answer a ping for so long is dead.
const PING_EVERY: Duration = Duration::from_secs(20);

/// The host of a connection that has been silent for so long is asked whether it is there,
const KEEPALIVE: Duration = Duration::from_secs(30);
/// again after so long,
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(10);
/// and given up after so many times: a minute and a half in all.
const KEEPALIVE_TIMES: u32 = 6;

/// A task that keeps a request waiting for so long is knocked at, and again after each further such time.
const KNOCK_EVERY: Duration = Duration::from_secs(1);
const _: () = assert!(KNOCK_EVERY.as_millis() > workers::BEAT.as_millis());

/// Headers that an answer may have at least; as many as a request, where that is more. The library takes a hundred without being
/// asked, and for more than these it makes room for each head by two allocations (some 30 ns). An application that sets a cookie for
/// each of its parts needs more than a hundred; one that needs this many has gone wrong.
const ANSWER_HEADERS_LEAST: usize = 512;
/// Of an answer, read at once, and so the longest head. Some three such pieces are kept for a client that does not read, and of those there may be
/// as many as connections: with the library's own bound, 408 KiB, each cost a megabyte. Answers of 64 KiB are still read in one go.
const ANSWER_PIECE_BYTES_MAX: u32 = 128 * 1_024;

/// A program that has not answered on a new connection for so long is at work, and takes more meanwhile.
const OPENING_TIME: Duration = Duration::from_millis(250);

/// Which kept connections are good enough for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    /// All: where one turns out to be closed, the request is sent again.
    Any,
    /// Those that the task won't be closing at this moment.
    Trusted,
    /// None: it was lost on one already, and the others may be of its age.
    None,
    /// None, and one of them is closed instead: too much of it would have to be kept for a second time, and they must not become more
    /// with each such request.
    Replaced,
}

/// On what terms a request is sent.
#[derive(Clone, Copy)]
pub struct Terms<'r> {
    /// What it may go on besides a new connection.
    pub kept: Kept,
    /// To the answer's head, counted from the last movement of the request's body.
    pub response_timeout: Duration,
    /// Where this says so, it does not wait for a host that is gone.
    pub may_leave: &'r (dyn Fn() -> bool + Sync),
}

/// A task's answer and the connection it came on.
#[derive(Debug)]
pub struct Reply {
    /// Head and body.
    pub response: Response<Incoming>,
    /// To be released after the body.
    pub link: Link,
    /// When the head came.
    pub came: Instant,
}

/// A task did not answer.
#[derive(Debug)]
pub enum Failed {
    /// Not a byte of the request left: here it is again.
    Unsent(Box<Request<Upload>>, String),
    /// It may have been received.
    Lost(String),
    /// The same on a kept connection, which may only have been closed for its age.
    Stale(String),
    /// On a kept connection that the task had closed before it took any of it: it has had nothing.
    Untaken(String),
    /// The task says that it has not begun with it.
    Refused {
        /// Its words.
        cause: String,
        /// It takes no more on that connection (GOAWAY).
        is_leaving: bool,
    },
    /// The client did not send the body that it began, or may not: no fault of the task's.
    Body(Fault),
    /// What came back is no HTTP. It would be none elsewhere, and the task is not gone.
    Garbled(String),
    /// It is HTTP, with a head of more than may be.
    Oversized,
    /// No answer in this time.
    TimedOut(Duration),
}

/// Connects to tasks and keeps connections.
#[derive(Debug)]
pub struct Upstream {
    /// One a worker: a connection to a task lives on the thread of the requests that use it.
    pools: Box<[Arc<Pool>]>,
    http1: http1::Builder,
    /// Headers of an answer.
    headers_max: usize,
    connect_timeout: Duration,
    connections: TaskTracker,
    cut: CancellationToken,
}

impl Upstream {
    /// `connections` run their I/O, until `cut`; making one takes at most `connect_timeout`. Where a request may have so many headers,
    /// an answer may, too.
    pub fn new(
        connect_timeout: Duration,
        header_count_max: usize,
        connections: TaskTracker,
        cut: CancellationToken,
    ) -> Self {
        let headers_max = header_count_max.max(ANSWER_HEADERS_LEAST);
        let mut http1 = http1::Builder::new();
        http1
            .max_headers(headers_max)
            .max_buf_size(ANSWER_PIECE_BYTES_MAX as usize);
        Self {
            pools: (0..workers::count())
                .map(|_| Arc::new(Pool::new(connections.clone())))
                .collect(),
            http1,
            headers_max,
            connect_timeout,
            connections,
            cut,
        }
    }

    /// How large the head of an answer may be, for people.
    pub fn head_bound(&self) -> String {
        let (headers_max, kib) = (self.headers_max, ANSWER_PIECE_BYTES_MAX / 1_024);
        format!("{headers_max} headers or {kib} KiB of them")
    }

    fn pool(&self) -> &Arc<Pool> {
        &self.pools[workers::index()]
    }

    /// Sends `request` to `replica`.
    pub async fn send(
        &self,
        replica: &Replica,
        mut request: Request<Upload>,
        terms: Terms<'_>,
    ) -> Result<Reply, Failed> {
        let was_reachable = replica.is_reachable();
        if terms.kept == Kept::Replaced {
            self.pool().drop_oldest(replica.task());
        }
        let mut turn = replica.pace().is_crowded().then(|| replica.pace().line_up(false));
        let (link, mut opening) = loop {
            if let Some(turn) = &turn
                && timeout(terms.response_timeout, turn.come()).await.is_err()
            {
                return Err(Failed::TimedOut(terms.response_timeout));
            }
            while let Some(link) = self.pool().take(replica, idle_max(replica, terms)) {
                drop(turn.take());
                match self.exchange(replica, link, request, terms).await {
                    // It closed before it took the request; each such connection is gone for good, so this ends.
                    Err(Failed::Unsent(unsent, _)) => request = *unsent,
                    Err(Failed::Lost(cause)) if replica.is_reachable() => return Err(Failed::Stale(cause)),
                    done => return done,
                }
            }
            if was_reachable && !replica.is_reachable() {
                // Those before it in the line have found out.
                let cause = "its node does not answer".into();
                return Err(Failed::Unsent(Box::new(request), cause));
            }
            let Some(opening) = replica.pace().open(replica.http2()) else {
                turn.get_or_insert_with(|| replica.pace().line_up(false));
                continue;
            };
            drop(turn.take());
            // Seldom needed, and large: boxed, it is no part of every request.
            match Box::pin(self.connect(replica)).await {
                Ok(Some(link)) => break (link, opening),
                Ok(None) => {
                    opening.overflowed();
                    turn = Some(replica.pace().line_up(true));
                }
                Err(cause) => return Err(Failed::Unsent(Box::new(request), cause)),
            }
        };
        let mut exchange = Box::pin(self.exchange(replica, link, request, terms));
        if replica.http2() {
            // It is shared by now, with everyone in line.
            drop(opening);
            return exchange.await;
        }
        if let Ok(done) = timeout(OPENING_TIME, exchange.as_mut()).await {
            return done;
        }
        opening.slow();
        let mut patience = replica.pace().unread_after().saturating_sub(OPENING_TIME);
        loop {
            if let Ok(done) = timeout(patience, exchange.as_mut()).await {
                return done;
            }
            self.make_place(replica);
            // Half as often each time: it may be the program that takes so long.
            patience = (patience * 2).max(OPENING_TIME);
        }
    }

    /// Closes a connection to `replica` that nobody uses, now or when the next one is done: the program may have no
    /// thread left for one that waits.
    fn make_place(&self, replica: &Replica) {
        let closed = self.pools.iter().any(|pool| pool.drop_oldest(replica.task()));
        if !closed {
            replica.pace().want_place();
        }
    }

    /// A connection to `replica` for whatever is spoken there.
    pub async fn open(&self, replica: &Replica) -> Result<TcpStream, String> {
        let stream = self.reach(replica).await?;
        tune(&stream).map_err(|error| error.to_string())?;
        Ok(stream)
    }

    /// Opens a connection to `replica`, and remembers whether its host gave any answer: a refusal is one.
    async fn reach(&self, replica: &Replica) -> Result<TcpStream, String> {
        let began = Instant::now();
        let connecting = TcpStream::connect((replica.address(), replica.port()));
        let connected = timeout(self.connect_timeout, connecting).await;
        if let Ok(Ok(_)) = &connected {
            replica.pace().connected(began.elapsed());
        }
        let silent = match &connected {
            Ok(Ok(_)) => false,
            // The last of them: nobody on the way knows the host any more.
            Ok(Err(error)) => matches!(
                error.kind(),
                ErrorKind::TimedOut | ErrorKind::NetworkUnreachable | ErrorKind::HostUnreachable
            ),
            Err(_) => true,
        };
        replica.set_reachable(!silent);
        if !matches!(connected, Ok(Ok(_))) {
            replica.count_connect_failure();
        }
        if silent {
            for pool in &self.pools {
                pool.forget(replica.task());
            }
        }
        match connected {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err("no connection in time".into()),
        }
    }

    /// Forgets connections to tasks that `keep` doesn't know, and old idle ones.
    pub fn sweep(&self, keep: impl Fn(zectre_common::id::TaskId) -> bool) {
        for pool in &self.pools {
            pool.sweep(&keep);
        }
    }

    async fn exchange(
        &self,
        replica: &Replica,
        mut link: Link,
        request: Request<Upload>,
        terms: Terms<'_>,
    ) -> Result<Reply, Failed> {
        let silence = Silence {
            upstream: self,
            replica,
            progress: request.body().progress(),
            began: Instant::now(),
            terms,
        };
        if asks_to_close(request.headers()) {
            link.retire();
        }
        if let Some(progress) = &silence.progress {
            progress.moved();
        }
        let before = link.written();
        let sent = match link.sender() {
            Sender::Http1(single) => {
                let sending = single.sender.try_send_request(request);
                silence.bear(sending, &mut single.alarm).await
            }
            Sender::Http2(stream) => {
                let sending = stream.sender().try_send_request(request);
                silence.bear(sending, &mut Alarm::default()).await
            }
        };
        let response = sent.map_err(|failed| {
            let ended = matches!(failed, Failed::Unsent(..) | Failed::Lost(_));
            let failed = link.judge(failed, before);
            if ended && replica.is_reachable() {
                link.broke(silence.began, matches!(failed, Failed::Lost(_)));
            }
            failed
        })?;
        if let Some(progress) = &silence.progress {
            progress.answered();
        }
        link.answered();
        if is_last(&response) {
            link.retire();
        }
        replica.answered();
        let came = Instant::now();
        replica.pace().answered(came.duration_since(silence.began));
        Ok(Reply { response, link, came })
    }

    /// A new connection; `None` when the task's queue has no room for it.
    async fn connect(&self, replica: &Replica) -> Result<Option<Link>, String> {
        let reached = match replica.pace().stall_after() {
            // Dropping it leaves nothing behind: the task's host has not taken it.
            Some(stall_after) => match timeout(stall_after, self.reach(replica)).await {
                Ok(reached) => reached,
                Err(_) => return Ok(None),
            },
            None => self.reach(replica).await,
        };
        let stream = reached?;
        tune(&stream).map_err(|error| error.to_string())?;
        let receipt = Arc::new(Receipt::new());
        let io = TokioIo::new(Turn::new(Witness::new(stream, &receipt)));
        if replica.http2() {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_header_list_size(ANSWER_PIECE_BYTES_MAX)
                .keep_alive_interval(PING_EVERY);
            let (sender, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
            let shared = Shared::new(sender, receipt);
            self.drive(shared.watch(connection));
            let link = self.pool().share(replica, shared);
            return link
                .map(Some)
                .ok_or_else(|| "it closed the connection at once".into());
        }
        let shaken = self.http1.handshake(io).await;
        let (sender, connection) = shaken.map_err(|error| error.to_string())?;
        let rests = Rests::new(replica.lull());
        let told = Arc::clone(&rests);
        self.drive(connection.with_upgrades().inspect(move |ended| told.ended(ended)));
        let single = Single {
            sender,
            rests,
            receipt,
            alarm: Alarm::default(),
        };
        Ok(Some(self.pool().lend(replica, single)))
    }

    /// Runs a connection's I/O until it closes. Its errors reach whoever waits for an answer on it.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let (cut, connection) = (self.cut.clone(), Box::pin(connection));
        self.connections.spawn(async move {
            let _ = until(cut.cancelled(), connection).await;
        });
    }
}

/// Small writes must not wait for more; a tunnel or a stream to a host that is gone must not last for ever.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_AGAIN)?;
    Ok(sockopt::set_tcp_keepcnt(stream, KEEPALIVE_TIMES)?)
}

/// How long a connection to `replica` may have rested.
fn idle_max(replica: &Replica, terms: Terms<'_>) -> Option<Duration> {
    match terms.kept {
        Kept::Any => None,
        Kept::Trusted => Some(replica.lull().trusted()),
        Kept::None | Kept::Replaced => Some(Duration::ZERO),
    }
}

/// Whether the task says that this is the last answer of its connection: what closes then is no surprise.
fn is_last(response: &Response<Incoming>) -> bool {
    let says =
        |word: &[u8]| connection_options(response.headers()).any(|option| option.eq_ignore_ascii_case(word));
    match response.version() {
        Version::HTTP_10 => return !says(b"keep-alive"),
        Version::HTTP_11 => {}
        _ => return false,
    }
    // One that does not say how long it is ends with its connection.
    let has_end = response.body().size_hint().exact().is_some()
        || response.headers().contains_key(header::TRANSFER_ENCODING);
    !has_end || says(b"close")
}

/// Whether the task is told that this is the last request of its connection.
fn asks_to_close(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::CONNECTION)
        .iter()
        .any(|option| option == "close")
}
