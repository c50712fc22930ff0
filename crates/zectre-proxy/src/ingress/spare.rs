//! A request that can be made a second time: one that may be repeated anyway (idempotent and without a body), one
//! that its task has not begun with, as it said (HTTP/2: GOAWAY below its stream, REFUSED_STREAM) or as its connection's end tells, whose body
//! is kept until the answer comes, as long as it is short, or one of whose body nothing has been read (`Expect: 100-continue`).

use super::{
    body::{Fault, Progress, Stream, Upload, UploadError},
    expect::Asked,
};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body::{Frame, SizeHint};
use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// The longest body that is kept: holds what a call of gRPC usually carries, and bounds what a stream costs.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// What a request can be made from again.
#[derive(Debug)]
pub(super) struct Spare {
    head: Request<()>,
    body: Option<Arc<Mutex<Kept>>>,
    /// Its body waits for the task's word.
    asked: Option<Asked>,
    /// What may be repeated is, where the operator wants that.
    repeats: bool,
}

impl Spare {
    /// Of a request for a task that speaks HTTP/2 or not; `None` where its body is too long to be kept, or may become so. Where it is kept, it is
    /// read through us from now on. Nothing that a task may have had is sent again unless `repeats`.
    pub(super) fn of(request: &mut Request<Upload>, http2: bool, repeats: bool) -> Option<Self> {
        let waits = Asked::is_waited_for(request);
        let body = match request.body_mut() {
            Upload::Empty => None,
            Upload::Tap(tap) => Some(Arc::clone(&tap.kept)),
            Upload::Stream(stream) if !(http2 || waits || is_short(&stream.size_hint())) => return None,
            body @ Upload::Stream(_) => {
                let Upload::Stream(stream) = mem::replace(body, Upload::Empty) else {
                    return None;
                };
                let tap = Kept::tap(*stream);
                let kept = Arc::clone(&tap.kept);
                *body = Upload::Tap(tap);
                Some(kept)
            }
        };
        let mut head = Request::new(());
        head.method_mut().clone_from(request.method());
        head.uri_mut().clone_from(request.uri());
        *head.version_mut() = request.version();
        head.headers_mut().clone_from(request.headers());
        let asked = body.as_ref().filter(|_| waits).map(|body| {
            let (asked, gate) = Asked::gate(request);
            lock(body).stream.wait_for(gate);
            asked
        });
        Some(Self {
            head,
            body,
            asked,
            repeats,
        })
    }

    /// Whether it may be sent again because no task can have had all of it: its body waited, and nothing of it was read.
    pub(super) fn is_whole(&self) -> bool {
        let whole = |body: &Arc<Mutex<Kept>>| lock(body).is_whole();
        self.repeats && self.asked.is_some() && self.body.as_ref().is_some_and(whole)
    }

    /// Whether it can be made again however much of its body is read.
    pub(super) fn lasts(&self) -> bool {
        self.body.as_ref().is_none_or(|body| is_short(&lock(body).size))
    }

    /// It has its answer.
    pub(super) async fn answered(self, status: StatusCode) {
        if let Some(asked) = self.asked {
            asked.answered(status).await;
        }
    }

    /// Whether it may be sent again though a task has had it: RFC 9110, section 9.2.2. With a body it is a matter of
    /// what the task has read of it.
    pub(super) fn is_repeatable(&self) -> bool {
        self.repeats && self.body.is_none() && is_idempotent(self.head.method())
    }

    /// The request once more; `None` when its body was too long to be kept.
    pub(super) fn again(self) -> Option<Request<Upload>> {
        let body = match &self.body {
            None => Upload::Empty,
            Some(kept) => Upload::Tap(Kept::again(kept)?),
        };
        Some(self.head.map(|()| body))
    }
}

/// Whether a body of that size is kept to its end.
fn is_short(size: &SizeHint) -> bool {
    size.exact().is_some_and(|bytes| bytes <= KEPT_BYTES_MAX as u64)
}

fn is_idempotent(method: &Method) -> bool {
    matches!(
        *method,
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    )
}

/// A body with what has been read of it.
#[derive(Debug)]
pub(super) struct Kept {
    stream: Stream,
    progress: Arc<Progress>,
    /// Of the whole.
    size: SizeHint,
    pieces: Vec<Piece>,
    bytes: usize,
    /// Pieces are missing: it was too long, or nobody will ask for it again.
    partial: bool,
    ended: bool,
    /// Whose turn it is to read; an earlier attempt's body is nobody's any more.
    attempt: u32,
}

#[derive(Debug, Clone)]
enum Piece {
    Data(Bytes),
    Trailers(HeaderMap),
}

impl Piece {
    fn frame(self) -> Frame<Bytes> {
        match self {
            Self::Data(data) => Frame::data(data),
            Self::Trailers(trailers) => Frame::trailers(trailers),
        }
    }
}

impl Kept {
    fn tap(stream: Stream) -> Tap {
        let progress = stream.progress();
        let kept = Self {
            progress: Arc::clone(&progress),
            size: stream.size_hint(),
            stream,
            pieces: Vec::new(),
            bytes: 0,
            partial: false,
            ended: false,
            attempt: 0,
        };
        Tap {
            kept: Arc::new(Mutex::new(kept)),
            progress,
            attempt: 0,
            read: 0,
        }
    }

    fn again(kept: &Arc<Mutex<Self>>) -> Option<Tap> {
        let mut open = lock(kept);
        if open.partial || open.progress.fault().is_some() {
            return None;
        }
        open.attempt += 1;
        Some(Tap {
            kept: Arc::clone(kept),
            progress: Arc::clone(&open.progress),
            attempt: open.attempt,
            read: 0,
        })
    }

    fn is_whole(&self) -> bool {
        self.pieces.is_empty() && !self.partial && !self.ended
    }

    fn keep(&mut self, frame: &Frame<Bytes>) {
        // Once it is answered nobody asks for it again.
        if self.partial || self.progress.is_answered() {
            self.partial = true;
            self.pieces = Vec::new();
            return;
        }
        let piece = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => Piece::Data(data.clone()),
            (_, Some(trailers)) => Piece::Trailers(trailers.clone()),
            _ => return,
        };
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > KEPT_BYTES_MAX || self.pieces.len() >= KEPT_BYTES_MAX / 64 {
            self.partial = true;
            self.pieces = Vec::new();
        } else {
            self.pieces.push(piece);
        }
    }
}

fn lock(kept: &Mutex<Kept>) -> MutexGuard<'_, Kept> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A body that is kept while it is read.
#[derive(Debug)]
pub struct Tap {
    kept: Arc<Mutex<Kept>>,
    progress: Arc<Progress>,
    attempt: u32,
    /// Pieces that this attempt has had of those that were kept.
    read: usize,
}

impl Tap {
    /// How it moves.
    pub(super) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let mut kept = lock(&self.kept);
        if kept.attempt != self.attempt {
            return Poll::Ready(Some(Err(UploadError::Cut(Fault::Broken))));
        }
        if let Some(piece) = kept.pieces.get(self.read).cloned() {
            self.read += 1;
            return Poll::Ready(Some(Ok(piece.frame())));
        }
        if kept.ended {
            return Poll::Ready(None);
        }
        let polled = kept.stream.poll(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                kept.keep(frame);
                self.read = kept.pieces.len();
            }
            Poll::Ready(None) => kept.ended = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        polled
    }

    pub(super) fn is_end_stream(&self) -> bool {
        let kept = lock(&self.kept);
        self.read == kept.pieces.len() && (kept.ended || kept.stream.is_end_stream())
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let kept = lock(&self.kept);
        if self.read == 0 && !kept.partial {
            kept.size
        } else {
            kept.stream.size_hint()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_sent_again() {
        let spare = |method: &str, http2, repeats| {
            let mut request = Request::new(Upload::Empty);
            *request.method_mut() = method.parse().expect("a method");
            Spare::of(&mut request, http2, repeats)
        };
        assert!(spare("GET", false, true).is_some_and(|spare| spare.is_repeatable()));
        let only_unbegun = |spare: Spare| !spare.is_repeatable() && spare.lasts() && spare.again().is_some();
        for http2 in [false, true] {
            assert!(spare("POST", http2, true).is_some_and(only_unbegun));
            // Where the operator wants nothing repeated.
            assert!(spare("GET", http2, false).is_some_and(only_unbegun));
        }
    }

    #[test]
    fn what_is_kept_to_its_end() {
        assert!(is_short(&SizeHint::with_exact(KEPT_BYTES_MAX as u64)));
        assert!(!is_short(&SizeHint::with_exact(KEPT_BYTES_MAX as u64 + 1)));
        assert!(!is_short(&SizeHint::new()), "it may be of any length");
    }
}
