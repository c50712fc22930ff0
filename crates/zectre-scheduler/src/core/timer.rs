//! Deadlines: at most one for each thing, in one ordered set, so that a tick costs what is due and no more.

use super::{Cluster, drain, failure, lease, placement};
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
    /// What the bound of a step left over.
    Rest,
}

/// All deadlines.
#[derive(Debug, Clone, Default)]
pub(super) struct Timers {
    due: BTreeSet<(Time, Timer)>,
    armed: BTreeMap<Timer, Time>,
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
    let late = cluster.timers.next().map_or(Duration::ZERO, |at| now.since(at));
    if late > cluster.settings.node_lease / 8 {
        lease::excuse_silence(cluster, now);
    }
    for _ in 0..FIRED_MAX {
        match cluster.timers.pop_due(now) {
            None => return,
            Some(Timer::Node(id)) => lease::expire(cluster, id, now),
            Some(Timer::Proxy(id)) => drain::proxy_gone(cluster, id, now),
            Some(Timer::Task(id)) => placement::task_deadline(cluster, id, now),
            Some(Timer::Deployment(_)) if crate::planted::planted!(DeadlineUnseen) => {}
            Some(Timer::Deployment(id)) => cluster.touch(id),
            Some(Timer::Ports(id)) => failure::wake_ports(cluster, id, now),
            // It is settled after any event.
            Some(Timer::Rest) => {}
        }
    }
}
