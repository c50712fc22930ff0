//! The streams of HTTP/2, each with a clock of its own. A client that leaves one answer where it is (a film that pauses)
//! goes on with the others: so it is that stream that is reset, and the connection only ends when its socket stands still.

use super::vigil::Vigil;
use hyper::rt::Executor;
use hyper_util::rt::TokioExecutor;
use prometheus_client::metrics::counter::Counter;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tokio::time::{Sleep, sleep_until};

tokio::task_local! {
    /// Of the stream whose request is being served, or whose answer is being sent.
    static CLOCK: Arc<Clock>;
}

/// Tells since when a client could have more of an answer.
#[derive(Debug)]
pub(super) struct Clock {
    started: Instant,
    /// And one more; 0 while nothing is on offer.
    offered_ms: AtomicU64,
    /// The connection's.
    vigil: OnceLock<Arc<Vigil>>,
}

impl Clock {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            offered_ms: AtomicU64::new(0),
            vigil: OnceLock::new(),
        })
    }

    /// That of the stream in hand, on a connection with this vigil; `None` where answers have none.
    pub(super) fn of(vigil: &Arc<Vigil>) -> Option<Arc<Self>> {
        let clock = CLOCK.try_with(Arc::clone).ok()?;
        clock.vigil.get_or_init(|| Arc::clone(vigil));
        Some(clock)
    }

    /// The client has taken what there was; there is more, or not.
    pub(super) fn offer(&self, more: bool) {
        let now_ms = self.started.elapsed().as_millis() as u64;
        self.offered_ms.store(if more { now_ms + 1 } else { 0 }, Relaxed);
    }

    fn offered_since(&self) -> Option<Instant> {
        let at_ms = self.offered_ms.load(Relaxed).checked_sub(1)?;
        Some(self.started + Duration::from_millis(at_ms))
    }

    /// Whether what was written to the connection waits for the client: how long that may be is measured there.
    fn waits_for_others(&self) -> bool {
        self.vigil.get().is_some_and(|vigil| vigil.is_unsent())
    }
}

/// Runs streams; a stream whose client takes nothing for `patience` is reset.
#[derive(Debug, Clone)]
pub(super) struct Streams {
    patience: Duration,
    reset: Counter,
}

impl Streams {
    /// [`Duration::ZERO`] for no bound; `reset` counts.
    pub(super) fn new(patience: Duration, reset: Counter) -> Self {
        Self { patience, reset }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, future: F) {
        if self.patience.is_zero() {
            return TokioExecutor::new().execute(future);
        }
        TokioExecutor::new().execute(Timed {
            future: Box::pin(future),
            clock: Clock::new(),
            timer: None,
            streams: self.clone(),
        });
    }
}

/// One stream. To drop it resets the stream, if it has not ended.
struct Timed<F> {
    future: Pin<Box<F>>,
    clock: Arc<Clock>,
    timer: Option<Pin<Box<Sleep>>>,
    streams: Streams,
}

impl<F: Future<Output = ()>> Future for Timed<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        let future = &mut this.future;
        if CLOCK
            .sync_scope(Arc::clone(&this.clock), || future.as_mut().poll(cx))
            .is_ready()
        {
            return Poll::Ready(());
        }
        // A timer that runs is not set back with each movement: when it rings, it is seen how long it was.
        while let Some(since) = this.clock.offered_since() {
            let timer = this
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until((since + this.streams.patience).into())));
            if timer.as_mut().poll(cx).is_pending() {
                break;
            }
            let (now, mut over) = (Instant::now(), since + this.streams.patience);
            if over <= now && this.clock.waits_for_others() {
                over = now + this.streams.patience;
            }
            if over <= now {
                this.streams.reset.inc();
                return Poll::Ready(());
            }
            timer.as_mut().reset(over.into());
        }
        Poll::Pending
    }
}
