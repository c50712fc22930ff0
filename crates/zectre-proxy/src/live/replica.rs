//! One task that takes requests. It is taken with [`Replica::lease`], which fails once the task has
//! left the table, so that a drained task can never be handed one more request.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::SeqCst},
};
use tokio::sync::Notify;
use zectre_common::id::TaskId;

/// A task that could not be reached is passed over for so long; its lease or the table will tell the rest.
pub const EJECT_MS: u64 = 1_000;

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
    /// The first epoch without it, or [`PRESENT`].
    removed_at: AtomicU64,
    /// Milliseconds of the proxy's clock.
    ejected_until_ms: AtomicU64,
    drained: Arc<Notify>,
}

impl Replica {
    /// A task in the table. `drained` is told when its last request ends after it was removed.
    pub fn new(task: TaskId, address: &str, port: u16, http2: bool, drained: Arc<Notify>) -> Arc<Self> {
        Arc::new(Self {
            task,
            address: address.into(),
            port,
            http2,
            in_flight: AtomicU32::new(0),
            removed_at: AtomicU64::new(PRESENT),
            ejected_until_ms: AtomicU64::new(0),
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
        (self.removed_at.load(SeqCst) == PRESENT).then_some(lease)
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

    /// Passes it over for [`EJECT_MS`].
    pub fn eject(&self, now_ms: u64) {
        self.ejected_until_ms.store(now_ms + EJECT_MS, SeqCst);
    }

    /// When it may be tried again; in the past for a healthy one.
    pub fn ejected_until_ms(&self) -> u64 {
        self.ejected_until_ms.load(SeqCst)
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
        let replica = Replica::new(TaskId::new(), "127.0.0.1", 1, false, Arc::new(Notify::new()));
        let first = replica.lease().expect("it is in the table");
        replica.remove(7);
        assert!(replica.lease().is_none());
        assert_eq!(replica.in_flight(), 1);
        drop(first);
        assert_eq!((replica.in_flight(), replica.removed_at()), (0, 7));
        replica.restore();
        assert!(replica.lease().is_some());
    }
}
