//! QUIC as the library for HTTP/3 wants it: quinn's streams, watched by [`Frames`]. An answer is finished when the client has
//! all of it, so that a connection may end when its requests have; one that is given up is reset, and never looks whole.

use super::{
    frames::{Bad, Frames},
    line::Line,
};
use crate::ingress::frames::Allowance;
use bytes::{Buf, Bytes};
use futures_util::stream::{self, Stream, StreamExt};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ConnectionError, ReadError, StoppedError, VarInt, WriteError};
use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

/// Of a body at once.
const CHUNK_BYTES_MAX: usize = 64 * 1_024;

type Streams<T> = Pin<Box<dyn Stream<Item = Result<T, ConnectionError>> + Send + Sync>>;
type Both = (quinn::SendStream, quinn::RecvStream);
type Acknowledged = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send + Sync>>;

/// A connection.
pub struct Connection {
    incoming_both: Streams<Both>,
    incoming_one: Streams<quinn::RecvStream>,
    opener: Opener,
}

/// Opens streams.
pub struct Opener {
    quic: quinn::Connection,
    line: Arc<Line>,
    outgoing_both: Option<Streams<Both>>,
    outgoing_one: Option<Streams<quinn::SendStream>>,
}

impl Connection {
    /// Over `quic`; its streams share `line`.
    pub(super) fn new(quic: quinn::Connection, line: Arc<Line>) -> Self {
        Self {
            incoming_both: Box::pin(stream::unfold(quic.clone(), |quic| async {
                Some((quic.accept_bi().await, quic))
            })),
            incoming_one: Box::pin(stream::unfold(quic.clone(), |quic| async {
                Some((quic.accept_uni().await, quic))
            })),
            opener: Opener::new(quic, line),
        }
    }
}

impl Connection {
    /// One that bounds nothing but heads.
    pub fn unbounded(quic: quinn::Connection, head_bytes_max: u64) -> Self {
        let (resets, idle) = (None, None);
        let line = Line::new(Allowance { resets, idle }, head_bytes_max);
        Self::new(quic, Arc::new(line))
    }
}

impl Opener {
    fn new(quic: quinn::Connection, line: Arc<Line>) -> Self {
        Self {
            quic,
            line,
            outgoing_both: None,
            outgoing_one: None,
        }
    }

    fn both(&self, (send, recv): Both) -> BidiStream {
        BidiStream {
            send: SendStream::new(send),
            recv: RecvStream::new(
                recv,
                self.quic.clone(),
                Arc::clone(&self.line),
                Frames::of_request(self.line.head_bytes_max),
            ),
        }
    }
}

impl Clone for Opener {
    fn clone(&self) -> Self {
        Self::new(self.quic.clone(), Arc::clone(&self.line))
    }
}

/// The next one; these never end.
fn next<T>(streams: &mut Streams<T>, cx: &mut Context<'_>) -> Poll<Result<T, ConnectionError>> {
    streams
        .poll_next_unpin(cx)
        .map(|next| next.unwrap_or(Err(ConnectionError::LocallyClosed)))
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = RecvStream;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::RecvStream, ConnectionErrorIncoming>> {
        let recv = ready!(next(&mut self.incoming_one, cx)).map_err(lost)?;
        let Opener { quic, line, .. } = &self.opener;
        Poll::Ready(Ok(RecvStream::new(
            recv,
            quic.clone(),
            Arc::clone(line),
            Frames::one_way(),
        )))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Self::BidiStream, ConnectionErrorIncoming>> {
        loop {
            let (mut send, mut recv) = ready!(next(&mut self.incoming_both, cx)).map_err(lost)?;
            let line = &self.opener.line;
            if line.is_leaving() {
                // Not begun: the client may send it again elsewhere (RFC 9114, section 5.2). What fails here is gone already.
                let _ = recv.stop(number(Code::H3_REQUEST_REJECTED));
                let _ = send.reset(number(Code::H3_REQUEST_REJECTED));
                continue;
            }
            let stopped = send.stopped();
            line.take(Box::pin(async { matches!(stopped.await, Ok(Some(_))) }));
            return Poll::Ready(Ok(self.opener.both((send, recv))));
        }
    }

    fn opener(&self) -> Self::OpenStreams {
        self.opener.clone()
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        self.opener.poll_open_bidi(cx)
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        self.opener.poll_open_send(cx)
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.opener.close(code, reason);
    }
}

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BidiStream;
    type SendStream = SendStream;

    fn poll_open_bidi(&mut self, cx: &mut Context<'_>) -> Poll<Result<BidiStream, StreamErrorIncoming>> {
        let quic = &self.quic;
        let streams = self.outgoing_both.get_or_insert_with(|| {
            Box::pin(stream::unfold(quic.clone(), |quic| async {
                Some((quic.open_bi().await, quic))
            }))
        });
        let both = ready!(next(streams, cx)).map_err(broken)?;
        Poll::Ready(Ok(self.both(both)))
    }

    fn poll_open_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<SendStream, StreamErrorIncoming>> {
        let quic = &self.quic;
        let streams = self.outgoing_one.get_or_insert_with(|| {
            Box::pin(stream::unfold(quic.clone(), |quic| async {
                Some((quic.open_uni().await, quic))
            }))
        });
        let send = ready!(next(streams, cx)).map_err(broken)?;
        Poll::Ready(Ok(SendStream::new(send)))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(number(code), reason);
    }
}

/// Both directions of a request's stream.
pub struct BidiStream {
    send: SendStream,
    recv: RecvStream,
}

impl quic::BidiStream<Bytes> for BidiStream {
    type SendStream = SendStream;
    type RecvStream = RecvStream;

    fn split(self) -> (SendStream, RecvStream) {
        (self.send, self.recv)
    }
}

impl quic::RecvStream for BidiStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.recv.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.recv.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.recv.recv_id()
    }
}

impl quic::SendStream<Bytes> for BidiStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// What the client sends.
pub struct RecvStream {
    stream: quinn::RecvStream,
    quic: quinn::Connection,
    line: Arc<Line>,
    frames: Frames,
    /// Read, and not looked at yet.
    bytes: Bytes,
    ended: bool,
}

impl RecvStream {
    fn new(stream: quinn::RecvStream, quic: quinn::Connection, line: Arc<Line>, frames: Frames) -> Self {
        Self {
            stream,
            quic,
            line,
            frames,
            bytes: Bytes::new(),
            ended: false,
        }
    }

    fn bad(bad: Bad) -> StreamErrorIncoming {
        let code = match bad {
            Bad::TooLarge => Code::H3_EXCESSIVE_LOAD,
            Bad::Cut => Code::H3_REQUEST_INCOMPLETE,
        };
        StreamErrorIncoming::StreamTerminated {
            error_code: code.value(),
        }
    }
}

impl fmt::Debug for RecvStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RecvStream").field(&self.stream.id()).finish()
    }
}

impl quic::RecvStream for RecvStream {
    type Buf = Bytes;

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            let piece = self.frames.next(&mut self.bytes).map_err(Self::bad)?;
            let idle = self.frames.take_idle();
            if idle > 0 && self.line.idled(idle) {
                self.quic.close(
                    number(Code::H3_EXCESSIVE_LOAD),
                    b"too many frames that carry nothing",
                );
            }
            if let Some(piece) = piece {
                return Poll::Ready(Ok(Some(piece)));
            }
            // Nothing of it is lost when it is asked for again.
            let chunk = ready!(pin!(self.stream.read_chunk(CHUNK_BYTES_MAX, true)).poll(cx));
            match chunk.map_err(unread)? {
                Some(chunk) => self.bytes = chunk.bytes,
                None => {
                    self.ended = true;
                    self.frames.end().map_err(Self::bad)?;
                    return Poll::Ready(Ok(None));
                }
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.ended = true;
        let _ = self.stream.stop(code(error_code));
    }

    fn recv_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for RecvStream {
    fn drop(&mut self) {
        if !self.ended {
            // An answer without the rest of the request is one all the same (RFC 9114, section 4.1.1).
            let _ = self.stream.stop(number(Code::H3_NO_ERROR));
        }
    }
}

/// What the client is sent.
pub struct SendStream {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    /// Finished, and waiting for the client's word that it has all.
    acknowledged: Option<Acknowledged>,
    is_reset: bool,
}

impl SendStream {
    fn new(stream: quinn::SendStream) -> Self {
        Self {
            stream,
            writing: None,
            acknowledged: None,
            is_reset: false,
        }
    }
}

impl quic::SendStream<Bytes> for SendStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written =
                    ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk())).map_err(unwritten)?;
                data.advance(written);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let cause = "more was to be written before the first was".to_owned();
            return Err(StreamErrorIncoming::ConnectionErrorIncoming {
                connection_error: ConnectionErrorIncoming::InternalError(cause),
            });
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if self.acknowledged.is_none() {
            self.stream
                .finish()
                .map_err(|error| StreamErrorIncoming::Unknown(Box::new(error)))?;
        }
        let stream = &self.stream;
        let acknowledged = self
            .acknowledged
            .get_or_insert_with(|| Box::pin(stream.stopped()));
        // One that did not want all of it has what it wanted.
        acknowledged.as_mut().poll(cx).map(|ended| match ended {
            Ok(_) => Ok(()),
            Err(error) => Err(StreamErrorIncoming::Unknown(Box::new(error))),
        })
    }

    fn reset(&mut self, reset_code: u64) {
        self.is_reset = true;
        let _ = self.stream.reset(code(reset_code));
    }

    fn send_id(&self) -> StreamId {
        id(self.stream.id())
    }
}

impl Drop for SendStream {
    fn drop(&mut self) {
        if self.acknowledged.is_none() && !self.is_reset {
            let _ = self.stream.reset(number(Code::H3_REQUEST_CANCELLED));
        }
    }
}

fn id(stream: quinn::StreamId) -> StreamId {
    u64::from(stream).try_into().expect("QUIC numbers its streams so")
}

fn code(value: u64) -> VarInt {
    VarInt::from_u64(value).unwrap_or(VarInt::MAX)
}

pub(super) fn number(value: Code) -> VarInt {
    code(value.value())
}

fn lost(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => ConnectionErrorIncoming::ApplicationClose {
            error_code: close.error_code.into_inner(),
        },
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

fn broken(error: ConnectionError) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming {
        connection_error: lost(error),
    }
}

fn unread(error: ReadError) -> StreamErrorIncoming {
    match error {
        ReadError::Reset(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        ReadError::ConnectionLost(error) => broken(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}

fn unwritten(error: WriteError) -> StreamErrorIncoming {
    match error {
        WriteError::Stopped(code) => StreamErrorIncoming::StreamTerminated {
            error_code: code.into_inner(),
        },
        WriteError::ConnectionLost(error) => broken(error),
        other => StreamErrorIncoming::Unknown(Box::new(other)),
    }
}
