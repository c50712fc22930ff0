//! Connections to tasks. A request that never reached its task goes out again on a fresh connection; a kept
//! connection that turned out to be dead is nobody's error.

mod link;
mod pool;

pub use link::Link;

use crate::{
    ingress::body::{Progress, Upload},
    live::Replica,
};
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use link::Sender;
use pool::Pool;
use std::{future::Future, sync::Arc, time::Duration};
use tokio::{net::TcpStream, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A request that can't be repeated goes only on a connection that was used so recently: an older one may be
/// closing at this moment.
const TRUSTED_FOR: Duration = Duration::from_secs(1);
/// An HTTP/2 connection that doesn't answer a ping for so long is dead.
const PING_EVERY: Duration = Duration::from_secs(20);

/// What a request may cost in time.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To connect.
    pub connect: Duration,
    /// To the answer's head, counted from the last movement of the request's body.
    pub response: Duration,
}

/// A task's answer and the connection it came on.
#[derive(Debug)]
pub struct Reply {
    /// Head and body.
    pub response: Response<Incoming>,
    /// To be released after the body.
    pub link: Link,
}

/// A task did not answer.
#[derive(Debug)]
pub enum Failed {
    /// Not a byte of the request left: here it is again.
    Unsent(Box<Request<Upload>>, String),
    /// It may have been received.
    Lost(String),
    /// No answer in time.
    TimedOut,
}

/// Connects to tasks and keeps connections.
#[derive(Debug)]
pub struct Upstream {
    pool: Arc<Pool>,
    patience: Patience,
    connections: TaskTracker,
    cut: CancellationToken,
}

impl Upstream {
    /// `connections` run their I/O, until `cut`.
    pub fn new(patience: Patience, connections: TaskTracker, cut: CancellationToken) -> Self {
        Self {
            pool: Arc::default(),
            patience,
            connections,
            cut,
        }
    }

    /// Sends `request` to `replica`. With `repeatable`, any kept connection is good enough.
    pub async fn send(
        &self,
        replica: &Replica,
        mut request: Request<Upload>,
        repeatable: bool,
    ) -> Result<Reply, Failed> {
        let idle_max = if repeatable { None } else { Some(TRUSTED_FOR) };
        while let Some(link) = self.pool.take(replica, idle_max) {
            match self.exchange(link, request).await {
                // It closed before it took the request; each such connection is gone for good, so this ends.
                Err(Failed::Unsent(unsent, _)) => request = *unsent,
                done => return done,
            }
        }
        let link = match timeout(self.patience.connect, self.connect(replica)).await {
            Ok(Ok(link)) => link,
            Ok(Err(cause)) => return Err(Failed::Unsent(Box::new(request), cause)),
            Err(_) => return Err(Failed::Unsent(Box::new(request), "no connection in time".into())),
        };
        self.exchange(link, request).await
    }

    /// Forgets connections to tasks that `keep` doesn't know, and old idle ones.
    pub fn sweep(&self, keep: impl Fn(zectre_common::id::TaskId) -> bool) {
        self.pool.sweep(keep);
    }

    async fn exchange(&self, mut link: Link, request: Request<Upload>) -> Result<Reply, Failed> {
        let progress = request.body().progress();
        let sent = match link.sender() {
            Sender::Http1(sender) => self.answer(sender.try_send_request(request), progress).await,
            Sender::Http2(sender) => self.answer(sender.try_send_request(request), progress).await,
        };
        sent.map(|response| Reply { response, link })
    }

    async fn answer(
        &self,
        sent: impl Future<Output = Result<Response<Incoming>, TrySendError<Request<Upload>>>>,
        progress: Option<Arc<Progress>>,
    ) -> Result<Response<Incoming>, Failed> {
        let mut sent = std::pin::pin!(sent);
        let mut wait = self.patience.response;
        loop {
            match timeout(wait, sent.as_mut()).await {
                Ok(Ok(response)) => return Ok(response),
                Ok(Err(mut error)) => {
                    let unsent = error.take_message();
                    let cause = zectre_service::problem::chain(error.error());
                    return Err(match unsent {
                        Some(request) => Failed::Unsent(Box::new(request), cause),
                        None => Failed::Lost(cause),
                    });
                }
                Err(_) => {}
            }
            let quiet = progress
                .as_ref()
                .map(|progress| Duration::from_millis(progress.quiet_ms()));
            match quiet.and_then(|quiet| self.patience.response.checked_sub(quiet)) {
                Some(left) if !left.is_zero() => wait = left,
                _ => return Err(Failed::TimedOut),
            }
        }
    }

    async fn connect(&self, replica: &Replica) -> Result<Link, String> {
        let stream = TcpStream::connect((replica.address(), replica.port()))
            .await
            .map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let io = TokioIo::new(stream);
        let sender = if replica.http2() {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.timer(TokioTimer::new()).keep_alive_interval(PING_EVERY);
            let (sender, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
            self.drive(connection);
            Sender::Http2(sender)
        } else {
            let (sender, connection) = http1::handshake(io).await.map_err(|error| error.to_string())?;
            self.drive(connection.with_upgrades());
            Sender::Http1(sender)
        };
        Ok(self.pool.link(replica, sender))
    }

    /// Runs a connection's I/O until it closes. Its errors reach whoever waits for an answer on it.
    fn drive(&self, connection: impl Future<Output = hyper::Result<()>> + Send + 'static) {
        let cut = self.cut.clone();
        self.connections.spawn(async move {
            let _ = cut.run_until_cancelled(connection).await;
        });
    }
}
