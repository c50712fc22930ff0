//! A connection whose client must take what is written to it: one that takes nothing for too long is cut off.
//!
//! Slow is not too slow. The kernel takes more only once a good part of its buffer is free, so what counts is not whether it
//! takes something, but whether the client's host acknowledged anything since the last look.

use crate::tcp_info;
use rustix::net::sockopt;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// The connection.
pub(crate) struct Patient {
    stream: TcpStream,
    patience: Duration,
    waiting: Option<Waiting>,
}

/// The kernel takes nothing more.
struct Waiting {
    until: Pin<Box<Sleep>>,
    /// What the client's host had acknowledged when that began, or at the last look.
    acked: Option<u64>,
}

impl Patient {
    /// Writes to `stream` fail when nothing moves for `patience`.
    pub(crate) fn new(stream: TcpStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            waiting: None,
        }
    }

    /// What came of a write, unless it has been waited for in vain for too long.
    fn bounded<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.waiting = None;
            return written;
        }
        let Self {
            stream,
            patience,
            waiting,
        } = self;
        let waiting = waiting.get_or_insert_with(|| Waiting {
            until: Box::pin(sleep(*patience)),
            acked: acked(stream),
        });
        loop {
            ready!(waiting.until.as_mut().poll(context));
            let now = acked(stream);
            if now == waiting.acked {
                break;
            }
            waiting.acked = now;
            waiting.until.as_mut().reset(Instant::now() + *patience);
        }
        // What lies in the kernel's buffer goes at once, and not when nobody has taken it for minutes. A failure means that it is gone.
        let _ = sockopt::set_socket_linger(&*stream, Some(Duration::ZERO));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of its answer",
        )))
    }
}

fn acked(stream: &TcpStream) -> Option<u64> {
    tcp_info::read(stream).map(|info| info.acked)
}

impl AsyncRead for Patient {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.bounded(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.bounded(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
