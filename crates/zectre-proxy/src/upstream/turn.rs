//! A task's connection whose reader lets others run: the library reads on for as long as bytes are there, so a program
//! that sends interim answers without end would keep a thread, with every client on it, for many megabytes a turn.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much is read in one turn: some 6,000 interim answers of the shortest kind, and less than a millisecond of copying.
const TURN_BYTES_MAX: usize = 256 * 1024;

/// What it wraps, read a turn at a time.
#[derive(Debug)]
pub(super) struct Turn<S> {
    stream: S,
    taken: usize,
}

impl<S> Turn<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, taken: 0 }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Turn<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.taken >= TURN_BYTES_MAX {
            self.taken = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        match read {
            Poll::Ready(_) => self.taken += buf.filled().len() - before,
            Poll::Pending => self.taken = 0,
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Turn<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn a_turn_ends_and_the_next_one_is_asked_for_at_once() {
        let all = vec![b'x'; 3 * TURN_BYTES_MAX + 7];
        let mut stream = Turn::new(&all[..]);
        let mut part = vec![0; TURN_BYTES_MAX];
        stream
            .read_exact(&mut part)
            .now_or_never()
            .expect("one turn")
            .expect("read");
        assert!(
            stream.read(&mut part).now_or_never().is_none(),
            "its turn is over"
        );
        // Nobody else wakes it.
        let mut rest = Vec::new();
        let count = stream.read_to_end(&mut rest).await.expect("read");
        assert_eq!(count, all.len() - TURN_BYTES_MAX);
    }
}
