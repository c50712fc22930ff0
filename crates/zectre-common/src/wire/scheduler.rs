//! What agents, the API and the scheduler say to each other.

use crate::{
    id::{DeploymentId, NodeId},
    spec::Labels,
    time::Time,
    wire::{
        agent::{Action, TaskReport},
        node::{Capacity, Enforcement},
    },
};
use serde::{Deserialize, Serialize};

/// `POST /nodes/register`: a join token the first time, the node's own credential after that, as bearer.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Unique in the cluster.
    pub name: String,
    /// Where proxies and the scheduler reach it.
    pub address: String,
    /// The agent's port.
    pub actions_port: u16,
    /// For constraints.
    pub labels: Labels,
    /// What it has.
    pub capacity: Capacity,
    /// Ports it gives to tasks, both ends included.
    pub port_min: u16,
    /// Ports it gives to tasks, both ends included.
    pub port_max: u16,
    /// Whether it runs containers.
    pub container_enabled: bool,
    /// What it can hold tasks to.
    pub enforcement: Enforcement,
}

/// The answer: who the node is from now on.
#[derive(Clone, Serialize, Deserialize)]
pub struct RegisterResponse {
    /// Its id.
    pub node_id: NodeId,
    /// The node's key (hex): signs what the agent says, and what the scheduler says to it. Kept 0600.
    pub credential: String,
    /// How often to heartbeat.
    pub heartbeat_ms: u64,
}

/// `POST /nodes/heartbeat`: the full digest, so that drift can't hide.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HeartbeatRequest {
    /// Who.
    pub node_id: NodeId,
    /// All tasks the agent holds, ended ones too until they are forgotten.
    pub tasks: Vec<TaskReport>,
}

/// The answer: what differs from what is wanted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HeartbeatResponse {
    /// The epoch of the leader that says so.
    pub leader_epoch: u64,
    /// Orders that the agent's digest shows it has not acted on.
    pub actions: Vec<Action>,
}

/// `POST /nodes/task-published-port`: news about tasks, at once instead of with the next heartbeat.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskReportsRequest {
    /// Who.
    pub node_id: NodeId,
    /// At most 1,000.
    pub tasks: Vec<TaskReport>,
}

/// The most names of one kind in one [`NeededRequest`].
pub const NEEDED_MAX: usize = 10_000;

/// `POST /nodes/needed`: before a node drops artifacts or images, it asks which of them are needed.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NeededRequest {
    /// Who.
    pub node_id: NodeId,
    /// Hashes of artifacts, lower-case hex; at most [`NEEDED_MAX`].
    pub artifacts: Vec<String>,
    /// Names of images; at most [`NEEDED_MAX`].
    pub images: Vec<String>,
}

/// The answer: those that a deployment needs that runs, is current, is being rolled out, or that a rollback of one of
/// these leads to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NeededResponse {
    /// Hashes of artifacts.
    pub artifacts: Vec<String>,
    /// Names of images.
    pub images: Vec<String>,
}

/// `POST /scheduler/deploy`, `/assign-pending` and `/reconcile-deployment/{id}`: look at the operations now.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NudgeRequest {
    /// Which deployment it is about.
    pub deployment_id: Option<DeploymentId>,
}

/// The longest that the scheduler waits for a wake, in milliseconds: it answers before its callers' connections are given up.
pub const WAKE_WAIT_MS_MAX: u64 = 55_000;

/// `POST /scheduler/wake`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WakeRequest {
    /// Which deployment.
    pub deployment_id: DeploymentId,
    /// How long to wait for a ready task, at most [`WAKE_WAIT_MS_MAX`]; 0 answers at once.
    pub wait_ms: u64,
    /// A proxy asks, for a request: a superseded version that sleeps is refused as [`SUPERSEDED`]. That it counts again has to be
    /// written down first, which the API does.
    #[serde(default)]
    pub unless_superseded: bool,
}

/// The code of a wake that the API has to be asked for.
pub const SUPERSEDED: &str = "SUPERSEDED";

/// `GET /scheduler/status`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchedulerStatus {
    /// Whether this one leads.
    pub leader: bool,
    /// The epoch it leads with, or last saw.
    pub epoch: u64,
    /// When it began to lead.
    pub leading_since: Option<Time>,
    /// Nodes whose lease holds.
    pub nodes_ready: u32,
    /// Tasks that have not ended.
    pub tasks_live: u32,
    /// Deployments being rolled out.
    pub rollouts: u32,
}
