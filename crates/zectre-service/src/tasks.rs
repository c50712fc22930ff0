//! Background work: named, supervised, stopped in order.
//!
//! A task that panics or ends before it was asked to brings its service down in order (a service that has
//! silently lost a part is worse than one that restarts).

use futures_util::FutureExt;
use std::{
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

/// Asks a service, and all it runs, to stop.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Not requested yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Requests it; asking twice is harmless.
    pub fn request(&self) {
        self.0.cancel();
    }

    /// Whether it was requested.
    pub fn is_requested(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Resolves once it is requested.
    pub async fn requested(&self) {
        self.0.cancelled().await;
    }

    /// One that follows this one and can also be requested alone.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    /// Runs `future` until it ends (`Some`) or the shutdown is requested (`None`).
    pub async fn or_requested<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.run_until_cancelled(future).await
    }
}

struct Running {
    name: &'static str,
    stop: Shutdown,
    handle: JoinHandle<()>,
}

/// The background tasks of one service.
#[derive(Clone)]
pub struct Tasks {
    service: Shutdown,
    running: Arc<Mutex<Vec<Running>>>,
}

impl Tasks {
    /// For a service that stops when `shutdown` is requested. Each task gets a [`Shutdown`] of its own, which
    /// is requested by [`Tasks::stop`], in reverse order of starting: what came last depends on what came first.
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            service: shutdown,
            running: Arc::default(),
        }
    }

    /// Starts `work`, which must run until its [`Shutdown`] is requested.
    pub fn spawn<F, W>(&self, name: &'static str, work: W)
    where
        W: FnOnce(Shutdown) -> F,
        F: Future<Output = ()> + Send + 'static,
    {
        let stop = Shutdown::new();
        let future = work(stop.clone());
        let (service, asked) = (self.service.clone(), stop.clone());
        #[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
        let handle = tokio::spawn(async move {
            match AssertUnwindSafe(future).catch_unwind().await {
                Ok(()) if asked.is_requested() || service.is_requested() => {}
                Ok(()) => {
                    tracing::error!(
                        task = name,
                        "a background task ended by itself; stopping the service"
                    );
                    service.request();
                }
                Err(_) => {
                    tracing::error!(task = name, "a background task panicked; stopping the service");
                    service.request();
                }
            }
        });
        self.lock().push(Running { name, stop, handle });
    }

    /// Starts work that may end by itself, such as serving one connection. It is waited for (and, past the
    /// deadline, cut off) by [`Tasks::stop`]; a panic in it is logged and hurts nothing else.
    pub fn spawn_brief<F>(&self, name: &'static str, future: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        #[expect(clippy::disallowed_methods, reason = "this is the supervisor")]
        let handle = tokio::spawn(async move {
            if AssertUnwindSafe(future).catch_unwind().await.is_err() {
                tracing::error!(task = name, "a task panicked");
            }
        });
        let mut running = self.lock();
        running.retain(|task| !task.handle.is_finished());
        running.push(Running {
            name,
            stop: Shutdown::new(),
            handle,
        });
    }

    /// Asks every task to stop, last started first, and waits for each; what has not ended after `deadline`
    /// (for all together) is cut off, and said so.
    pub async fn stop(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        loop {
            let Some(mut task) = self.lock().pop() else { return };
            task.stop.request();
            if tokio::time::timeout_at(until, pin!(&mut task.handle))
                .await
                .is_err()
            {
                tracing::warn!(task = task.name, "cut off: it did not stop in time");
                task.handle.abort();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_stops_the_service() {
        let shutdown = Shutdown::new();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("broken", |_| async { panic!("on purpose") });
        tokio::time::timeout(Duration::from_secs(60), shutdown.requested())
            .await
            .expect("noticed");
        tasks.stop(Duration::from_secs(1)).await;
    }

    #[tokio::test]
    async fn the_last_started_stops_first() {
        let order = Arc::new(Mutex::new(Vec::new()));
        let tasks = Tasks::new(Shutdown::new());
        for name in ["first", "second"] {
            let order = order.clone();
            tasks.spawn(name, |stop| async move {
                stop.requested().await;
                order.lock().expect("not poisoned").push(name);
            });
        }
        tasks.stop(Duration::from_secs(5)).await;
        assert_eq!(*order.lock().expect("not poisoned"), ["second", "first"]);
    }
}
