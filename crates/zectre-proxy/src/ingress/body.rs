//! Bodies in both directions, streamed: nothing is gathered, and a request counts as under way until its last byte.

use crate::{
    live::{Lease, Visit},
    metrics::Counted,
    upstream::Link,
};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Instant,
};

/// What keeps a request counted: on its replica, its deployment and the proxy.
#[derive(Debug)]
pub struct Counts {
    /// Its place on the replica.
    pub lease: Lease,
    /// Its deployment.
    pub visit: Visit,
    /// The gauge of the proxy.
    pub in_flight: Counted,
}

/// When a body last moved: a long upload is not a slow answer.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    moved_ms: AtomicU64,
    broken: AtomicBool,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
            broken: AtomicBool::new(false),
        })
    }

    fn moved(&self) {
        self.moved_ms
            .store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// Whether the client broke it off, or sent what is no body.
    pub fn is_broken(&self) -> bool {
        self.broken.load(Relaxed)
    }

    /// Milliseconds since a frame last moved, or since the start.
    pub fn quiet_ms(&self) -> u64 {
        (self.started.elapsed().as_millis() as u64).saturating_sub(self.moved_ms.load(Relaxed))
    }
}

/// A client's body on its way to a task.
#[derive(Debug)]
pub enum Upload {
    /// There is none.
    Empty,
    /// As it comes.
    Stream(Incoming, Arc<Progress>),
}

impl Upload {
    /// Wraps what the client sends.
    pub fn new(incoming: Incoming) -> Self {
        if incoming.is_end_stream() {
            Self::Empty
        } else {
            Self::Stream(incoming, Progress::new())
        }
    }

    /// How it moves, when there is one.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Stream(_, progress) => Some(Arc::clone(progress)),
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Stream(incoming, progress) => {
                let polled = Pin::new(incoming).poll_frame(cx);
                if polled.is_ready() {
                    progress.moved();
                }
                if matches!(polled, Poll::Ready(Some(Err(_)))) {
                    progress.broken.store(true, Relaxed);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(incoming, _) => incoming.size_hint(),
        }
    }
}

/// A body on its way to the client.
#[derive(Debug)]
pub enum Answer {
    /// The proxy's own words.
    Text(Option<Bytes>),
    /// What the task sends, as it comes.
    Stream(Download),
}

impl Answer {
    /// The proxy's own words.
    pub fn text(text: Bytes) -> Self {
        Self::Text(Some(text))
    }

    /// No body.
    pub fn empty() -> Self {
        Self::Text(None)
    }
}

/// A task's body; when all of it has been read, its connection can serve again.
#[derive(Debug)]
pub struct Download {
    incoming: Incoming,
    ended: bool,
    link: Option<Link>,
    _counts: Counts,
}

impl Download {
    /// `link` goes back to the pool after the last byte.
    pub fn new(incoming: Incoming, link: Link, counts: Counts) -> Self {
        Self {
            incoming,
            ended: false,
            link: Some(link),
            _counts: counts,
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        // A body that was given up halfway leaves its connection in the middle of a message.
        if (self.ended || self.incoming.is_end_stream())
            && let Some(link) = self.link.take()
        {
            link.release();
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut *self {
            Self::Text(text) => Poll::Ready(text.take().map(|text| Ok(Frame::data(text)))),
            Self::Stream(download) => {
                let polled = Pin::new(&mut download.incoming).poll_frame(cx);
                download.ended |= matches!(polled, Poll::Ready(None));
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Text(text) => text.is_none(),
            Self::Stream(download) => download.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Text(text) => SizeHint::with_exact(text.as_ref().map_or(0, Bytes::len) as u64),
            Self::Stream(download) => download.incoming.size_hint(),
        }
    }
}
