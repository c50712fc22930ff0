//! Deadlines: at most one for each thing, in one ordered set, so that a tick costs what is due and no more.

use super::{Cluster, drain, failure, lease, placement, settle::STEP_ROWS_MAX};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, NodeId, ProxyId, TaskId},
    time::Time,
};

/// The most deadlines that one tick handles; the rest are due at the next one, at once.
const FIRED_MAX: usize = 10_000;
/// Rows to be saved from which on a tick handles no more deadlines, but for what its last one adds (the tasks of one
/// node). Half of a step's: what follows from them gets its turn in the same step.
const FIRED_ROWS_MAX: usize = STEP_ROWS_MAX / 2;

/// What has a deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// A node's lease.
    Node(NodeId),
    /// A proxy's lease.
    Proxy(ProxyId),
    /// A task's backoff, start or drain.
    Task(TaskId),
    /// A deployment's rollout, canary or idleness.
    Deployment(DeploymentId),
    /// Ports of a node that rest.
    Ports(NodeId),
    /// Why tasks wait is told anew.
    Words,
    /// Refusals that are held back are looked at again.
    Withheld,
    /// Room is looked for again for those who serve and wait.
    Spare,
    /// What the bound of a step left over.
    Rest,
}

/// All deadlines.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    armed: BTreeMap<Timer, Time>,
    /// When a tick left something over that was due.
    left_over_at: Option<Time>,
}

impl Timers {
    /// Sets the thing's only deadline, or none.
    pub(super) fn arm(&mut self, timer: Timer, at: Option<Time>) {
        let before = match at {
            Some(at) => self.armed.insert(timer, at),
            None => self.armed.remove(&timer),
        };
        if before == at {
            return;
        }
        if let Some(before) = before {
            self.due.remove(&(before, timer));
        }
        if let Some(at) = at {
            self.due.insert((at, timer));
        }
    }

    /// The next deadline of all.
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// When the thing's deadline is.
    pub(super) fn of(&self, timer: Timer) -> Option<Time> {
        self.armed.get(&timer).copied()
    }

    /// For how long nobody looked at what was due.
    fn late(&self, now: Time) -> Duration {
        // What the last tick left over was looked at by it.
        let since = self
            .next()
            .max(self.left_over_at.filter(|_| self.next().is_some()));
        since.map_or(Duration::ZERO, |at| now.since(at))
    }

    fn pop_due(&mut self, now: Time) -> Option<Timer> {
        let (at, timer) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.due.pop_first();
        self.armed.remove(&timer);
        Some(timer)
    }
}

/// Handles what is due at `now`.
pub(super) fn fire_due(cluster: &mut Cluster, now: Time) {
    let late = cluster.timers.late(now);
    if late > cluster.settings.node_lease / 8 {
        lease::excuse_silence(cluster, late, now);
    }
    cluster.timers.left_over_at = None;
    for _ in 0..FIRED_MAX {
        if cluster.rows_to_save() >= FIRED_ROWS_MAX {
            break;
        }
        match cluster.timers.pop_due(now) {
            None => return,
            Some(Timer::Node(id)) => lease::expire(cluster, id, now),
            Some(Timer::Proxy(id)) => drain::proxy_gone(cluster, id, now),
            Some(Timer::Task(id)) => placement::task_deadline(cluster, id, now),
            Some(Timer::Deployment(_)) if crate::planted::planted!(DeadlineUnseen) => {}
            Some(Timer::Deployment(id)) => cluster.touch(id),
            Some(Timer::Ports(id)) => failure::wake_ports(cluster, id, now),
            // Told, and looked for, when this step settles.
            Some(Timer::Words | Timer::Withheld | Timer::Spare) => {}
            // Deployments are settled after any event; draining tasks are not.
            Some(Timer::Rest) => drain::stop_all_drained(cluster, now),
        }
    }
    cluster.timers.left_over_at = Some(now);
}
