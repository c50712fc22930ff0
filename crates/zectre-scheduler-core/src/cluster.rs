//! All that the scheduler knows. Everything is changed through the `update_…` functions here, which note
//! what has to be saved, which deployments to look at again, and whether proxies must be told.

use super::{
    Command, Deployment, Environment, Happening, Node, Proxy, Settings, Task, Unrouted,
    acks::Acks,
    ident::Ids,
    resting::Resting,
    roster::{Roster, Standing},
    shelf::Key,
    shelves::Shelves,
    spare::Spare,
    timer::{Timer, Timers},
    waiting::Waiting,
    withheld::Withheld,
};
use std::collections::{BTreeMap, BTreeSet};
use uuid::Uuid;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, ProxyId, TaskId},
    spec::Resources,
    state::{Eligibility, Health, TaskState, Wanted},
    time::Time,
};

/// The most applied operations remembered; older ones are marked in the database for sure.
const APPLIED_MAX: usize = 10_000;

/// What the step under way has done so far; empty between steps.
#[derive(Debug, Clone, Default)]
struct Pass {
    tasks: BTreeSet<TaskId>,
    deployments: BTreeSet<DeploymentId>,
    environments: BTreeSet<EnvironmentId>,
    /// Environments of which a deployment was forgotten.
    left: BTreeSet<EnvironmentId>,
    nodes: BTreeSet<NodeId>,
    touched: BTreeSet<DeploymentId>,
    ended: Vec<Task>,
    commands: Vec<Command>,
    reroutes: bool,
}

/// The state that [`super::step`] changes.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(super) settings: Settings,
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) environments: BTreeMap<EnvironmentId, Environment>,
    pub(super) deployments: BTreeMap<DeploymentId, Deployment>,
    pub(super) tasks: BTreeMap<TaskId, Task>,
    pub(super) proxies: BTreeMap<ProxyId, Proxy>,
    pub(super) timers: Timers,
    /// What follows from the tasks of each deployment.
    pub(super) rosters: BTreeMap<DeploymentId, Roster>,
    /// Nodes that take tasks, the fullest (by memory) first.
    pub(super) shelves: Shelves,
    /// Tasks that found no place; tried again when room appears.
    pub(super) waiting: Waiting,
    /// Whose wake is not refused yet although it waits. Not stored: nobody waits at a new leader.
    pub(super) withheld: Withheld,
    /// What may give way to those who serve and wait. Follows from the deployments and their tasks.
    pub(super) spare: Spare,
    /// What serves no more and sleeps since, until proxies know. Not stored: nobody waits at a new leader.
    pub(super) displaced: Acks<DeploymentId>,
    /// Tasks taken out of routing that may not be told to stop yet.
    pub(super) draining: Acks<TaskId>,
    /// Those of them whose drain time is over.
    pub(super) overdue: Acks<TaskId>,
    /// Tasks taken back into the routing by what is not saved yet.
    pub(super) revived: BTreeSet<TaskId>,
    /// Tasks that may take requests although their rows don't say so: they were starting when this leader read the rows, and
    /// whoever led before may have named them to those who waited, and have failed to save it.
    pub(super) perhaps_named: BTreeSet<TaskId>,
    /// Tasks that were starting when this leader read the rows, or when their agent came anew, and of which nothing was heard or
    /// ordered since: the first digest without one of them is answered with its order, which got lost with whoever led before, or
    /// with the agent before. One that is still on its way has no second effect.
    pub(super) unordered: BTreeSet<TaskId>,
    /// A raise of the routing epoch was handed in for saving, and has not come back.
    raising: bool,
    /// Deployments that took over and have not succeeded yet.
    pub(super) confirming: Acks<DeploymentId>,
    /// Nodes whose tasks were lost while proxies routed to them: what they still run may not be stopped yet.
    pub(super) stranded: Acks<NodeId>,
    /// How often the silence of nodes was excused since they were heard.
    pub(super) excuses: BTreeMap<NodeId, u32>,
    /// Tasks whose end a node told of since its last digest.
    pub(super) just_ended: BTreeMap<NodeId, BTreeSet<TaskId>>,
    /// What the checks of starting tasks got for an answer. Not stored: their nodes tell again.
    pub(super) answers: BTreeMap<TaskId, String>,
    /// Nodes that tasks are to leave.
    pub(super) emptying: BTreeSet<NodeId>,
    /// The newest routing epoch that is known of.
    pub(super) routing_epoch: u64,
    /// Searches for a place so far: tests bound them.
    #[cfg(test)]
    pub(super) searches: u64,
    /// Looks for room to come so far.
    #[cfg(test)]
    pub(super) looks_for_passing: u64,
    /// How many that might give way were looked at so far.
    #[cfg(test)]
    pub(super) looks_at_spare: usize,
    counts: BTreeMap<TaskState, usize>,
    applied: BTreeSet<i64>,
    resting: Resting,
    /// The deployments known of each environment.
    pub(super) residents: BTreeMap<EnvironmentId, BTreeSet<DeploymentId>>,
    /// What an environment goes back to once its lost rollout has given back. Not stored: see `retreat`.
    pub(super) returning: BTreeMap<EnvironmentId, DeploymentId>,
    /// Deployments that were woken and take no requests yet, and on which nodes they got a place for it. Not stored: what
    /// a new leader finds under way is counted no more.
    pub(super) waking: BTreeMap<DeploymentId, BTreeSet<NodeId>>,
    /// Since when their slot has been running, of tasks that took it over. Not stored: whoever leads next begins anew.
    pub(super) begun: BTreeMap<TaskId, Time>,
    ids: Ids,
    pass: Pass,
}

impl Cluster {
    /// Nothing at all.
    pub(super) fn empty(settings: Settings, seed: u64, routing_epoch: u64) -> Self {
        Self {
            settings,
            nodes: BTreeMap::new(),
            environments: BTreeMap::new(),
            deployments: BTreeMap::new(),
            tasks: BTreeMap::new(),
            proxies: BTreeMap::new(),
            timers: Timers::default(),
            rosters: BTreeMap::new(),
            shelves: Shelves::default(),
            waiting: Waiting::default(),
            withheld: Withheld::default(),
            spare: Spare::default(),
            displaced: Acks::default(),
            draining: Acks::default(),
            overdue: Acks::default(),
            revived: BTreeSet::new(),
            perhaps_named: BTreeSet::new(),
            unordered: BTreeSet::new(),
            raising: false,
            confirming: Acks::default(),
            stranded: Acks::default(),
            excuses: BTreeMap::new(),
            just_ended: BTreeMap::new(),
            answers: BTreeMap::new(),
            emptying: BTreeSet::new(),
            routing_epoch,
            #[cfg(test)]
            searches: 0,
            #[cfg(test)]
            looks_for_passing: 0,
            #[cfg(test)]
            looks_at_spare: 0,
            counts: BTreeMap::new(),
            applied: BTreeSet::new(),
            resting: Resting::default(),
            residents: BTreeMap::new(),
            returning: BTreeMap::new(),
            waking: BTreeMap::new(),
            begun: BTreeMap::new(),
            ids: Ids::new(seed),
            pass: Pass::default(),
        }
    }

    pub(super) fn insert_environment(&mut self, environment: Environment) {
        self.environments.entry(environment.id).or_insert(environment);
    }

    pub(super) fn insert_deployment(&mut self, deployment: Deployment) {
        let residents = self.residents.entry(deployment.environment_id).or_default();
        residents.insert(deployment.id);
        let (id, open) = (
            deployment.id,
            !deployment.status.is_ended() && !deployment.is_job(),
        );
        if let Some(environment) = self
            .environments
            .get_mut(&deployment.environment_id)
            .filter(|_| open)
        {
            if environment.current == Some(id) {
                self.confirming.add(id, Some(self.routing_epoch));
                self.deployments.insert(id, deployment);
                return self.touch(id);
            }
            environment.open.insert((deployment.version, id));
        }
        self.deployments.insert(id, deployment);
        self.pass.touched.insert(id);
    }

    /// Adds a task that waits for a place.
    pub(super) fn insert_task(&mut self, task: Task) {
        if self.deployments.contains_key(&task.deployment_id) {
            self.pass.tasks.insert(task.id);
            self.pass.touched.insert(task.deployment_id);
            self.enlist(task);
        }
    }

    /// Counts a task in.
    pub(super) fn enlist(&mut self, task: Task) {
        *self.counts.entry(task.state).or_default() += 1;
        self.rosters
            .entry(task.deployment_id)
            .or_default()
            .note(task.id, None, Some(Standing::of(&task)));
        self.tasks.insert(task.id, task);
    }

    /// Makes only ids that come after this one.
    pub(super) fn follow_id(&mut self, id: Uuid) {
        self.ids.follow(id);
    }

    /// A new id from the seed.
    pub(super) fn new_id(&mut self, now: Time) -> Uuid {
        self.ids.next(now)
    }

    /// Changes a task that stays alive.
    pub(super) fn update_task(&mut self, id: TaskId, change: impl FnOnce(&mut Task)) {
        let Some(task) = self.tasks.get_mut(&id) else {
            return;
        };
        let (routed, address, port) = (task.routed, task.address.clone(), task.port);
        let (before, state, wanted) = (Standing::of(task), task.state, task.wanted);
        change(task);
        if wanted != task.wanted {
            self.waiting.room_to_come();
        }
        if state != task.state {
            *self.counts.entry(state).or_default() -= 1;
            *self.counts.entry(task.state).or_default() += 1;
        }
        // The address of a task that isn't routed is nobody's business yet.
        let moved = (routed, &address, port) != (task.routed, &task.address, task.port);
        self.pass.reroutes |= moved && (routed || task.routed);
        self.pass.tasks.insert(id);
        self.pass.touched.insert(task.deployment_id);
        if let Some(roster) = self.rosters.get_mut(&task.deployment_id) {
            roster.note(id, Some(before), Some(Standing::of(task)));
        }
    }

    /// Ends a task: it gives back what it held, and is saved once more.
    pub(super) fn end_task(&mut self, id: TaskId, now: Time, change: impl FnOnce(&mut Task)) -> Option<Task> {
        let mut task = self.tasks.remove(&id)?;
        let before = Standing::of(&task);
        *self.counts.entry(task.state).or_default() -= 1;
        change(&mut task);
        debug_assert!(task.state.is_ended(), "end_task ends it");
        self.pass.reroutes |= self.may_get_requests(&task);
        self.perhaps_named.remove(&id);
        self.unordered.remove(&id);
        // Whoever removes it outright needs no epoch to wait for: nothing is left to stop.
        if task.unrouted == Unrouted::Awaited {
            task.unrouted = Unrouted::No;
        }
        task.routed &= crate::planted::planted!(EndedStaysRouted);
        (task.healthy, task.wanted) = (false, Wanted::Stop);
        task.finished_at = Some(now);
        if let (Some(node_id), Some(deployment)) = (task.node_id, self.deployments.get(&task.deployment_id)) {
            self.release(node_id, &task, deployment.spec.resources);
        }
        if let Some(roster) = self.rosters.get_mut(&task.deployment_id) {
            roster.note(id, Some(before), None);
        }
        self.waiting.remove(task.deployment_id, id);
        self.draining.remove(id);
        self.overdue.remove(id);
        self.begun.remove(&id);
        self.answers.remove(&id);
        self.timers.arm(Timer::Task(id), None);
        self.pass.tasks.remove(&id);
        self.pass.touched.insert(task.deployment_id);
        self.pass.ended.push(task.clone());
        Some(task)
    }

    /// Changes a deployment.
    pub(super) fn update_deployment(&mut self, id: DeploymentId, change: impl FnOnce(&mut Deployment)) {
        let Some(deployment) = self.deployments.get_mut(&id) else {
            return;
        };
        let before = (
            deployment.asleep,
            deployment.status,
            deployment.cold_start_enabled,
        );
        change(deployment);
        let after = (
            deployment.asleep,
            deployment.status,
            deployment.cold_start_enabled,
        );
        // Who finds it asleep by the table asks for it, and is answered here: nobody needs to know of a wake before its task is
        // ready, which raises the epoch.
        let is_woken = before == (true, after.1, true) && after == (false, after.1, true);
        self.pass.reroutes |= before != after && !is_woken;
        let ended = before.1 != after.1 && deployment.status.is_ended();
        self.pass.deployments.insert(id);
        self.pass.touched.insert(id);
        if ended {
            self.confirming.remove(id);
            self.close_rollout(id);
        }
    }

    /// It is no longer among those that are to be rolled out.
    pub(super) fn close_rollout(&mut self, id: DeploymentId) {
        if let Some(deployment) = self.deployments.get(&id)
            && let Some(environment) = self.environments.get_mut(&deployment.environment_id)
        {
            environment.open.remove(&(deployment.version, id));
        }
    }

    /// Live tasks in a state.
    pub fn count_in(&self, state: TaskState) -> usize {
        self.counts.get(&state).copied().unwrap_or_default()
    }

    /// Notes how a deployment is; nothing follows from it.
    pub(super) fn set_health(&mut self, id: DeploymentId, health: Health) {
        if let Some(deployment) = self
            .deployments
            .get_mut(&id)
            .filter(|deployment| deployment.health != health)
        {
            deployment.health = health;
            self.pass.deployments.insert(id);
        }
    }

    /// Changes an environment; everything about it matters to proxies.
    pub(super) fn update_environment(&mut self, id: EnvironmentId, change: impl FnOnce(&mut Environment)) {
        let Some(environment) = self.environments.get_mut(&id) else {
            return;
        };
        let involved = |e: &Environment| [e.current, e.target];
        let mut touched: Vec<_> = involved(environment).into_iter().flatten().collect();
        change(environment);
        touched.extend(involved(environment).into_iter().flatten());
        self.pass.touched.extend(touched);
        self.pass.environments.insert(id);
        self.pass.reroutes = true;
    }

    /// Changes a node and saves it.
    pub(super) fn update_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        self.reindex_node(id, change);
        if self.nodes.contains_key(&id) {
            self.pass.nodes.insert(id);
        }
    }

    /// Changes what isn't saved of a node: what is held, what was seen.
    pub(super) fn reindex_node(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) {
        let Some(node) = self.nodes.get_mut(&id) else {
            return;
        };
        let (before, had_extras, room) = (
            node.place(),
            node.has_extras,
            (node.free_memory(), node.free_cpu(), node.free_ports()),
        );
        change(node);
        if node.has_extras && !had_extras {
            self.waiting.room_to_come();
        }
        let grew = room.0 < node.free_memory() || room.1 < node.free_cpu() || room.2 < node.free_ports();
        let opened = node.place().is_some() && (before.is_none() || grew);
        if opened {
            self.waiting.room_appeared();
        }
        self.index_node(id, before);
    }

    pub(super) fn index_node(&mut self, id: NodeId, before: Option<Key>) {
        let Some(node) = self.nodes.get(&id) else { return };
        self.shelves.shift(node, before);
        if node.eligibility == Eligibility::Draining {
            self.emptying.insert(id);
        } else {
            self.emptying.remove(&id);
        }
    }

    pub(super) fn remove_node(&mut self, id: NodeId) {
        if let Some(node) = self.nodes.remove(&id) {
            self.shelves.remove(node.place());
            self.emptying.remove(&id);
            self.stranded.remove(id);
            self.excuses.remove(&id);
            self.just_ended.remove(&id);
            self.timers.arm(Timer::Node(id), None);
            self.timers.arm(Timer::Ports(id), None);
            self.pass.nodes.remove(&id);
            self.waiting.fleet_changed();
        }
    }

    pub(super) fn hold(&mut self, node_id: NodeId, task: &Task, needs: Resources) {
        self.reindex_node(node_id, |node| node.hold(task.id, needs, task.port));
    }

    fn release(&mut self, node_id: NodeId, task: &Task, needs: Resources) {
        self.reindex_node(node_id, |node| node.release(task.id, needs, task.port));
    }

    /// Forgets a deployment whose row is gone; its tasks must have ended.
    pub(super) fn remove_deployment(&mut self, id: DeploymentId) {
        let Some(deployment) = self.deployments.remove(&id) else {
            return;
        };
        if let Some(environment) = self.environments.get_mut(&deployment.environment_id) {
            environment.open.remove(&(deployment.version, id));
        }
        if let Some(residents) = self.residents.get_mut(&deployment.environment_id) {
            residents.remove(&id);
            self.pass.left.insert(deployment.environment_id);
        }
        self.returning.retain(|_, returning| *returning != id);
        self.waking.remove(&id);
        self.rosters.remove(&id);
        self.resting.remove(id);
        self.waiting.forget(id);
        self.withheld.remove(id);
        self.spare.remove(id);
        self.displaced.remove(id);
        self.confirming.remove(id);
        self.timers.arm(Timer::Deployment(id), None);
        self.pass.deployments.remove(&id);
        self.pass.touched.remove(&id);
        self.pass.ended.retain(|task| task.deployment_id != id);
    }

    /// Looks at a deployment again before the step ends.
    pub(super) fn touch(&mut self, id: DeploymentId) {
        self.pass.touched.insert(id);
    }

    /// Looks at every deployment before the next step ends.
    pub(super) fn touch_all(&mut self) {
        self.pass.touched.extend(self.deployments.keys().copied());
    }

    /// Something was left over by the bound of a step.
    pub(super) fn is_unsettled(&self) -> bool {
        !self.pass.touched.is_empty() || self.waiting.is_due()
    }

    /// Notes whether the deployment has ended and runs nothing.
    pub(super) fn note_rest(&mut self, id: DeploymentId) {
        let involved =
            |environment: &Environment| [environment.current, environment.target].contains(&Some(id));
        let rests = self.deployments.get(&id).is_some_and(|deployment| {
            deployment.status.is_ended()
                && !self
                    .environments
                    .get(&deployment.environment_id)
                    .is_some_and(involved)
                && self.rosters.get(&id).is_none_or(|roster| roster.tasks.is_empty())
        });
        if rests {
            self.resting.note(id);
        } else {
            self.resting.remove(id);
        }
    }

    /// Forgets those that have rested for longest; whoever asks for one again brings its row.
    fn forget_resting(&mut self) {
        while let Some(id) = self.resting.pop_surplus() {
            self.remove_deployment(id);
        }
    }

    /// Forgets the environments of which no deployment is known; they come back with the next one's row.
    fn forget_environments(&mut self) {
        for id in std::mem::take(&mut self.pass.left) {
            if self.residents.get(&id).is_some_and(BTreeSet::is_empty) {
                self.residents.remove(&id);
                self.environments.remove(&id);
                self.returning.remove(&id);
            }
        }
    }

    /// Rows that the step under way has to save by now.
    pub(super) fn rows_to_save(&self) -> usize {
        let pass = &self.pass;
        pass.ended.len()
            + pass.tasks.len()
            + pass.deployments.len()
            + pass.environments.len()
            + pass.nodes.len()
    }

    pub(super) fn pop_touched(&mut self) -> Option<DeploymentId> {
        self.pass.touched.pop_first()
    }

    /// Says something that isn't a row.
    pub(super) fn say(&mut self, command: Command) {
        self.pass.commands.push(command);
    }

    /// Proxies are told to read anew, although nothing changed that they route by: what they were told beside the rows is over.
    pub(super) fn reroute(&mut self) {
        self.pass.reroutes = true;
    }

    /// An epoch that is not known yet is on its way.
    pub(super) fn raises_epoch(&self) -> bool {
        self.raising || self.pass.reroutes
    }

    /// What waited for the raised epoch knows it now.
    pub(super) fn note_raised(&mut self, epoch: u64) {
        self.routing_epoch = self.routing_epoch.max(epoch);
        self.raising = false;
    }

    /// Adds to the activity feed; the application is filled in from the deployment.
    pub(super) fn record(&mut self, mut happening: Happening) {
        let deployment = happening.deployment_id.and_then(|id| self.deployments.get(&id));
        happening.application_id = happening.application_id.or(deployment.map(|d| d.application_id));
        self.say(Command::Record(Box::new(happening)));
    }

    /// Remembers an operation; false when it was applied before.
    pub(super) fn is_first(&mut self, operation: i64) -> bool {
        if self.applied.len() >= APPLIED_MAX {
            self.applied.pop_first();
        }
        self.applied.insert(operation)
    }

    /// Ends the step: its rows first (ended tasks before all, so that their ports are free), then its words.
    pub(super) fn flush(&mut self) -> Vec<Command> {
        let pass = std::mem::take(&mut self.pass);
        let mut commands: Vec<Command> = pass
            .ended
            .into_iter()
            .map(|t| Command::SaveTask(Box::new(t)))
            .collect();
        let tasks = pass.tasks.iter().filter_map(|id| self.tasks.get(id));
        commands.extend(tasks.map(|task| Command::SaveTask(Box::new(task.clone()))));
        let deployments = pass.deployments.iter().filter_map(|id| self.deployments.get(id));
        commands.extend(deployments.map(|deployment| Command::SaveDeployment(Box::new(deployment.clone()))));
        let environments = pass
            .environments
            .iter()
            .filter_map(|id| self.environments.get(id));
        commands.extend(environments.map(|environment| Command::SaveEnvironment(environment.clone())));
        let nodes = pass.nodes.iter().filter_map(|id| self.nodes.get(id));
        commands.extend(nodes.map(|node| Command::SaveNode(Box::new(node.clone()))));
        if pass.reroutes && !crate::planted::planted!(EpochNotRaised) {
            commands.push(Command::RaiseEpoch);
            self.raising = true;
        }
        commands.extend(pass.commands);
        // What the step's bound left over goes on at the next one.
        (self.pass.touched, self.pass.left) = (pass.touched, pass.left);
        self.forget_resting();
        self.forget_environments();
        commands
    }
}
