//! A future that is looked at only when it calls. Stop signals and timers stand beside every connection and hardly ever
//! have something to say; asked with every byte that moves, their locks would cost more than the bytes.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

/// Between the future and the task that waits for it.
#[derive(Debug)]
struct Wire {
    rung: AtomicBool,
    waker: Mutex<Waker>,
}

impl Wake for Wire {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.waker
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .wake_by_ref();
    }
}

/// The future and its wire. It may be polled on after it was ready, if the future may.
#[derive(Debug)]
pub struct Bell<F> {
    future: F,
    wire: Arc<Wire>,
    /// The future's view of the wire.
    far: Waker,
    /// Whoever the wire leads to.
    near: Waker,
}

impl<F: Future + Unpin> Bell<F> {
    /// Looks at `future` once, and then when it calls.
    pub fn new(future: F) -> Self {
        let wire = Arc::new(Wire {
            rung: AtomicBool::new(true),
            waker: Mutex::new(Waker::noop().clone()),
        });
        Self {
            future,
            far: Waker::from(Arc::clone(&wire)),
            wire,
            near: Waker::noop().clone(),
        }
    }
}

impl<F: Future + Unpin> Future for Bell<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        if !this.near.will_wake(cx.waker()) {
            this.near.clone_from(cx.waker());
            let mut waker = this.wire.waker.lock().unwrap_or_else(PoisonError::into_inner);
            waker.clone_from(cx.waker());
        }
        if !this.wire.rung.load(Ordering::Relaxed) {
            return Poll::Pending;
        }
        // Before it is asked: a call from now on is a new one.
        this.wire.rung.swap(false, Ordering::AcqRel);
        let polled = Pin::new(&mut this.future).poll(&mut Context::from_waker(&this.far));
        if polled.is_ready() {
            // It has no reason to call again.
            this.wire.rung.store(true, Ordering::Release);
        }
        polled
    }
}

/// Runs `work` until it ends (`Some`) or `signal` comes (`None`).
pub async fn until<S: Future, W: Future + Unpin>(signal: S, mut work: W) -> Option<W::Output> {
    let signal = pin!(signal);
    let mut signal = Bell::new(signal);
    poll_fn(|cx| match Pin::new(&mut work).poll(cx) {
        Poll::Ready(done) => Poll::Ready(Some(done)),
        Poll::Pending => Pin::new(&mut signal).poll(cx).map(|_| None),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use tokio::sync::mpsc;
    use tokio_util::sync::CancellationToken;

    #[test]
    fn it_is_asked_when_it_calls_and_its_call_reaches_whoever_polled_last() {
        let (tell, mut told) = mpsc::unbounded_channel();
        let asked = AtomicU32::new(0);
        let mut bell = Bell::new(poll_fn(|cx| {
            asked.fetch_add(1, Ordering::Relaxed);
            told.poll_recv(cx)
        }));
        let woken = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut poll = |waker: &Waker| Pin::new(&mut bell).poll(&mut Context::from_waker(waker));
        for _ in 0..3 {
            assert!(poll(Waker::noop()).is_pending());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(poll(&waker).is_pending());
        for word in 1..4 {
            tell.send(word).expect("it listens");
            assert_eq!(woken.0.load(Ordering::Relaxed), word);
            assert_eq!(poll(&waker), Poll::Ready(Some(word)));
            assert!(poll(&waker).is_pending() && poll(&waker).is_pending());
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1 + 2 * 3);
    }

    #[derive(Default)]
    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[tokio::test]
    async fn work_ends_by_itself_or_with_the_signal() {
        let signal = CancellationToken::new();
        assert_eq!(until(signal.cancelled(), pin!(async { 1 })).await, Some(1));
        let endless = until(signal.cancelled(), std::future::pending::<()>());
        let (ended, ()) = tokio::join!(endless, async { signal.cancel() });
        assert!(ended.is_none());
    }
}
