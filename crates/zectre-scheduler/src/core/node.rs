//! A node: what it has, what its tasks hold of it, and whether it may get more.

use std::collections::BTreeSet;
use zectre_common::{
    id::{NodeId, TaskId},
    quantity::{CpuMillis, MemoryBytes},
    spec::{Labels, Resources},
    state::{Eligibility, NodeStatus},
    time::Time,
    wire::node::{Capacity, Enforcement},
};

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
    /// Where the search for a free port goes on, so that a port rests before it is given again.
    pub port_cursor: u16,
}

impl Node {
    /// A node as read from its row, or at its first registration.
    pub fn new(id: NodeId, facts: NodeFacts, now: Time) -> Self {
        let port_cursor = facts.port_min;
        Self {
            id,
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
            port_cursor,
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
        self.status == NodeStatus::Ready && self.eligibility == Eligibility::Eligible && !self.has_extras
    }

    /// Whether one more task with these needs fits.
    pub fn fits(&self, needs: Resources) -> bool {
        self.free_memory() >= needs.memory.0
            && self.free_cpu() >= needs.cpu.0
            && self.free_slots() > 0
            && self.ports.len() < usize::from(self.facts.port_max - self.facts.port_min) + 1
    }

    /// The next free port from the cursor on; `None` when all are held.
    pub(super) fn free_port(&self) -> Option<u16> {
        let (min, max) = (self.facts.port_min, self.facts.port_max);
        let start = self.port_cursor.clamp(min, max);
        (start..=max)
            .chain(min..start)
            .find(|port| !self.ports.contains(port))
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
