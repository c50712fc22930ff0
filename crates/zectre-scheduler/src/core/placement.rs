//! Where a task goes: a node without a task of the same deployment first (spread), and among those the one
//! with the least free memory that still fits (packing), so that large tasks find room later.
//!
//! When none fits, the task waits and says what is short:
//!
//! | reason | when |
//! |---|---|
//! | `no_eligible_node` | no node runs this kind of task: labels, or no container engine |
//! | `no_capacity` | some do, but none has room now, or would have when empty |

use super::{Cluster, Command, Deployment, Happening, Node, Task, drain, report};
use std::time::Duration;
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    spec::{ProcessType, Resources},
    state::{DeploymentStatus, NodeStatus, Reason, TaskState},
    time::Time,
    wire::{node::Capacity, task::Phases},
};

/// The most waiting tasks tried again when room appears; the others at the next change.
const RETRIED_MAX: usize = 1_000;
/// Beyond its own start time-out, a start may be silent for this long (the agent enforces the time-out itself).
const START_SILENCE_MARGIN: Duration = Duration::from_secs(15);
/// However often its agent says that it is still starting (a huge image on a slow line), this is the end.
const START_MAX: Duration = Duration::from_mins(30);

/// Whether the node could run the deployment's tasks at all.
fn is_suitable(node: &Node, deployment: &Deployment) -> bool {
    let spec = &deployment.spec;
    (spec.process_type != ProcessType::Docker || node.facts.container_enabled)
        && spec
            .constraints
            .iter()
            .all(|constraint| constraint.is_met_by(&node.facts.labels))
}

/// The node for one more task of `deployment`, not on `avoid`.
pub(super) fn choose(cluster: &Cluster, deployment: &Deployment, avoid: Option<NodeId>) -> Option<NodeId> {
    let needs = deployment.spec.resources;
    let mut best: Option<(usize, NodeId)> = None;
    // The index is in the order of free memory, so the first with the fewest siblings wins.
    for (_, id) in cluster
        .roomy
        .range((needs.memory.0, NodeId::from_uuid(uuid::Uuid::nil()))..)
    {
        let Some(node) = cluster.nodes.get(id) else {
            continue;
        };
        if Some(*id) == avoid || !node.fits(needs) || !is_suitable(node, deployment) {
            continue;
        }
        let siblings = siblings_on(cluster, deployment, *id);
        if siblings == 0 {
            return Some(*id);
        }
        if best.is_none_or(|(fewest, _)| siblings < fewest) {
            best = Some((siblings, *id));
        }
    }
    best.map(|(_, id)| id)
}

fn siblings_on(cluster: &Cluster, deployment: &Deployment, node: NodeId) -> usize {
    cluster
        .tasks_of(deployment.id)
        .filter(|task| task.node_id == Some(node))
        .count()
}

/// Gives a waiting task a place, or says why there is none. Returns whether it got one.
pub(super) fn place(cluster: &mut Cluster, id: TaskId, avoid: Option<NodeId>, now: Time) -> bool {
    let Some(task) = cluster.tasks.get(&id) else {
        return false;
    };
    let Some(deployment) = cluster.deployments.get(&task.deployment_id) else {
        return false;
    };
    let (deployment_id, needs) = (deployment.id, deployment.spec.resources);
    let chosen = choose(cluster, deployment, avoid);
    let port = chosen
        .and_then(|id| cluster.nodes.get(&id))
        .and_then(Node::free_port);
    let (Some(node_id), Some(port)) = (chosen, port) else {
        let (reason, message) = shortage(cluster, deployment);
        wait_for_room(cluster, id, deployment_id, reason, message);
        return false;
    };
    cluster.unplaced.remove(&id);
    cluster.update_task(id, |task| {
        (task.state, task.node_id, task.port) = (TaskState::Starting, Some(node_id), Some(port));
        (task.reason, task.message, task.not_before) = (None, None, None);
        (task.started_at, task.seen_at) = (Some(now), Some(now));
        let waited = now.since(task.created_at).as_micros() as u64;
        task.phases = Some(Phases {
            place_us: Some(waited),
            ..Phases::default()
        });
    });
    if let Some(task) = cluster.tasks.get(&id).cloned() {
        cluster.hold(node_id, &task, needs);
        arm_start(cluster, &task);
        cluster.say(Command::Start {
            node_id,
            task: Box::new(task),
        });
    }
    found_room(cluster, deployment_id);
    true
}

fn wait_for_room(
    cluster: &mut Cluster,
    id: TaskId,
    deployment_id: DeploymentId,
    reason: Reason,
    message: String,
) {
    cluster.unplaced.insert(id);
    let told = cluster
        .tasks
        .get(&id)
        .is_some_and(|task| task.message.as_deref() == Some(message.as_str()));
    if told {
        return;
    }
    let task_message = message.clone();
    cluster.update_task(id, |task| {
        (task.reason, task.message) = (Some(reason), Some(task_message));
    });
    let open = cluster
        .status_of(deployment_id)
        .is_some_and(|status| !status.is_ended());
    if open {
        let said = message.clone();
        cluster.update_deployment(deployment_id, |d| {
            (d.reason, d.message) = (Some(reason), Some(said));
        });
    }
    if cluster.count_ready(deployment_id) == 0 {
        cluster.say(Command::WakeFailed {
            deployment_id,
            reason,
            message,
        });
    }
}

/// A deployment whose task got a place is being rolled out, and no longer short of anything.
fn found_room(cluster: &mut Cluster, id: DeploymentId) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    let was_short = matches!(
        deployment.reason,
        Some(Reason::NoCapacity | Reason::NoEligibleNode)
    );
    let begins = deployment.status == DeploymentStatus::Pending;
    if !was_short && !begins {
        return;
    }
    cluster.update_deployment(id, |deployment| {
        if was_short {
            (deployment.reason, deployment.message) = (None, None);
        }
        if begins {
            deployment.status = DeploymentStatus::Running;
        }
    });
    if begins {
        let message = "its first task found a place".into();
        cluster.record(Happening {
            action: "deployment.running",
            deployment_id: Some(id),
            message,
            ..Happening::default()
        });
    }
}

/// Tries the tasks that wait for room, oldest first.
pub(super) fn retry_unplaced(cluster: &mut Cluster, now: Time) {
    let waiting: Vec<TaskId> = cluster.unplaced.iter().copied().take(RETRIED_MAX).collect();
    for id in waiting {
        let deployment_id = cluster.tasks.get(&id).map(|task| task.deployment_id);
        if let Some(deployment_id) = deployment_id {
            super::replicas::place_if_its_turn(cluster, deployment_id, id, now);
        }
    }
}

/// Why no node takes one more task of `deployment`.
pub(super) fn shortage(cluster: &Cluster, deployment: &Deployment) -> (Reason, String) {
    let needs = deployment.spec.resources;
    let ready: Vec<&Node> = cluster
        .nodes
        .values()
        .filter(|node| node.status == NodeStatus::Ready)
        .collect();
    if ready.is_empty() {
        return (
            Reason::NoCapacity,
            "no node is ready: start zectre-agent on a machine".into(),
        );
    }
    let suitable: Vec<&Node> = ready
        .iter()
        .copied()
        .filter(|node| is_suitable(node, deployment))
        .collect();
    if suitable.is_empty() {
        return (Reason::NoEligibleNode, unsuitable(&ready, deployment));
    }
    let is_large = |capacity: Capacity| capacity.memory >= needs.memory && capacity.cpu >= needs.cpu;
    if !suitable.iter().any(|node| is_large(node.facts.capacity)) {
        let message = format!(
            "no node is large enough for one task of {} cpu and {} memory",
            needs.cpu, needs.memory
        );
        return (Reason::NoCapacity, message);
    }
    let open: Vec<&Node> = suitable
        .iter()
        .copied()
        .filter(|node| node.takes_tasks())
        .collect();
    if open.is_empty() {
        return (
            Reason::NoCapacity,
            format!("all {} suitable nodes are cordoned or draining", suitable.len()),
        );
    }
    (
        Reason::NoCapacity,
        format!(
            "none of {} suitable nodes has {} free",
            open.len(),
            shortest(&open, needs)
        ),
    )
}

/// Why no node could run it, however empty.
fn unsuitable(ready: &[&Node], deployment: &Deployment) -> String {
    let docker = deployment.spec.process_type == ProcessType::Docker;
    if docker && !ready.iter().any(|node| node.facts.container_enabled) {
        return format!(
            "none of {} nodes runs containers: start a container engine on one, and then its agent (or `zectre up`) anew",
            ready.len()
        );
    }
    let wanted: Vec<String> = deployment
        .spec
        .constraints
        .iter()
        .map(ToString::to_string)
        .collect();
    format!(
        "none of {} nodes meets the constraints {}",
        ready.len(),
        wanted.join(", ")
    )
}

/// What none of the nodes has left.
fn shortest(open: &[&Node], needs: Resources) -> String {
    let mut short = Vec::new();
    if open.iter().all(|node| node.free_memory() < needs.memory.0) {
        short.push(format!("{} memory", needs.memory));
    }
    if open.iter().all(|node| node.free_cpu() < needs.cpu.0) {
        short.push(format!("{} cpu", needs.cpu));
    }
    if open.iter().all(|node| node.free_slots() == 0) {
        short.push("a task slot".into());
    }
    if short.is_empty() {
        "cpu, memory, a slot and a port at once".into()
    } else {
        short.join(" and ")
    }
}

/// Arms the deadline of a start.
pub(super) fn arm_start(cluster: &mut Cluster, task: &Task) {
    let at = start_deadline(cluster, task);
    cluster.timers.arm(super::timer::Timer::Task(task.id), at);
}

fn start_deadline(cluster: &Cluster, task: &Task) -> Option<Time> {
    let spec = &cluster.deployments.get(&task.deployment_id)?.spec;
    let started_at = task.started_at?;
    let last_word = task.seen_at.unwrap_or(started_at).max(started_at);
    let silence = spec.networking.health_check.start_timeout.duration() + START_SILENCE_MARGIN;
    Some(last_word.plus(silence).min(started_at.plus(START_MAX)))
}

/// The deadline of a task came: its backoff ended, its start was silent for too long, or its drain is over.
pub(super) fn task_deadline(cluster: &mut Cluster, id: TaskId, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    match task.state {
        TaskState::Pending if task.not_before.is_none_or(|at| at <= now) => {
            let deployment_id = task.deployment_id;
            super::replicas::place_if_its_turn(cluster, deployment_id, id, now);
        }
        TaskState::Pending => cluster.timers.arm(super::timer::Timer::Task(id), task.not_before),
        TaskState::Starting => {
            let task = task.clone();
            if start_deadline(cluster, &task).is_none_or(|at| at <= now) {
                let message = "its node said nothing about its start in time".into();
                report::condemn(cluster, id, Reason::PortNeverOpened, message, now);
            } else {
                arm_start(cluster, &task);
            }
        }
        TaskState::Running if task.is_draining() => drain::stop_when_drained(cluster, id, now),
        _ => {}
    }
}
