//! Ports that nobody else uses.
//!
//! Port 0 is the first choice. Where a port must be known before it is opened (a range for tasks), ranges come
//! from below the ephemeral ones, each claimed by a lock that lives as long as the process.

use nix::fcntl::{Flock, FlockArg};
use std::{
    fs::File,
    net::TcpListener,
    sync::{Mutex, PoisonError},
};

/// The first port given out; [20000, 30000) is left to a platform that runs on the same machine.
const FIRST: u16 = 12_000;
/// The last one.
const LAST: u16 = 19_999;
/// Ports in one range.
const RANGE: u16 = 50;

static CLAIMED: Mutex<Vec<Flock<File>>> = Mutex::new(Vec::new());

/// A range of 50 ports, both ends included, that no other test gets while this process lives.
pub fn free_port_range() -> (u16, u16) {
    let mut claimed = CLAIMED.lock().unwrap_or_else(PoisonError::into_inner);
    for first in (FIRST..LAST - RANGE).step_by(usize::from(RANGE)) {
        let path = std::env::temp_dir().join(format!("zectre-test-ports-{first}"));
        let Ok(file) = File::create(path) else { continue };
        let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
            continue;
        };
        let last = first + RANGE - 1;
        if (first..=last).all(|port| TcpListener::bind(("127.0.0.1", port)).is_ok()) {
            claimed.push(lock);
            return (first, last);
        }
    }
    panic!("all port ranges for tests are taken: is an older test run still alive?");
}

/// One port that no other test gets while this process lives.
pub fn free_port() -> u16 {
    static NEXT: Mutex<Option<(u16, u16)>> = Mutex::new(None);
    let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
    let (port, last) = next.take().unwrap_or_else(free_port_range);
    if port < last {
        *next = Some((port + 1, last));
    }
    port
}
