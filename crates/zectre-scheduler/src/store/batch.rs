//! The rows of many steps, the last version of each.

use crate::core::{AWAKE, Command, Deployment, Environment, Happening, Node, Task};
use std::collections::BTreeMap;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    time::Time,
};

/// The finest step of the series that the API shows.
const SERIES_STEP_MS: i64 = 10_000;

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
    /// Wakes by node and the step of its series.
    pub(super) woken: BTreeMap<(NodeId, Time), i64>,
    pub(super) raises_epoch: bool,
}

/// What a commit wakes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Wakes {
    /// Each as often as the activity feed tells of it.
    pub deployments: Vec<DeploymentId>,
    /// Nodes that something was started on for it, and how often.
    pub nodes: BTreeMap<NodeId, u64>,
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
            Command::Woken { node_id } => {
                let step_ms = now.unix_ms().div_euclid(SERIES_STEP_MS) * SERIES_STEP_MS;
                *self
                    .woken
                    .entry((node_id, Time::from_unix_ms(step_ms)))
                    .or_default() += 1;
            }
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

    /// What it wakes.
    pub fn wakes(&self) -> Wakes {
        let woken = self.happenings.iter().filter(|(_, one)| one.action == AWAKE);
        let mut nodes = BTreeMap::new();
        for ((node, _), count) in &self.woken {
            *nodes.entry(*node).or_default() += count.unsigned_abs();
        }
        Wakes {
            deployments: woken.filter_map(|(_, one)| one.deployment_id).collect(),
            nodes,
        }
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
        let (id, node_id) = (DeploymentId::new(), NodeId::new());
        for action in ["deployment.asleep", AWAKE, "task.started", AWAKE] {
            let happening = Happening {
                action,
                deployment_id: Some(id),
                ..Happening::default()
            };
            batch.absorb(Command::Record(Box::new(happening)), Time::from_unix_ms(0));
        }
        for at_ms in [9_999, 10_000, 19_999] {
            batch.absorb(Command::Woken { node_id }, Time::from_unix_ms(at_ms));
        }
        assert_eq!(
            batch.wakes(),
            Wakes {
                deployments: vec![id, id],
                nodes: BTreeMap::from([(node_id, 3)]),
            }
        );
        let steps: Vec<_> = batch
            .woken
            .iter()
            .map(|((_, at), count)| (at.unix_ms(), *count))
            .collect();
        assert_eq!(steps, [(0, 1), (10_000, 2)]);
    }
}
