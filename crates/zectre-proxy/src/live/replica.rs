//! One task that takes requests. It is taken with [`Replica::lease`], which fails once the task has
//! left the table, so that a drained task can never be handed one more request.

use super::{Lull, Node, Pace, Tally, suspicion::Suspicion};
use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{
        AtomicBool, AtomicU32, AtomicU64,
        Ordering::{Relaxed, SeqCst},
    },
};
use tokio::sync::Notify;
use zectre_common::id::TaskId;

/// A task that could not be reached is passed over for so long; its lease or the table will tell the rest.
pub const EJECT_MS: u64 = 1_000;
/// Doubled for each failure in a row, up to this: what is away for long must not cost a connection attempt a second.
const EJECT_MS_MAX: u64 = 2 * EJECT_MS;

/// A new task gets its full share of the requests after so many steps of [`SLOW_START_STEP_MS`]: caches are cold, and
/// much is done for the first time.
pub const SLOW_START_STEPS: u64 = 10;
const SLOW_START_STEP_MS: u64 = 500;

/// `removed_at` of a task that is in the table.
const PRESENT: u64 = 0;

/// A task's address and its requests under way.
#[derive(Debug)]
pub struct Replica {
    task: TaskId,
    address: Box<str>,
    port: u16,
    http2: bool,
    in_flight: AtomicU32,
    /// Places that were given on it; beside the count that changes with it.
    requests: AtomicU64,
    /// Requests that it lost, or answered with an error of its own.
    failures: AtomicU64,
    connect_failures: AtomicU64,
    /// The first epoch without it, or [`PRESENT`].
    removed_at: AtomicU64,
    /// Milliseconds of the proxy's clock.
    ejected_until_ms: AtomicU64,
    /// When it was first looked at, of the same clock, and one more; 0 before.
    born_ms: AtomicU64,
    suspicion: Mutex<Suspicion>,
    /// Passed over until then for what it answered; of the same clock.
    suspect_until_ms: AtomicU64,
    /// The last request failed: an answer has something to tell the suspicion.
    failing: AtomicBool,
    /// Ejections since it last answered.
    ejections: AtomicU32,
    /// The last attempt to connect got no answer at all: its node is gone, or the way there.
    unreachable: AtomicBool,
    /// Somebody is trying to connect to find that out.
    knocking: AtomicBool,
    pace: Arc<Pace>,
    lull: Arc<Lull>,
    /// What stands for it in cookies, once somebody asked.
    mark: OnceLock<Box<str>>,
    /// Where it runs, once somebody said so.
    node: OnceLock<Arc<Node>>,
    drained: Arc<Notify>,
}

impl Replica {
    /// A task in the table. `drained` is told when its last request ends after it was removed; `lull` is what is known of its program.
    pub fn new(
        task: TaskId,
        address: &str,
        port: u16,
        http2: bool,
        drained: Arc<Notify>,
        lull: Arc<Lull>,
    ) -> Arc<Self> {
        Arc::new(Self {
            task,
            address: address.into(),
            port,
            http2,
            in_flight: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connect_failures: AtomicU64::new(0),
            removed_at: AtomicU64::new(PRESENT),
            ejected_until_ms: AtomicU64::new(0),
            born_ms: AtomicU64::new(0),
            suspicion: Mutex::default(),
            suspect_until_ms: AtomicU64::new(0),
            failing: AtomicBool::new(false),
            ejections: AtomicU32::new(0),
            unreachable: AtomicBool::new(false),
            knocking: AtomicBool::new(false),
            pace: Arc::default(),
            lull,
            mark: OnceLock::new(),
            node: OnceLock::new(),
            drained,
        })
    }

    /// Its id.
    pub fn task(&self) -> TaskId {
        self.task
    }

    /// Host or IP address of its node.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its published port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether it is spoken to in HTTP/2 (`networking.protocol = "grpc"`).
    pub fn http2(&self) -> bool {
        self.http2
    }

    /// Says where it runs; a task never moves.
    pub fn stands_on(&self, node: impl FnOnce() -> Arc<Node>) {
        self.node.get_or_init(node);
    }

    /// Where it runs.
    pub fn node(&self) -> Option<&Node> {
        self.node.get().map(|node| &**node)
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Takes a place on it; `None` when it has left the table meanwhile.
    pub fn lease(self: &Arc<Self>) -> Option<Lease> {
        // Count first, look second; `remove` marks first and counts second. Under one order of all four
        // (SeqCst) either the remover sees this request or this request sees the mark.
        self.in_flight.fetch_add(1, SeqCst);
        let lease = Lease {
            replica: Arc::clone(self),
        };
        if self.removed_at.load(SeqCst) != PRESENT {
            return None;
        }
        self.requests.fetch_add(1, Relaxed);
        Some(lease)
    }

    /// It is not in the table from `epoch` on.
    pub(super) fn remove(&self, epoch: u64) {
        // An earlier mark stands: what left in 5 has not come back in 7.
        let _ = self
            .removed_at
            .compare_exchange(PRESENT, epoch.max(1), SeqCst, SeqCst);
    }

    /// It is in the table again.
    pub(super) fn restore(&self) {
        self.removed_at.store(PRESENT, SeqCst);
    }

    /// The first epoch without it.
    pub(super) fn removed_at(&self) -> u64 {
        self.removed_at.load(SeqCst)
    }

    /// Passes it over for [`EJECT_MS`], or longer when it fails again and again.
    pub fn eject(&self, now_ms: u64) {
        // Requests that were under way together fail together, and count once.
        if self.ejected_until_ms.load(SeqCst) <= now_ms {
            let again = self.ejections.fetch_add(1, Relaxed).min(8);
            let pause_ms = (EJECT_MS << again).min(EJECT_MS_MAX);
            self.ejected_until_ms.store(now_ms + pause_ms, SeqCst);
        }
    }

    /// How much of its share of the requests it gets, in tenths: more with each step of its first seconds, which begin
    /// with the first look.
    pub fn weight(&self, now_ms: u64) -> u64 {
        if self.born_ms.load(Relaxed) == 0 {
            self.born_ms.store(now_ms + 1, Relaxed);
        }
        self.share(now_ms)
    }

    /// The same for whoever is only curious, in [`SLOW_START_STEPS`].
    pub fn share(&self, now_ms: u64) -> u64 {
        let born_ms = match self.born_ms.load(Relaxed) {
            0 => now_ms,
            born_ms => born_ms - 1,
        };
        (now_ms.saturating_sub(born_ms) / SLOW_START_STEP_MS + 1).min(SLOW_START_STEPS)
    }

    /// It failed a request that reached it, or answered that it failed. `all` are the tasks of its deployment, of which
    /// half are always trusted; the caller sees to it that only one of them is judged at a time.
    pub fn failed(&self, now_ms: u64, all: &[Arc<Self>]) {
        self.failing.store(true, Relaxed);
        self.count_failure();
        let out = |other: &&Arc<Self>| other.task != self.task && other.is_suspect(now_ms);
        let others = all.iter().filter(out).count();
        let mut suspicion = self.suspicion.lock().unwrap_or_else(PoisonError::into_inner);
        suspicion.fail(now_ms, others, all.len());
        self.suspect_until_ms.store(suspicion.until_ms, SeqCst);
    }

    /// It failed a request, in a way that nothing is to be concluded from or that [`Replica::failed`] does not hear of.
    pub fn count_failure(&self) {
        self.failures.fetch_add(1, Relaxed);
    }

    /// An attempt to connect to it failed.
    pub fn count_connect_failure(&self) {
        self.connect_failures.fetch_add(1, Relaxed);
    }

    /// What was counted of it.
    pub fn tally(&self) -> Tally {
        Tally {
            requests: self.requests.load(Relaxed),
            failures: self.failures.load(Relaxed),
            connect_failures: self.connect_failures.load(Relaxed),
        }
    }

    /// It served a request.
    pub fn served(&self) {
        // Read first: a store for every request would move the cache line between all threads.
        if self.failing.load(Relaxed) {
            self.failing.store(false, Relaxed);
            self.suspicion
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .serve();
        }
    }

    /// Whether requests go elsewhere where they can.
    pub fn is_passed_over(&self, now_ms: u64) -> bool {
        self.ejected_until_ms() > now_ms || self.is_suspect(now_ms)
    }

    /// Whether it is passed over for what it answered.
    pub fn is_suspect(&self, now_ms: u64) -> bool {
        self.suspect_until_ms() > now_ms
    }

    /// Until when it is; in the past for a healthy one.
    pub fn suspect_until_ms(&self) -> u64 {
        self.suspect_until_ms.load(SeqCst)
    }

    /// It answered a request.
    pub fn answered(&self) {
        // Read first: a store for every request would move the cache line between all threads.
        if self.ejections.load(Relaxed) != 0 {
            self.ejections.store(0, Relaxed);
        }
        if !self.is_reachable() {
            self.set_reachable(true);
        }
    }

    /// What came of an attempt to connect: an answer, even a refusal, or nothing at all.
    pub fn set_reachable(&self, reachable: bool) {
        self.unreachable.store(!reachable, SeqCst);
    }

    /// Whether the last attempt to connect got an answer.
    pub fn is_reachable(&self) -> bool {
        !self.unreachable.load(SeqCst)
    }

    /// The right to find out whether it is there; `None` while somebody else does.
    pub fn knock(&self) -> Option<Knock<'_>> {
        (!self.knocking.swap(true, SeqCst)).then_some(Knock(self))
    }

    /// How many connections to it may be opened at once.
    pub fn pace(&self) -> &Arc<Pace> {
        &self.pace
    }

    /// How long it lets connections rest.
    pub fn lull(&self) -> &Arc<Lull> {
        &self.lull
    }

    /// What stands for it in cookies; `make` makes it, once.
    pub fn mark(&self, make: impl FnOnce(TaskId) -> String) -> &str {
        self.mark.get_or_init(|| make(self.task).into())
    }

    /// Whether it has left the table.
    pub fn has_left(&self) -> bool {
        self.removed_at.load(SeqCst) != PRESENT
    }

    /// When it may be tried again; in the past for a healthy one.
    pub fn ejected_until_ms(&self) -> u64 {
        self.ejected_until_ms.load(SeqCst)
    }
}

/// The right to knock; given back when dropped.
#[derive(Debug)]
pub struct Knock<'r>(&'r Replica);

impl Drop for Knock<'_> {
    fn drop(&mut self) {
        self.0.knocking.store(false, SeqCst);
    }
}

/// A place on a replica, held as long as the request is under way.
#[derive(Debug)]
pub struct Lease {
    replica: Arc<Replica>,
}

impl Lease {
    /// Where the place is.
    pub fn replica(&self) -> &Arc<Replica> {
        &self.replica
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let before = self.replica.in_flight.fetch_sub(1, SeqCst);
        if before == 1 && self.replica.removed_at.load(SeqCst) != PRESENT {
            self.replica.drained.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_replica_takes_no_more_and_counts_what_it_has() {
        let replica = Replica::new(
            TaskId::new(),
            "127.0.0.1",
            1,
            false,
            Arc::default(),
            Arc::default(),
        );
        let first = replica.lease().expect("it is in the table");
        replica.remove(7);
        assert!(replica.lease().is_none());
        assert_eq!(replica.in_flight(), 1);
        drop(first);
        assert_eq!((replica.in_flight(), replica.removed_at()), (0, 7));
        replica.restore();
        assert!(replica.lease().is_some());
    }

    #[test]
    fn failures_in_a_row_eject_for_longer_and_an_answer_forgives() {
        let replica = Replica::new(
            TaskId::new(),
            "127.0.0.1",
            1,
            false,
            Arc::default(),
            Arc::default(),
        );
        let mut now_ms = 0;
        for pause_ms in [1_000, 2_000, 2_000] {
            replica.eject(now_ms);
            // The others of the same moment change nothing.
            replica.eject(now_ms + 1);
            assert_eq!(replica.ejected_until_ms(), now_ms + pause_ms);
            now_ms += pause_ms;
        }
        replica.answered();
        replica.eject(now_ms);
        assert_eq!(replica.ejected_until_ms(), now_ms + EJECT_MS);
    }

    #[test]
    fn one_knocks_at_a_time() {
        let replica = Replica::new(
            TaskId::new(),
            "127.0.0.1",
            1,
            false,
            Arc::default(),
            Arc::default(),
        );
        let knock = replica.knock().expect("nobody knocks yet");
        assert!(replica.knock().is_none());
        drop(knock);
        assert!(replica.knock().is_some());
    }
}
