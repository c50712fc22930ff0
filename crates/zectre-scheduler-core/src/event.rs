//! What can happen to a cluster.

use super::{Deployment, Environment, NodeFacts, Proxy};
use zectre_common::{
    id::{DeploymentId, NodeId, ProxyId, TaskId},
    state::{Eligibility, OperationKind},
    time::Time,
    wire::agent::TaskReport,
};

/// A row of `operations`: what a person asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Its number; a number that was applied has no second effect.
    pub id: i64,
    /// What is asked.
    pub kind: OperationKind,
    /// Of which deployment.
    pub deployment_id: Option<DeploymentId>,
    /// Of which task.
    pub task_id: Option<TaskId>,
    /// Of which node.
    pub node_id: Option<NodeId>,
    /// Who asks.
    pub actor: String,
    /// By which request.
    pub request_id: Option<String>,
}

/// Something happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// Time passed: deadlines that are due take effect.
    Tick,
    /// Rows read from the database. What the cluster doesn't know is added; of what it knows only the
    /// columns that others write are taken over (wanted replicas, sleep settings, source).
    Loaded {
        /// The environment of the deployments.
        environment: Environment,
        /// One environment's deployments, the ones to go back to first.
        deployments: Vec<Deployment>,
    },
    /// The row of a deployment was deleted.
    DeploymentGone(DeploymentId),
    /// A person asked for something.
    Operation(Operation),
    /// An agent started and told what its machine is.
    NodeRegistered {
        /// Its id.
        id: NodeId,
        /// What it told.
        facts: NodeFacts,
    },
    /// The wanted eligibility of a node was read.
    NodeWanted {
        /// Which node.
        id: NodeId,
        /// Whether new tasks may be placed on it.
        eligibility: Eligibility,
    },
    /// The row of a node was deleted.
    NodeGone(NodeId),
    /// An agent's full digest.
    Heartbeat {
        /// Which node.
        node_id: NodeId,
        /// When it arrived. It may have waited since, and says nothing about what came meanwhile.
        heard_at: Time,
        /// Every task it holds.
        tasks: Vec<TaskReport>,
    },
    /// News about some tasks of a node.
    TaskReports {
        /// Which node.
        node_id: NodeId,
        /// Only the tasks that changed.
        tasks: Vec<TaskReport>,
    },
    /// A request waits for a deployment.
    Wake(DeploymentId),
    /// When deployments last had requests.
    Activity(Vec<(DeploymentId, Time)>),
    /// A proxy's row was read.
    ProxyReport(Proxy),
    /// A proxy's row was deleted.
    ProxyGone(ProxyId),
    /// The commit of the last step raised the routing epoch to this.
    EpochRaised(u64),
}
