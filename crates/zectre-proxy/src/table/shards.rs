//! A map of which a changed copy costs what changed: its entries lie in many small tables, and a copy shares all but those that
//! it changes. A look-up hashes once, as in any map, and one name may be looked for in many maps with one hash.

use hashbrown::HashTable;
use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash, RandomState},
    sync::{Arc, LazyLock},
};

/// Of 100,000 entries 400 are copied with a changed one.
const COUNT: usize = 256;

/// Of all maps, so that what is hashed for one of them is for the others, too.
static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);

type Shard<K, V> = Arc<HashTable<(K, V)>>;

/// The map.
#[derive(Debug, Clone)]
pub(super) struct Shards<K, V> {
    shards: Box<[Shard<K, V>]>,
}

impl<K, V> Default for Shards<K, V> {
    fn default() -> Self {
        let empty = Arc::new(HashTable::new());
        Self {
            shards: vec![empty; COUNT].into(),
        }
    }
}

impl<K, V> Shards<K, V> {
    /// All entries, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let all = self.shards.iter().flat_map(|shard| shard.iter());
        all.map(|(key, value)| (key, value))
    }

    /// All keys, in no order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// All values, in no order.
    pub(super) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }
}

/// A key with its hash.
#[derive(Debug)]
pub(super) struct Hashed<'k, Q: ?Sized> {
    key: &'k Q,
    hash: u64,
}

impl<'k, Q: Hash + ?Sized> Hashed<'k, Q> {
    /// To be looked for in more than one map.
    pub(super) fn new(key: &'k Q) -> Self {
        Self {
            key,
            hash: HASHER.hash_one(key),
        }
    }
}

/// A table chooses its places by the lowest and the highest bits of a hash; its shard is chosen by others.
fn shard_of(hash: u64) -> usize {
    (hash >> 40) as usize % COUNT
}

impl<K: Eq + Hash, V> Shards<K, V> {
    /// What `key` leads to.
    pub(super) fn get<Q>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        self.get_hashed(&Hashed::new(key))
    }

    /// The same.
    pub(super) fn get_hashed<Q>(&self, of: &Hashed<'_, Q>) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
    {
        let found = self.shards[shard_of(of.hash)].find(of.hash, |(known, _)| known.borrow() == of.key);
        found.map(|(_, value)| value)
    }
}

impl<K: Clone + Eq + Hash, V: Clone> Shards<K, V> {
    /// Lets `key` lead to `value`.
    pub(super) fn insert(&mut self, key: K, value: V) {
        let hash = HASHER.hash_one(&key);
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        match shard.find_mut(hash, |(known, _)| *known == key) {
            Some(entry) => entry.1 = value,
            None => drop(shard.insert_unique(hash, (key, value), |(key, _)| HASHER.hash_one(key))),
        }
    }

    /// Lets `key` lead nowhere.
    pub(super) fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let of = Hashed::new(key);
        // What is not there needs no copy.
        self.get_hashed(&of)?;
        let hash = of.hash;
        let shard = Arc::make_mut(&mut self.shards[shard_of(hash)]);
        let entry = shard.find_entry(hash, |(known, _)| known.borrow() == key);
        let ((_, value), _) = entry.ok()?.remove();
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    proptest! {
        #[test]
        fn it_is_a_map_and_its_copies_stay_as_they_are(
            changes in proptest::collection::vec((0_u16..300, any::<Option<u8>>()), 0..600),
            copied_at in 0_usize..600,
        ) {
            let (mut shards, mut map) = (Shards::default(), HashMap::new());
            let mut copy = None;
            for (index, (key, value)) in changes.into_iter().enumerate() {
                if index == copied_at {
                    copy = Some((shards.clone(), map.clone()));
                }
                match value {
                    Some(value) => {
                        shards.insert(key, value);
                        map.insert(key, value);
                    }
                    None => prop_assert_eq!(shards.remove(&key), map.remove(&key)),
                }
            }
            for (shards, map) in copy.into_iter().chain([(shards, map)]) {
                prop_assert_eq!(shards.iter().count(), map.len());
                prop_assert_eq!(shards.iter().map(|(key, value)| (*key, *value)).collect::<HashMap<u16, u8>>(), map.clone());
                for key in 0..300 {
                    prop_assert_eq!(shards.get(&key), map.get(&key));
                }
            }
        }
    }
}
