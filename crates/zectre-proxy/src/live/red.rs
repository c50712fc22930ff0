//! What is counted of each route: rate, errors, duration, and what is under way.
//!
//! Each worker counts on a line of memory of its own, so that counting never waits for another core; whoever looks adds
//! them up. A route gets its lines with its first request, and only so many routes do: the others share one set.

use crate::workers;
use http::StatusCode;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use zectre_common::histogram::{BUCKETS, bucket};
use zectre_service::named::OTHER;

/// Classes of answers; the last one is for clients that left before there was any.
pub const CLASSES: [&str; 6] = ["1xx", "2xx", "3xx", "4xx", "5xx", "gone"];
const GONE: usize = CLASSES.len() - 1;

/// Upper bounds of the durations that are told apart, in microseconds; what takes longer is in a class of its own.
pub const BOUNDS_US: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000, 30_000_000,
];

/// One worker's counts; two cache lines apart from the next one's, since they are fetched in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    begun: AtomicU64,
    ended: AtomicU64,
    sum_us: AtomicU64,
    classes: [AtomicU64; CLASSES.len()],
    durations: [AtomicU64; BOUNDS_US.len() + 1],
    /// The same, finer.
    buckets: Buckets,
}

#[derive(Debug)]
struct Buckets([AtomicU64; BUCKETS]);

impl Default for Buckets {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

/// The counts of one route, or of all that share.
#[derive(Debug)]
pub struct Red {
    app: Box<str>,
    environment: Box<str>,
    shards: Box<[Shard]>,
}

/// The sum over all workers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    /// Requests under way.
    pub in_flight: u64,
    /// Answers by class.
    pub classes: [u64; CLASSES.len()],
    /// Answers by duration, each in one of them.
    pub durations: [u64; BOUNDS_US.len() + 1],
    /// The same in the buckets of the series in PostgreSQL, which are told to more than one proxy's readers.
    pub buckets: [u64; BUCKETS],
    /// Of all durations.
    pub sum_us: u64,
}

impl Default for Sum {
    fn default() -> Self {
        Self {
            in_flight: 0,
            classes: [0; CLASSES.len()],
            durations: [0; BOUNDS_US.len() + 1],
            buckets: [0; BUCKETS],
            sum_us: 0,
        }
    }
}

impl Red {
    fn new(app: &str, environment: &str) -> Arc<Self> {
        Arc::new(Self {
            app: app.into(),
            environment: environment.into(),
            shards: (0..workers::count()).map(|_| Shard::default()).collect(),
        })
    }

    /// The application's label under the platform domain.
    pub fn app(&self) -> &str {
        &self.app
    }

    /// The environment's name.
    pub fn environment(&self) -> &str {
        &self.environment
    }

    fn shard(&self) -> &Shard {
        &self.shards[workers::index()]
    }

    /// A request began.
    pub(super) fn begin(&self) {
        self.shard().begun.fetch_add(1, Relaxed);
    }

    /// A request ended, answered or not.
    pub(super) fn end(&self) {
        self.shard().ended.fetch_add(1, Relaxed);
    }

    /// A request was answered with `status`, `after` it came; the answer's body may still be on its way.
    pub fn answered(&self, status: StatusCode, after: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, GONE) - 1;
        let after_us = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        let shard = self.shard();
        shard.classes[class].fetch_add(1, Relaxed);
        shard.sum_us.fetch_add(after_us, Relaxed);
        shard.durations[BOUNDS_US.partition_point(|bound| *bound < after_us)].fetch_add(1, Relaxed);
        shard.buckets.0[bucket(after_us)].fetch_add(1, Relaxed);
    }

    /// The client left before there was an answer.
    pub fn gone(&self) {
        self.shard().classes[GONE].fetch_add(1, Relaxed);
    }

    /// Adds up.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        let (mut begun, mut ended) = (0_u64, 0_u64);
        for shard in &self.shards {
            // The ends first: what ends meanwhile is then still under way, instead of less than nothing.
            ended += shard.ended.load(Relaxed);
            for (total, count) in sum.classes.iter_mut().zip(&shard.classes) {
                *total += count.load(Relaxed);
            }
            for (total, count) in sum.durations.iter_mut().zip(&shard.durations) {
                *total += count.load(Relaxed);
            }
            for (total, count) in sum.buckets.iter_mut().zip(&shard.buckets.0) {
                *total += count.load(Relaxed);
            }
            sum.sum_us += shard.sum_us.load(Relaxed);
        }
        for shard in &self.shards {
            begun += shard.begun.load(Relaxed);
        }
        sum.in_flight = begun.saturating_sub(ended);
        sum
    }
}

/// Hands out the counts: to so many routes their own, to the others those of all others.
#[derive(Debug)]
pub struct Series {
    own_max: usize,
    own: Mutex<Vec<Arc<Red>>>,
    other: Arc<Red>,
}

impl Series {
    /// At most `own_max` routes have their own.
    pub fn new(own_max: usize) -> Arc<Self> {
        Arc::new(Self {
            own_max,
            own: Mutex::default(),
            other: Red::new(OTHER, OTHER),
        })
    }

    /// Those of a route that had none so far.
    pub(crate) fn take(&self, app: &str, environment: &str) -> Arc<Red> {
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        if own.len() >= self.own_max {
            return Arc::clone(&self.other);
        }
        let red = Red::new(app, environment);
        own.push(Arc::clone(&red));
        red
    }

    /// The route is gone; another one may have its place.
    pub(crate) fn give_back(&self, red: &Arc<Red>) {
        self.own
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|own| !Arc::ptr_eq(own, red));
    }

    /// All that were handed out, those of all others last.
    pub fn all(&self) -> Vec<Arc<Red>> {
        let mut all = self.own.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.push(Arc::clone(&self.other));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_in_one_class_and_one_duration() {
        let red = Red::new("a", "b");
        for _ in 0..5 {
            red.begin();
        }
        for (status, after_us) in [(101, 0), (200, 500), (404, 501), (599, u64::MAX >> 1)] {
            let status = StatusCode::from_u16(status).expect("a status");
            red.answered(status, Duration::from_micros(after_us));
            red.end();
        }
        red.gone();
        let sum = red.sum();
        assert_eq!(sum.in_flight, 1);
        assert_eq!(sum.classes, [1, 1, 0, 1, 1, 1]);
        assert_eq!((sum.durations[0], sum.durations[1], sum.durations[15]), (2, 1, 1));
        assert_eq!(sum.durations.iter().sum::<u64>(), 4);
        assert_eq!((sum.buckets[0], sum.buckets[BUCKETS - 1]), (1, 1));
        assert_eq!(sum.buckets.iter().sum::<u64>(), 4);
    }

    #[test]
    fn no_more_routes_have_their_own_than_may_and_a_place_is_free_again() {
        let series = Series::new(2);
        let (one, two) = (series.take("one", "production"), series.take("two", "production"));
        let other = series.take("three", "production");
        assert_eq!(
            (one.app(), two.app(), other.app(), other.environment()),
            ("one", "two", OTHER, OTHER)
        );
        assert_eq!(series.all().len(), 3);
        series.give_back(&one);
        // Giving back what is shared takes nothing from anybody.
        series.give_back(&other);
        assert_eq!(series.take("four", "production").app(), "four");
        assert_eq!(series.take("five", "production").app(), OTHER);
    }

    #[test]
    fn counts_of_many_threads_add_up() {
        let red = Red::new("a", "b");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..1_000 {
                        red.begin();
                        red.answered(StatusCode::OK, Duration::from_millis(1));
                        red.end();
                    }
                });
            }
        });
        let sum = red.sum();
        assert_eq!((sum.in_flight, sum.classes[1], sum.sum_us), (0, 4_000, 4_000_000));
    }
}
