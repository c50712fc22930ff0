//! What the scheduler and an agent say to each other about tasks.
//!
//! Orders carry the leader's epoch and the task's generation: an agent refuses an epoch older than the
//! newest it has seen, and ignores a generation that isn't newer than what it holds.

use crate::{
    id::{ArtifactId, DeploymentId, TaskId},
    quantity::DurationMs,
    spec::{HealthCheck, ProcessType, Protocol, Resources, RestartPolicy, Volume},
    state::{ArtifactKind, Reason, TaskState},
    time::Time,
    wire::{
        log::LogLine,
        task::{Phases, TaskUsage},
    },
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most orders of one batch.
pub const ACTIONS_MAX: usize = 1_000;

/// Where a task's program comes from.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactRef {
    /// Its id.
    pub id: ArtifactId,
    /// What it holds.
    pub kind: ArtifactKind,
    /// Lower-case hex; also the name in the node's cache.
    pub sha256: String,
    /// Bytes.
    pub size: u64,
    /// Signed and expiring; fetched only when the cache doesn't hold the hash.
    pub url: String,
}

impl std::fmt::Debug for ArtifactRef {
    /// Leaves the URL out: whoever has it gets the program, until it expires.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ArtifactRef")
            .field("id", &self.id)
            .field("kind", &self.kind)
            .field("sha256", &self.sha256)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Everything an agent needs to run a task.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskOrder {
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// Names for the environment, the user of the task and the logs.
    pub application: String,
    /// The application's namespace.
    pub namespace: String,
    /// Slug.
    pub environment: String,
    /// How it is started.
    pub process_type: ProcessType,
    /// The program of a native task.
    pub artifact: Option<ArtifactRef>,
    /// The image of a container.
    pub image: Option<String>,
    /// Overrides the entry point; names the executable in a bundle.
    pub command: Option<Vec<String>>,
    /// Arguments.
    pub args: Vec<String>,
    /// Merged variables, secrets included: never logged. The platform's own are added by the agent.
    pub env: BTreeMap<String, String>,
    /// The port on the node.
    pub port: u16,
    /// The port inside a container, where it differs.
    pub container_port: Option<u16>,
    /// What is spoken on the port.
    pub protocol: Protocol,
    /// Readiness and liveness.
    pub health_check: HealthCheck,
    /// Limits.
    pub resources: Resources,
    /// With `never` the task runs to completion: it needs no port, and ending with 0 is success.
    pub restart: RestartPolicy,
    /// It is stopped after this long.
    pub max_runtime_secs: Option<u32>,
    /// From SIGTERM to SIGKILL.
    pub stop_grace_secs: u32,
    /// Directories of the node.
    pub volumes: Vec<Volume>,
}

impl std::fmt::Debug for TaskOrder {
    /// Leaves the variables out: they may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TaskOrder")
            .field("deployment_id", &self.deployment_id)
            .field("process_type", &self.process_type)
            .field("image", &self.image)
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

/// What to do about a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ActionKind {
    /// Run it.
    Start {
        /// How.
        order: Box<TaskOrder>,
    },
    /// End it: SIGTERM, grace, SIGKILL.
    Stop {
        /// From SIGTERM to SIGKILL.
        grace: DurationMs,
    },
    /// Its end is recorded: drop what is kept of it (its logs once they are shipped).
    Forget,
}

/// An order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    /// About which task.
    pub task_id: TaskId,
    /// Newer than the last order about it, or the order is ignored.
    pub generation: u64,
    /// What to do.
    #[serde(flatten)]
    pub kind: ActionKind,
}

/// `POST /api/v1/actions` of the agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ActionsRequest {
    /// The epoch of the leader that says so.
    pub leader_epoch: u64,
    /// At most [`ACTIONS_MAX`].
    pub actions: Vec<Action>,
}

/// The agent's answer: accepted, not done. What became of each comes as reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActionsResponse {
    /// How many were new.
    pub accepted: u32,
    /// How many were old or repeated.
    pub ignored: u32,
}

/// How a task is, as its agent sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    /// Which.
    pub task_id: TaskId,
    /// The last order the agent acted on.
    pub generation: u64,
    /// `starting`, `running`, `stopping`, `stopped` or `failed`.
    pub state: TaskState,
    /// Its last health check passed.
    pub healthy: bool,
    /// Where it is reached, once it runs.
    pub port: Option<u16>,
    /// Why it failed.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// What the last probe saw.
    pub last_probe: Option<String>,
    /// Its last lines, when it failed; at most 20.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub log_tail: Vec<LogLine>,
    /// How long its start took.
    #[serde(default)]
    pub phases: Phases,
    /// What it used lately; agents from before this field leave it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<TaskUsage>,
    /// When it entered this state, by the node's clock.
    pub since: Time,
}
