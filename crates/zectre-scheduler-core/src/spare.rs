//! Giving way: where what serves finds no room, superseded versions that are awake and that nobody asked for lately are put to
//! sleep, those asked for longest ago first, as many as one more task needs. The next request wakes each of them again.
//!
//! Never what serves, is rolled out (canaries too) or gone back to, runs to completion, is starting, or is not woken by requests.
//! Their tasks stop in order like any others: proxies acknowledge, and what they have under way ends first.

use super::{
    Cluster, Deployment, Node, drain, shelves::is_suitable, sleep, succession, waiting::Kind, withheld,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    spec::Resources,
    state::{DeploymentStatus, Reason, Wanted},
    time::Time,
};

/// What was asked for within this time gives no way: somebody may be reading the page that it showed, and goes on from there. Requests
/// under way count as asked for, and are told of every second.
const UNASKED_MIN: Duration = Duration::from_secs(30);
/// How often is looked again for those who wait.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many that might give way are looked at for one that waits, and so many that wait in one look.
const LOOKED_AT_MAX: usize = 1_000;

/// Superseded versions that are awake, in the order in which they were asked for, as far as was known when each was noted: it is
/// noted anew when it is looked at.
#[derive(Debug, Clone, Default)]
pub(super) struct Spare {
    by_age: BTreeSet<(Time, DeploymentId)>,
    noted: BTreeMap<DeploymentId, Time>,
    /// The last one for whom room was looked for; the next look goes on behind it.
    cursor: Option<DeploymentId>,
    looks_at: Option<Time>,
}

impl Spare {
    fn note(&mut self, id: DeploymentId, asked_at: Time) {
        self.remove(id);
        self.noted.insert(id, asked_at);
        self.by_age.insert((asked_at, id));
    }

    pub(super) fn remove(&mut self, id: DeploymentId) {
        if let Some(asked_at) = self.noted.remove(&id) {
            self.by_age.remove(&(asked_at, id));
        }
    }

    fn oldest(&self) -> impl Iterator<Item = (Time, DeploymentId)> {
        self.by_age.iter().copied().take(LOOKED_AT_MAX)
    }
}

/// It was looked at: it may give way from now on, or not any more.
pub(super) fn note(cluster: &mut Cluster, id: DeploymentId) {
    let known = cluster.spare.noted.contains_key(&id);
    match cluster.deployments.get(&id).filter(|d| is_spare(cluster, d)) {
        Some(deployment) if !known => {
            let asked_at = deployment.last_active_at.unwrap_or(deployment.created_at);
            cluster.spare.note(id, asked_at);
        }
        Some(_) => {}
        None => cluster.spare.remove(id),
    }
}

/// It is awake beside what serves, and the next request wakes it.
fn is_spare(cluster: &Cluster, deployment: &Deployment) -> bool {
    deployment.status == DeploymentStatus::Succeeded
        && !deployment.asleep
        && deployment.cold_start_enabled
        && !deployment.is_job()
        && !serves(cluster, deployment.id)
}

/// It is what requests of its environment go to, or is about to be.
pub(super) fn serves(cluster: &Cluster, id: DeploymentId) -> bool {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return false;
    };
    let environment = cluster.environments.get(&deployment.environment_id);
    let is_named = environment.is_some_and(|e| [e.current, e.target].contains(&Some(id)));
    is_named || cluster.returning.get(&deployment.environment_id) == Some(&id)
}

/// Since when nobody has asked for it, if it may give way: all that is to run of it runs, so that nobody waits for it either.
fn unasked_since(cluster: &Cluster, id: DeploymentId) -> Option<Time> {
    let deployment = cluster.deployments.get(&id)?;
    if !is_spare(cluster, deployment) {
        return None;
    }
    let mut since = deployment.last_active_at.max(deployment.finished_at);
    for task in cluster.tasks_of(id).filter(|task| task.wanted == Wanted::Run) {
        if !task.is_ready() {
            return None;
        }
        since = since.max(succession::begun_at(cluster, task));
    }
    since
}

/// A task of the deployment waits for room: if that serves, and no room is about to be free, something gives way.
pub(super) fn make_room(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let deployment = cluster
        .deployments
        .get(&id)
        .filter(|d| !d.is_job() && !d.is_given_up());
    let Some(deployment) = deployment.filter(|_| !cluster.spare.noted.is_empty() && serves(cluster, id))
    else {
        return;
    };
    let (kind, whom) = (
        Kind::of(deployment),
        (deployment.application_id, deployment.version),
    );
    let in_vain = cluster.waiting.is_vain(&kind, now);
    if in_vain || crate::planted::planted!(NoWayGiven) || withheld::has_room_to_come(cluster, id, now) {
        return;
    }
    let chosen = choose(cluster, id, now);
    if chosen.is_empty() {
        return cluster.waiting.note_vain(&kind, now.plus(LOOK_INTERVAL));
    }
    for (gives_way, unasked) in chosen {
        let is_sibling = cluster
            .deployments
            .get(&gives_way)
            .is_some_and(|d| d.application_id == whom.0);
        let whom = if is_sibling {
            format!("version {} of its application", whom.1)
        } else {
            "another application".into()
        };
        give_way(cluster, gives_way, &whom, unasked, now);
    }
}

fn give_way(cluster: &mut Cluster, id: DeploymentId, whom: &str, unasked: Duration, now: Time) {
    let why = format!(
        "slept to make room for {whom}: nobody had asked for it for {} s; the next request wakes it",
        unasked.as_secs()
    );
    if !sleep::put_to_sleep(cluster, id, &why) {
        return;
    }
    cluster.spare.remove(id);
    // At once: whoever waits for the room is not refused while it is about to be free.
    let tasks: Vec<TaskId> = cluster.tasks_of(id).map(|task| task.id).collect();
    for task in tasks {
        let message = format!("it made room for {whom}");
        drain::stop_task(cluster, task, Some(Reason::Idle), Some(message), now);
    }
}

/// Room that those of one node would leave.
#[derive(Default)]
struct Gain {
    /// What is to end there anyway.
    ending: Vec<Resources>,
    /// What gives way, the one asked for longest ago first.
    given: Vec<(DeploymentId, Duration, Resources)>,
}

impl Gain {
    fn of(cluster: &Cluster, node: &Node) -> Self {
        let held = node.tasks.iter().filter_map(|id| cluster.tasks.get(id));
        let ending = held
            .filter(|task| task.wanted == Wanted::Stop)
            .filter_map(|task| Some(cluster.deployments.get(&task.deployment_id)?.spec.resources));
        Self {
            ending: ending.collect(),
            given: Vec::new(),
        }
    }

    fn suffices(&self, node: &Node, needs: Resources) -> bool {
        let freed = || {
            self.ending
                .iter()
                .chain(self.given.iter().map(|(_, _, held)| held))
        };
        let memory = freed().map(|held| held.memory.0).sum::<u64>() + node.free_memory();
        let cpu = freed().map(|held| held.cpu.0).sum::<u32>() + node.free_cpu();
        let (slots, ports) = (
            freed().count() + node.free_slots() as usize,
            freed().count() + node.free_ports(),
        );
        memory >= needs.memory.0 && cpu >= needs.cpu.0 && slots > 0 && ports > 0
    }

    /// Without those that are not needed: of them the ones asked for last stay.
    fn least(mut self, node: &Node, needs: Resources) -> Vec<(DeploymentId, Duration)> {
        for index in (0..self.given.len()).rev() {
            let spared = self.given.remove(index);
            if !self.suffices(node, needs) {
                self.given.insert(index, spared);
            }
        }
        self.given
            .into_iter()
            .map(|(id, unasked, _)| (id, unasked))
            .collect()
    }
}

/// What gives way for one more task of the deployment, and for how long nobody asked for each. All of it on the node that has room for
/// it first, going from what was asked for longest ago; nothing where all of them together would not do.
fn choose(cluster: &mut Cluster, id: DeploymentId, now: Time) -> Vec<(DeploymentId, Duration)> {
    note_anew(cluster);
    let cluster: &Cluster = cluster;
    let Some(deployment) = cluster.deployments.get(&id) else {
        return Vec::new();
    };
    let (needs, mut gains) = (deployment.spec.resources, BTreeMap::<NodeId, Gain>::new());
    for (_, candidate) in cluster.spare.oldest() {
        let unasked = unasked_since(cluster, candidate).map(|since| now.since(since));
        let least = if crate::planted::planted!(BusyGivesWay) {
            Duration::ZERO
        } else {
            UNASKED_MIN
        };
        let Some(unasked) = unasked.filter(|unasked| *unasked >= least) else {
            continue;
        };
        let Some(held) = cluster.deployments.get(&candidate).map(|d| d.spec.resources) else {
            continue;
        };
        let places = cluster
            .tasks_of(candidate)
            .filter(|task| task.wanted == Wanted::Run);
        for node_id in places.filter_map(|task| task.node_id) {
            let node = cluster.nodes.get(&node_id);
            let Some(node) = node.filter(|node| may_take(cluster, node, deployment)) else {
                continue;
            };
            let gain = gains.entry(node_id).or_insert_with(|| Gain::of(cluster, node));
            gain.given.push((candidate, unasked, held));
            if gain.suffices(node, needs) {
                let gain = gains.remove(&node_id).unwrap_or_default();
                return gain.least(node, needs);
            }
        }
    }
    Vec::new()
}

/// Those that were asked for since they were noted come later.
fn note_anew(cluster: &mut Cluster) {
    let noted: Vec<(Time, DeploymentId)> = cluster.spare.oldest().collect();
    #[cfg(test)]
    {
        cluster.looks_at_spare += noted.len();
    }
    for (asked_at, id) in noted {
        let known = cluster.deployments.get(&id).and_then(|d| d.last_active_at);
        let since = unasked_since(cluster, id).or(known).unwrap_or(asked_at);
        if since > asked_at {
            cluster.spare.note(id, since);
        }
    }
}

/// Whether a task of it could be placed on the node, if that had room.
fn may_take(cluster: &Cluster, node: &Node, deployment: &Deployment) -> bool {
    let roster = cluster.rosters.get(&deployment.id);
    let is_beside = || roster.is_some_and(|roster| roster.siblings_on(node.id) > 0);
    node.takes_tasks() && is_suitable(node, deployment) && !(deployment.spec.anti_affinity && is_beside())
}

/// Looks again for those who serve and wait, when it is time to.
pub(super) fn look_again(cluster: &mut Cluster, now: Time) {
    if cluster.spare.looks_at.is_none_or(|at| at > now) {
        return;
    }
    cluster.spare.looks_at = None;
    let waiting = cluster.waiting.serving_after(cluster.spare.cursor, LOOKED_AT_MAX);
    cluster.spare.cursor = waiting.last().copied().filter(|_| waiting.len() == LOOKED_AT_MAX);
    for id in waiting {
        make_room(cluster, id, now);
    }
}

/// When to look again: something may have gone unasked for long enough by then, and somebody waits for it.
pub(super) fn looks_at(cluster: &mut Cluster, now: Time) -> Option<Time> {
    let oldest = cluster.spare.by_age.first().map(|(asked_at, _)| *asked_at);
    let oldest = oldest.filter(|_| cluster.waiting.has_serving());
    let wanted = oldest.map(|asked_at| asked_at.plus(UNASKED_MIN).max(now.plus(LOOK_INTERVAL)));
    // What comes and goes meanwhile doesn't put it off.
    let known = cluster.spare.looks_at.filter(|at| *at > now);
    cluster.spare.looks_at = wanted.map(|at| known.map_or(at, |known| known.min(at)));
    cluster.spare.looks_at
}
