//! Tasks that found no place, by deployment: what one of a deployment's tasks can't get, the others can't either.
//!
//! When room appears every deployment that waits is tried once, the oldest first; a pass that does not fit into
//! one step goes on in the next one where it stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, TaskId},
    state::Reason,
    time::Time,
};

/// How old the words about what is short may get, as long as nothing but usage changes.
const WORDS_MAX_AGE: Duration = Duration::from_secs(5);

/// What tasks want that are short of the same: a container, cpu, memory, labels.
pub(super) type Kind = (bool, u32, u64, Vec<String>);

/// What was found to be short, as long as no time passes and no node comes or goes.
#[derive(Debug, Clone, Default)]
pub(super) struct Shortages {
    by_kind: BTreeMap<Kind, (Reason, String)>,
    of: Option<(u64, Time)>,
}

impl Shortages {
    /// What was found for this kind, if that still holds.
    pub(super) fn get(&mut self, kind: &Kind, fleet: u64, now: Time) -> Option<(Reason, String)> {
        if self.of != Some((fleet, now)) {
            self.by_kind.clear();
            self.of = Some((fleet, now));
        }
        self.by_kind.get(kind).cloned()
    }

    /// It was found just now.
    pub(super) fn note(&mut self, kind: Kind, found: (Reason, String)) {
        self.by_kind.insert(kind, found);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wait {
    tasks: BTreeSet<TaskId>,
    told_at: Time,
    told_of: u64,
}

/// Who waits, and who is tried next.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    by_deployment: BTreeMap<DeploymentId, Wait>,
    /// Counts up with every change of what nodes there are.
    fleet: u64,
    left: usize,
    after: Option<DeploymentId>,
}

impl Waiting {
    /// It waits.
    pub(super) fn add(&mut self, deployment: DeploymentId, task: TaskId, now: Time) {
        let fleet = self.fleet;
        let wait = self.by_deployment.entry(deployment).or_insert_with(|| Wait {
            tasks: BTreeSet::new(),
            told_at: now,
            told_of: fleet,
        });
        wait.tasks.insert(task);
    }

    /// It was looked anew at why it has to wait.
    pub(super) fn told(&mut self, deployment: DeploymentId, now: Time) {
        if let Some(wait) = self.by_deployment.get_mut(&deployment) {
            (wait.told_at, wait.told_of) = (now, self.fleet);
        }
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, deployment: DeploymentId, task: TaskId) {
        if let Some(wait) = self.by_deployment.get_mut(&deployment) {
            wait.tasks.remove(&task);
            if wait.tasks.is_empty() {
                self.by_deployment.remove(&deployment);
            }
        }
    }

    /// The deployment is gone.
    pub(super) fn forget(&mut self, deployment: DeploymentId) {
        self.by_deployment.remove(&deployment);
    }

    pub(super) fn contains(&self, deployment: DeploymentId, task: TaskId) -> bool {
        self.by_deployment
            .get(&deployment)
            .is_some_and(|wait| wait.tasks.contains(&task))
    }

    /// How many of the deployment's tasks wait.
    pub(super) fn count(&self, deployment: DeploymentId) -> usize {
        self.by_deployment
            .get(&deployment)
            .map_or(0, |wait| wait.tasks.len())
    }

    /// The deployment's waiting tasks, the oldest first.
    pub(super) fn of(&self, deployment: DeploymentId) -> impl Iterator<Item = TaskId> {
        let wait = self.by_deployment.get(&deployment);
        wait.into_iter().flat_map(|wait| wait.tasks.iter().copied())
    }

    /// Everything that waits.
    #[cfg(test)]
    pub(super) fn all(&self) -> BTreeSet<TaskId> {
        self.by_deployment
            .values()
            .flat_map(|wait| wait.tasks.iter().copied())
            .collect()
    }

    /// Someone may fit now.
    pub(super) fn room_appeared(&mut self) {
        if self.left == 0 {
            self.after = None;
        }
        self.left = self.by_deployment.len();
    }

    /// A node came, went, or may be used otherwise: what was said of the shortage may be wrong now.
    pub(super) fn fleet_changed(&mut self) {
        self.fleet += 1;
        self.room_appeared();
    }

    /// Changes with every change of what nodes there are.
    pub(super) fn fleet(&self) -> u64 {
        self.fleet
    }

    /// Whether someone is still to be tried.
    pub(super) fn is_due(&self) -> bool {
        self.left > 0 && !self.by_deployment.is_empty()
    }

    /// The next to be tried.
    pub(super) fn pop(&mut self) -> Option<DeploymentId> {
        if !self.is_due() {
            self.left = 0;
            return None;
        }
        self.left -= 1;
        let from = self.after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.by_deployment.range((from, Bound::Unbounded));
        let next = rest.next().or_else(|| self.by_deployment.first_key_value());
        let id = next.map(|(id, _)| *id);
        self.after = id;
        id
    }

    /// What it was told has to be looked at again.
    pub(super) fn is_stale(&self, deployment: DeploymentId, now: Time) -> bool {
        self.by_deployment
            .get(&deployment)
            .is_some_and(|wait| wait.told_of != self.fleet || now.since(wait.told_at) >= WORDS_MAX_AGE)
    }
}
