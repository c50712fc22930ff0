//! So many a second, and so many at once: the generic cell rate algorithm, which is a token bucket that needs one
//! number to remember. The number is the time at which the bucket will be full again.

use super::client::ClientKey;
use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// A rate with a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Nanoseconds that one request takes out of the bucket.
    interval_ns: u64,
    /// How far the bucket may be in debt.
    tolerance_ns: u64,
}

impl Rate {
    /// `None` for a rate of 0, which is no limit.
    pub fn new(per_sec: u32, burst: u32) -> Option<Self> {
        let interval_ns = 1_000_000_000_u64.checked_div(u64::from(per_sec))?.max(1);
        Some(Self {
            interval_ns,
            tolerance_ns: interval_ns * u64::from(burst.max(1) - 1),
        })
    }

    /// Takes one at `now_ns` from a bucket that is full at `full_at_ns`: when it is full then, or how long to wait.
    pub fn take(self, full_at_ns: u64, now_ns: u64) -> Result<u64, Duration> {
        let full_at_ns = full_at_ns.max(now_ns);
        match (full_at_ns - now_ns).checked_sub(self.tolerance_ns) {
            None | Some(0) => Ok(full_at_ns.saturating_add(self.interval_ns)),
            Some(debt_ns) => Err(Duration::from_nanos(debt_ns)),
        }
    }
}

/// One bucket that many threads take from.
#[derive(Debug, Default)]
pub struct Meter(AtomicU64);

impl Meter {
    /// Takes one, or says how long to wait.
    pub fn take(&self, rate: Rate, now_ns: u64) -> Result<(), Duration> {
        let mut wait = Duration::ZERO;
        let taken = self.0.fetch_update(Relaxed, Relaxed, |full_at_ns| {
            match rate.take(full_at_ns, now_ns) {
                Ok(next) => Some(next),
                Err(debt) => {
                    wait = debt;
                    None
                }
            }
        });
        taken.map(drop).map_err(|_| wait)
    }
}

/// Buckets that share a lock.
const WAYS: usize = 8;

#[derive(Debug, Clone, Copy)]
struct Bucket {
    client: ClientKey,
    full_at_ns: u64,
}

type Set = Mutex<[Option<Bucket>; WAYS]>;

/// A bucket for each client, in a table that never grows: where it is full, the bucket that is full again soonest makes
/// room. A flood from more clients than it holds can so forgive some of them some requests, and nothing else.
#[derive(Debug)]
pub struct Clients {
    rate: Rate,
    sets: Box<[Set]>,
    /// Keyed, so that nobody can choose whom to share a set with.
    hasher: RandomState,
}

impl Clients {
    /// Remembers `clients_max` clients, or a few more.
    pub fn new(rate: Rate, clients_max: usize) -> Self {
        let sets = (0..clients_max.div_ceil(WAYS).max(1)).map(|_| Set::default());
        Self {
            rate,
            sets: sets.collect(),
            hasher: RandomState::new(),
        }
    }

    /// Takes one for `client`, or says how long to wait.
    pub fn take(&self, client: ClientKey, now_ns: u64) -> Result<(), Duration> {
        let index = self.hasher.hash_one(client) % self.sets.len() as u64;
        let mut set = self.sets[index as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let known = set
            .iter()
            .position(|bucket| bucket.is_some_and(|bucket| bucket.client == client));
        let full_at_ns = known.and_then(|at| set[at]).map_or(0, |bucket| bucket.full_at_ns);
        let next = self.rate.take(full_at_ns, now_ns)?;
        let soonest = || {
            let full_at_ns = |at: &usize| set[*at].map_or(0, |bucket| bucket.full_at_ns);
            (0..WAYS).min_by_key(full_at_ns).expect("there are some")
        };
        let at = known.unwrap_or_else(soonest);
        set[at] = Some(Bucket {
            client,
            full_at_ns: next,
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn client(last: u32) -> ClientKey {
        ClientKey::new(std::net::Ipv4Addr::from_bits(last).into())
    }

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again() {
        let rate = Rate::new(10, 3).expect("a limit");
        let meter = Meter::default();
        let now_ns = 5 * SECOND_NS;
        for _ in 0..3 {
            meter.take(rate, now_ns).expect("within the burst");
        }
        assert_eq!(meter.take(rate, now_ns), Err(Duration::from_millis(100)));
        meter.take(rate, now_ns + SECOND_NS / 10).expect("its time came");
        assert!(meter.take(rate, now_ns + SECOND_NS / 10).is_err());
        for _ in 0..3 {
            meter.take(rate, now_ns + 10 * SECOND_NS).expect("full again");
        }
        assert!(Rate::new(0, 5).is_none());
    }

    #[test]
    fn clients_do_not_spend_each_others_requests_and_the_table_does_not_grow() {
        let clients = Clients::new(Rate::new(1, 1).expect("a limit"), 64);
        clients.take(client(1), SECOND_NS).expect("its first");
        assert!(clients.take(client(1), SECOND_NS).is_err());
        clients.take(client(2), SECOND_NS).expect("another one's first");
        for other in 3..10_000 {
            clients.take(client(other), SECOND_NS).expect("each one's first");
        }
        assert_eq!(clients.sets.len(), 8);
    }

    proptest! {
        /// Whenever requests come, of any stretch of them no more pass than the burst and what the rate gave meanwhile.
        #[test]
        fn no_stretch_of_time_lets_more_through(
            per_sec in 1_u32..2_000, burst in 1_u32..50, gaps_us in proptest::collection::vec(0_u64..5_000, 1..300)
        ) {
            let rate = Rate::new(per_sec, burst).expect("a limit");
            let (mut now_ns, mut full_at_ns, mut passed) = (SECOND_NS, 0, Vec::new());
            for gap_us in gaps_us {
                now_ns += gap_us * 1_000;
                match rate.take(full_at_ns, now_ns) {
                    Ok(next) => {
                        full_at_ns = next;
                        passed.push(now_ns);
                    }
                    // What it was told to wait is exactly enough.
                    Err(wait) => {
                        let wait_ns = wait.as_nanos() as u64;
                        prop_assert!(rate.take(full_at_ns, now_ns + wait_ns).is_ok());
                        prop_assert!(rate.take(full_at_ns, now_ns + wait_ns - 1).is_err());
                    }
                }
            }
            for (first, from_ns) in passed.iter().enumerate() {
                for (last, to_ns) in passed.iter().enumerate().skip(first) {
                    let allowed = u64::from(burst) + (to_ns - from_ns) / rate.interval_ns;
                    prop_assert!(((last - first) as u64) < allowed);
                }
            }
        }
    }
}
