//! A connection of HTTP/2, which carries as many requests at once as its task allows; more go on another one.

use super::receipt::Receipt;
use crate::ingress::body::Upload;
use hyper::client::conn::http2;
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::Notify;

/// Streams before the task has said how many it allows (RFC 9113 recommends at least as many).
const STREAMS_START: usize = 100;

#[derive(Debug)]
struct State {
    streams: AtomicUsize,
    streams_max: AtomicUsize,
    /// The task's settings have been looked at.
    known: AtomicBool,
    /// They are here: look.
    look: Notify,
    receipt: Arc<Receipt>,
}

/// The connection, as the pool keeps it.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    sender: http2::SendRequest<Upload>,
    state: Arc<State>,
    opened: Instant,
}

/// One request's part of it.
#[derive(Debug)]
pub(super) struct Stream {
    sender: http2::SendRequest<Upload>,
    state: Arc<State>,
}

impl Shared {
    pub(super) fn new(sender: http2::SendRequest<Upload>, receipt: Arc<Receipt>) -> Self {
        Self {
            sender,
            state: Arc::new(State {
                streams: AtomicUsize::new(0),
                streams_max: AtomicUsize::new(STREAMS_START),
                known: AtomicBool::new(false),
                look: Notify::new(),
                receipt,
            }),
            opened: Instant::now(),
        }
    }

    /// Runs `connection`, and keeps an eye on how many streams its task allows.
    pub(super) fn watch<C: Driven>(&self, connection: C) -> impl Future<Output = hyper::Result<()>> + use<C> {
        let state = Arc::clone(&self.state);
        async move {
            let mut connection = pin!(connection);
            loop {
                let mut looked = pin!(state.look.notified());
                let ended = poll_fn(|cx| {
                    if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                        return Poll::Ready(Some(ended));
                    }
                    state.streams_max.store(connection.streams_max(), Relaxed);
                    looked.as_mut().poll(cx).map(|()| None)
                });
                if let Some(ended) = ended.await {
                    return ended;
                }
            }
        }
    }

    /// A place for one more request, if there is one.
    pub(super) fn stream(&self) -> Option<Stream> {
        if self.sender.is_closed() {
            return None;
        }
        let max = self.state.streams_max.load(Relaxed).max(1);
        let more = |streams| (streams < max).then_some(streams + 1);
        self.state.streams.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(Stream {
            sender: self.sender.clone(),
            state: Arc::clone(&self.state),
        })
    }

    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether it has carried nothing since it is of this age: one of several is not needed then.
    pub(super) fn is_idle(&self, age_min: Duration) -> bool {
        self.state.streams.load(Relaxed) == 0 && self.opened.elapsed() > age_min
    }
}

impl Stream {
    pub(super) fn sender(&mut self) -> &mut http2::SendRequest<Upload> {
        &mut self.sender
    }

    pub(super) fn receipt(&self) -> &Receipt {
        &self.state.receipt
    }

    /// An answer is here, and before it came the task's settings.
    pub(super) fn answered(&self) {
        if !self.state.known.swap(true, Relaxed) {
            self.state.look.notify_one();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.state.streams.fetch_sub(1, Relaxed);
    }
}

/// A connection that runs, and tells how many streams its task allows.
pub(super) trait Driven: Future<Output = hyper::Result<()>> + Send + 'static {
    fn streams_max(&self) -> usize;
}

impl<T, E> Driven for http2::Connection<T, Upload, E>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    E: hyper::rt::bounds::Http2ClientConnExec<Upload, T> + Unpin + Send + 'static,
{
    fn streams_max(&self) -> usize {
        self.current_max_send_streams()
    }
}
