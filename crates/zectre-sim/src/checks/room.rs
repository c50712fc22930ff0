//! What serves and waits is given the room of superseded versions that nobody asks for; what is asked for keeps its room.

use super::state::Broken;
use crate::sim::Sim;
use std::{collections::BTreeMap, time::Duration};
use zectre_common::{
    id::DeploymentId,
    state::{DeploymentStatus, NodeStatus, Reason, TaskState, Wanted},
    time::Time,
};
use zectre_scheduler_core::{Cluster, Command, Deployment, Task};

/// What was asked for within this time gives no way, as the scheduler promises.
const UNASKED_MIN: Duration = Duration::from_secs(30);
/// The scheduler looks every second.
const ROOM_LATE: Duration = Duration::from_secs(5);

/// Who sleeps to make room has not been asked for lately. `told` is what the scheduler could hear of requests.
pub(super) fn broken_way(commands: &[Command], told: &BTreeMap<DeploymentId, Time>, now: Time) -> Broken {
    let slept = commands.iter().filter_map(|command| match command {
        Command::Record(happening) if happening.message.starts_with("slept to make room") => {
            happening.deployment_id
        }
        _ => None,
    });
    for id in slept {
        let at = told.get(&id).copied();
        if at.is_some_and(|at| at.plus(UNASKED_MIN) > now) {
            return Some((
                "what is asked for stays awake",
                format!("{id} made room, asked for at {at:?}"),
            ));
        }
    }
    None
}

impl Sim {
    /// Of those that serve and wait in the term under way.
    pub(super) fn check_room(&mut self, index: usize, id: u64, now: Time) {
        let known = std::mem::take(&mut self.checks.roomless);
        let Some(term) = self.schedulers[index].term.as_ref().filter(|term| term.id == id) else {
            return;
        };
        let Some(cluster) = term.cluster.as_ref() else {
            return;
        };
        // Room is about to be free, or it is not known who has it.
        let is_moving = cluster.tasks().any(|task| task.wanted == Wanted::Stop)
            || cluster
                .nodes()
                .any(|node| node.has_extras && node.status == NodeStatus::Ready);
        if is_moving {
            return;
        }
        let serving = cluster
            .environments()
            .flat_map(|e| [e.current, e.target])
            .flatten();
        let roomless = serving
            .filter_map(|id| cluster.deployment(id))
            .filter(|d| waits(cluster, d) && could_have_room(cluster, d, now));
        let since = |d: &Deployment| {
            let before = known.get(&d.id).copied().filter(|(of, _)| *of == id);
            (d.id, before.unwrap_or((id, now)))
        };
        self.checks.roomless = roomless.map(since).collect();
        let mut all = self.checks.roomless.iter();
        if let Some((deployment, (_, since))) = all.find(|(_, (_, since))| now.since(*since) > ROOM_LATE) {
            let detail =
                format!("{deployment} serves, and waits since {since} for room that an idle preview has");
            self.fail("what serves is given the room of idle previews", detail);
        }
    }
}

/// It has no task but such as wait for room.
fn waits(cluster: &Cluster, deployment: &Deployment) -> bool {
    let waits = |task: &Task| task.state == TaskState::Pending && task.reason == Some(Reason::NoCapacity);
    let mut tasks = cluster.tasks_of(deployment.id).peekable();
    let is_simple = deployment.spec.constraints.is_empty() && !deployment.spec.anti_affinity;
    is_simple
        && !deployment.is_job()
        && !deployment.is_given_up()
        && tasks.peek().is_some()
        && tasks.all(waits)
}

/// A superseded version that nobody asks for holds a place that would do, alone.
fn could_have_room(cluster: &Cluster, deployment: &Deployment, now: Time) -> bool {
    let needs = deployment.spec.resources;
    cluster
        .deployments()
        .filter(|d| is_idle(cluster, d, now))
        .any(|idle| {
            let held = idle.spec.resources;
            let nodes = cluster
                .tasks_of(idle.id)
                .filter_map(|task| cluster.node(task.node_id?));
            nodes.filter(|node| node.takes_tasks()).any(|node| {
                node.free_memory() + held.memory.0 >= needs.memory.0
                    && node.free_cpu() + held.cpu.0 >= needs.cpu.0
            })
        })
}

fn is_idle(cluster: &Cluster, deployment: &Deployment, now: Time) -> bool {
    let environment = cluster.environment(deployment.environment_id);
    // Somebody may have gone back to it, and it waits for its turn.
    let is_free = environment.is_some_and(|e| e.target.is_none() && e.current != Some(deployment.id));
    let can_wake = deployment.cold_start_enabled && !deployment.is_job();
    if !is_free || !can_wake || deployment.asleep || deployment.status != DeploymentStatus::Succeeded {
        return false;
    }
    let begun = cluster
        .tasks_of(deployment.id)
        .map(|task| task.running_at.filter(|_| task.is_ready()));
    let begun: Option<Vec<Time>> = begun.collect();
    let Some(begun) = begun.filter(|begun| !begun.is_empty()) else {
        return false;
    };
    let asked = [deployment.last_active_at, deployment.finished_at]
        .into_iter()
        .flatten();
    let last = asked.chain(begun).max();
    last.is_some_and(|last| last.plus(UNASKED_MIN) <= now)
}
