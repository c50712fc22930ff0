//! A task: one replica of a deployment, placed once and never moved or restarted in place.

use std::sync::Arc;
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    state::{Reason, TaskState, Wanted},
    time::Time,
    wire::task::Phases,
};

/// Whether proxies were told to send a task no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Unrouted {
    /// They were not.
    #[default]
    No,
    /// They are being told: the epoch is fixed by the commit of this step.
    Awaited,
    /// This is the first routing epoch without it.
    At(u64),
}

/// A task that has not ended, or the last word about one that has.
#[derive(Debug, Clone, PartialEq)]
pub struct Task {
    /// Its id.
    pub id: TaskId,
    /// Its deployment.
    pub deployment_id: DeploymentId,
    /// Which replica it is, from 0.
    pub slot: u32,
    /// Its node, once placed.
    pub node_id: Option<NodeId>,
    /// Where it is.
    pub state: TaskState,
    /// What is wanted of it.
    pub wanted: Wanted,
    /// Why it waits, is stopped, or failed.
    pub reason: Option<Reason>,
    /// The same in a sentence.
    pub message: Option<String>,
    /// Raised with every order about it.
    pub generation: u64,
    /// Where it is reached, once it runs.
    pub address: Option<Arc<str>>,
    /// The port it was given.
    pub port: Option<u16>,
    /// Its last health check passed.
    pub healthy: bool,
    /// Proxies may send it requests.
    pub routed: bool,
    /// How far proxies are with taking it out.
    pub unrouted: Unrouted,
    /// When it is stopped even if requests are under way.
    pub drain_until: Option<Time>,
    /// Failures in a row of its slot before it.
    pub restarts: u32,
    /// It waits out its backoff until then.
    pub not_before: Option<Time>,
    /// How it ended.
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// How long its start took.
    pub phases: Option<Phases>,
    /// When it was wanted.
    pub created_at: Time,
    /// When its node was told to start it.
    pub started_at: Option<Time>,
    /// When it became ready.
    pub running_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// When the last order about it was sent or the agent last spoke of its start. Not persisted:
    /// after a reload an order may be sent once more, which has no effect.
    pub seen_at: Option<Time>,
}

impl Task {
    /// A task that waits for a place.
    pub fn new(id: TaskId, deployment_id: DeploymentId, slot: u32, now: Time) -> Self {
        Self {
            id,
            deployment_id,
            slot,
            node_id: None,
            state: TaskState::Pending,
            wanted: Wanted::Run,
            reason: None,
            message: None,
            generation: 1,
            address: None,
            port: None,
            healthy: false,
            routed: false,
            unrouted: Unrouted::No,
            drain_until: None,
            restarts: 0,
            not_before: None,
            exit_code: None,
            signal: None,
            phases: None,
            created_at: now,
            started_at: None,
            running_at: None,
            finished_at: None,
            seen_at: None,
        }
    }

    /// It does its work and is to go on doing so.
    pub fn is_ready(&self) -> bool {
        self.state == TaskState::Running && self.wanted == Wanted::Run && self.healthy
    }

    /// It is taken out of routing and waits until it may be told to stop. One that is still starting by its row may have
    /// been named to those who waited.
    pub fn is_draining(&self) -> bool {
        matches!(self.state, TaskState::Starting | TaskState::Running) && self.wanted == Wanted::Stop
    }

    /// It holds resources and a port of its node.
    pub fn is_placed(&self) -> bool {
        self.node_id.is_some() && !self.state.is_ended()
    }
}

/// Whether ending for this reason is the program's, the node's or the platform's failure, and not a wish.
pub(super) fn is_failure(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Stopped | Reason::Idle | Reason::Superseded | Reason::Cancelled
    )
}
