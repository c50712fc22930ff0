//! A node: what it has, what its tasks hold of it, and whether it may get more.

use super::shelf::Key;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{Labels, Resources},
    state::{Eligibility, NodeStatus},
    time::Time,
    wire::node::{Capacity, Enforcement},
};

/// A port that something else held is not given again for this long.
const PORT_REST: Duration = Duration::from_mins(2);
/// The most ports that rest on a node; the one that has rested longest makes way.
const RESTING_MAX: usize = 256;
/// How far from a port that something else held the search goes on: whoever holds one may hold its neighbours.
const PORT_STRIDE: u16 = 61;
/// With so many resting ports a node is the last choice: something holds ports of its range.
const CROWDED_PORTS: usize = 8;

/// What an agent tells about its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeFacts {
    /// Unique in the cluster.
    pub name: String,
    /// Where its tasks and its agent are reached.
    pub address: String,
    /// The agent's port.
    pub actions_port: u16,
    /// For constraints.
    pub labels: Labels,
    /// What it has.
    pub capacity: Capacity,
    /// Ports for tasks, both ends included.
    pub port_min: u16,
    /// Ports for tasks, both ends included.
    pub port_max: u16,
    /// Whether it runs containers.
    pub container_enabled: bool,
    /// What it can hold tasks to.
    pub enforcement: Enforcement,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// What its agent told.
    pub facts: NodeFacts,
    /// The address in `facts`, shared with its tasks.
    pub address: Arc<str>,
    /// Whether people want new tasks on it.
    pub eligibility: Eligibility,
    /// Whether its lease holds.
    pub status: NodeStatus,
    /// When its lease ends, as last saved; the true end is in memory only and later.
    pub lease_expires_at: Time,
    /// When it first joined.
    pub registered_at: Time,
    /// What its tasks hold. Follows from the tasks.
    pub used: Capacity,
    /// Ports its tasks hold. Follows from the tasks.
    pub ports: BTreeSet<u16>,
    /// Its tasks that have not ended. Follows from the tasks.
    pub tasks: BTreeSet<TaskId>,
    /// Its last digest showed tasks that it should not have: nothing is placed until they are gone,
    /// because they hold ports and memory that nobody accounts for.
    pub has_extras: bool,
    /// Until then a digest may be older than what was started here right before the node was lost: it doesn't show what
    /// may be there. Not persisted: a new leader takes every lost node for such a one.
    pub unsure_until: Option<Time>,
    /// Where the search for a free port goes on, so that a port rests before it is given again.
    pub port_cursor: u16,
    /// Ports that something else held when a task was to have them, and until when they are left alone.
    /// Not persisted: a new leader finds out again.
    pub resting_ports: BTreeMap<u16, Time>,
}

impl Node {
    /// A node as read from its row, or at its first registration.
    pub fn new(id: NodeId, facts: NodeFacts, now: Time) -> Self {
        let port_cursor = facts.port_min;
        Self {
            id,
            address: facts.address.as_str().into(),
            facts,
            eligibility: Eligibility::Eligible,
            status: NodeStatus::Ready,
            lease_expires_at: now,
            registered_at: now,
            used: Capacity {
                cpu: CpuMillis(0),
                memory: MemoryBytes(0),
                task_slots: 0,
            },
            ports: BTreeSet::new(),
            tasks: BTreeSet::new(),
            has_extras: false,
            unsure_until: None,
            port_cursor,
            resting_ports: BTreeMap::new(),
        }
    }

    /// Bytes of memory that no task holds.
    pub fn free_memory(&self) -> u64 {
        self.facts.capacity.memory.0.saturating_sub(self.used.memory.0)
    }

    /// Thousandths of a core that no task holds.
    pub fn free_cpu(&self) -> u32 {
        self.facts.capacity.cpu.0.saturating_sub(self.used.cpu.0)
    }

    /// Tasks that still fit by number.
    pub fn free_slots(&self) -> u32 {
        self.facts
            .capacity
            .task_slots
            .saturating_sub(self.used.task_slots)
    }

    /// Whether new tasks may be placed on it at all.
    pub fn takes_tasks(&self) -> bool {
        let is_eligible =
            self.eligibility == Eligibility::Eligible || crate::planted::planted!(CordonIgnored);
        self.status == NodeStatus::Ready && is_eligible && !self.has_extras
    }

    /// Ports that may be given.
    pub fn free_ports(&self) -> usize {
        let all = usize::from(self.facts.port_max.saturating_sub(self.facts.port_min)) + 1;
        all.saturating_sub(self.ports.len() + self.resting_ports.len())
    }

    /// Whether one more task with these needs fits.
    pub fn fits(&self, needs: Resources) -> bool {
        self.free_memory() >= needs.memory.0
            && self.free_cpu() >= needs.cpu.0
            && self.free_slots() + u32::from(crate::planted::planted!(SlotOffByOne)) > 0
            && self.free_ports() > 0
    }

    /// Where it stands on the shelves; `None` while it takes no task of any size.
    pub(super) fn place(&self) -> Option<Key> {
        let spare = u32::from(crate::planted::planted!(SlotOffByOne));
        let is_open = self.takes_tasks() && self.free_slots() + spare > 0 && self.free_ports() > 0;
        is_open.then(|| (self.free_memory(), self.id))
    }

    /// Something else holds ports of its range: it is the last choice for a while.
    pub(super) fn is_crowded(&self) -> bool {
        self.resting_ports.len() >= CROWDED_PORTS
    }

    /// The next free port from the cursor on; `None` when all are held.
    pub(super) fn free_port(&self) -> Option<u16> {
        let (min, max) = (self.facts.port_min, self.facts.port_max);
        let start = self.port_cursor.clamp(min, max);
        if crate::planted::planted!(DoublePort) {
            return Some(start);
        }
        self.gap(start, max)
            .or_else(|| self.gap(min, start.saturating_sub(1)))
    }

    /// The first port from `first` to `last` that is neither held nor rests.
    fn gap(&self, first: u16, last: u16) -> Option<u16> {
        let mut candidate = first;
        if first > last {
            return None;
        }
        let mut resting = self
            .resting_ports
            .range(first..=last)
            .map(|(port, _)| *port)
            .peekable();
        let mut held = self.ports.range(first..=last).copied().peekable();
        loop {
            if held.peek() == Some(&candidate) {
                held.next();
            } else if resting.peek() == Some(&candidate) {
                resting.next();
            } else {
                return (candidate <= last).then_some(candidate);
            }
            candidate = candidate.checked_add(1).filter(|next| *next <= last)?;
        }
    }

    /// Something else holds this port: it is left alone for a while.
    pub(super) fn rest_port(&mut self, port: u16, now: Time) {
        let full = self.resting_ports.len() >= RESTING_MAX;
        let oldest = self.resting_ports.iter().min_by_key(|(_, until)| **until);
        if let Some((oldest, _)) = oldest.filter(|_| full) {
            let oldest = *oldest;
            self.resting_ports.remove(&oldest);
        }
        self.resting_ports.insert(port, now.plus(PORT_REST));
        let (min, max) = (self.facts.port_min, self.facts.port_max);
        let range = u32::from(max.saturating_sub(min)) + 1;
        let offset = (u32::from(port.saturating_sub(min)) + u32::from(PORT_STRIDE)) % range;
        self.port_cursor = min.saturating_add(offset as u16);
    }

    /// Ports that have rested long enough may be given again. Returns when the next one may.
    pub(super) fn wake_ports(&mut self, now: Time) -> Option<Time> {
        self.resting_ports.retain(|_, until| *until > now);
        self.resting_ports.values().min().copied()
    }

    pub(super) fn hold(&mut self, task: TaskId, needs: Resources, port: Option<u16>) {
        self.tasks.insert(task);
        self.used.memory.0 += needs.memory.0;
        self.used.cpu.0 += needs.cpu.0;
        self.used.task_slots += 1;
        if let Some(port) = port {
            self.ports.insert(port);
            self.port_cursor = port.checked_add(1).unwrap_or(self.facts.port_min);
        }
    }

    pub(super) fn release(&mut self, task: TaskId, needs: Resources, port: Option<u16>) {
        if !self.tasks.remove(&task) {
            return;
        }
        self.used.memory.0 = self.used.memory.0.saturating_sub(needs.memory.0);
        self.used.cpu.0 = self.used.cpu.0.saturating_sub(needs.cpu.0);
        self.used.task_slots = self.used.task_slots.saturating_sub(1);
        if let Some(port) = port {
            self.ports.remove(&port);
        }
    }
}
