//! Things that wait until proxies route by an epoch, in the order of the epochs, so that a proxy's word costs
//! what it settles and no more.

use std::collections::{BTreeMap, BTreeSet};

/// What waits for which epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Acks<T: Ord> {
    /// Everything that waits; `None` until the commit that raises its epoch.
    waiting: BTreeMap<T, Option<u64>>,
    /// Those whose epoch is not known yet.
    uncommitted: BTreeSet<T>,
    by_epoch: BTreeSet<(u64, T)>,
}

impl<T: Ord> Default for Acks<T> {
    fn default() -> Self {
        Self {
            waiting: BTreeMap::new(),
            uncommitted: BTreeSet::new(),
            by_epoch: BTreeSet::new(),
        }
    }
}

impl<T: Ord + Copy> Acks<T> {
    /// It waits for this epoch, or for the one that the next commit raises.
    pub(super) fn add(&mut self, thing: T, epoch: Option<u64>) {
        self.remove(thing);
        self.waiting.insert(thing, epoch);
        match epoch {
            Some(epoch) => drop(self.by_epoch.insert((epoch, thing))),
            None => drop(self.uncommitted.insert(thing)),
        }
    }

    /// It waits for this epoch too: of both the later one counts, and what the next commit raises is later than all.
    pub(super) fn add_too(&mut self, thing: T, epoch: Option<u64>) {
        let known = self.waiting.get(&thing).copied();
        let later = known.map_or(epoch, |known| Some(known?.max(epoch?)));
        self.add(thing, later);
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, thing: T) {
        match self.waiting.remove(&thing) {
            Some(Some(epoch)) => drop(self.by_epoch.remove(&(epoch, thing))),
            Some(None) => drop(self.uncommitted.remove(&thing)),
            None => {}
        }
    }

    pub(super) fn contains(&self, thing: T) -> bool {
        self.waiting.contains_key(&thing)
    }

    /// Everything that waits, with its epoch.
    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = (&T, &Option<u64>)> {
        self.waiting.iter()
    }

    /// The commit raised the epoch: what waited for it is known now. Returns those.
    pub(super) fn committed(&mut self, epoch: u64) -> Vec<T> {
        let things: Vec<T> = std::mem::take(&mut self.uncommitted).into_iter().collect();
        for thing in &things {
            self.waiting.insert(*thing, Some(epoch));
            self.by_epoch.insert((epoch, *thing));
        }
        things
    }

    /// Those whose epoch is not after this one; `None` is every epoch, also one that is not known yet.
    pub(super) fn up_to(&self, epoch: Option<u64>) -> Vec<T> {
        let Some(epoch) = epoch else {
            return self.waiting.keys().copied().collect();
        };
        let seen = self.by_epoch.iter().take_while(|(awaited, _)| *awaited <= epoch);
        seen.map(|(_, thing)| *thing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_settled_by_its_epoch_and_not_before() {
        let mut acks = Acks::default();
        acks.add('a', Some(3));
        acks.add('b', None);
        acks.add('c', Some(5));
        assert_eq!(acks.up_to(Some(4)), ['a']);
        assert_eq!(acks.committed(4), ['b']);
        assert_eq!(acks.up_to(Some(4)), ['a', 'b']);
        acks.remove('a');
        acks.add('c', Some(4));
        assert_eq!(acks.up_to(Some(4)), ['b', 'c']);
        assert!(acks.up_to(Some(3)).is_empty());
        acks.add('d', None);
        assert_eq!(acks.up_to(None), ['b', 'c', 'd']);
        assert!(acks.contains('d') && !acks.contains('a'));
        // The later of two epochs counts, also when it is not known yet.
        for (first, second, settled) in [
            (Some(6), Some(7), 7),
            (Some(7), Some(6), 7),
            (None, Some(6), 9),
            (Some(6), None, 9),
        ] {
            let mut acks = Acks::default();
            acks.add_too('e', first);
            acks.add_too('e', second);
            acks.committed(9);
            assert!(acks.up_to(Some(settled - 1)).is_empty());
            assert_eq!(acks.up_to(Some(settled)), ['e']);
        }
    }
}
