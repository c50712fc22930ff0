//! What must hold after every step: the promises of the platform, by number.
//!
//! 1. a node never holds more than its capacity, and a port is never given twice;
//! 2. no more replicas than wanted and the surge;
//! 3. during a rolling update enough healthy tasks are routed;
//! 4. a task is told to stop only when no proxy needs it;
//! 5. what an old leader or a stale agent says changes nothing;
//! 6. an accepted write is never lost, and has its effect once;
//! 7. a task is started once.

mod batch;
mod before;
mod machine;
mod rest;
mod slots;
mod state;

use crate::{database::Batch, trace::short};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::id::{DeploymentId, EnvironmentId, ProxyId, TaskId};
use zectre_scheduler::core::{Cluster, Event};

pub(crate) use before::Before;

/// What the checks remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Everything has come to rest.
    pub(crate) at_rest: bool,
    /// Transactions under way, with their leader's epoch.
    pub(crate) in_flight: BTreeMap<u64, (u64, Batch)>,
    /// How often a task got a process.
    started: BTreeMap<TaskId, u32>,
    /// Which slots of runs to completion had a process.
    ran: BTreeMap<(DeploymentId, u32), TaskId>,
    /// Tasks that were stopped in order: no proxy may need them any more.
    stopped: BTreeSet<TaskId>,
    /// The live proxies that the scheduler knew when it decided that a task has to stop.
    known_at_stop: BTreeMap<TaskId, BTreeSet<ProxyId>>,
    /// The same for a deployment that has succeeded.
    known_at_success: BTreeMap<DeploymentId, BTreeSet<ProxyId>>,
    /// The generation of the newest start that was sent of a task.
    started_as: BTreeMap<TaskId, u64>,
    /// The newest leader's epoch that each host has heard.
    heard: BTreeMap<usize, u64>,
    /// The routing epoch with which a deployment took over.
    taken_over: BTreeMap<DeploymentId, u64>,
    /// Looks in a row that found nothing moving.
    calm_looks: u32,
}

/// The routed tasks and the targets of a state.
pub(crate) type Targets = BTreeMap<EnvironmentId, Option<DeploymentId>>;

/// Tasks that proxies may send requests to, as a leader sees it.
pub(crate) fn routed(cluster: &Cluster) -> BTreeSet<TaskId> {
    let routed = cluster.tasks().filter(|task| task.routed && task.is_ready());
    routed.map(|task| task.id).collect()
}

/// An event as the trace tells it; nothing for what comes all the time.
pub(crate) fn tell_event(event: &Event) -> Option<String> {
    Some(match event {
        Event::Tick | Event::Heartbeat { .. } | Event::ProxyReport(_) | Event::Activity(_) => {
            return None;
        }
        Event::Loaded { deployments, .. } => {
            let all: Vec<String> = deployments.iter().map(|d| short(d.id.get())).collect();
            format!("loaded {}", all.join(" "))
        }
        Event::DeploymentGone(id) => format!("deployment {} is gone", short(id.get())),
        Event::Operation(operation) => format!("operation {} ({})", operation.id, operation.kind),
        Event::NodeRegistered { id, .. } => format!("node {} registered", short(id.get())),
        Event::NodeWanted { id, eligibility } => format!("node {} {eligibility}", short(id.get())),
        Event::NodeGone(id) => format!("node {} is gone", short(id.get())),
        Event::TaskReports { tasks, .. } => {
            let all: Vec<String> = tasks
                .iter()
                .map(|t| format!("{} {}", short(t.task_id.get()), t.state))
                .collect();
            format!("news {}", all.join(", "))
        }
        Event::Wake(id) => format!("wake {}", short(id.get())),
        Event::ProxyGone(id) => format!("proxy {} is gone", short(id.get())),
        Event::EpochRaised(epoch) => format!("epoch {epoch}"),
    })
}
