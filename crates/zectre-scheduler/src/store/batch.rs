//! The rows of many steps, the last version of each.

use crate::core::{AWAKE, Command, Deployment, Environment, Happening, Node, Task};
use std::collections::BTreeMap;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    time::Time,
};

/// What one commit writes.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) ended: BTreeMap<TaskId, Task>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(super) environments: BTreeMap<EnvironmentId, Environment>,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) happenings: Vec<(Time, Happening)>,
    pub(super) operations: Vec<i64>,
    pub(super) raises_epoch: bool,
}

impl Batch {
    /// Takes what has to be saved; gives back what has to be sent or told.
    pub fn absorb(&mut self, command: Command, now: Time) -> Option<Command> {
        match command {
            Command::SaveTask(task) if task.state.is_ended() => {
                self.tasks.remove(&task.id);
                self.ended.insert(task.id, *task);
            }
            Command::SaveTask(task) => drop(self.tasks.insert(task.id, *task)),
            Command::SaveDeployment(row) => drop(self.deployments.insert(row.id, *row)),
            Command::SaveEnvironment(row) => drop(self.environments.insert(row.id, row)),
            Command::SaveNode(row) => drop(self.nodes.insert(row.id, *row)),
            Command::RaiseEpoch => self.raises_epoch = true,
            Command::OperationApplied(id) => self.operations.push(id),
            Command::Record(happening) => self.happenings.push((now, *happening)),
            told => return Some(told),
        }
        None
    }

    /// Nothing has to be saved.
    pub fn is_empty(&self) -> bool {
        self.rows() == 0 && self.happenings.is_empty() && self.operations.is_empty() && !self.raises_epoch
    }

    /// Whether all that has to be saved is until when nodes hold their leases.
    pub fn holds_leases_only(&self) -> bool {
        self.rows() == self.nodes.len()
            && self.happenings.is_empty()
            && self.operations.is_empty()
            && !self.raises_epoch
    }

    /// Whether its commit raises the routing epoch.
    pub fn raises_epoch(&self) -> bool {
        self.raises_epoch
    }

    /// Deployments that it wakes.
    pub fn wakes(&self) -> u64 {
        let woken = self.happenings.iter().filter(|(_, one)| one.action == AWAKE);
        woken.count() as u64
    }

    /// Rows in it, but for those of the activity feed.
    pub fn rows(&self) -> usize {
        self.ended.len()
            + self.tasks.len()
            + self.deployments.len()
            + self.environments.len()
            + self.nodes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_feed_tells_as_a_wake_is_one() {
        let mut batch = Batch::default();
        for action in ["deployment.asleep", AWAKE, "task.started", AWAKE] {
            let happening = Happening {
                action,
                ..Happening::default()
            };
            batch.absorb(Command::Record(Box::new(happening)), Time::from_unix_ms(0));
        }
        assert_eq!(batch.wakes(), 2);
    }
}
