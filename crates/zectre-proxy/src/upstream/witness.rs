//! A task's connection that finds out, when it ends, what the task's host has taken of it ([`Receipt`]).

use super::{
    receipt::{Facts, Fate, Receipt, fate},
    tcp_info,
};
use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// For so long an end is kept back while the task's host has neither taken nor refused what it was sent: a way there and back, and
/// Linux' first repetition of what was lost on it.
const VERDICT_TIMEOUT: Duration = Duration::from_millis(500);
/// The first look comes after so long, each further one after twice as long: on one machine there is nothing to wait for.
const LOOK_FIRST: Duration = Duration::from_millis(1);

/// The stream, watched.
#[derive(Debug)]
pub(super) struct Witness {
    stream: TcpStream,
    receipt: Arc<Receipt>,
    /// What was acknowledged before anything was written.
    base: Option<u64>,
    /// The task's host has ended its side.
    is_ended: bool,
    /// An error was taken from the socket, which after that looks as if it had come to its end.
    is_blind: bool,
    /// The end is known, and kept back.
    waiting: Option<Wait>,
    /// What could be found out was.
    is_told: bool,
}

impl Witness {
    /// Of a connection on which nothing has been written.
    pub(super) fn new(stream: TcpStream, receipt: &Arc<Receipt>) -> Self {
        Self {
            base: tcp_info::read(&stream).map(|info| info.acked),
            stream,
            receipt: Arc::clone(receipt),
            is_ended: false,
            is_blind: false,
            waiting: None,
            is_told: false,
        }
    }

    fn fate(&self, is_late: bool) -> Fate {
        let Some((base, info)) = self.base.zip(tcp_info::read(&self.stream)) else {
            return Fate::Unknown;
        };
        fate(Facts {
            is_ended: self.is_ended,
            is_closed: info.is_closed,
            taken: info.acked.saturating_sub(base),
            written: self.receipt.written(),
            is_late,
        })
    }

    /// Ready when it is known what the task's host took, or not known in time.
    fn poll_verdict(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while !self.is_told {
            let is_late = self.waiting.as_ref().is_some_and(Wait::is_over);
            match self.fate(is_late) {
                Fate::Took(bytes) => self.receipt.end(bytes),
                Fate::Unknown => {}
                Fate::Wait => {
                    ready!(self.waiting.get_or_insert_with(Wait::new).poll(cx));
                    continue;
                }
            }
            self.is_told = true;
            self.waiting = None;
        }
        Poll::Ready(())
    }

    /// Something failed. Linux says ECONNRESET of a connection that is reset, and EPIPE if the other side had ended before (but also of each
    /// one that has told its error already).
    fn failed(&mut self, error: &io::Error) {
        self.is_ended |= !self.is_blind && error.kind() == ErrorKind::BrokenPipe;
        self.is_blind = true;
        if !self.is_told
            && let Fate::Took(bytes) = self.fate(true)
        {
            self.receipt.end(bytes);
        }
        self.is_told = true;
    }

    fn wrote(&mut self, wrote: io::Result<usize>) -> io::Result<usize> {
        match &wrote {
            Ok(bytes) => self.receipt.wrote(*bytes),
            Err(error) => self.failed(error),
        }
        wrote
    }
}

impl AsyncRead for Witness {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.waiting.is_none() {
            let before = buf.filled().len();
            match ready!(Pin::new(&mut self.stream).poll_read(cx, buf)) {
                Ok(()) if buf.filled().len() > before || buf.remaining() == 0 => return Poll::Ready(Ok(())),
                Ok(()) => self.is_ended |= !self.is_blind,
                Err(error) => {
                    self.failed(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
        self.poll_verdict(cx).map(Ok)
    }
}

impl AsyncWrite for Witness {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes));
        Poll::Ready(self.wrote(wrote))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // As most requests are: the system does more for a list than for a piece.
        if let [only] = bytes {
            return self.poll_write(cx, only);
        }
        let wrote = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, bytes));
        Poll::Ready(self.wrote(wrote))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // From here on a write fails for this.
        self.is_blind = true;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Looks again and again: no event is told of a socket that has come to its end in one direction and then is reset.
#[derive(Debug)]
struct Wait {
    until: Instant,
    step: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl Wait {
    fn new() -> Self {
        Self {
            until: Instant::now() + VERDICT_TIMEOUT,
            step: LOOK_FIRST,
            sleep: Box::pin(sleep(LOOK_FIRST)),
        }
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Ready when it is time to look.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.sleep.as_mut().poll(cx));
        self.step *= 2;
        let next = (Instant::now() + self.step).min(self.until);
        self.sleep.as_mut().reset(next);
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests;
