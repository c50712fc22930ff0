//! Refusals that are held back: while room is about to be free, a request that waits for it is not sent away. Once it is not any more
//! (another one got it, what was to end goes on), it is, within a second.

use super::{Cluster, Command, shortage::is_passing, sleep, waiting::Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use zectre_common::{
    id::DeploymentId,
    state::{Reason, TaskState, Wanted},
    time::Time,
};

/// How often is looked whether the room is still to come.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// So many are looked at within one step; the others at once, in the next.
const LOOKS_MAX: usize = 1_000;

/// Whose refusal is held back, by when it is looked at again.
#[derive(Debug, Clone, Default)]
pub(super) struct Withheld {
    due: BTreeSet<(Time, DeploymentId)>,
    looks_at: BTreeMap<DeploymentId, Time>,
}

impl Withheld {
    /// The first time stays: asking again and again puts nothing off.
    fn add(&mut self, id: DeploymentId, at: Time) {
        if !self.looks_at.contains_key(&id) && !crate::planted::planted!(RefusalForgotten) {
            self.looks_at.insert(id, at);
            self.due.insert((at, id));
        }
    }

    pub(super) fn remove(&mut self, id: DeploymentId) {
        if let Some(at) = self.looks_at.remove(&id) {
            self.due.remove(&(at, id));
        }
    }

    /// When the next one is to be looked at.
    pub(super) fn next(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    fn pop_due(&mut self, now: Time) -> Option<DeploymentId> {
        let (at, id) = *self.due.first()?;
        if at > now {
            return None;
        }
        self.remove(id);
        Some(id)
    }
}

/// Sends those away who wait for the deployment, unless one of its tasks is starting or room for one is about to be free.
pub(super) fn refuse(cluster: &mut Cluster, id: DeploymentId, reason: Reason, message: String, now: Time) {
    if starts(cluster, id) || (reason == Reason::NoCapacity && has_room_to_come(cluster, id, now)) {
        return cluster.withheld.add(id, now.plus(LOOK_INTERVAL));
    }
    cluster.withheld.remove(id);
    cluster.say(Command::WakeFailed {
        deployment_id: id,
        reason,
        message,
    });
}

/// Looks again at those whose time has come.
pub(super) fn look_again(cluster: &mut Cluster, now: Time) {
    for _ in 0..LOOKS_MAX {
        let Some(id) = cluster.withheld.pop_due(now) else {
            return;
        };
        refuse_in_vain(cluster, id, now);
    }
}

/// Why it waits was told before: whoever asks now is told at once, or as soon as nothing is to be hoped for any more.
pub(super) fn refuse_in_vain(cluster: &mut Cluster, id: DeploymentId, now: Time) {
    if let Some((reason, message)) = sleep::why_in_vain(cluster, id) {
        refuse(cluster, id, reason, message, now);
    } else if cluster.waiting.count(id) > 0 && cluster.count_ready(id) == 0 {
        cluster.withheld.add(id, now.plus(LOOK_INTERVAL));
    }
}

/// Whether a task of it has its place: how that ends is told in any case.
fn starts(cluster: &Cluster, id: DeploymentId) -> bool {
    let mut tasks = cluster.tasks_of(id);
    tasks.any(|task| task.wanted == Wanted::Run && task.state != TaskState::Pending)
}

/// Whether room is about to be free for what the deployment needs, looked for once for all that need the same.
pub(super) fn has_room_to_come(cluster: &mut Cluster, id: DeploymentId, now: Time) -> bool {
    let Some(deployment) = cluster.deployments.get(&id) else {
        return false;
    };
    let kind = Kind::of(deployment);
    if let Some(known) = cluster.waiting.is_passing(&kind, now) {
        return known;
    }
    #[cfg(test)]
    {
        cluster.looks_for_passing += 1;
    }
    let found = is_passing(cluster, deployment);
    cluster.waiting.note_passing(&kind, found, now);
    found
}
