//! Watches what a client sends, byte for byte, and breaks it off where two programs could read it differently
//! (`framing`). The HTTP library would repair some of that; a request that needs repair is refused instead.

use super::{
    bare,
    frames::Allowance,
    framing::{Framing, Part},
    vigil::Vigil,
    watch::Watch,
};
use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What HTTP/2 begins with, and HTTP/1.1 never does (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes the place of what must not be read: no parser takes it for a part of HTTP, so the answer is a 400. The empty
/// line ends the head, which is looked at only then.
const POISON: &[u8] = b"\0\r\n\r\n";

/// What is written in several pieces and is no longer than this, as a small answer's head and body, is written as one: to copy it costs
/// less than what the system does for a list of pieces.
const WHOLE_BYTES_MAX: usize = 1_024;

/// `pieces` one after the other, where there is room for them.
fn joined<'r>(pieces: &[io::IoSlice<'_>], room: &'r mut [u8; WHOLE_BYTES_MAX]) -> Option<&'r [u8]> {
    let mut end = 0;
    for piece in pieces {
        room.get_mut(end..end + piece.len())?.copy_from_slice(piece);
        end += piece.len();
    }
    Some(&room[..end])
}

/// Which HTTP a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.1 or older, or nothing that anybody knows.
    Http1,
    /// HTTP/2.
    Http2,
}

/// The first bytes of a client, read apart to see what it speaks.
#[derive(Debug, Default)]
struct Early {
    bytes: [u8; PREFACE.len()],
    filled: usize,
    given: usize,
}

impl Early {
    /// What they say; `None` as long as they could be either. `ended` when no more come.
    fn version(&self, ended: bool) -> Option<Version> {
        let bytes = &self.bytes[..self.filled];
        if bytes == PREFACE {
            Some(Version::Http2)
        } else if ended || !PREFACE.starts_with(bytes) {
            Some(Version::Http1)
        } else {
            None
        }
    }

    /// Hands them on, as far as there is room.
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let rest = &self.bytes[self.given..self.filled];
        let now = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(now);
        self.given += now.len();
        if self.given == self.filled {
            (self.given, self.filled) = (0, 0);
        }
    }
}

/// A connection whose incoming bytes are watched, and whose client is expected to read.
#[derive(Debug)]
pub struct Guarded<S> {
    stream: S,
    framing: Framing,
    vigil: Arc<Vigil>,
    writing: Option<Watch>,
    /// What is left to give instead of the client's bytes, once they are broken off.
    poison: &'static [u8],
    /// How much of what is said in the library's place has been.
    said: usize,
    early: Early,
}

impl<S> Guarded<S> {
    /// Watches `stream`; a head may have `head_bytes_max`, and the client reads as `writing` wants it.
    pub fn new(
        stream: S,
        head_bytes_max: usize,
        vigil: Arc<Vigil>,
        writing: Option<Watch>,
        allowance: Allowance,
    ) -> Self {
        // The HTTP library knows the bound too, and has a status of its own for it; it shall find out first.
        Self {
            stream,
            framing: Framing::new(head_bytes_max.saturating_mul(2), allowance),
            vigil,
            writing,
            poison: POISON,
            said: 0,
            early: Early::default(),
        }
    }

    /// What is below, where the client is in the middle of a request of HTTP/1.1.
    pub(super) fn unfinished(self) -> Option<S> {
        let has_requests = !matches!(self.framing.part, Part::Frames | Part::Opaque);
        (has_requests && self.framing.between().is_none()).then_some(self.stream)
    }

    /// What is said in place of these bytes, where they are the library's own answer to a head that nobody begins with.
    fn in_place_of(&self, written: &[u8]) -> Option<&'static [u8]> {
        let own = bare::in_place_of(written)?;
        let is_http1 = !matches!(self.framing.part, Part::Frames | Part::Opaque) && !self.vigil.is_upgraded();
        let is_refused = self.framing.part == Part::Broken || !self.vigil.all_begun();
        (is_http1 && is_refused).then_some(own)
    }

    /// Looks at what came of writing so many bytes.
    fn written<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        self.vigil.set_unsent(polled.is_pending());
        let Some(watch) = &mut self.writing else {
            return polled;
        };
        let slow = match &polled {
            Poll::Ready(Ok(done)) => watch.moved(bytes(done) as u64),
            Poll::Ready(Err(_)) => false,
            Poll::Pending => watch.is_too_slow(cx),
        };
        if !slow {
            return polled;
        }
        self.vigil.write_timed_out();
        self.writing = None;
        let cause = "the client does not read";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, cause)))
    }

    fn give_poison(&mut self, buf: &mut ReadBuf<'_>) {
        let (now, later) = self.poison.split_at(self.poison.len().min(buf.remaining()));
        buf.put_slice(now);
        self.poison = later;
    }
}

impl<S: AsyncWrite + Unpin> Guarded<S> {
    /// All of `own`.
    fn poll_say(&mut self, cx: &mut Context<'_>, own: &'static [u8]) -> Poll<io::Result<()>> {
        while let Some(rest @ [_, ..]) = own.get(self.said..) {
            let polled = Pin::new(&mut self.stream).poll_write(cx, rest);
            match ready!(self.written(cx, polled, |bytes| *bytes))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                bytes => self.said += bytes,
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the client, if it can be told at once, and hears nothing more from it.
    fn break_off(&mut self, cx: &mut Context<'_>) {
        self.framing.part = Part::Broken;
        self.poison = b"";
        let mut stream = Pin::new(&mut self.stream);
        if matches!(stream.as_mut().poll_write(cx, bare::LATE), Poll::Ready(Ok(_))) {
            let _ = stream.poll_flush(cx);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Guarded<S> {
    /// What the client speaks, once it says something. It costs nothing to wait for that here: the HTTP library has
    /// buffers for every connection that it has been given.
    pub(super) fn poll_version(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Version>> {
        loop {
            let mut early = std::mem::take(&mut self.early);
            let mut buf = ReadBuf::new(&mut early.bytes);
            buf.set_filled(early.filled);
            let polled = self.poll_fresh(cx, &mut buf);
            let (filled, before) = (buf.filled().len(), early.filled);
            early.filled = filled;
            // Empty lines before a request say nothing: the HTTP library would take one for the begin of a head.
            if filled > before
                && early.bytes[..filled]
                    .iter()
                    .all(|byte| matches!(byte, b'\r' | b'\n'))
            {
                early.filled = 0;
                self.early = early;
                ready!(polled)?;
                continue;
            }
            let version = early.version(filled == before);
            self.early = early;
            ready!(polled)?;
            if let Some(version) = version {
                return Poll::Ready(Ok(version));
            }
        }
    }

    /// Says goodbye, as far as that goes without waiting.
    pub(super) fn hang_up(&mut self, cx: &mut Context<'_>) {
        let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
    }

    /// Reads what has not been read before.
    fn poll_fresh(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self;
        if this.vigil.is_late() && this.framing.part != Part::Broken {
            this.break_off(cx);
        }
        if this.framing.part == Part::Broken {
            // After the poison as if the client had hung up.
            this.give_poison(buf);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(cx, buf);
        if this.framing.part == Part::Opaque || !matches!(polled, Poll::Ready(Ok(()))) {
            return polled;
        }
        if this.vigil.is_upgraded() {
            this.framing.part = Part::Opaque;
            return polled;
        }
        let frames = this.framing.part == Part::Frames;
        if let Err(good) = this.framing.read(&buf.filled()[before..], || this.vigil.now_ns()) {
            buf.set_filled(before + good);
            if frames {
                this.vigil.set_flooded();
                let cause = "too many frames that carry nothing";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, cause)));
            }
            this.give_poison(buf);
        }
        if this.framing.part == Part::Frames {
            this.vigil.spoke();
        }
        this.vigil.in_head(this.framing.owes_head());
        this.vigil.set_between(this.framing.between());
        polled
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.early.filled == 0 {
            return self.poll_fresh(cx, buf);
        }
        self.early.give(buf);
        if buf.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        // With what has come since: read alone, they would make the library's buffer twice as large.
        match self.poll_fresh(cx, buf) {
            Poll::Pending => Poll::Ready(Ok(())),
            read @ Poll::Ready(_) => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(own) = self.in_place_of(bytes) {
            ready!(self.poll_say(cx, own))?;
            return Poll::Ready(Ok(bytes.len()));
        }
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, polled, |bytes| *bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if let [only] = bytes {
            return self.poll_write(cx, only);
        }
        let stream = Pin::new(&mut self.stream);
        let polled = match joined(bytes, &mut [0; WHOLE_BYTES_MAX]) {
            Some(whole) => stream.poll_write(cx, whole),
            None => stream.poll_write_vectored(cx, bytes),
        };
        self.written(cx, polled, |bytes| *bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, polled, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.vigil.is_resting() {
            return Poll::Ready(Ok(()));
        }
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.written(cx, polled, |()| 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::connection::allowance;
    use prometheus_client::metrics::counter::Counter;
    use std::io::IoSlice;

    /// Takes all that it is given, and notes how.
    #[derive(Debug, Default)]
    struct Calls {
        bytes: Vec<u8>,
        pieces: Vec<usize>,
    }

    impl AsyncWrite for Calls {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.pieces.push(1);
            self.bytes.extend_from_slice(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.pieces.push(bytes.len());
            let before = self.bytes.len();
            for piece in bytes {
                self.bytes.extend_from_slice(piece);
            }
            Poll::Ready(Ok(self.bytes.len() - before))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn a_small_answer_is_written_as_one_piece_and_a_large_one_is_not_copied() {
        let vigil = Vigil::new(Counter::default(), None);
        let mut guarded = Guarded::new(Calls::default(), 8_192, vigil, None, allowance());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let head = [b'h'; 24];
        let mut all = Vec::new();
        for (body, pieces) in [(30, 1), (WHOLE_BYTES_MAX - 24, 1), (WHOLE_BYTES_MAX - 23, 2)] {
            let body = vec![b'b'; body];
            let parts = [IoSlice::new(&head), IoSlice::new(&body)];
            let wrote = Pin::new(&mut guarded).poll_write_vectored(&mut cx, &parts);
            assert!(matches!(wrote, Poll::Ready(Ok(bytes)) if bytes == head.len() + body.len()));
            assert_eq!(guarded.stream.pieces.pop(), Some(pieces));
            all.extend([&head[..], &body[..]].concat());
        }
        assert_eq!(guarded.stream.bytes, all);
    }
}
