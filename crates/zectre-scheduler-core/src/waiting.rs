//! Tasks that found no place, by what they need: one search without a result answers for all that need the same,
//! until room appears.
//!
//! A try costs what it places, and a logarithm; how many wait doesn't matter. In turn: what was tried last longest
//! ago, and of that what serves, and the oldest deployment.

use super::Deployment;
use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    time::Duration,
};
use zectre_common::{
    id::{DeploymentId, TaskId},
    spec::ProcessType,
    state::Reason,
    time::Time,
};

/// How old what was said of a shortage may get, as long as only usage changes.
const WORDS_MAX_AGE: Duration = Duration::from_secs(5);
/// For so long what was found to be short is taken to be so for others too, as long as only usage changes.
const FINDING_MAX_AGE: Duration = Duration::from_secs(1);
/// The most deployments that are told anew why they wait within [`TELLING_WINDOW`]: each is two rows.
const TOLD_MAX: u32 = 100;
const TELLING_WINDOW: Duration = Duration::from_secs(1);

/// What a task needs. Those that need the same find room or none together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kind {
    is_container: bool,
    cpu: u32,
    memory: u64,
    constraints: Vec<String>,
    /// Where its own replicas are is nobody else's business.
    alone: Option<DeploymentId>,
}

impl Kind {
    pub(super) fn of(deployment: &Deployment) -> Self {
        let spec = &deployment.spec;
        Self {
            is_container: spec.process_type == ProcessType::Docker,
            cpu: spec.resources.cpu.0,
            memory: spec.resources.memory.0,
            constraints: spec.constraints.iter().map(ToString::to_string).collect(),
            alone: spec.anti_affinity.then_some(deployment.id),
        }
    }
}

/// Counts up with what may make a difference to those who wait.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Versions {
    /// Nodes came, went, or may be used otherwise.
    fleet: u64,
    /// Room appeared.
    room: u64,
}

/// Everyone who waits for the same.
#[derive(Debug, Clone)]
struct Group {
    /// What serves comes before what is awake beside it.
    deployments: BTreeSet<Rank>,
    /// With the room of this version nobody of it found any.
    tried: u64,
    /// With the room of this version these could do nothing with a place, up to this one.
    passed: Option<(u64, Rank)>,
    found: Option<(Versions, Time, (Reason, String))>,
    /// Whether room for it was about to be free.
    passing: Option<Passing>,
    /// Until then it is known that nothing can give way to it.
    vain_until: Option<Time>,
}

/// A deployment, after whether it is only beside what serves.
type Rank = (bool, DeploymentId);

/// What was found of room to come.
#[derive(Debug, Clone, Copy)]
struct Passing {
    fleet: u64,
    /// Counts what was to end until then.
    ending: u64,
    at: Time,
    found: bool,
}

impl Group {
    /// Whose turn it is.
    fn next(&self, room: u64) -> Option<DeploymentId> {
        let passed = self.passed.filter(|(of, _)| *of == room).map(|(_, rank)| rank);
        let from = passed.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.deployments.range((from, Bound::Unbounded));
        rest.next().map(|(_, id)| *id)
    }
}

#[derive(Debug, Clone)]
struct Wait {
    kind: Kind,
    is_beside: bool,
    tasks: BTreeSet<TaskId>,
    told_at: Time,
    told_of: Versions,
}

/// Who waits, and who is tried next.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting {
    by_deployment: BTreeMap<DeploymentId, Wait>,
    groups: BTreeMap<Kind, Group>,
    /// The first deployment of each group, after the version of room that the group was tried with.
    turns: BTreeSet<(u64, Rank)>,
    /// Those that serve.
    serving: BTreeSet<DeploymentId>,
    /// What was so when each was told why it waits; whoever was told first is told anew first.
    words: BTreeSet<(Versions, DeploymentId)>,
    versions: Versions,
    /// Counts up with what is to end, and so with room that will be free.
    ending: u64,
    /// Since when is counted how many were told anew, and how many those are.
    telling: Option<(Time, u32)>,
}

impl Waiting {
    /// It waits: a search for it found nothing.
    pub(super) fn add(
        &mut self,
        kind: &Kind,
        deployment: DeploymentId,
        task: TaskId,
        is_beside: bool,
        now: Time,
    ) {
        self.rank(deployment, is_beside);
        let (words, told_of) = (&mut self.words, self.versions);
        let wait = self.by_deployment.entry(deployment).or_insert_with(|| {
            words.insert((told_of, deployment));
            Wait {
                kind: kind.clone(),
                is_beside,
                tasks: BTreeSet::new(),
                told_at: now,
                told_of,
            }
        });
        wait.tasks.insert(task);
        if !is_beside {
            self.serving.insert(deployment);
        }
        self.regroup(kind, |group, room| {
            group.deployments.insert((is_beside, deployment));
            group.tried = room;
        });
    }

    /// Whether it is only beside what serves: it has its turn after all that serves and needs the same.
    pub(super) fn rank(&mut self, deployment: DeploymentId, is_beside: bool) {
        let wait = self.by_deployment.get_mut(&deployment);
        let Some(wait) = wait.filter(|wait| wait.is_beside != is_beside) else {
            return;
        };
        wait.is_beside = is_beside;
        let kind = wait.kind.clone();
        if is_beside {
            self.serving.remove(&deployment);
        } else {
            self.serving.insert(deployment);
        }
        self.regroup(&kind, |group, _| {
            group.deployments.remove(&(!is_beside, deployment));
            group.deployments.insert((is_beside, deployment));
        });
    }

    /// It waits no more.
    pub(super) fn remove(&mut self, deployment: DeploymentId, task: TaskId) {
        let Some(wait) = self.by_deployment.get_mut(&deployment) else {
            return;
        };
        wait.tasks.remove(&task);
        if wait.tasks.is_empty() {
            self.forget(deployment);
        }
    }

    /// The deployment is gone.
    pub(super) fn forget(&mut self, deployment: DeploymentId) {
        if let Some(wait) = self.by_deployment.remove(&deployment) {
            self.words.remove(&(wait.told_of, deployment));
            self.serving.remove(&deployment);
            self.regroup(&wait.kind, |group, _| {
                group.deployments.remove(&(wait.is_beside, deployment));
            });
        }
    }

    /// Changes a group, and with it whose turn it is; one that nobody is of is forgotten.
    fn regroup(&mut self, kind: &Kind, change: impl FnOnce(&mut Group, u64)) {
        let room = self.versions.room;
        if !self.groups.contains_key(kind) {
            let group = Group {
                deployments: BTreeSet::new(),
                tried: room,
                passed: None,
                found: None,
                passing: None,
                vain_until: None,
            };
            self.groups.insert(kind.clone(), group);
        }
        let Some(group) = self.groups.get_mut(kind) else {
            return;
        };
        if let Some(first) = group.deployments.first() {
            self.turns.remove(&(group.tried, *first));
        }
        change(group, room);
        match group.deployments.first() {
            Some(first) => drop(self.turns.insert((group.tried, *first))),
            None => drop(self.groups.remove(kind)),
        }
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
        self.versions.room += 1;
    }

    /// Something is to end, or may be there to be ended.
    pub(super) fn room_to_come(&mut self) {
        self.ending += 1;
    }

    /// A node came, went, or may be used otherwise: what was said of the shortage may be wrong now.
    pub(super) fn fleet_changed(&mut self) {
        self.versions.fleet += 1;
        self.room_appeared();
    }

    /// Others that need the same found nothing, and no room has appeared since.
    pub(super) fn is_short(&self, kind: &Kind) -> bool {
        let group = self.groups.get(kind);
        group.is_some_and(|group| group.tried == self.versions.room)
    }

    /// Whether someone is still to be tried.
    pub(super) fn is_due(&self) -> bool {
        let first = self.turns.first();
        first.is_some_and(|(tried, _)| *tried < self.versions.room)
    }

    /// The next to be tried. Whoever asks tells what came of it, unless a task of it got a place.
    pub(super) fn next(&self) -> Option<DeploymentId> {
        let (_, first) = self.turns.first().filter(|_| self.is_due())?;
        let group = self.groups.get(&self.by_deployment.get(&first.1)?.kind)?;
        group.next(self.versions.room)
    }

    /// There is no place for the deployment, nor for any that needs the same.
    pub(super) fn found_none(&mut self, deployment: DeploymentId) {
        if let Some(wait) = self.by_deployment.get(&deployment) {
            let kind = wait.kind.clone();
            self.regroup(&kind, |group, room| group.tried = room);
        }
    }

    /// It has no use for the place that there is: the next one's turn.
    pub(super) fn pass_over(&mut self, deployment: DeploymentId) {
        if let Some(wait) = self.by_deployment.get(&deployment) {
            let (kind, rank) = (wait.kind.clone(), (wait.is_beside, deployment));
            self.regroup(&kind, |group, room| {
                group.passed = Some((room, rank));
                if group.next(room).is_none() {
                    group.tried = room;
                }
            });
        }
    }

    /// What those of this kind were found to be short of, as long as that holds.
    pub(super) fn found(&self, kind: &Kind, now: Time) -> Option<(Reason, String)> {
        let (versions, at, found) = self.groups.get(kind)?.found.as_ref()?;
        let is_fresh = versions.fleet == self.versions.fleet && now.since(*at) < FINDING_MAX_AGE;
        is_fresh.then(|| found.clone())
    }

    /// It was looked at what those of this kind are short of.
    pub(super) fn note_found(&mut self, kind: &Kind, found: (Reason, String), now: Time) {
        let versions = self.versions;
        if let Some(group) = self.groups.get_mut(kind) {
            group.found = Some((versions, now, found));
        }
    }

    /// Whether room for those of this kind was about to be free, as long as that holds. That none was holds only until something
    /// more is to end.
    pub(super) fn is_passing(&self, kind: &Kind, now: Time) -> Option<bool> {
        let known = self.groups.get(kind)?.passing?;
        let is_fresh = known.fleet == self.versions.fleet
            && now.since(known.at) < FINDING_MAX_AGE
            && (known.found || known.ending == self.ending);
        is_fresh.then_some(known.found)
    }

    /// It was looked whether room for those of this kind is about to be free.
    pub(super) fn note_passing(&mut self, kind: &Kind, found: bool, now: Time) {
        let (fleet, ending) = (self.versions.fleet, self.ending);
        if let Some(group) = self.groups.get_mut(kind) {
            group.passing = Some(Passing {
                fleet,
                ending,
                at: now,
                found,
            });
        }
    }

    /// Whether anything that serves waits.
    pub(super) fn has_serving(&self) -> bool {
        !self.serving.is_empty()
    }

    /// At most so many that serve and wait, behind this one.
    pub(super) fn serving_after(&self, last: Option<DeploymentId>, max: usize) -> Vec<DeploymentId> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        self.serving
            .range((from, Bound::Unbounded))
            .take(max)
            .copied()
            .collect()
    }

    /// Whether it is known that nothing can give way to those of this kind.
    pub(super) fn is_vain(&self, kind: &Kind, now: Time) -> bool {
        let until = self.groups.get(kind).and_then(|group| group.vain_until);
        until.is_some_and(|until| until > now)
    }

    /// Nothing can give way to those of this kind; that holds until then.
    pub(super) fn note_vain(&mut self, kind: &Kind, until: Time) {
        if let Some(group) = self.groups.get_mut(kind) {
            group.vain_until = Some(until);
        }
    }

    /// When the next deployment is to be told anew why it waits.
    pub(super) fn tells_at(&self, now: Time) -> Option<Time> {
        let (told_of, id) = self.words.first()?;
        let wanted_at = if told_of.fleet != self.versions.fleet {
            now
        } else if told_of.room != self.versions.room {
            self.by_deployment.get(id)?.told_at.plus(WORDS_MAX_AGE)
        } else {
            return None;
        };
        let full = self.telling.filter(|(_, told)| *told >= TOLD_MAX);
        Some(full.map_or(wanted_at, |(since, _)| wanted_at.max(since.plus(TELLING_WINDOW))))
    }

    /// The deployment that is to be told anew why it waits.
    pub(super) fn next_to_tell(&mut self, now: Time) -> Option<DeploymentId> {
        if self.tells_at(now)? > now {
            return None;
        }
        let (_, id) = self.words.pop_first()?;
        self.words.insert((self.versions, id));
        if let Some(wait) = self.by_deployment.get_mut(&id) {
            (wait.told_at, wait.told_of) = (now, self.versions);
        }
        let window = self
            .telling
            .filter(|(since, _)| now.since(*since) < TELLING_WINDOW);
        self.telling = Some(window.map_or((now, 1), |(since, told)| (since, told + 1)));
        Some(id)
    }
}
