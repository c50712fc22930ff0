//! Tasks as people see them.

use crate::{
    id::{ApplicationId, DeploymentId, NodeId, TaskId},
    state::{Reason, TaskState, Wanted},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long each phase of a start took, in microseconds; a phase that did not happen is absent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Phases {
    /// What a wake waited beside the other phases: for the scheduler's turn, and on the way there and back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_us: Option<u64>,
    /// From the wish to the decision where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place_us: Option<u64>,
    /// Bringing the artifact or image to the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fetch_us: Option<u64>,
    /// Making the process or container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_us: Option<u64>,
    /// From the process to its passed readiness check.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_us: Option<u64>,
}

/// What a task used of its limits: one sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TaskUsage {
    /// Thousandths of a core, on average since the sample before.
    pub cpu_millis: u64,
    /// Bytes of memory at the moment of the sample.
    pub memory_bytes: u64,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// The application of that deployment.
    pub application_id: ApplicationId,
    /// Which replica it is, from 0.
    pub slot: u32,
    /// Where it is.
    pub state: TaskState,
    /// What the scheduler wants of it.
    pub wanted: Wanted,
    /// Why it ended.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// Its node.
    pub node_id: Option<NodeId>,
    /// The node's name.
    pub node: Option<String>,
    /// Where it is reached.
    pub address: Option<String>,
    /// The published port.
    pub port: Option<u16>,
    /// Its last health check passed.
    pub healthy: bool,
    /// Requests are sent to it.
    pub routed: bool,
    /// Raised with every new order about it.
    pub generation: u64,
    /// How many tasks of this slot failed before it.
    pub restarts: u32,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long its start took.
    pub phases: Option<Phases>,
    /// What it used when its node last told.
    #[serde(default)]
    pub usage: Option<TaskUsage>,
    /// When that was.
    #[serde(default)]
    pub usage_at: Option<Time>,
    /// When it was wanted.
    pub created_at: Time,
    /// When its node was told to start it.
    pub started_at: Option<Time>,
    /// When it became ready.
    pub running_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
}
