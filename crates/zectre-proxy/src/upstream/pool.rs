//! Idle connections by task, the last used first.

use super::{
    link::{Link, Sender, Single},
    shared::Shared,
};
use crate::live::{Pace, Replica};
use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::task::TaskTracker;
use zectre_common::id::TaskId;

/// Idle connections kept for one task; more are closed.
const IDLE_MAX: usize = 256;
/// An idle connection is closed after so long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Half of the bits of an id are random: they are as good as a hash of them, which would cost a request two.
#[derive(Debug, Default)]
struct Bits(u64);

impl Hasher for Bits {
    fn write(&mut self, bytes: &[u8]) {
        // The last ones count, which are the random ones.
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

type ByTask = HashMap<TaskId, Kept, BuildHasherDefault<Bits>>;

#[derive(Debug)]
struct Idle {
    single: Single,
    since: Instant,
}

#[derive(Debug, Default)]
struct Kept {
    http1: Vec<Idle>,
    http2: Vec<Shared>,
}

/// The pool.
#[derive(Debug)]
pub(super) struct Pool {
    kept: Mutex<ByTask>,
    /// Where connections are waited for that are about to be ready.
    tasks: TaskTracker,
}

impl Pool {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            kept: Mutex::default(),
            tasks,
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByTask> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A usable connection to `replica` that has been idle for at most `idle_max`.
    pub(super) fn take(self: &Arc<Self>, replica: &Replica, idle_max: Option<Duration>) -> Option<Link> {
        let task = replica.task();
        let mut kept = self.lock();
        let kept = kept.get_mut(&task)?;
        if replica.http2() {
            kept.http2.retain(|shared| !shared.is_closed());
            // The first one with room, so that the last ones run empty and are closed.
            let stream = kept.http2.iter().find_map(Shared::stream)?;
            return Some(Link::new(replica, Sender::Http2(stream), self).kept());
        }
        let mut index = kept.http1.len();
        while index > 0 {
            index -= 1;
            let idle = &kept.http1[index];
            if idle.single.sender.is_closed() {
                kept.http1.swap_remove(index);
            } else if idle_max.is_some_and(|max| idle.since.elapsed() >= max) {
                return None;
            } else if idle.single.sender.is_ready() {
                let Idle { single, since } = kept.http1.remove(index);
                single.rests.end();
                return Some(Link::new(replica, Sender::Http1(single), self).rested_since(since));
            }
            // Neither closed nor ready: it is about to notice the end of its last answer.
        }
        None
    }

    /// A new connection on loan.
    pub(super) fn lend(self: &Arc<Self>, replica: &Replica, single: Single) -> Link {
        Link::new(replica, Sender::Http1(single), self)
    }

    /// A stream of a new connection that others may use from now on; `None` when it is closed already.
    pub(super) fn share(self: &Arc<Self>, replica: &Replica, shared: Shared) -> Option<Link> {
        let stream = shared.stream()?;
        self.lock().entry(replica.task()).or_default().http2.push(shared);
        Some(Link::new(replica, Sender::Http2(stream), self))
    }

    /// Keeps a connection for the next request, and calls it when it already waits.
    pub(super) fn put(self: Arc<Self>, task: TaskId, mut single: Single, pace: &Arc<Pace>) {
        if single.sender.is_closed() || pace.gives_place() {
            return;
        }
        if !pace.is_crowded() {
            return self.keep(task, single);
        }
        if single.sender.is_ready() {
            self.keep(task, single);
            return pace.call();
        }
        let (tasks, pace) = (self.tasks.clone(), Arc::clone(pace));
        tasks.spawn(async move {
            // It fails when the connection ends, and then there is nothing to keep.
            if single.sender.ready().await.is_ok() {
                self.keep(task, single);
                pace.call();
            }
        });
    }

    fn keep(&self, task: TaskId, single: Single) {
        let mut kept = self.lock();
        let idle = &mut kept.entry(task).or_default().http1;
        if idle.len() < IDLE_MAX {
            let since = Instant::now();
            single.rests.begin(since);
            idle.push(Idle { single, since });
        }
    }

    /// Closes the connection to a task that has been idle for longest; whether there was one.
    pub(super) fn drop_oldest(&self, task: TaskId) -> bool {
        let mut kept = self.lock();
        let Some(kept) = kept.get_mut(&task) else {
            return false;
        };
        kept.http1.retain(|idle| !idle.single.sender.is_closed());
        !kept.http1.is_empty() && {
            kept.http1.remove(0).single.rests.end();
            true
        }
    }

    /// Closes the idle connections to a task: its node does not answer, and none of them would tell.
    pub(super) fn forget(&self, task: TaskId) {
        let gone = self.lock().remove(&task);
        for idle in gone.into_iter().flat_map(|kept| kept.http1) {
            idle.single.rests.end();
        }
    }

    /// Closes what is idle for too long or leads to a task that `keep` doesn't know.
    pub(super) fn sweep(&self, keep: impl Fn(TaskId) -> bool) {
        self.lock().retain(|task, kept| {
            let known = keep(*task);
            kept.http1.retain(|idle| {
                let stays = known && idle.since.elapsed() < IDLE_TIMEOUT;
                if !stays {
                    // By us: no news of its task, which may come back.
                    idle.single.rests.end();
                }
                stays && !idle.single.sender.is_closed()
            });
            let mut first = true;
            kept.http2.retain(|shared| {
                // Of those without a request one is kept.
                !shared.is_closed() && (mem::take(&mut first) || !shared.is_idle(IDLE_TIMEOUT))
            });
            known && !(kept.http1.is_empty() && kept.http2.is_empty())
        });
    }
}
