//! A request's body: what it brings must be what it said it would, since the next program may believe the one or the other.

use super::transport::RecvStream;
use bytes::{Buf, Bytes};
use h3::{error::StreamError, server::RequestStream};
use http::{Method, header, request::Parts};
use http_body::{Frame, SizeHint};
use std::{
    fmt,
    future::{Future, poll_fn},
    pin::pin,
    task::{Context, Poll, Waker, ready},
};

/// Why a body did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The client's stream.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// Another length than `content-length` (RFC 9114, section 4.1.2).
    #[error("the body is longer or shorter than the request said")]
    Length,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Data,
    Trailers,
    Ended,
}

/// A client's body.
pub struct Body {
    stream: RequestStream<RecvStream, Bytes>,
    part: Part,
    /// Read before anybody asked.
    first: Option<Result<Frame<Bytes>, BodyError>>,
    /// What is to come yet, where the client said it.
    left: Option<u64>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("part", &self.part)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}

impl Body {
    /// Of a request with this head. Whether there is a body at all shows at its end only, which comes with the head as a rule;
    /// it is waited for where a body is unusual.
    pub(super) async fn of(parts: &Parts, stream: RequestStream<RecvStream, Bytes>) -> Self {
        let length = parts.headers.get(header::CONTENT_LENGTH);
        let mut body = Self {
            stream,
            part: Part::Data,
            first: None,
            left: length.and_then(|length| length.to_str().ok()?.parse().ok()),
        };
        let usual = [Method::POST, Method::PUT, Method::PATCH].contains(&parts.method);
        match body.left {
            Some(1..) => {}
            None if usual => {
                let mut at_once = Context::from_waker(Waker::noop());
                let _ = pin!(poll_fn(|cx| body.poll_first(cx))).poll(&mut at_once);
            }
            Some(0) | None => poll_fn(|cx| body.poll_first(cx)).await,
        }
        body
    }

    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.first = ready!(self.poll_next(cx));
        Poll::Ready(())
    }

    /// The next piece.
    pub(crate) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => self.poll_next(cx),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = ready!(self.poll_stream(cx));
        if !matches!(&polled, Ok(Some(frame)) if frame.is_data()) {
            self.part = Part::Ended;
        }
        Poll::Ready(polled.transpose())
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Frame<Bytes>>, BodyError>> {
        if self.part == Part::Data {
            let data = ready!(self.stream.poll_recv_data(cx))?;
            if let Some(mut data) = data {
                let bytes = data.copy_to_bytes(data.remaining());
                if let Some(left) = &mut self.left {
                    *left = left.checked_sub(bytes.len() as u64).ok_or(BodyError::Length)?;
                }
                return Poll::Ready(Ok(Some(Frame::data(bytes))));
            }
            self.part = Part::Trailers;
        }
        if self.part == Part::Ended {
            return Poll::Ready(Ok(None));
        }
        let trailers = ready!(self.stream.poll_recv_trailers(cx))?;
        if self.left.is_some_and(|left| left > 0) {
            return Poll::Ready(Err(BodyError::Length));
        }
        Poll::Ready(Ok(trailers.map(Frame::trailers)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.part == Part::Ended && self.first.is_none()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        let read = match &self.first {
            Some(Ok(frame)) => frame.data_ref().map_or(0, Bytes::len) as u64,
            Some(Err(_)) | None => 0,
        };
        match self.left {
            Some(left) => SizeHint::with_exact(left + read),
            None => SizeHint::default(),
        }
    }
}
