//! What a connection waits for, and whether it has waited long enough. Whatever a client may be slow with has a bound:
//! its first word, a head that it began, an answer that it does not take, its next request.

use super::{crowd::Guest, streams::Clock};
use crate::{metrics::Counted, workers::Seat};
use http_body::{Body, Frame, SizeHint};
use prometheus_client::metrics::counter::Counter;
use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::sync::OwnedSemaphorePermit;

/// How long a client may take; [`Duration::ZERO`] for no bound.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// For a head, from its first byte; and for that byte on a new connection.
    pub header: Duration,
    /// For its next request.
    pub idle: Duration,
    /// To take a part of an answer.
    pub write: Duration,
}

/// What a connection is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// It has said nothing.
    New,
    /// A head has begun.
    Head,
    /// Requests are under way, and it is not the client who is waited for.
    Busy,
    /// Requests are under way, and the client takes nothing of any answer that it could have; those with a clock of their
    /// own apart.
    Stalled,
    /// Between two requests.
    Idle,
}

impl Times {
    /// How long a stage may last.
    pub fn of(&self, stage: Stage) -> Option<Duration> {
        let time = match stage {
            Stage::New | Stage::Head => self.header,
            Stage::Stalled => self.write,
            Stage::Idle => self.idle,
            Stage::Busy => Duration::ZERO,
        };
        (!time.is_zero()).then_some(time)
    }

    /// No stage is over earlier than this after its begin.
    pub fn shortest(&self) -> Duration {
        let bounds = [self.header, self.idle, self.write];
        let shortest = bounds.into_iter().filter(|bound| !bound.is_zero()).min();
        shortest.unwrap_or(Duration::from_secs(60))
    }
}

/// A connection that has been idle for so long gives back what serving it takes, until its next request: less would cost clients that pause
/// between requests, and more memory, where many come at once (1,000 within 200 ms: 33 MiB resident at 100 ms, 26 at this; bench/RESULTS.md).
pub const REST_AFTER: Duration = Duration::from_millis(40);
/// In place of a number of heads; one that gets so far rests a request later.
const INSIDE: u32 = u32::MAX;

/// Known to all who have to do with a connection.
#[derive(Debug)]
pub struct Vigil {
    started: Instant,
    /// Of the last change or movement.
    since_ms: AtomicU64,
    requests: AtomicU32,
    /// Answers of which the client could have more.
    offered: AtomicU32,
    spoke: AtomicBool,
    in_head: AtomicBool,
    late: AtomicBool,
    upgraded: AtomicBool,
    flooded: AtomicBool,
    /// Heads that came whole; [`INSIDE`] while what they announce has not.
    heads: AtomicU32,
    begun: AtomicU32,
    restful: AtomicBool,
    resting: AtomicBool,
    /// Some of what was written waits for the client to read.
    unsent: AtomicBool,
    write_timeouts: Counter,
    _place: Option<Place>,
}

/// What a connection takes up of the bounds on connections. A tunnel is made of the connection's own stream, which holds
/// on to its vigil, and so to this.
#[derive(Debug)]
pub struct Place {
    /// Of all.
    pub slot: OwnedSemaphorePermit,
    /// Of its client's.
    pub guest: Option<Guest>,
    /// Of its thread's.
    pub seat: Seat,
    /// In the metrics.
    pub counted: Counted,
}

impl Vigil {
    /// Of a connection that begins now, and takes up `place` as long as anything of it is left.
    pub fn new(write_timeouts: Counter, place: Option<Place>) -> Arc<Self> {
        Arc::new(Self {
            _place: place,
            started: Instant::now(),
            since_ms: AtomicU64::new(0),
            requests: AtomicU32::new(0),
            offered: AtomicU32::new(0),
            spoke: AtomicBool::new(false),
            in_head: AtomicBool::new(false),
            late: AtomicBool::new(false),
            upgraded: AtomicBool::new(false),
            flooded: AtomicBool::new(false),
            heads: AtomicU32::new(0),
            begun: AtomicU32::new(0),
            restful: AtomicBool::new(false),
            resting: AtomicBool::new(false),
            unsent: AtomicBool::new(false),
            write_timeouts,
        })
    }

    fn moved(&self) {
        self.since_ms
            .store(self.started.elapsed().as_millis() as u64, Relaxed);
    }

    /// What it is at, and since when; [`Stage::Idle`] and [`Stage::Stalled`] also while the client reads what was written, of which the
    /// library below keeps some: see [`Self::is_unsent`].
    pub fn stage(&self) -> (Stage, Instant) {
        let stage = if self.requests.load(Relaxed) > 0 {
            match self.offered.load(Relaxed) {
                0 => Stage::Busy,
                _ => Stage::Stalled,
            }
        } else if self.in_head.load(Relaxed) {
            Stage::Head
        } else if self.spoke.load(Relaxed) {
            Stage::Idle
        } else {
            Stage::New
        };
        let since = self.started + Duration::from_millis(self.since_ms.load(Relaxed));
        (stage, since)
    }

    /// The bytes that came end inside of a head, or don't.
    pub fn in_head(&self, inside: bool) {
        if self.in_head.load(Relaxed) != inside {
            self.in_head.store(inside, Relaxed);
            // Behind a request that is under way, the client could be no faster.
            if inside && self.requests.load(Relaxed) == 0 {
                self.moved();
            }
        }
    }

    /// It speaks something else than HTTP/1.1.
    pub fn spoke(&self) {
        self.spoke.store(true, Relaxed);
    }

    /// Its head came too late: it is told so when it is read from next.
    pub fn set_late(&self) {
        self.late.store(true, Relaxed);
    }

    /// Whether its head came too late.
    pub fn is_late(&self) -> bool {
        self.late.load(Relaxed)
    }

    /// What comes from now on is no HTTP. To be called before the 101 is sent.
    pub fn set_upgraded(&self) {
        self.upgraded.store(true, Relaxed);
    }

    /// Whether what comes is no HTTP any more.
    pub fn is_upgraded(&self) -> bool {
        self.upgraded.load(Relaxed)
    }

    /// It sent more that carries nothing than anybody who means well.
    pub fn set_flooded(&self) {
        self.flooded.store(true, Relaxed);
    }

    /// Whether that is why it ends.
    pub fn has_flooded(&self) -> bool {
        self.flooded.load(Relaxed)
    }

    /// The bytes that came end between two requests, after so many heads, or inside of one.
    pub fn set_between(&self, heads: Option<u32>) {
        self.heads.store(heads.unwrap_or(INSIDE), Relaxed);
    }

    /// Whether a write waits for the client. Who took all of it is waited for from then on.
    pub fn set_unsent(&self, unsent: bool) {
        if self.unsent.load(Relaxed) != unsent {
            self.unsent.store(unsent, Relaxed);
            if !unsent {
                self.moved();
            }
        }
    }

    /// Whether a write does.
    pub fn is_unsent(&self) -> bool {
        self.unsent.load(Relaxed)
    }

    /// Whether each request that came was begun with.
    pub fn all_begun(&self) -> bool {
        self.heads.load(Relaxed) == self.begun.load(Relaxed)
    }

    /// Whether it could rest: each request that came was begun with, answered long enough ago, to the last byte, and no next
    /// one has come. Whoever still writes reads, too, and may end the connection afterwards.
    pub fn may_rest(&self, now: Instant) -> bool {
        let (stage, since) = self.stage();
        let is_idle = stage == Stage::Idle && self.all_begun() && !self.unsent.load(Relaxed);
        is_idle && self.is_restful() && since + REST_AFTER <= now
    }

    /// It is served from now on, by somebody who may be sent away while it is idle, or not.
    pub fn serve(&self, restful: bool) {
        self.restful.store(restful, Relaxed);
        self.resting.store(false, Relaxed);
    }

    /// Whoever serves it is sent away.
    pub fn rest(&self) {
        self.restful.store(false, Relaxed);
        self.resting.store(true, Relaxed);
    }

    /// Whether it is served, and could rest when it is idle.
    pub fn is_restful(&self) -> bool {
        self.restful.load(Relaxed)
    }

    /// Whether it ends only to rest.
    pub fn is_resting(&self) -> bool {
        self.resting.load(Relaxed)
    }

    /// Nanoseconds since its begin.
    pub fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    /// The client does not read.
    pub fn write_timed_out(&self) {
        self.write_timeouts.inc();
    }

    /// A request is under way for as long as its turn lives.
    pub fn begin(self: &Arc<Self>) -> Turn {
        self.spoke.store(true, Relaxed);
        self.begun.fetch_add(1, Relaxed);
        self.resting.store(false, Relaxed);
        self.requests.fetch_add(1, Relaxed);
        Turn(Arc::clone(self))
    }
}

/// A request under way.
#[derive(Debug)]
pub struct Turn(Arc<Vigil>);

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.moved();
        self.0.requests.fetch_sub(1, Relaxed);
    }
}

/// An answer's body; its request is under way until it is dropped.
#[derive(Debug)]
pub struct Watched<B> {
    body: B,
    turn: Turn,
    offered: bool,
    /// Its stream's, where it has one.
    clock: Option<Arc<Clock>>,
}

impl<B: Body> Watched<B> {
    /// On offer from now on.
    pub fn new(body: B, turn: Turn) -> Self {
        let mut watched = Self {
            body,
            clock: Clock::of(&turn.0),
            turn,
            offered: false,
        };
        watched.turn.0.moved();
        watched.offer(!watched.body.is_end_stream());
        watched
    }
}

impl<B> Watched<B> {
    fn offer(&mut self, more: bool) {
        if let Some(clock) = &self.clock {
            clock.offer(more);
            return;
        }
        let vigil = &self.turn.0;
        match (self.offered, more) {
            (false, true) => {
                vigil.offered.fetch_add(1, Relaxed);
            }
            (true, false) => {
                vigil.offered.fetch_sub(1, Relaxed);
            }
            _ => {}
        }
        self.offered = more;
    }
}

impl<B> Drop for Watched<B> {
    fn drop(&mut self) {
        self.offer(false);
    }
}

impl<B: Body + Unpin> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let this = &mut *self;
        // It is asked for when the client has taken what came before, or a good part of it.
        this.turn.0.moved();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        this.offer(matches!(polled, Poll::Ready(Some(Ok(_)))));
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingress::body::Answer;
    use bytes::Bytes;

    const TIMES: Times = Times {
        header: Duration::from_secs(10),
        idle: Duration::from_secs(75),
        write: Duration::ZERO,
    };

    fn stage(vigil: &Vigil) -> Stage {
        vigil.stage().0
    }

    #[test]
    fn a_connection_is_always_at_something() {
        let vigil = Vigil::new(Counter::default(), None);
        assert_eq!(stage(&vigil), Stage::New);
        vigil.in_head(true);
        assert_eq!(stage(&vigil), Stage::Head);
        vigil.in_head(false);
        let turn = vigil.begin();
        assert_eq!(stage(&vigil), Stage::Busy);
        let mut body = Watched::new(Answer::text(Bytes::from_static(b"a")), turn);
        assert_eq!(stage(&vigil), Stage::Stalled);
        // A head that begins behind it is no head to wait for yet.
        vigil.in_head(true);
        assert_eq!(stage(&vigil), Stage::Stalled);
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert!(matches!(
            Pin::new(&mut body).poll_frame(&mut cx),
            Poll::Ready(Some(_))
        ));
        assert_eq!(stage(&vigil), Stage::Stalled);
        assert!(matches!(
            Pin::new(&mut body).poll_frame(&mut cx),
            Poll::Ready(None)
        ));
        assert_eq!(stage(&vigil), Stage::Busy);
        drop(body);
        assert_eq!(stage(&vigil), Stage::Head);
        vigil.in_head(false);
        assert_eq!(stage(&vigil), Stage::Idle);
    }

    #[test]
    fn only_what_is_between_two_requests_rests() {
        let vigil = Vigil::new(Counter::default(), None);
        let later = Instant::now() + REST_AFTER * 2;
        vigil.serve(true);
        assert!(!vigil.may_rest(later), "it has said nothing");
        vigil.set_between(Some(1));
        let turn = vigil.begin();
        assert!(!vigil.may_rest(later), "its request is under way");
        drop(turn);
        assert!(vigil.may_rest(later) && !vigil.may_rest(Instant::now()));
        vigil.set_between(Some(2));
        assert!(
            !vigil.may_rest(later),
            "the next one lies in the library's buffer"
        );
        vigil.set_between(None);
        assert!(!vigil.may_rest(later), "it owes the rest of a body");
        vigil.set_between(Some(1));
        vigil.set_unsent(true);
        assert!(!vigil.may_rest(later), "the client has not got all of its answer");
        vigil.set_unsent(false);
        assert!(vigil.may_rest(later));
        vigil.rest();
        assert!(!vigil.may_rest(later) && vigil.is_resting());
    }

    #[test]
    fn what_has_no_bound_is_never_over() {
        assert_eq!(TIMES.of(Stage::Busy), None);
        assert_eq!(TIMES.of(Stage::Stalled), None);
        assert_eq!(TIMES.of(Stage::Head), Some(TIMES.header));
        assert_eq!(TIMES.of(Stage::Idle), Some(TIMES.idle));
        assert_eq!(TIMES.shortest(), TIMES.header);
    }
}
