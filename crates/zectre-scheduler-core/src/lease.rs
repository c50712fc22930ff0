//! Nodes come, fall silent, and come back. The tasks of a lost node are replaced elsewhere; when it returns,
//! its next digest shows tasks that nobody wants any more, and those are stopped.

use super::{Cluster, Happening, Node, NodeFacts, Settings, Unrouted, report, timer::Timer};
use std::{sync::Arc, time::Duration};
use zectre_common::{
    id::{NodeId, TaskId},
    state::{Eligibility, NodeStatus, Reason, TaskState},
    time::Time,
};

/// An order that was sent arrives within this time, or never: the dispatcher gives up.
const ORDER_AGE_MAX: Duration = Duration::from_secs(5);
/// As often a node's silence is excused until it is heard again: a leader that is always late finds out about losses too.
const EXCUSES_MAX: u32 = 3;

pub(super) fn register(cluster: &mut Cluster, id: NodeId, facts: NodeFacts, now: Time) {
    let is_new = !cluster.nodes.contains_key(&id);
    forget_namesake(cluster, id, &facts.name, now);
    if is_new {
        if cluster.raises_epoch() {
            // What its machine may run of an earlier node was lost a moment ago.
            cluster.stranded.add_too(id, None);
        } else {
            await_proxies(cluster, id, cluster.routing_epoch);
        }
        let mut node = Node::new(id, facts, now);
        node.lease_expires_at = now.plus(cluster.settings.node_lease);
        // It may have been here before, under an id whose row was deleted: its first digest tells what it runs.
        node.has_extras = true;
        cluster.insert_node(node, now);
        cluster.update_node(id, |_| {});
    } else {
        let address: Arc<str> = facts.address.as_str().into();
        cluster.update_node(id, |node| {
            (node.facts, node.address) = (facts, Arc::clone(&address));
        });
        move_tasks_to_address(cluster, id, &address);
        doubt_starts(cluster, id);
        cluster.waiting.fleet_changed();
        renew(cluster, id, now);
    }
    let name = cluster
        .nodes
        .get(&id)
        .map_or_else(String::new, |node| node.facts.name.clone());
    let message = format!(
        "node {name} {}",
        if is_new { "joined" } else { "registered again" }
    );
    cluster.record(Happening {
        action: "node.registered",
        node_id: Some(id),
        message,
        ..Happening::default()
    });
}

/// A name has one row: that of a node that had it before is gone, which the next look at the rows would tell. Its machine may be
/// this one, with all that it runs.
fn forget_namesake(cluster: &mut Cluster, id: NodeId, name: &str, now: Time) {
    let is_named = |node: &Node| node.facts.name == name;
    if cluster.nodes.get(&id).is_some_and(is_named) || crate::planted::planted!(NamesakeKept) {
        return;
    }
    let Some(namesake) = cluster.nodes.values().find(|node| is_named(node)) else {
        return;
    };
    let (namesake, tasks) = (namesake.id, namesake.tasks.clone());
    for task in tasks {
        strand(cluster, id, task);
    }
    forget(cluster, namesake, now);
}

/// A machine may come back with another address; its tasks are reached there from now on.
fn move_tasks_to_address(cluster: &mut Cluster, id: NodeId, address: &Arc<str>) {
    let tasks: Vec<TaskId> = cluster
        .nodes
        .get(&id)
        .into_iter()
        .flat_map(|node| node.tasks.iter().copied())
        .collect();
    for task in tasks {
        let moved = cluster
            .tasks
            .get(&task)
            .is_some_and(|t| t.address.as_ref().is_some_and(|a| a != address));
        if moved {
            cluster.update_task(task, |task| task.address = Some(Arc::clone(address)));
        }
    }
}

/// Its agent comes anew: what the one before it was ordered to start may have gone with it.
fn doubt_starts(cluster: &mut Cluster, id: NodeId) {
    let tasks = cluster.nodes.get(&id).into_iter().flat_map(|node| &node.tasks);
    let starting = tasks.filter(|id| {
        let task = cluster.tasks.get(id);
        task.is_some_and(|task| task.state == TaskState::Starting && !task.is_draining())
    });
    cluster.unordered.extend(starting.copied());
}

/// The node spoke: its lease starts anew.
pub(super) fn renew(cluster: &mut Cluster, id: NodeId, now: Time) {
    let lease = cluster.settings.node_lease;
    let Some(node) = cluster.nodes.get(&id) else {
        return;
    };
    let expires_at = if crate::planted::planted!(LeaseNotRenewed) {
        node.lease_expires_at
    } else {
        now.plus(lease)
    };
    cluster.excuses.remove(&id);
    let returned = node.status == NodeStatus::Lost;
    // The row is for people; one write in half a lease is exact enough for them.
    let stale_row = expires_at.since(node.lease_expires_at) * 2 >= lease;
    cluster.timers.arm(Timer::Node(id), Some(expires_at));
    if returned || stale_row {
        cluster.update_node(id, |node| {
            (node.status, node.lease_expires_at) = (NodeStatus::Ready, expires_at);
        });
    }
    if returned {
        cluster.waiting.fleet_changed();
        let name = cluster
            .nodes
            .get(&id)
            .map_or_else(String::new, |node| node.facts.name.clone());
        let message = format!("node {name} answers again");
        cluster.record(Happening {
            action: "node.returned",
            node_id: Some(id),
            message,
            ..Happening::default()
        });
    }
}

/// This leader stood still, or was kept from deciding: for so long nobody is known to have been silent, and what they
/// said meanwhile waits to be heard.
pub(super) fn excuse_silence(cluster: &mut Cluster, late: Duration, now: Time) {
    let heard = now.plus(cluster.settings.heartbeat / 2);
    let live = cluster
        .nodes
        .values()
        .filter(|node| node.status == NodeStatus::Ready);
    for node in live {
        let excuses = cluster.excuses.entry(node.id).or_default();
        if let Some(at) = cluster
            .timers
            .of(Timer::Node(node.id))
            .filter(|_| *excuses < EXCUSES_MAX)
        {
            *excuses += 1;
            let until = at.plus(late).max(heard);
            cluster.timers.arm(Timer::Node(node.id), Some(until));
        }
    }
    for proxy in cluster.proxies.values_mut() {
        proxy.lease_expires_at = proxy.lease_expires_at.plus(late).max(heard);
        cluster
            .timers
            .arm(Timer::Proxy(proxy.id), Some(proxy.lease_expires_at));
    }
}

/// From when on a digest of this node, which is lost now, shows all that was started on it. A start may still be on its way;
/// what runs was started before it was told of.
fn unsure_until(cluster: &Cluster, node: &Node, now: Time) -> Option<Time> {
    let tasks = node.tasks.iter().filter_map(|id| cluster.tasks.get(id));
    let known_at = tasks.filter_map(|task| match task.state {
        TaskState::Starting => Some(sure_at(&cluster.settings, now)),
        _ => task.running_at.map(|at| at.plus(digest_age(&cluster.settings))),
    });
    known_at.max().filter(|at| *at > now)
}

/// From when on a digest shows what was started until `now`, although nobody told of it.
pub(super) fn sure_at(settings: &Settings, now: Time) -> Time {
    now.plus(ORDER_AGE_MAX + digest_age(settings))
}

/// How old a digest may be when it arrives: its agent gives up then.
fn digest_age(settings: &Settings) -> Duration {
    settings.heartbeat * 2
}

/// The lease ended.
pub(super) fn expire(cluster: &mut Cluster, id: NodeId, now: Time) {
    let Some(node) = cluster
        .nodes
        .get(&id)
        .filter(|node| node.status == NodeStatus::Ready)
    else {
        return;
    };
    let name = node.facts.name.clone();
    let unsure_until = unsure_until(cluster, node, now);
    // What it runs when it comes back is unknown until its first digest.
    cluster.update_node(id, |node| {
        (node.status, node.has_extras, node.unsure_until) = (NodeStatus::Lost, true, unsure_until);
    });
    cluster.waiting.fleet_changed();
    let silent_secs = cluster.settings.node_lease.as_secs();
    let message =
        format!("node {name} has been silent for {silent_secs} s; its tasks are replaced elsewhere");
    let reason = Some(Reason::NodeLost);
    cluster.record(Happening {
        action: "node.lost",
        node_id: Some(id),
        message,
        reason,
        ..Happening::default()
    });
    lose_tasks(cluster, id, &name, now);
}

/// The row of the node was deleted.
pub(super) fn forget(cluster: &mut Cluster, id: NodeId, now: Time) {
    let Some(name) = cluster.nodes.get(&id).map(|node| node.facts.name.clone()) else {
        return;
    };
    lose_tasks(cluster, id, &name, now);
    cluster.remove_node(id);
}

fn lose_tasks(cluster: &mut Cluster, id: NodeId, name: &str, now: Time) {
    let tasks: Vec<TaskId> = cluster
        .nodes
        .get(&id)
        .into_iter()
        .flat_map(|node| node.tasks.iter().copied())
        .collect();
    for task in &tasks {
        strand(cluster, id, *task);
    }
    for task in tasks {
        let message = format!("node {name} stopped answering");
        report::end(
            cluster,
            task,
            TaskState::Failed,
            Reason::NodeLost,
            message,
            None,
            now,
        );
    }
}

/// A task is given up that its node may still run: proxies may be sending it requests, so it isn't stopped
/// before they route by an epoch without it.
pub(super) fn strand(cluster: &mut Cluster, node: NodeId, task: TaskId) {
    let Some(task) = cluster.tasks.get(&task) else {
        return;
    };
    match task.unrouted {
        // Its end, in this step, raises the epoch.
        Unrouted::No if cluster.may_get_requests(task) => cluster.stranded.add_too(node, None),
        Unrouted::Awaited => cluster.stranded.add_too(node, None),
        Unrouted::At(epoch) => await_proxies(cluster, node, epoch),
        Unrouted::No => {}
    }
}

/// Nobody who routes by this epoch or a later one knows what is to be stopped on the node. It may wait for an earlier one: of
/// what it lost before, or of this leader's beginning.
fn await_proxies(cluster: &mut Cluster, node: NodeId, epoch: u64) {
    if cluster.applied_epoch().is_some_and(|applied| applied < epoch) {
        cluster.stranded.add_too(node, Some(epoch));
    }
}

pub(super) fn set_eligibility(cluster: &mut Cluster, id: NodeId, eligibility: Eligibility, now: Time) {
    let Some(node) = cluster
        .nodes
        .get(&id)
        .filter(|node| node.eligibility != eligibility)
    else {
        return;
    };
    let touched: Vec<_> = node
        .tasks
        .iter()
        .filter_map(|task| cluster.tasks.get(task))
        .map(|t| t.deployment_id)
        .collect();
    // The API's column: it has written it before we read it.
    cluster.reindex_node(id, |node| node.eligibility = eligibility);
    cluster.waiting.fleet_changed();
    for deployment in touched {
        cluster.touch(deployment);
    }
    let name = cluster
        .nodes
        .get(&id)
        .map_or_else(String::new, |node| node.facts.name.clone());
    let message = format!("node {name} is {eligibility} as of {now}");
    cluster.record(Happening {
        action: "node.eligibility",
        node_id: Some(id),
        message,
        ..Happening::default()
    });
}
