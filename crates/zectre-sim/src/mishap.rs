//! Faults that are rare alone and dangerous together: they happen on purpose right where something is not saved yet.

use crate::{
    database::Batch,
    host::HostAct,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
};
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    state::{OperationKind, TaskState},
};
use zectre_scheduler_core::Command;

/// In so many of a thousand answers to a wake something goes wrong around it.
const WAKE_PER_MILLE: u64 = 60;
/// In a calm world so many of a thousand orders to start are lost.
const START_PER_MILLE: u64 = 100;
/// In so many of a thousand commits that place a node's only task, that node's row is deleted meanwhile.
const NODE_PER_MILLE: u64 = 30;

impl Sim {
    /// Who waits is told of tasks now. Perhaps what that is said of is never saved, or the answer is long on its way; and people
    /// want it asleep again, or a task gone, at the same time. Returns by how much the answer is late.
    pub(crate) fn wake_mishap(&mut self, term: u64, deployment: DeploymentId, named: &[TaskId]) -> Us {
        if !self.is_stormy() || !self.random.chance(WAKE_PER_MILLE) {
            return 0;
        }
        let late_us = if self.random.chance(500) {
            note!(self, "the next commit fails");
            self.faults.doomed_term = Some(term);
            0
        } else {
            self.random.between(500 * MS, 8 * SECOND)
        };
        match self.random.pick(named).filter(|_| self.random.chance(400)) {
            Some(task) => self.ask(OperationKind::StopTask, Some(deployment), Some(task), None),
            None => self.ask(OperationKind::Sleep, Some(deployment), None, None),
        }
        late_us
    }

    /// An order to start is lost although nothing else is: its node's next digest shows that it has to be repeated.
    pub(crate) fn start_mishap(&mut self, order: &Command) -> bool {
        let Command::Start { task, .. } = order else {
            return false;
        };
        let is_lost = Self::is_calm_since(self.now_us) && self.random.chance(START_PER_MILLE);
        if is_lost {
            note!(self, "the order to start task {} is lost", short(task.id.get()));
        }
        is_lost
    }

    /// A node's row is deleted just when its only task is placed on it, and its agent starts again as a new node before the
    /// leader looks at the rows.
    pub(crate) fn node_mishap(&mut self, batch: &Batch) {
        if !self.is_stormy() || self.database.is_down || !self.random.chance(NODE_PER_MILLE) {
            return;
        }
        let placed = batch
            .tasks
            .values()
            .filter(|task| task.state == TaskState::Starting);
        let nodes: Vec<NodeId> = placed.filter_map(|task| task.node_id).collect();
        let free = self.free_nodes();
        let Some(id) = nodes.into_iter().find(|id| free.contains(id)) else {
            return;
        };
        let Some(index) = self.hosts.iter().position(|host| host.node == Some(id)) else {
            return;
        };
        note!(self, "node {} is deleted as it gets a task", short(id.get()));
        self.remove_node_row(id);
        // The call that would tell the leader is lost; its next look at the rows comes within a second.
        self.write_operation(OperationKind::Node, None, None, Some(id));
        // The order to start finds the agent where it was.
        let ends_us = self.random.between(5 * MS, 300 * MS);
        self.after(ends_us, Act::Host(index, HostAct::Restart));
    }
}
