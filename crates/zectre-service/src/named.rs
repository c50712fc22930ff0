//! Which of many have a series of their own in Prometheus: the first so many do, however many there are, and the others are summed up.

use std::{
    collections::HashSet,
    hash::Hash,
    sync::{Arc, Mutex, PoisonError},
};

/// So many of a kind have numbers of their own.
pub const NAMED_MAX: usize = 1_000;
/// The labels of the others.
pub const OTHER: &str = "other";

/// Those of one kind that have numbers of their own.
#[derive(Debug)]
pub struct Named<T>(Arc<Mutex<HashSet<T>>>);

impl<T> Clone for Named<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<T: Clone + Eq + Hash> Named<T> {
    /// Whether it is one of them; it becomes one while there is room.
    pub fn has(&self, one: &T) -> bool {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.contains(one) || (named.len() < NAMED_MAX && named.insert(one.clone()))
    }

    /// It is over: another one may have its place.
    pub fn give_back(&self, one: &T) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(one);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_are_named_than_may_and_a_place_is_free_again() {
        let named = Named::default();
        assert!((0..NAMED_MAX).all(|one| named.has(&one)));
        assert!(!named.has(&NAMED_MAX) && named.has(&0));
        named.clone().give_back(&0);
        // What has none takes nothing from anybody.
        named.give_back(&NAMED_MAX);
        assert!(named.has(&NAMED_MAX) && !named.has(&0));
    }
}
