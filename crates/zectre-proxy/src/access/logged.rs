//! A body that takes its request's entry along, to its last byte.

use super::Entry;
use bytes::{Buf, Bytes};
use http_body::{Body, Frame, SizeHint};
use std::{
    pin::Pin,
    task::{Context, Poll},
};

/// The body.
#[derive(Debug)]
pub struct Logged<B: Body> {
    body: B,
    entry: Entry,
    ended: bool,
}

impl<B: Body> Logged<B> {
    /// Of an answer.
    pub fn new(body: B, entry: Entry) -> Self {
        Self {
            body,
            entry,
            ended: false,
        }
    }
}

impl<B> Body for Logged<B>
where
    B: Body<Data = Bytes, Error = hyper::Error> + Unpin,
{
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                let bytes = frame.data_ref().map_or(0, Buf::remaining);
                self.entry.sent(bytes as u64);
            }
            Poll::Ready(Some(Err(error))) => self.entry.broken(error),
            Poll::Ready(None) => self.ended = true,
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B: Body> Drop for Logged<B> {
    fn drop(&mut self) {
        let whole = self.ended || self.body.is_end_stream();
        self.entry.ended(whole);
    }
}
