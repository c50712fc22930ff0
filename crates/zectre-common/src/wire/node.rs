//! Nodes as people see them.

use crate::{
    id::NodeId,
    quantity::{CpuMillis, MemoryBytes},
    spec::Labels,
    state::{Eligibility, NodeStatus},
    time::Time,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What a node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Capacity {
    /// Thousandths of a core.
    pub cpu: CpuMillis,
    /// Memory for tasks.
    pub memory: MemoryBytes,
    /// The most tasks at once.
    pub task_slots: u32,
}

/// What this machine can hold tasks to, told by the agent at its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enforcement {
    /// `v1`, `v2`, `hybrid` or `none`.
    pub cgroups: String,
    /// Memory limits hold.
    pub memory: bool,
    /// CPU limits hold.
    pub cpu: bool,
    /// Process-count limits hold.
    pub pids: bool,
    /// Native tasks run as an unprivileged user of their own.
    pub users: bool,
    /// Native tasks have namespaces of their own: processes, mounts, interprocess communication, host name.
    #[serde(default)]
    pub namespaces: bool,
    /// Native tasks see no files of the node but programs, libraries and settings, and what they write is bounded.
    #[serde(default)]
    pub files: bool,
    /// Native tasks can't make system calls that no program needs.
    #[serde(default)]
    pub seccomp: bool,
    /// The version of landlock's rules that native tasks are held to; 0 where there are none.
    #[serde(default)]
    pub landlock: u32,
    /// A native task can listen on its own TCP port only.
    #[serde(default)]
    pub ports: bool,
    /// Cloud metadata addresses are out of native tasks' reach.
    #[serde(default)]
    pub metadata: bool,
    /// What could not be enforced, a sentence each.
    #[serde(default)]
    pub gaps: Vec<String>,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its name, unique in the cluster.
    pub name: String,
    /// Where its tasks and its agent are reached.
    pub address: String,
    /// The agent's port.
    pub actions_port: u16,
    /// For constraints.
    pub labels: Labels,
    /// What it has.
    pub capacity: Capacity,
    /// What live tasks hold of it.
    pub used: Capacity,
    /// Whether it runs containers.
    pub container_enabled: bool,
    /// Whether new tasks may be placed on it.
    pub eligibility: Eligibility,
    /// Whether its lease holds.
    pub status: NodeStatus,
    /// When its lease ends.
    pub lease_expires_at: Time,
    /// What it can hold tasks to.
    pub enforcement: Enforcement,
    /// When it first joined.
    pub registered_at: Time,
}

/// `POST /nodes/join-tokens`: shown once.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct JoinToken {
    /// Goes into `[agent].join_token` of the new node; form `zj_…`.
    pub token: String,
    /// When it ends.
    pub expires_at: Time,
}
