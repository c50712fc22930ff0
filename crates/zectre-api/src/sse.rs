//! Server-Sent Events that resume: a stream is a position in rows that only grow.
//!
//! It reads what lies after its position, sends it, and waits for a hint or a moment; so a lost hint delays
//! and never skips, and a client that comes back with `Last-Event-ID` gets neither a gap nor a repeat.
//! Now and then it looks whether its caller may still have it, and ends with [`REFUSED`] when not.

use crate::{
    code,
    context::Context,
    error::{Error, refuse},
    fanout::Hint,
    policy::{Reach, Standing},
    streams::Place,
};
use axum::response::{
    IntoResponse, Response,
    sse::{Event, KeepAlive, Sse},
};
use http::HeaderMap;
use std::{collections::VecDeque, convert::Infallible, future::Future, str::FromStr, time::Duration};
use tokio::{sync::broadcast, time::Instant};

/// Rows read at once.
pub(crate) const BATCH_ROWS: i64 = 500;
/// After news a stream looks again this soon: a row that was told of shows only once older transactions have ended.
/// The pause doubles with each look that finds nothing, up to the feed's own.
const PAUSE_MIN: Duration = Duration::from_millis(20);
/// Comments that keep idle connections open.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// A stream ends after this long; its client resumes it, with its credential checked anew.
const STREAM_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The event that only has an id: where the stream begins.
pub(crate) const POSITION: &str = "position";

/// The last event of a stream that its caller may not have any more: the problem that a new request is answered with.
const REFUSED: &str = "refused";

/// What a stream found when it looked.
pub(crate) struct Batch {
    pub(crate) events: Vec<Event>,
    /// Nothing will ever come after these.
    pub(crate) ended: bool,
}

/// Where a stream's rows come from.
pub(crate) trait Feed: Send + Sync + 'static {
    /// What lies after the position, which moves past it.
    fn look(&mut self) -> impl Future<Output = Result<Batch, Error>> + Send;
    /// Where it begins, when its client can't know: told first, so that a client which has seen nothing yet can resume too.
    fn begin(&self) -> Option<String> {
        None
    }
    /// What its caller reaches from now on, of one that depends on it.
    fn reach(&mut self, _: &Reach) {}
    /// Whether a hint concerns it.
    fn concerns(&self, hint: Hint) -> bool;
    /// The longest that it goes without a look when no hint comes; a lost hint delays by as much.
    fn resync(&self) -> Duration {
        Duration::from_secs(1)
    }
}

struct Open<F> {
    feed: F,
    hints: broadcast::Receiver<Hint>,
    pause: Duration,
    ready: VecDeque<Event>,
    ended: bool,
    until: Instant,
    standing: Standing,
    recheck_at: Instant,
    context: Context,
    _place: Place,
}

/// Answers with the feed's events until it ends, the client leaves, or the service stops.
pub(crate) fn stream<F: Feed>(context: &Context, standing: Standing, feed: F) -> Result<Response, Error> {
    let place = context.streams.take(standing.caller())?;
    let begin = feed.begin();
    let begin = begin.map(|id| json_event(Some(id), POSITION, &()));
    let open = Open {
        feed,
        // Before the first look: what is told between the look and the wait is not missed.
        hints: context.fanout.subscribe(),
        pause: PAUSE_MIN,
        ready: begin.transpose()?.into_iter().collect(),
        ended: false,
        until: Instant::now() + STREAM_TIMEOUT,
        standing,
        recheck_at: Instant::now() + context.settings.stream_recheck,
        context: context.clone(),
        _place: place,
    };
    let events = futures_util::stream::unfold(open, |mut open| async move {
        let event = open.next().await?;
        Some((Ok::<_, Infallible>(event), open))
    });
    Ok(Sse::new(events)
        .keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
        .into_response())
}

impl<F: Feed> Open<F> {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if !self.ended
                && Instant::now() >= self.recheck_at
                && let Some(refusal) = self.refusal().await
            {
                self.ready.clear();
                self.ended = true;
                return Some(refusal);
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if self.ended || self.context.shutdown.is_requested() || Instant::now() >= self.until {
                return None;
            }
            match self.feed.look().await {
                Ok(batch) => {
                    self.ended = batch.ended;
                    self.ready = batch.events.into();
                    if !self.ready.is_empty() {
                        self.pause = PAUSE_MIN;
                    }
                }
                Err(error) => tracing::warn!(%error, "a stream could not look; it will again"),
            }
            if self.ready.is_empty() && !self.ended {
                self.wait().await;
            }
        }
    }

    /// Asks again whether the caller may have the stream; what ends it when not.
    async fn refusal(&mut self) -> Option<Event> {
        let settings = &self.context.settings;
        let asked = tokio::time::timeout(settings.request_timeout, self.standing.ask()).await;
        self.recheck_at = Instant::now() + settings.stream_recheck;
        let error = match asked {
            Ok(Ok(reach)) => {
                if let Some(reach) = reach {
                    self.feed.reach(&reach);
                }
                return None;
            }
            Ok(Err(error)) => error,
            Err(_) => Error::Internal("the database took too long".into()),
        };
        let said = error.to_string();
        let Some(problem) = self.standing.refusal(error) else {
            tracing::warn!(
                error = said,
                "a stream could not look whether its caller may have it; it will again"
            );
            return None;
        };
        tracing::info!(
            code = problem.code,
            "a stream ends, because its caller may not have it any more"
        );
        // What can't be written ends the stream too, without a word.
        Some(json_event(None, REFUSED, &problem).unwrap_or_else(|_| Event::default().event(REFUSED)))
    }

    async fn wait(&mut self) {
        let hint = async {
            loop {
                match self.hints.recv().await {
                    Ok(hint) if !self.feed.concerns(hint) => {}
                    // Lagging means that something was missed: look.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => return,
                    Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                }
            }
        };
        let pause = self
            .pause
            .min(self.recheck_at.saturating_duration_since(Instant::now()));
        let waited = tokio::time::timeout(pause, hint);
        if let Some(Ok(())) = self.context.shutdown.or_requested(waited).await {
            // One look answers all hints that are there.
            while self.hints.try_recv().is_ok() {}
            self.pause = PAUSE_MIN;
        } else {
            self.pause = (self.pause * 2).min(self.feed.resync());
        }
    }
}

/// The position that the client has seen.
pub(crate) fn last_event_id<P: FromStr>(headers: &HeaderMap) -> Result<Option<P>, Error> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else {
        return Ok(None);
    };
    let parsed = value.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or_else(|| {
        refuse(
            &code::INVALID_LAST_EVENT_ID,
            "`Last-Event-ID` is not an id of this stream; leave it out to start anew",
        )
    })
}

/// An event with JSON data.
pub(crate) fn json_event(
    id: Option<String>,
    name: &str,
    data: &impl serde::Serialize,
) -> Result<Event, Error> {
    let json = serde_json::to_string(data)
        .map_err(|error| Error::Internal(format!("could not write an event: {error}")))?;
    let event = Event::default().event(name).data(json);
    Ok(match id {
        Some(id) => event.id(id),
        None => event,
    })
}
