//! Where a task goes: a node with the fewest tasks of the same deployment (spread), and among those the one
//! with the least free memory that still fits (packing), so that large tasks find room later. A node where
//! something else holds ports of the range is the last choice.
//!
//! When none fits, the task waits and says what is short (`shortage`).

use super::{
    Cluster, Command, Happening, Task, drain, report, shelf::Key, shelves::is_suitable, shortage::shortage,
    sleep, spare, succession, timer::Timer, waiting::Kind, withheld,
};
use std::time::Duration;
use zectre_common::{
    id::{DeploymentId, NodeId, TaskId},
    spec::Resources,
    state::{DeploymentStatus, Reason, TaskState},
    time::Time,
    wire::task::Phases,
};

/// Beyond its own start time-out, a start may be silent for this long (the agent enforces the time-out itself).
const START_SILENCE_MARGIN: Duration = Duration::from_secs(15);
/// However often its agent says that it is still starting (a huge image on a slow line), this is the end.
const START_MAX: Duration = Duration::from_mins(30);
/// A crowded node counts as if it had this many tasks of the deployment.
const CROWDED: u32 = 1_000_000;

/// Places for the tasks of one deployment, one after the other. It goes once over the nodes for each level of
/// the spread: a thousand places cost a thousand steps in the index, not a thousand walks.
pub(super) struct Search {
    deployment_id: DeploymentId,
    needs: Resources,
    row: usize,
    is_alone: bool,
    /// Nodes with so many tasks of the deployment are taken now.
    level: u32,
    after: Option<Key>,
    /// The least such number above `level` among the nodes that were passed over.
    next_level: Option<u32>,
    last: Option<NodeId>,
    kind: Kind,
}

impl Search {
    /// Begins a search; `None` when the deployment isn't known.
    pub(super) fn new(cluster: &mut Cluster, deployment_id: DeploymentId) -> Option<Self> {
        let deployment = cluster.deployments.get(&deployment_id)?;
        Some(Self {
            deployment_id,
            kind: Kind::of(deployment),
            needs: deployment.spec.resources,
            row: cluster.shelves.row_for(&cluster.nodes, deployment),
            is_alone: deployment.spec.anti_affinity,
            level: 0,
            after: None,
            next_level: None,
            last: None,
        })
    }

    /// Whether there is no place, as far as is known.
    pub(super) fn is_short(&self, cluster: &Cluster) -> bool {
        cluster.waiting.is_short(&self.kind)
    }

    /// The node for one more task. Whoever gets it has to hold it before the next call.
    pub(super) fn next(&mut self, cluster: &Cluster) -> Option<NodeId> {
        let deployment = cluster.deployments.get(&self.deployment_id)?;
        if let Some(last) = self.last.take().and_then(|id| cluster.nodes.get(&id))
            && last.fits(self.needs)
        {
            self.pass_over(cluster.load_on(deployment.id, last));
        }
        loop {
            let (memory, cpu) = (self.needs.memory.0, self.needs.cpu.0);
            while let Some(key) = cluster.shelves.first_fit(self.row, self.after, memory, cpu) {
                self.after = Some(key);
                let node = cluster.nodes.get(&key.1)?;
                if self.row == 0 && !is_suitable(node, deployment) {
                    continue;
                }
                let load = cluster.load_on(deployment.id, node);
                if self.is_alone && !load.is_multiple_of(CROWDED) {
                    continue;
                }
                if load == self.level {
                    self.last = Some(node.id);
                    return self.last;
                }
                self.pass_over(load);
            }
            self.level = self.next_level.take()?;
            self.after = None;
        }
    }

    fn pass_over(&mut self, load: u32) {
        let alone = self.is_alone && !load.is_multiple_of(CROWDED);
        if load > self.level && !alone {
            self.next_level = Some(self.next_level.map_or(load, |least| least.min(load)));
        }
    }
}

impl Cluster {
    /// Tasks of the deployment on the node, and much more when it is crowded.
    fn load_on(&self, id: DeploymentId, node: &super::Node) -> u32 {
        let siblings = self
            .rosters
            .get(&id)
            .map_or(0, |roster| roster.siblings_on(node.id));
        siblings + if node.is_crowded() { CROWDED } else { 0 }
    }
}

/// Gives a waiting task a place, or says why there is none. Returns whether it got one.
pub(super) fn place(cluster: &mut Cluster, id: TaskId, now: Time) -> bool {
    let deployment_id = cluster.tasks.get(&id).map(|task| task.deployment_id);
    let search = deployment_id.and_then(|id| Search::new(cluster, id));
    search.is_some_and(|mut search| place_by(cluster, &mut search, id, now))
}

/// The same for one of many tasks of a deployment.
pub(super) fn place_by(cluster: &mut Cluster, search: &mut Search, id: TaskId, now: Time) -> bool {
    let placed = !search.is_short(cluster) && try_to_place(cluster, search, id, now);
    if !placed {
        wait_for_room(cluster, &search.kind, search.deployment_id, id, now);
    }
    placed
}

fn try_to_place(cluster: &mut Cluster, search: &mut Search, id: TaskId, now: Time) -> bool {
    #[cfg(test)]
    {
        cluster.searches += 1;
    }
    let found = search.next(cluster);
    found.is_some_and(|node_id| put(cluster, search, id, node_id, now))
}

/// Gives the task a port of the node, and tells the node to start it.
fn put(cluster: &mut Cluster, search: &Search, id: TaskId, node_id: NodeId, now: Time) -> bool {
    let deployment_id = search.deployment_id;
    let Some(port) = cluster.nodes.get(&node_id).and_then(super::Node::free_port) else {
        return false;
    };
    cluster.waiting.remove(deployment_id, id);
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
        cluster.hold(node_id, &task, search.needs);
        arm_start(cluster, &task);
        cluster.say(Command::Start {
            node_id,
            task: Box::new(task),
        });
    }
    sleep::note_place(cluster, deployment_id, node_id);
    found_room(cluster, deployment_id);
    true
}

fn wait_for_room(cluster: &mut Cluster, kind: &Kind, deployment_id: DeploymentId, id: TaskId, now: Time) {
    let is_beside = !spare::serves(cluster, deployment_id);
    cluster.waiting.add(kind, deployment_id, id, is_beside, now);
    spare::make_room(cluster, deployment_id, now);
    if let Some((reason, message)) = shortage_of_kind(cluster, kind, deployment_id, now) {
        tell_shortage(cluster, deployment_id, id, reason, message, now);
    }
}

/// Tells a deployment that waits anew why it does.
pub(super) fn tell_again(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    let (Some(first), Some(deployment)) = (cluster.waiting.of(id).next(), cluster.deployments.get(&id))
    else {
        return;
    };
    let kind = Kind::of(deployment);
    if let Some((reason, message)) = shortage_of_kind(cluster, &kind, id, now) {
        tell_shortage(cluster, id, first, reason, message, now);
    }
}

/// Why there is no place, looked for once for all deployments that want the same.
fn shortage_of_kind(
    cluster: &mut Cluster,
    kind: &Kind,
    id: DeploymentId,
    now: Time,
) -> Option<(Reason, String)> {
    if let Some(known) = cluster.waiting.found(kind, now) {
        return Some(known);
    }
    let found = shortage(cluster, cluster.deployments.get(&id)?);
    cluster.waiting.note_found(kind, found.clone(), now);
    Some(found)
}

fn tell_shortage(
    cluster: &mut Cluster,
    deployment_id: DeploymentId,
    id: TaskId,
    reason: Reason,
    message: String,
    now: Time,
) {
    let is_told = |said: Option<&String>| said.is_some_and(|said| *said == message);
    // Of many that wait for the same only the first one is told every change: each is a row.
    let is_first = cluster.waiting.of(deployment_id).next() == Some(id);
    let knew = cluster
        .tasks
        .get(&id)
        .is_some_and(|task| is_told(task.message.as_ref()) || (!is_first && task.reason == Some(reason)));
    let (open, all_knew) = cluster
        .deployments
        .get(&deployment_id)
        .map_or((false, true), |d| {
            (!d.status.is_ended(), is_told(d.message.as_ref()))
        });
    if open && !all_knew {
        let said = message.clone();
        cluster.update_deployment(deployment_id, |d| {
            (d.reason, d.message) = (Some(reason), Some(said));
        });
    }
    if knew {
        return;
    }
    let said = message.clone();
    cluster.update_task(id, |task| {
        (task.reason, task.message) = (Some(reason), Some(said));
    });
    if cluster.count_ready(deployment_id) == 0 {
        withheld::refuse(cluster, deployment_id, reason, message, now);
    }
}

/// A deployment whose task got a place is being rolled out, and no longer short of anything.
fn found_room(cluster: &mut Cluster, id: DeploymentId) {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return;
    };
    // Others of its tasks may still wait.
    let is_short = cluster.waiting.of(id).next().is_some();
    // Why a rollout failed stays to be read.
    let was_short = !is_short
        && !deployment.is_given_up()
        && matches!(
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

/// Room appeared: the next deployment that waits is tried, its oldest tasks first. When it finds none, nobody who needs
/// the same is tried until more appears. False when nobody is to be tried.
pub(super) fn retry_next(cluster: &mut Cluster, now: Time) -> bool {
    let Some(id) = cluster.waiting.next() else {
        return false;
    };
    let search = Search::new(cluster, id).filter(|_| !crate::planted::planted!(UnplacedForgotten));
    let Some(mut search) = search else {
        cluster.waiting.pass_over(id);
        return true;
    };
    #[cfg(test)]
    {
        cluster.searches += 1;
    }
    let mut place = search.next(cluster);
    if place.is_none() {
        cluster.waiting.found_none(id);
        return true;
    }
    // Successors come after what is missing: while something else waits it isn't their turn.
    let mut tasks: Vec<TaskId> = cluster.waiting.of(id).collect();
    tasks.sort_by_key(|task| succession::is_successor(cluster, id, *task));
    let mut has_placed = false;
    for task in tasks {
        if !succession::is_its_turn(cluster, id, task) {
            continue;
        }
        let Some(node_id) = place else {
            cluster.waiting.found_none(id);
            return true;
        };
        if put(cluster, &search, task, node_id, now) {
            has_placed = true;
            place = search.next(cluster);
        }
    }
    if !has_placed {
        cluster.waiting.pass_over(id);
    }
    true
}

/// Arms the deadline of a start.
pub(super) fn arm_start(cluster: &mut Cluster, task: &Task) {
    let at = start_deadline(cluster, task);
    cluster.timers.arm(Timer::Task(task.id), at);
}

/// When a start has been silent for too long.
pub(super) fn start_deadline(cluster: &Cluster, task: &Task) -> Option<Time> {
    let spec = &cluster.deployments.get(&task.deployment_id)?.spec;
    let started_at = task.started_at?;
    let last_word = task.seen_at.unwrap_or(started_at).max(started_at);
    let silence = spec.networking.health_check.start_timeout.duration() + START_SILENCE_MARGIN;
    let silent_at = last_word.plus(silence);
    // Nobody knows whether it has begun at all: the platform may have been down for hours in between.
    if cluster.unordered.contains(&task.id) {
        return Some(silent_at);
    }
    Some(silent_at.min(started_at.plus(START_MAX)))
}

/// The deadline of a task came: its backoff ended, its start was silent for too long, or its drain is over.
pub(super) fn task_deadline(cluster: &mut Cluster, id: TaskId, now: Time) {
    let Some(task) = cluster.tasks.get(&id) else {
        return;
    };
    match task.state {
        TaskState::Pending if task.not_before.is_none_or(|at| at <= now) => {
            let deployment_id = task.deployment_id;
            super::succession::waited(cluster, deployment_id, id, now);
        }
        TaskState::Pending => cluster.timers.arm(Timer::Task(id), task.not_before),
        _ if task.is_draining() => drain::stop_when_drained(cluster, id, now),
        TaskState::Starting => {
            let task = task.clone();
            if start_deadline(cluster, &task).is_none_or(|at| at <= now) {
                let message = "its node said nothing about its start in time".into();
                report::condemn(cluster, id, Reason::PortNeverOpened, message, None, now);
            } else {
                arm_start(cluster, &task);
            }
        }
        TaskState::Running => succession::relieve(cluster, id, now),
        _ => {}
    }
}
