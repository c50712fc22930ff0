//! What a step decided: rows to save in one transaction, then orders to send and answers to give.

use super::{Deployment, Environment, Node, Task};
use zectre_common::{
    id::{ApplicationId, DeploymentId, NodeId, TaskId},
    quantity::DurationMs,
    state::Reason,
};

/// A line of the activity feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Happening {
    /// Who caused it; the scheduler itself when empty.
    pub actor: Option<String>,
    /// What, e.g. `deployment.succeeded`.
    pub action: &'static str,
    /// On which application.
    pub application_id: Option<ApplicationId>,
    /// On which deployment.
    pub deployment_id: Option<DeploymentId>,
    /// On which task.
    pub task_id: Option<TaskId>,
    /// On which node.
    pub node_id: Option<NodeId>,
    /// The same in a sentence.
    pub message: String,
    /// The stable code, where there is one.
    pub reason: Option<Reason>,
    /// The request that caused it.
    pub request_id: Option<String>,
}

/// Something to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Write a task's row.
    SaveTask(Box<Task>),
    /// Write the scheduler's columns of a deployment.
    SaveDeployment(Box<Deployment>),
    /// Write the scheduler's columns of an environment.
    SaveEnvironment(Environment),
    /// Write a node's row.
    SaveNode(Box<Node>),
    /// Raise the routing epoch in the same transaction, give the new one to every saved task whose
    /// `unrouted` is awaited, and feed it back as [`super::Event::EpochRaised`].
    RaiseEpoch,
    /// Mark an operation as applied.
    OperationApplied(i64),
    /// Add to the activity feed.
    Record(Box<Happening>),
    /// Tell the node to start a task.
    Start {
        /// Where.
        node_id: NodeId,
        /// Which.
        task: Box<Task>,
    },
    /// Tell the node to stop a task.
    Stop {
        /// Where.
        node_id: NodeId,
        /// Which.
        task_id: TaskId,
        /// Newer than every order before.
        generation: u64,
        /// From SIGTERM to SIGKILL.
        grace: DurationMs,
    },
    /// Tell the node that a task's end is recorded.
    Forget {
        /// Where.
        node_id: NodeId,
        /// Which.
        task_id: TaskId,
        /// Newer than every order before.
        generation: u64,
    },
    /// A deployment that is being woken got a place on a node, its first one there: counted, and nothing follows from it.
    Woken {
        /// Where.
        node_id: NodeId,
    },
    /// A task of the deployment takes requests now: answer those who wait for it.
    Ready(DeploymentId),
    /// The deployment went to sleep: whoever waits for it still wakes it again, as whoever comes now would.
    Asleep(DeploymentId),
    /// The deployment serves no more and sleeps since, and all proxies know: whoever waits for it still asks anew, as whoever comes
    /// now does.
    Displaced(DeploymentId),
    /// The deployment can't take requests: answer those who wait for it.
    WakeFailed {
        /// Which.
        deployment_id: DeploymentId,
        /// The stable code.
        reason: Reason,
        /// The same in a sentence.
        message: String,
    },
}
