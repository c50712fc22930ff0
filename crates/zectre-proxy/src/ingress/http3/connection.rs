//! One connection of HTTP/3: its requests go the way of all others, and what bounds other connections bounds it.

use super::{
    body::Body,
    line::{Line, Unwanted},
    transport::{self, SendStream, number},
};
use crate::{
    ingress::{
        Ingress, Refusal,
        client::Client,
        connection::{self, Bounds, HEADER_BYTES_LEAST},
        inflow::Inflow,
        vigil::{Place, Vigil, Watched},
    },
    metrics::Closed,
};
use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use h3::{
    error::{Code, ConnectionError, StreamError},
    server::{RequestResolver, RequestStream},
};
use http::{HeaderValue, Method, Request, Response, StatusCode, header, response::Parts};
use http_body::{Body as _, Frame};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use zectre_service::tasks::Shutdown;

/// A client that has been told to go may still be sent back what it sends meanwhile.
const LINGER: Duration = Duration::from_secs(1);

/// Serves the requests of a connection until either side ends it.
pub(super) async fn serve(
    ingress: Arc<Ingress>,
    quic: quinn::Connection,
    client: Client,
    place: Place,
    bounds: Bounds,
    shutdown: Shutdown,
) {
    let closed = &ingress.metrics.closed;
    let vigil = Vigil::new(closed[Closed::WriteTimeout as usize].clone(), Some(place));
    // It has shaken hands.
    vigil.spoke();
    let head_bytes_max = bounds.header_bytes_max.max(HEADER_BYTES_LEAST) as u64;
    // The library refuses a larger one without a word; we refuse it in words, and count it.
    let line = Arc::new(Line::new(
        connection::allowance(),
        head_bytes_max.saturating_mul(2),
    ));
    let leave = Arc::new(Notify::new());
    let hall = Hall {
        ingress: &ingress,
        quic: &quic,
        client: &client,
        vigil: &vigil,
        line: &line,
        header_timeout: bounds.times.header,
    };
    let talk = Talk {
        work: Box::pin(hall.talk(&leave)),
        leave: &leave,
    };
    let mut attendant = connection::attendant(&ingress, &vigil, &shutdown, bounds.times);
    if let Some(Err(error)) = attendant.attend(Box::pin(talk), Talk::leave).await {
        tracing::trace!(%error, client = ?client.address_header, "a connection ended");
    }
    if line.has_flooded() {
        closed[Closed::Flood as usize].inc();
    }
}

/// A connection that can be told to end.
struct Talk<'t, W> {
    work: Pin<Box<W>>,
    leave: &'t Notify,
}

impl<W> Talk<'_, W> {
    fn leave(self: Pin<&mut Self>) {
        self.leave.notify_one();
    }
}

impl<W: Future> Future for Talk<'_, W> {
    type Output = W::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<W::Output> {
        self.work.as_mut().poll(cx)
    }
}

/// What the requests of a connection share.
#[derive(Clone, Copy)]
struct Hall<'c> {
    ingress: &'c Arc<Ingress>,
    quic: &'c quinn::Connection,
    client: &'c Client,
    vigil: &'c Arc<Vigil>,
    line: &'c Arc<Line>,
    header_timeout: Duration,
}

type Resolver = RequestResolver<transport::Connection, Bytes>;

impl Hall<'_> {
    /// Until the client ends it, or until it has been told to `leave` and has nothing under way.
    async fn talk(self, leave: &Notify) -> Result<(), ConnectionError> {
        let quic = transport::Connection::new(self.quic.clone(), Arc::clone(self.line));
        let mut connection = h3::server::builder()
            .max_field_section_size(self.line.head_bytes_max)
            .send_grease(false)
            .build(quic)
            .await?;
        let mut requests = FuturesUnordered::new();
        let mut left = false;
        loop {
            tokio::select! {
                accepted = connection.accept() => match accepted? {
                    Some(resolver) => requests.push(self.request(resolver, self.line.unwanted())),
                    None => return Ok(()),
                },
                Some(()) = requests.next(), if !requests.is_empty() => {}
                () = leave.notified(), if !left => {
                    left = true;
                    self.line.leave();
                    // The first request that is not begun; the library counts from the last one that is.
                    connection.shutdown(1).await?;
                }
                () = sleep(LINGER), if left && requests.is_empty() => return Ok(()),
            }
        }
    }

    /// Answers a request, unless the client takes it back.
    async fn request(self, resolver: Resolver, unwanted: Option<Unwanted>) {
        let work = pin!(self.answer(resolver));
        let took_back = async {
            match unwanted {
                Some(unwanted) => unwanted.await,
                None => std::future::pending().await,
            }
        };
        let took_back = tokio::select! {
            biased;
            answered = work => answered.is_none(),
            took_back = took_back => took_back,
        };
        if took_back && self.line.took_back() {
            self.quic
                .close(number(Code::H3_EXCESSIVE_LOAD), b"too many requests taken back");
        }
    }

    /// `None` where there was no request to answer.
    async fn answer(self, resolver: Resolver) -> Option<()> {
        let head = async {
            let (request, stream) = resolver.resolve_request().await?;
            let (send, recv) = stream.split();
            let (parts, ()) = request.into_parts();
            let body = Body::of(&parts, recv).await;
            Ok::<_, StreamError>((Request::from_parts(parts, body), send))
        };
        let head = if self.header_timeout.is_zero() {
            head.await
        } else {
            timeout(self.header_timeout, head).await.ok()?
        };
        let (request, mut stream) = match head {
            Ok(asked) => asked,
            Err(error) => {
                self.count_unreadable(&error);
                return None;
            }
        };
        let turn = self.vigil.begin();
        let is_head = request.method() == Method::HEAD;
        let request = request.map(|body| Inflow::Http3(Box::new(body)));
        let response = self.ingress.serve(request, self.client).await;
        let response = response.map(|body| Watched::new(body, turn));
        if let Err(error) = send(&mut stream, response, is_head).await {
            tracing::trace!(%error, client = ?self.client.address_header, "an answer broke off");
        }
        Some(())
    }

    /// Counts a request that the library refused by itself.
    fn count_unreadable(&self, error: &StreamError) {
        let metrics = &self.ingress.metrics;
        match error {
            StreamError::HeaderTooBig { .. } => metrics.refused(Refusal::HEADERS_TOO_LARGE),
            StreamError::StreamError { .. } => metrics.refused(Refusal::BAD_REQUEST),
            StreamError::RemoteTerminate { code, .. } if *code == Code::H3_EXCESSIVE_LOAD => {
                metrics.refused(Refusal::HEADERS_TOO_LARGE);
            }
            _ => {}
        }
    }
}

/// Sends an answer; done when the client has it.
async fn send<B>(
    stream: &mut RequestStream<SendStream, Bytes>,
    response: Response<B>,
    is_head: bool,
) -> Result<(), StreamError>
where
    B: http_body::Body<Data = Bytes, Error = hyper::Error>,
{
    let (mut head, body) = response.into_parts();
    {
        let mut body = pin!(body);
        let has_none = is_head
            || [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status)
            || head.status.is_informational();
        complete(&mut head, body.size_hint().exact().filter(|_| !has_none));
        stream.send_response(Response::from_parts(head, ())).await?;
        while !has_none && let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            let Ok(frame) = frame else {
                stream.stop_stream(Code::H3_INTERNAL_ERROR);
                return Ok(());
            };
            match frame.into_data() {
                Ok(data) if data.is_empty() => {}
                Ok(data) => stream.send_data(data).await?,
                Err(frame) => {
                    if let Ok(trailers) = Frame::into_trailers(frame) {
                        stream.send_trailers(trailers).await?;
                    }
                }
            }
        }
    }
    stream.finish().await
}

/// What hyper adds to a head for other connections.
fn complete(head: &mut Parts, length: Option<u64>) {
    if let Some(length) = length {
        head.headers
            .entry(header::CONTENT_LENGTH)
            .or_insert_with(|| length.into());
    }
    head.headers.entry(header::DATE).or_insert_with(|| {
        let now = httpdate::fmt_http_date(SystemTime::now());
        HeaderValue::try_from(now).expect("a date is plain text")
    });
}
