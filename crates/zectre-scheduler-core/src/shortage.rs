//! Why no node takes one more task of a deployment, in words that say what to do.
//!
//! | reason | when |
//! |---|---|
//! | `no_eligible_node` | no node runs this kind of task: labels, or no container engine |
//! | `no_capacity` | some do, but none has room now, or would have when empty ([`is_too_large`]) |

use super::{Cluster, Deployment, Node, shelves::is_suitable};
use zectre_common::{
    quantity::MemoryBytes,
    spec::ProcessType,
    state::{Eligibility, NodeStatus, Reason, Wanted},
};

/// So many nodes are named in a sentence.
const NAMES_MAX: usize = 3;
/// So many nodes are looked at for room to come, and the tasks of so many that suit: only whether a wake waits depends on it.
const LOOKED_AT_MAX: usize = 1_000;
const SUITABLE_MAX: usize = 100;

/// Why no node takes one more task of `deployment`.
pub(super) fn shortage(cluster: &Cluster, deployment: &Deployment) -> (Reason, String) {
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
        return unsuitable(cluster, &ready, deployment);
    }
    (Reason::NoCapacity, no_capacity(cluster, &suitable, deployment))
}

/// Whether one task of it is too large for every node that is known, however empty: no waiting helps then. A node that
/// doesn't answer may come back.
pub(super) fn is_too_large(cluster: &Cluster, deployment: &Deployment) -> bool {
    let mut suitable = cluster
        .nodes
        .values()
        .filter(|node| is_suitable(node, deployment));
    suitable.clone().any(|node| node.status == NodeStatus::Ready)
        && !suitable.any(|node| is_large(node, deployment))
}

/// Whether one task of it fits on the node while that is empty.
fn is_large(node: &Node, deployment: &Deployment) -> bool {
    let (has, needs) = (node.facts.capacity, deployment.spec.resources);
    has.memory >= needs.memory && has.cpu >= needs.cpu
}

/// Whether room for one more task of it is about to be free: a node still ends what was on it. Whoever waits for a wake is not sent away
/// then; the scheduler's own deadline of the wake bounds that.
pub(super) fn is_passing(cluster: &Cluster, deployment: &Deployment) -> bool {
    let suitable = cluster.nodes.values().take(LOOKED_AT_MAX).filter(|node| {
        let is_open = node.status == NodeStatus::Ready && node.eligibility == Eligibility::Eligible;
        is_open && is_suitable(node, deployment) && is_large(node, deployment)
    });
    suitable
        .take(SUITABLE_MAX)
        .any(|node| node.has_extras || will_fit(cluster, node, deployment))
}

/// Whether one task of it fits once those of the node have ended that are to end; false when none is.
fn will_fit(cluster: &Cluster, node: &Node, deployment: &Deployment) -> bool {
    let needs = deployment.spec.resources;
    let held = node.tasks.iter().filter_map(|id| cluster.tasks.get(id));
    let ending: Vec<_> = held
        .filter(|task| task.wanted == Wanted::Stop)
        .filter_map(|task| Some(cluster.deployments.get(&task.deployment_id)?.spec.resources))
        .collect();
    let memory = ending.iter().map(|held| held.memory.0).sum::<u64>() + node.free_memory();
    let cpu = ending.iter().map(|held| held.cpu.0).sum::<u32>() + node.free_cpu();
    !ending.is_empty() && memory >= needs.memory.0 && cpu >= needs.cpu.0
}

/// What of the task is too large for these nodes, and how large it may be.
fn too_large(cluster: &Cluster, suitable: &[&Node], deployment: &Deployment) -> String {
    let needs = deployment.spec.resources;
    let task = format!("one task of {} cpu and {} memory", needs.cpu, needs.memory);
    let silent = names(cluster, |node| {
        node.status == NodeStatus::Lost && is_suitable(node, deployment) && is_large(node, deployment)
    });
    if !silent.is_empty() {
        return format!("the only nodes that are large enough for {task} don't answer: {silent}");
    }
    let all = || suitable.iter().map(|node| node.facts.capacity);
    let most_memory = all().map(|has| has.memory).max().unwrap_or_default();
    let most_cpu = all().map(|has| has.cpu).max().unwrap_or_default();
    // Nobody asks for odd bytes.
    let whole_mib = MemoryBytes(most_memory.0 >> 20 << 20);
    let mut lacks = Vec::new();
    if needs.memory > most_memory {
        lacks.push(format!("{whole_mib} memory"));
    }
    if needs.cpu > most_cpu {
        lacks.push(format!("{most_cpu} cpu"));
    }
    let why = if lacks.is_empty() {
        "those with the memory lack the cpu".into()
    } else {
        format!("none has more than {}", lacks.join(", nor than "))
    };
    format!("no node is large enough for {task}: {why}; ask for less in `resources`, or add a larger node")
}

/// The names of a few of the nodes that are so.
fn names(cluster: &Cluster, is_so: impl Fn(&Node) -> bool) -> String {
    let found = cluster.nodes.values().filter(|node| is_so(node));
    let names: Vec<&str> = found
        .map(|node| node.facts.name.as_str())
        .take(NAMES_MAX)
        .collect();
    names.join(", ")
}

/// Why none of the suitable nodes has room.
fn no_capacity(cluster: &Cluster, suitable: &[&Node], deployment: &Deployment) -> String {
    if !suitable.iter().any(|node| is_large(node, deployment)) {
        return too_large(cluster, suitable, deployment);
    }
    let open: Vec<&Node> = suitable
        .iter()
        .copied()
        .filter(|node| node.takes_tasks())
        .collect();
    if open.is_empty() {
        let stray = suitable
            .iter()
            .filter(|node| node.eligibility == Eligibility::Eligible)
            .count();
        return match stray {
            0 => format!("all {} suitable nodes are cordoned or draining", suitable.len()),
            some => format!(
                "of {} suitable nodes {some} may still run tasks of an earlier time, which are being stopped; the others are \
                 cordoned or draining",
                suitable.len()
            ),
        };
    }
    let lacks = lacks(cluster, &open, deployment);
    let on_all: Vec<&str> = lacks
        .iter()
        .filter(|(count, _)| *count == open.len())
        .map(|(_, what)| what.as_str())
        .collect();
    if !on_all.is_empty() {
        return format!(
            "none of {} suitable nodes has {} free",
            open.len(),
            on_all.join(" and ")
        );
    }
    let some: Vec<String> = lacks
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} without {what}"))
        .collect();
    format!(
        "none of {} suitable nodes has room: {}",
        open.len(),
        some.join(", ")
    )
}

/// How many of the nodes lack what.
fn lacks(cluster: &Cluster, open: &[&Node], deployment: &Deployment) -> Vec<(usize, String)> {
    let needs = deployment.spec.resources;
    let count = |lacks: &dyn Fn(&Node) -> bool| open.iter().filter(|node| lacks(node)).count();
    let roster = cluster.rosters.get(&deployment.id);
    let has_sibling = |node: &Node| {
        deployment.spec.anti_affinity && roster.is_some_and(|roster| roster.siblings_on(node.id) > 0)
    };
    vec![
        (
            count(&|node| node.free_memory() < needs.memory.0),
            format!("{} memory", needs.memory),
        ),
        (
            count(&|node| node.free_cpu() < needs.cpu.0),
            format!("{} cpu", needs.cpu),
        ),
        (count(&|node| node.free_slots() == 0), "a task slot".into()),
        (count(&|node| node.free_ports() == 0), "a port".into()),
        (
            count(&has_sibling),
            "a place without another replica of it (anti_affinity)".into(),
        ),
    ]
}

/// Why no ready node could run it, however empty.
fn unsuitable(cluster: &Cluster, ready: &[&Node], deployment: &Deployment) -> (Reason, String) {
    let silent = names(cluster, |node| {
        node.status == NodeStatus::Lost && is_suitable(node, deployment)
    });
    if !silent.is_empty() {
        let message = format!("the only nodes that could run it don't answer: {silent}");
        return (Reason::NoCapacity, message);
    }
    let is_container = deployment.spec.process_type == ProcessType::Docker;
    if is_container && !ready.iter().any(|node| node.facts.container_enabled) {
        let message = format!(
            "none of {} nodes runs containers: start a container engine on one, and then its agent (or `zectre up`) anew",
            ready.len()
        );
        return (Reason::NoEligibleNode, message);
    }
    let wanted: Vec<String> = deployment
        .spec
        .constraints
        .iter()
        .map(ToString::to_string)
        .collect();
    let kind = if is_container { " and runs containers" } else { "" };
    let message = format!(
        "none of {} nodes meets the constraints {}{kind}: label one, or change the constraints",
        ready.len(),
        wanted.join(", ")
    );
    (Reason::NoEligibleNode, message)
}
