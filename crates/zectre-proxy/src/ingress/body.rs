//! Bodies in both directions, streamed: nothing is gathered, and a request counts as under way until its last byte.

use super::{expect::Gate, headers, inflow::Inflow, pace::Pace, refusal::Refusal, spare::Tap, watch::Watch};
use crate::{
    live::{Lease, Visit},
    metrics::Counted,
    upstream::Link,
};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use zectre_common::config::ProxyLimits;

/// What is read of a body before there is a task for it, and what each piece of it counts for at least.
const AHEAD_BYTES_MAX: usize = 64 * 1024;
const PIECE_BYTES_LEAST: usize = 64;

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

/// What is wrong with a body that a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Fault {
    /// The client broke it off, or sent what is no body.
    Broken = 1,
    /// Longer than allowed.
    TooLarge,
    /// Less came than must.
    TooSlow,
}

/// How much a request may carry, and how slowly.
#[derive(Debug, Clone, Copy)]
pub struct BodyBounds {
    bytes_max: Option<u64>,
    /// [`Duration::ZERO`] for no bound.
    idle_timeout: Duration,
    /// Within each time-out.
    bytes_min: u64,
}

impl BodyBounds {
    /// Those of the configuration.
    pub fn new(limits: &ProxyLimits) -> Self {
        Self {
            bytes_max: Some(limits.body_bytes_max).filter(|max| *max > 0),
            idle_timeout: Duration::from_millis(limits.body_idle_timeout_ms),
            bytes_min: limits
                .body_bytes_per_sec_min
                .saturating_mul(limits.body_idle_timeout_ms)
                / 1_000,
        }
    }

    /// Refuses a request that says itself that it is too long.
    pub(super) fn check(&self, head: &HeaderMap) -> Result<(), Refusal> {
        let Some(max) = self.bytes_max else { return Ok(()) };
        let length = head.get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        if length.is_some_and(|length| length > max) {
            return Err(Refusal::BodyTooLarge(max));
        }
        Ok(())
    }

    /// What the client is told.
    pub(super) fn refusal(&self, fault: Fault) -> Refusal {
        match fault {
            Fault::Broken => Refusal::BrokenBody,
            Fault::TooLarge => Refusal::BodyTooLarge(self.bytes_max.unwrap_or(u64::MAX)),
            Fault::TooSlow => Refusal::BodyTooSlow {
                bytes_min: self.bytes_min.max(1),
                window_ms: self.idle_timeout.as_millis() as u64,
            },
        }
    }
}

/// Why a body did not come to its end; what the client is told comes from its [`Progress`].
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The client's connection.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The client's stream.
    #[cfg(feature = "http3")]
    #[error(transparent)]
    Http3(super::http3::BodyError),
    /// A bound.
    #[error("the body was cut off: {0:?}")]
    Cut(Fault),
}

/// How a body moves: a long upload is not a slow answer.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    moved_ms: AtomicU64,
    bytes: AtomicU64,
    /// A [`Fault`], or 0.
    fault: AtomicU8,
    /// The task has begun to answer: from now on the two of them may be quiet for as long as they like.
    answered: AtomicBool,
}

impl Progress {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            moved_ms: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            fault: AtomicU8::new(0),
            answered: AtomicBool::new(false),
        })
    }

    /// A frame has moved, or an attempt begins with those that were kept.
    pub fn moved(&self) {
        self.moved_ms
            .store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<Fault> {
        match self.fault.load(Relaxed) {
            0 => None,
            fault if fault == Fault::TooLarge as u8 => Some(Fault::TooLarge),
            fault if fault == Fault::TooSlow as u8 => Some(Fault::TooSlow),
            _ => Some(Fault::Broken),
        }
    }

    /// Whether the head of the answer is here.
    pub fn is_answered(&self) -> bool {
        self.answered.load(Relaxed)
    }

    /// What has come of it.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The head of the answer is here.
    pub fn answered(&self) {
        self.answered.store(true, Relaxed);
    }

    /// Milliseconds since a frame last moved, or since the last attempt began.
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
    Stream(Box<Stream>),
    /// As it comes, and kept for a second time.
    Tap(Tap),
}

/// A body that is there.
#[derive(Debug)]
pub struct Stream {
    inflow: Inflow,
    progress: Arc<Progress>,
    ahead: Ahead,
    bytes_max: u64,
    watch: Option<Watch>,
    /// Nobody has asked for it yet.
    gate: Option<Gate>,
}

/// What was read of a body before it was asked for.
#[derive(Debug, Default)]
struct Ahead {
    pieces: VecDeque<Frame<Bytes>>,
    /// What they take.
    room: usize,
    ended: bool,
}

impl Ahead {
    fn bytes(&self) -> u64 {
        let data = self.pieces.iter().filter_map(Frame::data_ref);
        data.map(|data| data.len() as u64).sum()
    }
}

impl Upload {
    /// Wraps what the client sends.
    pub fn new(inflow: Inflow, bounds: BodyBounds) -> Self {
        if inflow.is_end_stream() {
            return Self::Empty;
        }
        let watch = || Watch::new(Pace::new(bounds.idle_timeout, bounds.bytes_min));
        Self::Stream(Box::new(Stream {
            inflow,
            progress: Progress::new(),
            ahead: Ahead::default(),
            bytes_max: bounds.bytes_max.unwrap_or(u64::MAX),
            watch: (!bounds.idle_timeout.is_zero()).then(watch),
            gate: None,
        }))
    }

    /// Whom it is for serves many requests at a time: a slow one keeps nobody waiting.
    pub(super) fn may_be_slow(&mut self) {
        if let Self::Stream(stream) = self {
            stream.watch = None;
        }
    }

    /// Reads what has come of it, as far as there is room, while it waits for a task: a client of HTTP/1.1 that is not read from is not
    /// heard to leave. Ready with what is wrong with it.
    pub(super) fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        match self {
            Self::Stream(stream) => stream.read_ahead(cx),
            Self::Empty | Self::Tap(_) => Poll::Pending,
        }
    }

    /// How it moves, when there is one.
    pub fn progress(&self) -> Option<Arc<Progress>> {
        match self {
            Self::Empty => None,
            Self::Stream(stream) => Some(stream.progress()),
            Self::Tap(tap) => Some(tap.progress()),
        }
    }
}

impl Stream {
    /// How it moves.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.ahead.pieces.is_empty() && (self.ahead.ended || self.inflow.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let rest = self.inflow.size_hint();
        match rest.exact() {
            Some(bytes) => SizeHint::with_exact(bytes + self.ahead.bytes()),
            None => rest,
        }
    }

    /// How slow it is counts only once somebody waits for it.
    fn read_ahead(&mut self, cx: &mut Context<'_>) -> Poll<Fault> {
        let ahead = &mut self.ahead;
        while ahead.room < AHEAD_BYTES_MAX && !ahead.ended {
            match std::task::ready!(Pin::new(&mut self.inflow).poll_frame(cx)) {
                Some(Ok(piece)) => {
                    ahead.room += piece.data_ref().map_or(0, Bytes::len).max(PIECE_BYTES_LEAST);
                    ahead.pieces.push_back(piece);
                }
                Some(Err(_)) => return Poll::Ready(Fault::Broken),
                None => ahead.ended = true,
            }
        }
        Poll::Pending
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match self.ahead.pieces.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(piece))),
            None if self.ahead.ended => Poll::Ready(None),
            None => Pin::new(&mut self.inflow).poll_frame(cx),
        }
    }

    /// It waits until `gate` opens.
    pub(super) fn wait_for(&mut self, gate: Gate) {
        self.gate = Some(gate);
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        if let Some(gate) = &mut self.gate {
            std::task::ready!(gate.poll(cx));
            self.gate = None;
        }
        let Poll::Ready(frame) = self.poll_next(cx) else {
            if !self.watch.as_mut().is_some_and(|watch| watch.is_too_slow(cx)) {
                return Poll::Pending;
            }
            if self.progress.answered.load(Relaxed) {
                // From now on nobody looks any more.
                self.watch = None;
                return Poll::Pending;
            }
            return Poll::Ready(Some(self.cut(Fault::TooSlow)));
        };
        self.progress.moved();
        Poll::Ready(match frame {
            None => None,
            Some(Err(error)) => {
                self.progress.fault.store(Fault::Broken as u8, Relaxed);
                Some(Err(error))
            }
            Some(Ok(mut frame)) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                let bytes = frame.data_ref().map_or(0, Bytes::len) as u64;
                let total = self.progress.bytes.fetch_add(bytes, Relaxed) + bytes;
                let slow = self.watch.as_mut().is_some_and(|watch| watch.moved(bytes));
                if total > self.bytes_max {
                    Some(self.cut(Fault::TooLarge))
                } else if slow && !self.progress.answered.load(Relaxed) {
                    Some(self.cut(Fault::TooSlow))
                } else {
                    Some(Ok(frame))
                }
            }
        })
    }

    fn cut(&self, fault: Fault) -> Result<Frame<Bytes>, UploadError> {
        self.progress.fault.store(fault as u8, Relaxed);
        Err(UploadError::Cut(fault))
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Stream(stream) => stream.poll(cx),
            Self::Tap(tap) => tap.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(stream) => stream.is_end_stream(),
            Self::Tap(tap) => tap.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Stream(stream) => stream.size_hint(),
            Self::Tap(tap) => tap.size_hint(),
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
