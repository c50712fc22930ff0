//! Places of open streams: so many of all, and so many of one caller, who can't take them all.

use crate::{
    code,
    error::{Error, refuse},
};
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zectre_common::id::UserId;

/// The most streams open at once.
const STREAMS_MAX: usize = 1_024;
/// The most of one caller, with whatever keys: a page of each of their applications, and some command lines.
const STREAMS_OF_ONE_MAX: usize = 64;
/// When another try is worth it.
const RETRY_SECS: u32 = 5;

/// Who has how many streams open.
#[derive(Clone, Default)]
pub(crate) struct Streams(Arc<Mutex<HashMap<UserId, usize>>>);

/// The place of one stream, free again when dropped.
pub(crate) struct Place {
    streams: Streams,
    caller: UserId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.caller);
            }
        }
    }
}

impl Streams {
    fn lock(&self) -> MutexGuard<'_, HashMap<UserId, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for one more stream of the caller's.
    pub(crate) fn take(&self, caller: UserId) -> Result<Place, Error> {
        let mut open = self.lock();
        if open
            .get(&caller)
            .is_some_and(|count| *count >= STREAMS_OF_ONE_MAX)
        {
            let detail = format!(
                "you have {STREAMS_OF_ONE_MAX} streams open, and may have no more; close one of them"
            );
            return Err(later(refuse(&code::TOO_MANY_STREAMS, detail)));
        }
        if open.values().sum::<usize>() >= STREAMS_MAX {
            return Err(later(refuse(
                &code::OVERLOADED,
                "too many streams are open; try again",
            )));
        }
        *open.entry(caller).or_default() += 1;
        Ok(Place {
            streams: self.clone(),
            caller,
        })
    }
}

fn later(error: Error) -> Error {
    match error {
        Error::Refused {
            code, detail, errors, ..
        } => Error::Refused {
            code,
            detail,
            errors,
            retry_after_secs: Some(RETRY_SECS),
        },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of(taken: Result<Place, Error>) -> &'static str {
        match taken {
            Err(Error::Refused { code, .. }) => code.name,
            Err(error) => panic!("{error}"),
            Ok(_) => "taken",
        }
    }

    #[test]
    fn one_caller_has_so_many_and_all_together_so_many() {
        let streams = Streams::default();
        let of = |caller, count: usize| -> Vec<Place> {
            (0..count)
                .map(|_| streams.take(caller).expect("there is room"))
                .collect()
        };
        let greedy = UserId::new();
        let mut places = of(greedy, STREAMS_OF_ONE_MAX);
        assert_eq!(code_of(streams.take(greedy)), "TOO_MANY_STREAMS");
        let others: Vec<Place> = (1..STREAMS_MAX / STREAMS_OF_ONE_MAX)
            .flat_map(|_| of(UserId::new(), STREAMS_OF_ONE_MAX))
            .collect();
        assert_eq!(code_of(streams.take(UserId::new())), "OVERLOADED");
        places.pop();
        assert_eq!(code_of(streams.take(UserId::new())), "taken");
        drop((places, others));
        assert!(streams.lock().is_empty(), "nobody is remembered");
    }
}
