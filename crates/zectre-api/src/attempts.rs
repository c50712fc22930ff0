//! Attempts that could be guesses, counted in the memory of this process, each kind with a bound of its own.
//!
//! A login counts for its account and its address together, and more leniently for each of them: so a stranger can't
//! easily shut someone out, guesses from many addresses at one account end, and so do those from one at many.

use crate::{code, error::Error};
use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The most counters kept; beyond that the oldest are forgotten.
const COUNTERS_MAX: usize = 10_000;

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Failed logins of an account from an address.
    Pair,
    /// Failed logins of an account.
    Account,
    /// Failed logins, and guessed tokens, from an address.
    Address,
    /// Accounts made from an address.
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
    (
        kind,
        address.map_or_else(String::new, |address| address.to_string()),
    )
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
#[derive(Default)]
pub(crate) struct Attempts(Mutex<HashMap<Counter, (u32, Instant)>>);

impl Attempts {
    /// Refuses when one of the counters is at its bound.
    pub(crate) fn check(&self, counters: &[Counter]) -> Result<(), Error> {
        match self.wait_secs(counters) {
            None => Ok(()),
            Some(secs) => Err(Error::Refused {
                code: &code::TOO_MANY_ATTEMPTS,
                detail: format!("too many attempts; try again in {secs} s"),
                errors: Vec::new(),
                retry_after_secs: Some(secs),
            }),
        }
    }

    fn wait_secs(&self, counters: &[Counter]) -> Option<u32> {
        let counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = counters.iter().filter_map(|counter| {
            let (max, window) = counter.0.bound();
            let (count, since) = counted.get(counter)?;
            let left = window.checked_sub(since.elapsed())?;
            (*count >= max).then(|| left.as_secs() as u32 + 1)
        });
        waits.max()
    }

    /// Counts an attempt.
    pub(crate) fn count(&self, counters: &[Counter]) {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for counter in counters {
            if counted.len() >= COUNTERS_MAX && !counted.contains_key(counter) {
                forget_some(&mut counted);
            }
            let window = counter.0.bound().1;
            let entry = counted.entry(counter.clone()).or_insert((0, Instant::now()));
            if entry.1.elapsed() >= window {
                *entry = (0, Instant::now());
            }
            entry.0 += 1;
        }
    }

    /// A success forgives what was counted for the same account from the same address.
    pub(crate) fn forgive(&self, counter: &Counter) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(counter);
    }
}

/// Makes room: those whose time is over go, else the oldest.
fn forget_some(counted: &mut HashMap<Counter, (u32, Instant)>) {
    counted.retain(|(kind, _), (_, since)| since.elapsed() < kind.bound().1);
    if counted.len() < COUNTERS_MAX {
        return;
    }
    let oldest = counted.iter().min_by_key(|(_, (_, since))| *since);
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
        assert_eq!(attempts.0.lock().expect("not poisoned").len(), COUNTERS_MAX);
    }
}
