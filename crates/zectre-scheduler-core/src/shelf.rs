//! Nodes in the order of their free memory, each subtree with the most free cpu in it: the fullest node with
//! enough of both is found in logarithmic time, however many are full.
//!
//! A treap whose priorities follow from the ids, so that the same nodes make the same tree.

use zectre_common::id::NodeId;

/// Free memory in bytes, and whose.
pub(super) type Key = (u64, NodeId);

const NONE: u32 = u32::MAX;

#[cfg(test)]
thread_local! {
    /// Nodes that the searches of this thread have looked at.
    pub(super) static LOOKED: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

#[derive(Debug, Clone)]
struct Branch {
    key: Key,
    cpu: u32,
    cpu_max: u32,
    priority: u64,
    left: u32,
    right: u32,
}

/// The index.
#[derive(Debug, Clone)]
pub(super) struct Shelf {
    branches: Vec<Branch>,
    free: Vec<u32>,
    root: u32,
}

impl Default for Shelf {
    fn default() -> Self {
        Self {
            branches: Vec::new(),
            free: Vec::new(),
            root: NONE,
        }
    }
}

impl Shelf {
    /// Adds a node that isn't there.
    pub(super) fn insert(&mut self, key: Key, cpu: u32) {
        let branch = Branch {
            key,
            cpu,
            cpu_max: cpu,
            priority: scatter(key.1),
            left: NONE,
            right: NONE,
        };
        let new = if let Some(index) = self.free.pop() {
            self.branches[index as usize] = branch;
            index
        } else {
            self.branches.push(branch);
            (self.branches.len() - 1) as u32
        };
        self.root = self.insert_at(self.root, new);
    }

    /// Removes a node, if it is there under this key.
    pub(super) fn remove(&mut self, key: Key) {
        self.root = self.remove_at(self.root, key);
    }

    /// The first after `after`, or from `memory` on without one, with this much of both.
    pub(super) fn first_fit(&self, after: Option<Key>, memory: u64, cpu: u32) -> Option<Key> {
        self.find(self.root, after, memory, cpu)
    }

    fn find(&self, at: u32, after: Option<Key>, memory: u64, cpu: u32) -> Option<Key> {
        let branch = self.branches.get(at as usize)?;
        #[cfg(test)]
        LOOKED.set(LOOKED.get() + 1);
        if branch.cpu_max < cpu {
            return None;
        }
        let is_before = branch.key.0 < memory || after.is_some_and(|after| branch.key <= after);
        if !is_before {
            if let Some(found) = self.find(branch.left, after, memory, cpu) {
                return Some(found);
            }
            if branch.cpu >= cpu {
                return Some(branch.key);
            }
        }
        self.find(branch.right, after, memory, cpu)
    }

    fn insert_at(&mut self, at: u32, new: u32) -> u32 {
        let Some(branch) = self.branches.get(at as usize) else {
            return new;
        };
        let (key, priority) = (branch.key, branch.priority);
        let (new_key, new_priority) = (
            self.branches[new as usize].key,
            self.branches[new as usize].priority,
        );
        if new_priority > priority {
            let (left, right) = self.split(at, new_key);
            let branch = &mut self.branches[new as usize];
            (branch.left, branch.right) = (left, right);
            self.sum_up(new);
            return new;
        }
        if new_key < key {
            let left = self.insert_at(self.branches[at as usize].left, new);
            self.branches[at as usize].left = left;
        } else {
            let right = self.insert_at(self.branches[at as usize].right, new);
            self.branches[at as usize].right = right;
        }
        self.sum_up(at);
        at
    }

    fn remove_at(&mut self, at: u32, key: Key) -> u32 {
        let Some(branch) = self.branches.get(at as usize) else {
            return NONE;
        };
        let (left, right) = (branch.left, branch.right);
        match key.cmp(&branch.key) {
            std::cmp::Ordering::Equal => {
                self.free.push(at);
                return self.merge(left, right);
            }
            std::cmp::Ordering::Less => {
                let left = self.remove_at(left, key);
                self.branches[at as usize].left = left;
            }
            std::cmp::Ordering::Greater => {
                let right = self.remove_at(right, key);
                self.branches[at as usize].right = right;
            }
        }
        self.sum_up(at);
        at
    }

    /// What is before `key`, and the rest.
    fn split(&mut self, at: u32, key: Key) -> (u32, u32) {
        let Some(branch) = self.branches.get(at as usize) else {
            return (NONE, NONE);
        };
        let (left, right) = (branch.left, branch.right);
        if branch.key < key {
            let (before, rest) = self.split(right, key);
            self.branches[at as usize].right = before;
            self.sum_up(at);
            (at, rest)
        } else {
            let (before, rest) = self.split(left, key);
            self.branches[at as usize].left = rest;
            self.sum_up(at);
            (before, at)
        }
    }

    /// Joins two trees, all of the first before all of the second.
    fn merge(&mut self, left: u32, right: u32) -> u32 {
        let (Some(first), Some(second)) = (
            self.branches.get(left as usize),
            self.branches.get(right as usize),
        ) else {
            return if left == NONE { right } else { left };
        };
        if first.priority > second.priority {
            let inner = self.merge(first.right, right);
            self.branches[left as usize].right = inner;
            self.sum_up(left);
            left
        } else {
            let inner = self.merge(left, second.left);
            self.branches[right as usize].left = inner;
            self.sum_up(right);
            right
        }
    }

    fn sum_up(&mut self, at: u32) {
        let branch = &self.branches[at as usize];
        let most = |index: u32| self.branches.get(index as usize).map_or(0, |b| b.cpu_max);
        let cpu_max = branch.cpu.max(most(branch.left)).max(most(branch.right));
        self.branches[at as usize].cpu_max = cpu_max;
    }
}

/// Spreads ids that are close to each other.
fn scatter(id: NodeId) -> u64 {
    let bits = id.get().as_u128();
    let mixed = (bits as u64 ^ (bits >> 64) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn id(number: u128) -> NodeId {
        NodeId::from_uuid(uuid::Uuid::from_u128(number))
    }

    proptest! {
        /// It finds what looking at everything finds, after any insertions and removals.
        #[test]
        fn it_finds_what_a_scan_finds(
            acts in prop::collection::vec((0u128..40, 0u64..12, 0u32..6), 0..120),
            asks in prop::collection::vec((0u64..12, 0u32..6, 0usize..60), 1..20),
        ) {
            let mut shelf = Shelf::default();
            let mut model: BTreeMap<Key, u32> = BTreeMap::new();
            let mut placed: BTreeMap<u128, Key> = BTreeMap::new();
            for (number, memory, cpu) in acts {
                if let Some(key) = placed.remove(&number) {
                    shelf.remove(key);
                    model.remove(&key);
                } else {
                    let key = (memory, id(number));
                    shelf.insert(key, cpu);
                    model.insert(key, cpu);
                    placed.insert(number, key);
                }
            }
            for (memory, cpu, skip) in asks {
                let after = model.keys().nth(skip).copied();
                let expected = model
                    .iter()
                    .find(|(key, has)| key.0 >= memory && **has >= cpu && after.is_none_or(|after| **key > after))
                    .map(|(key, _)| *key);
                prop_assert_eq!(shelf.first_fit(after, memory, cpu), expected);
            }
        }
    }
}
