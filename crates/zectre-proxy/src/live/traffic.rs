//! One deployment as its visitors see it: who is here, who waits for it to wake, when the last one left.

use super::{Budget, Lull, Replica, Route, red::Red};
use arc_swap::ArcSwapOption;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering::SeqCst},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use zectre_common::{id::DeploymentId, time::Time};

/// Deployments with something to tell, each at most once.
pub(super) type Changed = Mutex<Vec<Arc<Traffic>>>;

/// What a wake answered: used until a newer table takes over.
#[derive(Debug)]
pub struct Woken {
    /// Ready tasks.
    pub replicas: Vec<Arc<Replica>>,
    /// The routing epoch that the scheduler knew when it answered.
    pub epoch: u64,
}

/// What is told to the database about a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Activity {
    /// Which.
    pub deployment: DeploymentId,
    /// How long ago it last had a request. Clocks of machines differ; the database has one.
    pub idle: Duration,
    /// Requests under way, held ones and tunnels included.
    pub in_flight: u32,
}

/// The live side of a deployment.
#[derive(Debug)]
pub struct Traffic {
    id: DeploymentId,
    version: i32,
    route: Arc<Route>,
    in_flight: AtomicU32,
    held: AtomicU32,
    last_active_unix_ms: AtomicI64,
    changed: AtomicBool,
    log: Arc<Changed>,
    woken: ArcSwapOption<Woken>,
    budget: Budget,
    lull: Arc<Lull>,
    judging: Mutex<()>,
    /// The wake call under way, if any; see [`crate::wake`].
    pub(crate) waking: Mutex<Option<crate::wake::Waking>>,
}

impl Traffic {
    pub(super) fn new(id: DeploymentId, version: i32, route: Arc<Route>, log: Arc<Changed>) -> Arc<Self> {
        Arc::new(Self {
            id,
            version,
            route,
            in_flight: AtomicU32::new(0),
            held: AtomicU32::new(0),
            last_active_unix_ms: AtomicI64::new(0),
            changed: AtomicBool::new(false),
            log,
            woken: ArcSwapOption::empty(),
            budget: Budget::default(),
            lull: Arc::default(),
            judging: Mutex::new(()),
            waking: Mutex::new(None),
        })
    }

    /// Which deployment.
    pub fn id(&self) -> DeploymentId {
        self.id
    }

    /// Its number within the application.
    pub fn version(&self) -> i32 {
        self.version
    }

    /// Its environment.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(SeqCst)
    }

    /// Requests that wait for a replica.
    pub fn held(&self) -> u32 {
        self.held.load(SeqCst)
    }

    /// Counts a request, from its routing to its last byte.
    pub fn visit(self: &Arc<Self>) -> Visit {
        self.in_flight.fetch_add(1, SeqCst);
        self.route.red().begin();
        self.budget.earn();
        self.mark();
        Visit(Arc::clone(self))
    }

    /// How long its tasks let connections rest: all are of one program, and what the last one taught need not be learned again.
    pub fn lull(&self) -> &Arc<Lull> {
        &self.lull
    }

    /// For second tries.
    pub fn budget(&self) -> &Budget {
        &self.budget
    }

    /// One of its tasks, `replica` of `all`, failed a request.
    pub fn judge(&self, replica: &Replica, now_ms: u64, all: &[Arc<Replica>]) {
        // One at a time: two that fail at once must not both be the last one that may be passed over.
        let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        replica.failed(now_ms, all);
    }

    /// A waiting place, unless `max` are taken.
    pub fn hold(self: &Arc<Self>, max: u32) -> Option<Held> {
        let taken = self
            .held
            .fetch_update(SeqCst, SeqCst, |held| (held < max).then_some(held + 1));
        taken.is_ok().then(|| Held(Arc::clone(self)))
    }

    /// Whether a wake call is under way, of one that slept.
    pub fn is_being_woken(&self) -> bool {
        let waking = self.waking.lock().unwrap_or_else(PoisonError::into_inner);
        waking.as_ref().is_some_and(crate::wake::Waking::is_wake)
    }

    /// What the last wake answered.
    pub fn woken(&self) -> Option<Arc<Woken>> {
        self.woken.load_full()
    }

    pub(super) fn set_woken(&self, woken: Option<Arc<Woken>>) {
        self.woken.store(woken);
    }

    /// Puts it on the list of what is to be told, once.
    fn mark(self: &Arc<Self>) {
        // Read first: a store for every request would move the cache line between all threads. One order of all (SeqCst) keeps it
        // safe: who reads `true` is counted as under way before `tell` takes the mark away, and so seen by it.
        if !self.changed.load(SeqCst) && !self.changed.swap(true, SeqCst) {
            self.log
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(Arc::clone(self));
        }
    }

    /// What to tell now. A request under way is activity now, and stays on the list.
    pub(super) fn tell(self: &Arc<Self>, now: Time) -> Activity {
        self.changed.store(false, SeqCst);
        let in_flight = self.in_flight();
        if in_flight > 0 {
            self.last_active_unix_ms.fetch_max(now.unix_ms(), SeqCst);
            self.mark();
        }
        let last_active_at = Time::from_unix_ms(self.last_active_unix_ms.load(SeqCst));
        Activity {
            deployment: self.id,
            idle: now.since(last_active_at),
            in_flight,
        }
    }

    /// Was not told after all: try again.
    pub(super) fn tell_again(self: &Arc<Self>) {
        self.mark();
    }
}

/// A request of a deployment.
#[derive(Debug)]
pub struct Visit(Arc<Traffic>);

impl Visit {
    /// Of which deployment.
    pub fn deployment(&self) -> DeploymentId {
        self.0.id
    }

    /// What is counted of its route.
    pub fn red(&self) -> &Red {
        self.0.route.red()
    }

    /// Its live side.
    pub fn traffic(&self) -> &Traffic {
        &self.0
    }
}

/// What [`Time::now`] says, for a fifth of the price.
fn unix_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_millis() as i64
}

impl Drop for Visit {
    fn drop(&mut self) {
        // Many end in one millisecond, and only the first has something to write.
        let (last, now_unix_ms) = (&self.0.last_active_unix_ms, unix_ms());
        if last.load(SeqCst) < now_unix_ms {
            last.fetch_max(now_unix_ms, SeqCst);
        }
        self.0.in_flight.fetch_sub(1, SeqCst);
        self.0.route.red().end();
        self.0.mark();
    }
}

/// A waiting place; dropping it (the client went away) frees it.
#[derive(Debug)]
pub struct Held(Arc<Traffic>);

impl Held {
    /// Of which deployment.
    pub fn deployment(&self) -> DeploymentId {
        self.0.id
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, SeqCst);
    }
}
