//! What follows from a deployment's live tasks, kept up with every change of one: a look at a deployment of a
//! thousand replicas costs no more than a look at one of two.

use super::Task;
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{NodeId, TaskId},
    state::{TaskState, Wanted},
};

/// The tasks of one slot that are to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Slot {
    /// The one that has it.
    pub(super) holder: TaskId,
    /// Those that are to take over from it, oldest first; at most one but for moments.
    pub(super) successors: Vec<TaskId>,
}

impl Slot {
    /// All of them, oldest first.
    pub(super) fn tasks(&self) -> impl Iterator<Item = TaskId> {
        std::iter::once(self.holder).chain(self.successors.iter().copied())
    }
}

/// What counts of one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    slot: u32,
    node: Option<NodeId>,
    wanted: bool,
    is_live: bool,
    is_running: bool,
    is_ready: bool,
}

impl Standing {
    pub(super) fn of(task: &Task) -> Self {
        Self {
            slot: task.slot,
            node: task.node_id,
            wanted: task.wanted == Wanted::Run,
            is_live: task.state != TaskState::Pending,
            is_running: task.state == TaskState::Running,
            is_ready: task.is_ready(),
        }
    }
}

/// The live tasks of a deployment, counted and sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Roster {
    /// All of them.
    pub(super) tasks: BTreeSet<TaskId>,
    /// Those that are to run.
    pub(super) slots: BTreeMap<u32, Slot>,
    /// Slots with a successor.
    pub(super) doubled: BTreeSet<u32>,
    /// Those of them that have no place yet.
    pub(super) pending: BTreeSet<TaskId>,
    /// Those that are on their way out.
    pub(super) leaving: BTreeSet<TaskId>,
    /// Slots with tasks that are healthy and to run on, and how many those are. A successor that became ready before
    /// its predecessor went is not one more.
    ready: BTreeMap<u32, u32>,
    /// In state `running`, wanted or not.
    pub(super) running: u32,
    /// Placed, or past it.
    pub(super) live: u32,
    /// How many are on a node.
    pub(super) on_node: BTreeMap<NodeId, u32>,
}

impl Roster {
    /// A task changed from one standing to the other; `None` before it is there and after it ended.
    pub(super) fn note(&mut self, id: TaskId, before: Option<Standing>, after: Option<Standing>) {
        if before == after {
            return;
        }
        match (before, after) {
            (None, Some(_)) => drop(self.tasks.insert(id)),
            (Some(_), None) => drop(self.tasks.remove(&id)),
            _ => {}
        }
        let (old, new) = (before.as_ref(), after.as_ref());
        let moved = |count: u32, is: fn(&Standing) -> bool| {
            count + u32::from(new.is_some_and(is)) - u32::from(old.is_some_and(is))
        };
        self.running = moved(self.running, |s| s.is_running);
        self.live = moved(self.live, |s| s.is_live);
        let is_pending = |s: &&Standing| s.wanted && !s.is_live;
        match (old.filter(is_pending), new.filter(is_pending)) {
            (None, Some(_)) => drop(self.pending.insert(id)),
            (Some(_), None) => drop(self.pending.remove(&id)),
            _ => {}
        }
        self.note_ready(old, new);
        self.note_wanted(id, old, new);
        self.note_node(old.and_then(|s| s.node), new.and_then(|s| s.node));
    }

    fn note_ready(&mut self, old: Option<&Standing>, new: Option<&Standing>) {
        if let Some(new) = new.filter(|s| s.is_ready) {
            *self.ready.entry(new.slot).or_default() += 1;
        }
        if let Some(old) = old.filter(|s| s.is_ready) {
            match self.ready.get(&old.slot) {
                None | Some(1) => drop(self.ready.remove(&old.slot)),
                Some(more) => drop(self.ready.insert(old.slot, more - 1)),
            }
        }
    }

    /// Slots that are served.
    pub(super) fn ready(&self) -> u32 {
        self.ready.len() as u32
    }

    fn note_wanted(&mut self, id: TaskId, old: Option<&Standing>, new: Option<&Standing>) {
        let (was, is) = (old.map(|s| s.wanted), new.map(|s| s.wanted));
        if was == is {
            return;
        }
        match old {
            Some(old) if old.wanted => self.leave_slot(id, old.slot),
            Some(_) => drop(self.leaving.remove(&id)),
            None => {}
        }
        match new {
            Some(new) if new.wanted => self.enter_slot(id, new.slot),
            Some(_) => drop(self.leaving.insert(id)),
            None => {}
        }
    }

    fn enter_slot(&mut self, id: TaskId, slot: u32) {
        if let Some(taken) = self.slots.get_mut(&slot) {
            taken.successors.push(id);
            self.doubled.insert(slot);
        } else {
            let successors = Vec::new();
            self.slots.insert(
                slot,
                Slot {
                    holder: id,
                    successors,
                },
            );
        }
    }

    fn leave_slot(&mut self, id: TaskId, slot: u32) {
        let Some(taken) = self.slots.get_mut(&slot) else {
            return;
        };
        if taken.holder == id {
            if taken.successors.is_empty() {
                self.slots.remove(&slot);
                return;
            }
            taken.holder = taken.successors.remove(0);
        } else {
            taken.successors.retain(|other| *other != id);
        }
        if taken.successors.is_empty() {
            self.doubled.remove(&slot);
        }
    }

    fn note_node(&mut self, old: Option<NodeId>, new: Option<NodeId>) {
        if old == new {
            return;
        }
        if let Some(node) = old {
            match self.siblings_on(node) {
                0 | 1 => drop(self.on_node.remove(&node)),
                more => drop(self.on_node.insert(node, more - 1)),
            }
        }
        if let Some(node) = new {
            *self.on_node.entry(node).or_default() += 1;
        }
    }

    /// Tasks on a node.
    pub(super) fn siblings_on(&self, node: NodeId) -> u32 {
        self.on_node.get(&node).copied().unwrap_or_default()
    }
}
