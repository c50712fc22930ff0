//! Attempts that could be guesses, counted in the memory of this process, each kind with a bound of its own.
//!
//! A login counts for its account and its address together, and more leniently for each of them: so a stranger can't
//! easily shut someone out, guesses from many addresses at one account end, and so do those from one at many.
//!
//! What is under way counts too, until it is known whether it was a guess: so those who try at once have no more guesses than those
//! who try in turn. Who finds room taken only by what is under way waits for it, and is refused only for what has failed.

use crate::{code, error::Error};
use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::{Notify, Semaphore};

/// The most counters kept; beyond that the oldest are forgotten.
const COUNTERS_MAX: usize = 10_000;
/// The most attempts that wait for others at once, of all kinds; more are told to come again.
const WAITING_MAX: usize = 256;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Failed logins of an account from an address.
    Pair,
    /// Failed logins of an account.
    Account,
    /// Failed logins, and guessed tokens, from an address.
    Address,
    /// Accounts made from an address, and sign-ups that were refused after a password was hashed.
    SignUp,
    /// Command lines that began a login from an address.
    CliLogin,
    /// User codes that nobody waits with, by whoever types them.
    UserCode,
}

impl Kind {
    /// How many there may be within how long.
    const fn bound(self) -> (u32, Duration) {
        let five_minutes = Duration::from_secs(300);
        match self {
            Self::Pair | Self::UserCode => (10, five_minutes),
            Self::Account | Self::Address => (100, five_minutes),
            Self::CliLogin => (30, five_minutes),
            Self::SignUp => (20, Duration::from_secs(3_600)),
        }
    }
}

/// What an attempt counts for.
pub(crate) type Counter = (Kind, String);

/// A counter of an address; requests without one share it.
pub(crate) fn of_address(kind: Kind, address: Option<IpAddr>) -> Counter {
    (kind, address.map_or_else(String::new, client))
}

/// Whose address it is. A network of IPv6 gives each of its clients 2^64 of them, so they count together.
fn client(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// The counters of a login.
pub(crate) fn of_login(email: &str, address: Option<IpAddr>) -> [Counter; 3] {
    let email = email.to_lowercase();
    let address = of_address(Kind::Address, address);
    [
        (Kind::Pair, format!("{email} {}", address.1)),
        (Kind::Account, email),
        address,
    ]
}

/// What was counted.
pub(crate) struct Attempts {
    counted: Mutex<Counted>,
    /// Told when an attempt is no longer under way.
    settled: Notify,
    /// [`WAITING_MAX`] places.
    waiting: Semaphore,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            counted: Mutex::default(),
            settled: Notify::new(),
            waiting: Semaphore::new(WAITING_MAX),
        }
    }
}

type Counted = HashMap<Counter, Count>;

/// Of one counter.
struct Count {
    failed: u32,
    under_way: u32,
    /// When the first of those that failed was made.
    since: Instant,
}

/// An attempt under way. Dropped without a word it has failed: whoever hangs up may have guessed.
pub(crate) struct Claim<'a> {
    attempts: &'a Attempts,
    counters: Vec<Counter>,
    was_guess: bool,
}

impl Claim<'_> {
    /// It was no guess.
    pub(crate) fn give_back(mut self) {
        self.was_guess = false;
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut counted = self.attempts.lock();
        for counter in &self.counters {
            if let Some(count) = counted.get_mut(counter) {
                count.under_way = count.under_way.saturating_sub(1);
            }
        }
        if self.was_guess {
            fail(&mut counted, &self.counters);
        }
        drop(counted);
        self.attempts.settled.notify_waiters();
    }
}

impl Attempts {
    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses when one of the counters is at its bound.
    pub(crate) fn check(&self, counters: &[Counter]) -> Result<(), Error> {
        refuse_after(wait_secs(&self.lock(), counters))
    }

    /// Counts an attempt before it is made, unless as many as the bound of one of the counters have failed. However many are made
    /// at once, no more than the bound are under way: the others wait, as long as their caller lets them.
    pub(crate) async fn claim(&self, counters: impl Into<Vec<Counter>> + Send) -> Result<Claim<'_>, Error> {
        let counters = counters.into();
        let mut place = None;
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // Before it is looked: what ends in between is not missed.
            settled.as_mut().enable();
            if self.begin(&counters)? {
                return Ok(Claim {
                    attempts: self,
                    counters,
                    was_guess: true,
                });
            }
            if place.is_none() {
                let Ok(taken) = self.waiting.try_acquire() else {
                    return Err(too_many(1));
                };
                place = Some(taken);
            }
            settled.await;
        }
    }

    /// What `look` finds. Where it finds nothing it was a guess, and counts from before it looks until then.
    pub(crate) async fn guess<T>(
        &self,
        counters: impl Into<Vec<Counter>> + Send,
        look: impl Future<Output = Result<Option<T>, Error>>,
    ) -> Result<Option<T>, Error> {
        let claim = self.claim(counters).await?;
        let found = look.await;
        if !matches!(found, Ok(None)) {
            claim.give_back();
        }
        found
    }

    /// Whether there was room for one more.
    fn begin(&self, counters: &[Counter]) -> Result<bool, Error> {
        let mut counted = self.lock();
        refuse_after(wait_secs(&counted, counters))?;
        let is_full = |counter: &Counter| {
            let (max, window) = counter.0.bound();
            counted.get(counter).is_some_and(|count| {
                let failed = if count.since.elapsed() < window {
                    count.failed
                } else {
                    0
                };
                failed + count.under_way >= max
            })
        };
        if counters.iter().any(is_full) {
            return Ok(false);
        }
        for counter in counters {
            entry(&mut counted, counter).under_way += 1;
        }
        Ok(true)
    }

    #[cfg(test)]
    fn wait_secs(&self, counters: &[Counter]) -> Option<u32> {
        wait_secs(&self.lock(), counters)
    }

    /// Counts an attempt.
    pub(crate) fn count(&self, counters: &[Counter]) {
        fail(&mut self.lock(), counters);
    }

    /// A success forgives what was counted for the same account from the same address.
    pub(crate) fn forgive(&self, counter: &Counter) {
        if let Some(count) = self.lock().get_mut(counter) {
            count.failed = 0;
        }
        self.settled.notify_waiters();
    }
}

fn wait_secs(counted: &Counted, counters: &[Counter]) -> Option<u32> {
    let waits = counters.iter().filter_map(|counter| {
        let (max, window) = counter.0.bound();
        let count = counted.get(counter)?;
        let left = window.checked_sub(count.since.elapsed())?;
        (count.failed >= max).then(|| left.as_secs() as u32 + 1)
    });
    waits.max()
}

fn refuse_after(wait_secs: Option<u32>) -> Result<(), Error> {
    match wait_secs {
        None => Ok(()),
        Some(secs) => Err(too_many(secs)),
    }
}

fn too_many(wait_secs: u32) -> Error {
    Error::Refused {
        code: &code::TOO_MANY_ATTEMPTS,
        detail: format!("too many attempts; try again in {wait_secs} s"),
        errors: Vec::new(),
        retry_after_secs: Some(wait_secs),
    }
}

fn fail(counted: &mut Counted, counters: &[Counter]) {
    for counter in counters {
        let count = entry(counted, counter);
        if count.failed == 0 || count.since.elapsed() >= counter.0.bound().1 {
            (count.failed, count.since) = (0, Instant::now());
        }
        count.failed += 1;
    }
}

fn entry<'a>(counted: &'a mut Counted, counter: &Counter) -> &'a mut Count {
    if counted.len() >= COUNTERS_MAX && !counted.contains_key(counter) {
        forget_some(counted);
    }
    counted.entry(counter.clone()).or_insert_with(|| Count {
        failed: 0,
        under_way: 0,
        since: Instant::now(),
    })
}

/// Makes room: those that count nothing any more go, else the oldest.
fn forget_some(counted: &mut Counted) {
    counted.retain(|(kind, _), count| {
        count.under_way > 0 || (count.failed > 0 && count.since.elapsed() < kind.bound().1)
    });
    if counted.len() < COUNTERS_MAX {
        return;
    }
    let oldest = counted
        .iter()
        .min_by_key(|(_, count)| (count.under_way > 0, count.since));
    if let Some(oldest) = oldest.map(|(counter, _)| counter.clone()) {
        counted.remove(&oldest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn address(n: u32) -> IpAddr {
        Ipv4Addr::from(n).into()
    }

    #[test]
    fn the_eleventh_guess_waits_and_others_do_not() {
        let attempts = Attempts::default();
        for _ in 0..10 {
            assert_eq!(attempts.wait_secs(&of_login("a@b.c", Some(address(1)))), None);
            attempts.count(&of_login("A@b.c", Some(address(1))));
        }
        assert!(attempts.wait_secs(&of_login("a@b.c", Some(address(1)))).is_some());
        assert_eq!(attempts.wait_secs(&of_login("a@b.c", Some(address(2)))), None);
        assert_eq!(attempts.wait_secs(&of_login("other@b.c", Some(address(1)))), None);
        attempts.forgive(&of_login("a@b.c", Some(address(1)))[0]);
        assert_eq!(attempts.wait_secs(&of_login("a@b.c", Some(address(1)))), None);
    }

    #[test]
    fn a_client_of_ipv6_counts_once_however_many_addresses_it_has() {
        let of = |text: &str| of_address(Kind::SignUp, Some(text.parse().expect("an address"))).1;
        assert_eq!(of("2001:db8:1:2::1"), of("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(of("2001:db8:1:2::1"), of("2001:db8:1:3::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }

    #[tokio::test]
    async fn what_is_under_way_is_waited_for_and_only_what_failed_refuses() {
        let attempts = Attempts::default();
        let login = || of_login("a@b.c", Some(address(1)));
        let mut claims = Vec::new();
        for _ in 0..10 {
            claims.push(attempts.claim(login()).await.expect("there is room"));
        }
        let mut waiting = std::pin::pin!(attempts.claim(login()));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        // One that was right makes room for the next, a wrong one doesn't.
        claims.remove(0).give_back();
        claims.push(waiting.await.expect("there is room"));
        let mut waiting = std::pin::pin!(attempts.claim(login()));
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        claims.remove(0);
        assert!(futures_util::poll!(waiting.as_mut()).is_pending());
        drop(claims);
        assert!(waiting.await.is_err());
        assert!(attempts.wait_secs(&login()).is_some());
        attempts.forgive(&login()[0]);
        assert!(attempts.claim(login()).await.is_ok());
    }

    #[test]
    fn guesses_from_many_addresses_or_at_many_accounts_end_too() {
        let attempts = Attempts::default();
        for n in 0..100 {
            attempts.count(&of_login("a@b.c", Some(address(n))));
            attempts.count(&of_login(&format!("{n}@b.c"), Some(address(1_000))));
        }
        assert!(
            attempts
                .wait_secs(&of_login("a@b.c", Some(address(2_000))))
                .is_some()
        );
        assert!(
            attempts
                .wait_secs(&of_login("new@b.c", Some(address(1_000))))
                .is_some()
        );
        assert_eq!(
            attempts.wait_secs(&of_login("new@b.c", Some(address(2_000)))),
            None
        );
    }

    #[test]
    fn memory_is_bounded() {
        let attempts = Attempts::default();
        for n in 0..COUNTERS_MAX + 10 {
            attempts.count(&[(Kind::Account, n.to_string())]);
        }
        assert_eq!(attempts.lock().len(), COUNTERS_MAX);
    }
}
