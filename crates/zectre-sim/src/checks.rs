//! What must hold after every step: the promises of the platform, by number.
//!
//! 1. a node never holds more than its capacity, and a port is never given twice;
//! 2. no more replicas than wanted and the surge;
//! 3. during a rolling update enough healthy tasks are routed;
//! 4. a task is told to stop only when no proxy needs it;
//! 5. what an old leader or a stale agent says changes nothing;
//! 6. an accepted write is never lost, and has its effect once;
//! 7. a task is started once;
//!
//! and that a failure says why.

mod batch;
mod before;
mod machine;
mod refusals;
mod rest;
mod room;
mod slots;
mod state;
mod words;

use crate::{database::Batch, sim::Us, trace::short};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::{
    id::{DeploymentId, EnvironmentId, ProxyId, TaskId},
    state::Reason,
    time::Time,
};
use zectre_scheduler_core::{Cluster, Command, Event};

pub(crate) use before::Before;

/// What the checks remember.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    /// Everything has come to rest.
    pub(crate) at_rest: bool,
    /// Transactions under way, with their leader's epoch.
    pub(crate) in_flight: BTreeMap<u64, (u64, Batch)>,
    /// When a proxy last told the database of a request.
    pub(crate) asked_us: BTreeMap<DeploymentId, Us>,
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
    /// Servers whose time is nearly over and who have no successor: the term that saw it first, and when.
    unrelieved: BTreeMap<TaskId, (u64, Time)>,
    /// For which deployments requests wait in vain: the term, and since when.
    unrefused: BTreeMap<DeploymentId, (u64, Time)>,
    /// What serves and waits for room that idle superseded versions have: the term, and since when.
    roomless: BTreeMap<DeploymentId, (u64, Time)>,
    /// Looks in a row that found nothing moving.
    calm_looks: u32,
    /// The reason codes that were given to a task, to a deployment or to the activity feed.
    pub(crate) reasons: BTreeSet<Reason>,
}

/// The routed tasks and the targets of a state.
pub(crate) type Targets = BTreeMap<EnvironmentId, Option<DeploymentId>>;

/// Tasks that proxies may send requests to, as a leader sees it.
pub(crate) fn routed(cluster: &Cluster) -> BTreeSet<TaskId> {
    let routed = cluster.tasks().filter(|task| task.routed && task.is_ready());
    routed.map(|task| task.id).collect()
}

/// The reason code that a decision gives.
pub(crate) fn reason_of(command: &Command) -> Option<Reason> {
    match command {
        Command::SaveTask(task) => task.reason,
        Command::SaveDeployment(deployment) => deployment.reason,
        Command::Record(happening) => happening.reason,
        _ => None,
    }
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
