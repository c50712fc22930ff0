//! The threads that carry connections: one a core, each with a runtime of its own. A client's connection, its requests
//! and the connections to tasks that serve them stay on one thread, so that no request waits for another thread to
//! wake up. (On one runtime over all cores every request crosses threads up to four times.)
//!
//! Whoever accepts a connection asks for a [`Seat`] and spawns on its handle.

use std::{
    cell::Cell,
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};
use tokio::{
    runtime::{Builder, Handle},
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::{CancellationToken, DropGuard};
use zectre_service::tasks::Shutdown;

/// Each worker has a timer that runs out so often, and nobody waits for it. A runtime that sleeps is woken (a write and a read that the
/// system sees) for each new timer that runs out before all it knew when it fell asleep. The first request for a while on a connection to a
/// task sets one, which would be the first of all: so a request waits for its answer by no shorter timer than this.
pub const BEAT: Duration = Duration::from_millis(500);

thread_local! {
    static INDEX: Cell<usize> = const { Cell::new(0) };
}

/// Which worker this thread is; 0 for threads that are none.
pub fn index() -> usize {
    INDEX.get()
}

/// How many workers there are: one a core.
pub fn count() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    seated: Arc<AtomicUsize>,
}

/// Finds the least busy worker; cheap to clone.
#[derive(Debug, Clone)]
pub struct Workers(Arc<[Worker]>);

/// Keeps the threads running; they end with it, and what still runs on them is dropped.
#[derive(Debug)]
pub struct Threads {
    /// Told by each at its end; closed when all have ended.
    ended: mpsc::Receiver<()>,
    stop: DropGuard,
}

/// Tells that a thread ends, however it does.
struct Leaving(mpsc::Sender<()>);

impl Drop for Leaving {
    fn drop(&mut self) {
        let _ = self.0.try_send(());
    }
}

/// A connection's place on a worker, counted until it is dropped.
#[derive(Debug)]
pub struct Seat {
    handle: Handle,
    seated: Arc<AtomicUsize>,
}

/// Starts [`count`] workers.
pub fn start() -> io::Result<(Workers, Threads)> {
    let (stop, count) = (CancellationToken::new(), count());
    let (tell, ended) = mpsc::channel(count);
    let mut workers = Vec::with_capacity(count);
    for index in 0..count {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        workers.push(Worker {
            handle: runtime.handle().clone(),
            seated: Arc::default(),
        });
        let (stop, leaving) = (stop.clone(), Leaving(tell.clone()));
        let work = move || {
            let _leaving = leaving;
            INDEX.set(index);
            runtime.block_on(stop.run_until_cancelled(beat()));
        };
        thread::Builder::new()
            .name(format!("ingress-{index}"))
            .spawn(work)?;
    }
    let stop = stop.drop_guard();
    Ok((Workers(workers.into()), Threads { ended, stop }))
}

async fn beat() {
    let mut beat = interval(BEAT);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        beat.tick().await;
    }
}

impl Workers {
    /// A place on the worker with the fewest connections.
    pub fn seat(&self) -> Seat {
        let least = self.0.iter().min_by_key(|worker| worker.seated.load(Relaxed));
        let worker = least.expect("there is at least one core");
        worker.seated.fetch_add(1, Relaxed);
        Seat {
            handle: worker.handle.clone(),
            seated: Arc::clone(&worker.seated),
        }
    }
}

impl Seat {
    /// Where to spawn the connection.
    pub fn handle(&self) -> &Handle {
        &self.handle
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seated.fetch_sub(1, Relaxed);
    }
}

impl Threads {
    /// Keeps them until `shutdown`, then waits for their end; ends early when one of them does.
    pub async fn supervise(mut self, shutdown: Shutdown) {
        shutdown.or_requested(self.ended.recv()).await;
        drop(self.stop);
        while self.ended.recv().await.is_some() {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_spread_evenly_and_stay_on_one_thread_each() {
        let (workers, threads) = start().expect("threads can be started");
        let seats: Vec<Seat> = (0..count() * 3).map(|_| workers.seat()).collect();
        let mut seen = vec![0; count()];
        for seat in &seats {
            seen[seat.handle().spawn(async { index() }).await.expect("it runs")] += 1;
        }
        assert!(seen.iter().all(|connections| *connections == 3), "{seen:?}");
        drop(seats);
        assert!(workers.0.iter().all(|worker| worker.seated.load(Relaxed) == 0));
        let stop = Shutdown::new();
        stop.request();
        tokio::time::timeout(Duration::from_secs(60), threads.supervise(stop))
            .await
            .expect("they end");
    }

    #[tokio::test]
    async fn what_still_runs_on_them_ends_with_them() {
        let (workers, threads) = start().expect("threads can be started");
        let seat = workers.seat();
        let endless = seat.handle().spawn(std::future::pending::<()>());
        drop(threads);
        let ended = tokio::time::timeout(Duration::from_secs(60), endless).await;
        assert!(ended.expect("it is dropped").is_err());
    }
}
