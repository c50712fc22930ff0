//! What holds of the state that a leader decides by.

use super::{Before, room, routed, slots, words};
use crate::sim::{SECOND, Sim, Us};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, ProxyId, TaskId},
    spec::Strategy,
    state::{DeploymentStatus, Eligibility, NodeStatus, OperationKind, Reason, TaskState},
    time::Time,
};
use zectre_scheduler_core::{Cluster, Command, Deployment, Environment, Node, Task};

/// A server in the last quarter of its time is not without a successor for longer: one is tried for every 10 s.
const RELIEF_LATE: Duration = Duration::from_secs(11);

/// A node is given more than this for a word about a start.
const START_PATIENCE_US: Us = 20 * SECOND;

/// Ending for this reason is a failure, and not a wish.
fn is_failure(reason: Reason) -> bool {
    !matches!(
        reason,
        Reason::Stopped | Reason::Idle | Reason::Superseded | Reason::Cancelled
    )
}

impl Sim {
    pub(crate) fn check_step(
        &mut self,
        index: usize,
        id: u64,
        before: &Before,
        commands: &[Command],
        now: Time,
    ) {
        let Some(cluster) = self.schedulers[index]
            .term
            .as_ref()
            .filter(|term| term.id == id)
            .and_then(|term| term.cluster.as_ref())
        else {
            return;
        };
        let known = live_proxies(cluster, now);
        let stopped = cluster.tasks().filter(|task| task.state == TaskState::Stopping);
        for task in stopped.filter(|task| !before.stopping.contains(&task.id)) {
            self.checks.known_at_stop.insert(task.id, known.clone());
        }
        let won = cluster
            .deployments()
            .filter(|d| d.status == DeploymentStatus::Succeeded);
        for deployment in won.filter(|d| !before.succeeded.contains(&d.id)) {
            self.checks.known_at_success.insert(deployment.id, known.clone());
        }
        let told = &self.schedulers[index].term.as_ref().map(|term| &term.told_active);
        let broken = broken_state(cluster)
            .or_else(|| slots::broken_succession(cluster, before, now))
            .or_else(|| broken_starts(cluster, commands, now))
            .or_else(|| words::broken_words(commands))
            .or_else(|| told.and_then(|told| broken_sleep(cluster, before, told, now)))
            .or_else(|| told.and_then(|told| room::broken_way(commands, told, now)))
            .or_else(|| {
                let environments = cluster.environments();
                let mut checked = environments.filter_map(|e| lost_availability(cluster, e, before, now));
                checked.next().filter(|_| before.is_answerable)
            });
        let broken = broken.or_else(|| self.broken_patience(commands));
        let unrelieved = slots::unrelieved(cluster, now);
        if let Some((promise, detail)) = broken {
            self.fail(promise, format!("scheduler {index}: {detail}"));
        }
        self.check_relief(id, unrelieved, before.is_tick, now);
        self.check_refusals(index, id, commands, now);
        self.check_room(index, id, now);
    }

    /// In a calm world no node is silent about a start: what was lost on its way is ordered again.
    fn broken_patience(&self, commands: &[Command]) -> Broken {
        let is_given_up = |command: &&Command| match command {
            Command::SaveTask(task) => {
                let said = task.message.as_deref();
                said.is_some_and(|said| said.starts_with("its node said nothing about its start"))
            }
            _ => false,
        };
        let is_calm = Self::is_calm_since(self.now_us.saturating_sub(START_PATIENCE_US));
        let given_up = commands.iter().find(is_given_up).filter(|_| is_calm)?;
        Some(("a lost order is repeated", format!("{given_up:?}")))
    }

    /// A successor that is not to be had is tried for again and again.
    fn check_relief(&mut self, term: u64, unrelieved: BTreeSet<TaskId>, is_tick: bool, now: Time) {
        let known = std::mem::take(&mut self.checks.unrelieved);
        let since = |task: TaskId| {
            let before = known.get(&task).copied().filter(|(of, _)| *of == term);
            (task, before.unwrap_or((term, now)))
        };
        self.checks.unrelieved = unrelieved.into_iter().map(since).collect();
        let mut all = self.checks.unrelieved.iter();
        let late = all.find(|(_, (_, since))| is_tick && now.since(*since) > RELIEF_LATE);
        if let Some((task, (_, since))) = late {
            let detail = format!("task {task} has no successor since {since}");
            self.fail("3: a server is relieved before its time is over", detail);
        }
    }

    /// A state that was just read.
    pub(crate) fn check_state(&mut self, index: usize, cluster: &Cluster) {
        // What people changed while nobody led is carried out by the first step.
        if let Some((promise, detail)) = broken_nodes(cluster) {
            self.fail(promise, format!("scheduler {index}, after reading: {detail}"));
        }
    }
}

pub(super) type Broken = Option<(&'static str, String)>;

fn broken_state(cluster: &Cluster) -> Broken {
    broken_nodes(cluster)
        .or_else(|| {
            cluster
                .deployments()
                .find_map(|deployment| slots::broken_slots(cluster, deployment))
        })
        .or_else(|| {
            cluster
                .environments()
                .find_map(|e| slots::broken_strategy(cluster, e))
        })
}

/// Those whose word the scheduler has to wait for, as it knows.
fn live_proxies(cluster: &Cluster, now: Time) -> BTreeSet<ProxyId> {
    let live = cluster.proxies().filter(|proxy| proxy.lease_expires_at > now);
    live.map(|proxy| proxy.id).collect()
}

/// Who is asked for stays awake. `told` is what the scheduler could hear of requests, or when it began to listen.
fn broken_sleep(
    cluster: &Cluster,
    before: &Before,
    told: &BTreeMap<DeploymentId, Time>,
    now: Time,
) -> Broken {
    let slept = cluster
        .environments()
        .filter_map(|e| cluster.deployment(e.current?));
    let slept = slept.filter(|d| d.asleep && before.awake.contains(&d.id) && d.replicas > 0);
    for deployment in slept.filter(|d| before.asked != Some((OperationKind::Sleep, d.id))) {
        let timeout = Duration::from_secs(u64::from(deployment.idle_timeout_secs));
        let at = told.get(&deployment.id).copied();
        if timeout.is_zero() || at.is_some_and(|at| at.plus(timeout) > now) {
            let detail = format!(
                "{} sleeps, asked for at {at:?}, idle after {timeout:?}",
                deployment.id
            );
            return Some(("what is asked for stays awake", detail));
        }
    }
    None
}

fn broken_nodes(cluster: &Cluster) -> Broken {
    for node in cluster.nodes() {
        let (used, held, capacity) = (node.used, cluster.held(node.id), node.facts.capacity);
        if held != used {
            let detail = format!("node {} counts {used:?} for {held:?}", node.facts.name);
            return Some(("1: what is held is counted", detail));
        }
        if used.memory > capacity.memory || used.cpu > capacity.cpu || used.task_slots > capacity.task_slots {
            let detail = format!("node {}: {used:?} of {capacity:?}", node.facts.name);
            return Some(("1: capacity", detail));
        }
        let ports: Vec<u16> = cluster
            .tasks()
            .filter(|task| task.node_id == Some(node.id))
            .filter_map(|task| task.port)
            .collect();
        let distinct: BTreeSet<u16> = ports.iter().copied().collect();
        if distinct.len() != ports.len() {
            return Some(("1: a port is never given twice", format!("{ports:?}")));
        }
        if distinct != node.ports {
            let detail = format!("node {}: {:?} for {distinct:?}", node.facts.name, node.ports);
            return Some(("1: what is held is counted", detail));
        }
    }
    for state in TaskState::ALL {
        let count = cluster.tasks().filter(|task| task.state == *state).count();
        if count != cluster.count_in(*state) {
            return Some(("the counts are right", format!("{state}: {count}")));
        }
    }
    None
}

/// Tasks are placed where they may be.
fn broken_starts(cluster: &Cluster, commands: &[Command], now: Time) -> Broken {
    let nodes = commands.iter().filter_map(|command| match command {
        Command::Start { node_id, task } if is_placed_now(task, now) => {
            let lives = cluster.task(task.id).is_some();
            cluster.node(*node_id).filter(|_| lives)
        }
        _ => None,
    });
    let is_open = |node: &&Node| {
        node.status == NodeStatus::Ready && node.eligibility == Eligibility::Eligible && !node.has_extras
    };
    let closed = nodes.into_iter().find(|node| !is_open(node))?;
    let detail = format!(
        "node {} is {} and {}, with extras: {}",
        closed.facts.name, closed.status, closed.eligibility, closed.has_extras
    );
    Some(("1: only a ready, eligible and known node takes tasks", detail))
}

/// An order that is repeated is about a task that found its place before.
fn is_placed_now(task: &Task, now: Time) -> bool {
    let waited_us = task.phases.and_then(|phases| phases.place_us);
    waited_us == Some(now.since(task.created_at).as_micros() as u64)
}

/// How many healthy tasks a rollout leaves. One that is lost gives back as many as the current one has; one that begins in
/// its place has its own say.
fn floor_of(rolled: &Deployment, serving: &Deployment) -> u32 {
    let counted = if rolled.is_given_up() { serving } else { rolled };
    let full = counted.full_size();
    match rolled.spec.strategy {
        Strategy::Recreate => 0,
        Strategy::Rolling { max_unavailable, .. } => full.saturating_sub(max_unavailable),
        _ => full,
    }
}

/// What the scheduler itself takes out of routing leaves enough behind. A rollout that fails gives back before it takes
/// away.
fn lost_availability(cluster: &Cluster, environment: &Environment, before: &Before, now: Time) -> Broken {
    let serving = cluster.deployment(environment.current?)?;
    if serving.asleep || serving.is_job() {
        return None;
    }
    let rolled = before.targets.get(&environment.id).copied().flatten();
    let rolled = rolled.and_then(|id| cluster.deployment(id));
    // The current one may be unable to come back; that is waited for up to a deadline.
    let gave_up = |lost: &Deployment| {
        let wait = Duration::from_secs(u64::from(lost.spec.progress_deadline_secs));
        lost.is_given_up() && lost.finished_at.is_some_and(|at| at.plus(wait) <= now)
    };
    if rolled.is_some_and(gave_up) {
        return None;
    }
    let target = environment.target.and_then(|id| cluster.deployment(id));
    let floor_of = |d: &Deployment| floor_of(d, serving);
    // Whoever asks to go back is not served by what is there: one healthy task is enough to take over.
    let goes_back = before.succeeded.contains(&serving.id) && !before.serving.contains(&serving.id);
    let floors = [rolled, target].into_iter().flatten().map(floor_of);
    let floor = floors.chain(goes_back.then_some(1)).min();
    let floor = floor.unwrap_or_else(|| floor_of(serving));
    let of_environment =
        |task: &&Task| [environment.current, environment.target].contains(&Some(task.deployment_id));
    let after = routed(cluster);
    // A wish of the scheduler, not a failure: the task is still healthy and told to stop.
    let taken: Vec<TaskId> = before
        .routed
        .difference(&after)
        .filter_map(|id| cluster.task(*id))
        .filter(|task| !task.reason.is_some_and(is_failure))
        .filter(|task| {
            // One that its successor stands in for leaves as many as there were.
            let mut others = cluster.tasks_of(task.deployment_id);
            !others.any(|other| other.slot == task.slot && after.contains(&other.id))
        })
        .filter(|task| {
            // Only a rolling update counts on tasks of both sides; the others switch.
            let rolls = rolled.is_some_and(|d| {
                d.id == task.deployment_id && matches!(d.spec.strategy, Strategy::Rolling { .. })
            });
            environment.current == Some(task.deployment_id) || rolls
        })
        .map(|task| task.id)
        .collect();
    if taken.is_empty() || serving.full_size() < floor {
        return None;
    }
    let left = after
        .iter()
        .filter_map(|id| cluster.task(*id))
        .filter(of_environment);
    let left = left.count() as u32;
    (left < floor).then(|| {
        let why: Vec<_> = taken.iter().filter_map(|id| cluster.task(*id)).collect();
        let why: Vec<_> = why
            .iter()
            .map(|task| (task.id, task.deployment_id, task.reason))
            .collect();
        let detail = format!(
            "{left} tasks are left of at least {floor} of {:?}, before: {:?} {:?}, taken: {why:?}",
            (serving.id, serving.status, serving.full_size()),
            rolled.map(|d| (d.id, d.status, d.spec.strategy)),
            target.map(|d| (d.id, d.status, d.spec.strategy))
        );
        ("3: enough healthy tasks are routed", detail)
    })
}
