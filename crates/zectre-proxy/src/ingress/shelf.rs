//! Where a stream is found again after whoever it was lent to has let go of it. The HTTP library takes streams and does
//! not give them back, and a connection that rests shall not keep its buffers.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const LENT: &str = "it goes back to the shelf with this value, not before";

/// Has room for one.
#[derive(Debug)]
pub(super) struct Shelf<S>(Arc<Mutex<Option<S>>>);

impl<S> Shelf<S> {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self(Arc::default())
    }

    /// Lends a stream, which comes back here.
    pub(super) fn lend(&self, stream: S) -> Lent<S> {
        Lent {
            stream: Some(stream),
            shelf: Arc::clone(&self.0),
        }
    }

    /// The stream, if it is back.
    pub(super) fn take(&self) -> Option<S> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A stream on loan.
#[derive(Debug)]
pub(super) struct Lent<S> {
    stream: Option<S>,
    shelf: Arc<Mutex<Option<S>>>,
}

impl<S> Drop for Lent<S> {
    fn drop(&mut self) {
        *self.shelf.lock().unwrap_or_else(PoisonError::into_inner) = self.stream.take();
    }
}

impl<S: Unpin> Lent<S> {
    fn stream(self: Pin<&mut Self>) -> Pin<&mut S> {
        Pin::new(self.get_mut().stream.as_mut().expect(LENT))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lent<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Lent<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.stream().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.as_ref().expect(LENT).is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_shutdown(cx)
    }
}
