//! How many files, and so sockets, a process may have open. Systems begin with few (1,024) for the sake of programs that use
//! `select`, and allow many more to those that ask.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More than any daemon needs. Where all is allowed, some programs that are started by us would go through all of it.
const ENOUGH: u64 = 1 << 20;

/// Asks for as many as are allowed; how many that are. What is started from now on inherits it.
pub fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let allowed = limit.maximum.unwrap_or(ENOUGH).min(ENOUGH);
    if limit.current.is_some_and(|current| current < allowed) {
        let raised = Rlimit {
            current: Some(allowed),
            maximum: limit.maximum,
        };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, allowed, "the limit of open files could not be raised");
        }
    }
    max()
}

/// How many this process may have open now.
pub fn max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
