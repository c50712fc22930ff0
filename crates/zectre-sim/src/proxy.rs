//! A proxy: the table it routes by, the requests it has under way, and what it tells the scheduler about both.

use crate::{
    faults::PROXY_SKEW_MAX_US,
    leader::{LeaderAct, Letter, Waiter},
    listen::{ListenAct, listen},
    network::Place,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
};
use std::collections::{BTreeMap, BTreeSet};
use zectre_common::id::{DeploymentId, EnvironmentId, ProxyId, TaskId};

/// The proxy's row is renewed so often.
const RENEW_US: Us = 2 * SECOND;
/// A notification that got lost delays a change by at most so much.
const LOOK_US: Us = 10 * SECOND;
/// A wake call is given up after so long.
const WAKE_TIMEOUT_US: Us = 55 * SECOND;

/// Something that is due in a proxy; the number is its incarnation.
#[derive(Debug, Clone)]
pub(crate) enum ProxyAct {
    /// It starts.
    Boot,
    /// A routing notification, or the timed look.
    Look(u64),
    /// The timed look, again and again.
    LookAgain(u64),
    /// What was read becomes the table.
    Apply(u64, Box<Table>),
    /// Its row is renewed.
    Renew(u64),
    /// The same, again and again.
    RenewAgain(u64),
    /// A request comes.
    Request(u64),
    /// A request ends.
    Done(u64, TaskId, u64),
    /// The answer to a wake.
    Woken(u64, DeploymentId, Option<Answer>),
    /// The wake call is given up.
    WakeTimeout(u64, DeploymentId, u64),
}

/// Ready tasks, and the routing epoch that the scheduler knew when it named them.
pub(crate) type Answer = (Vec<TaskId>, u64);

/// What is routed by.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub(crate) epoch: u64,
    pub(crate) read_us: Us,
    pub(crate) tasks: BTreeMap<TaskId, DeploymentId>,
    pub(crate) environments: BTreeMap<EnvironmentId, (Option<DeploymentId>, Option<DeploymentId>, u64)>,
}

/// A task's requests.
#[derive(Debug, Clone, Default)]
pub(crate) struct Replica {
    /// The first epoch without it.
    pub(crate) removed_at: Option<u64>,
    pub(crate) requests: BTreeSet<u64>,
}

/// A proxy's process.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) is_up: bool,
    pub(crate) incarnation: u64,
    /// How far its clock is ahead.
    pub(crate) skew_us: i64,
    pub(crate) id: ProxyId,
    pub(crate) table: Table,
    /// The table came from the database, not from the disk.
    pub(crate) from_database: bool,
    pub(crate) replicas: BTreeMap<TaskId, Replica>,
    leaving: Vec<(TaskId, Replica)>,
    woken: BTreeMap<DeploymentId, Answer>,
    /// The wake call of a deployment, and whether it is the second.
    waking: BTreeMap<DeploymentId, (u64, bool)>,
}

impl Sim {
    /// One more proxy.
    pub(crate) fn add_proxy(&mut self) {
        let (index, skew_us) = (self.proxies.len(), self.skew_us(PROXY_SKEW_MAX_US));
        self.proxies.push(Proxy {
            is_up: false,
            incarnation: 0,
            skew_us,
            id: ProxyId::from_uuid(uuid::Uuid::nil()),
            table: Table::default(),
            from_database: false,
            replicas: BTreeMap::new(),
            leaving: Vec::new(),
            woken: BTreeMap::new(),
            waking: BTreeMap::new(),
        });
        self.after(20 * MS, Act::Proxy(index, ProxyAct::Boot));
    }

    fn proxy_reaches_database(&self, index: usize) -> bool {
        !self.database.is_down && self.network.reaches(Place::Proxy(index), Place::Database)
    }

    pub(crate) fn perform_proxy(&mut self, index: usize, act: ProxyAct) {
        let proxy = &self.proxies[index];
        let is_current = |incarnation: u64| proxy.is_up && proxy.incarnation == incarnation;
        match act {
            ProxyAct::Boot => self.boot_proxy(index),
            ProxyAct::Look(incarnation) if is_current(incarnation) => self.read_table(index),
            ProxyAct::LookAgain(incarnation) if is_current(incarnation) => {
                if self.proxies[index].table.epoch != self.database.routing_epoch {
                    self.read_table(index);
                }
                self.after(LOOK_US, Act::Proxy(index, ProxyAct::LookAgain(incarnation)));
            }
            ProxyAct::Apply(incarnation, table) if is_current(incarnation) => self.apply_table(index, *table),
            ProxyAct::Renew(incarnation) if is_current(incarnation) => self.renew_proxy(index),
            ProxyAct::RenewAgain(incarnation) if is_current(incarnation) => {
                self.renew_proxy(index);
                self.after(RENEW_US, Act::Proxy(index, ProxyAct::RenewAgain(incarnation)));
            }
            ProxyAct::Request(incarnation) if is_current(incarnation) => self.request_comes(index),
            ProxyAct::Done(incarnation, task, request) if is_current(incarnation) => {
                self.request_ends(index, task, request);
            }
            ProxyAct::Woken(incarnation, deployment, answer) if is_current(incarnation) => {
                self.woken(index, deployment, answer);
            }
            ProxyAct::WakeTimeout(incarnation, deployment, call) if is_current(incarnation) => {
                let proxy = &mut self.proxies[index];
                if proxy.waking.get(&deployment).is_some_and(|(of, _)| *of == call) {
                    proxy.waking.remove(&deployment);
                }
            }
            _ => {}
        }
    }

    fn boot_proxy(&mut self, index: usize) {
        if self.proxies[index].is_up {
            return;
        }
        let id = ProxyId::from_uuid(uuid::Uuid::from_u128(u128::from(self.fresh())));
        let proxy = &mut self.proxies[index];
        // The table stays: it was kept on disk.
        (proxy.is_up, proxy.id, proxy.from_database) = (true, id, false);
        proxy.incarnation += 1;
        let incarnation = proxy.incarnation;
        proxy.replicas = proxy
            .table
            .tasks
            .keys()
            .map(|id| (*id, Replica::default()))
            .collect();
        proxy.leaving.clear();
        proxy.woken.clear();
        proxy.waking.clear();
        note!(self, "proxy {index} starts as {}", short(id.get()));
        self.after(0, Act::Proxy(index, ProxyAct::Look(incarnation)));
        self.after(LOOK_US, Act::Proxy(index, ProxyAct::LookAgain(incarnation)));
        self.after(RENEW_US, Act::Proxy(index, ProxyAct::RenewAgain(incarnation)));
        self.after(SECOND, Act::Proxy(index, ProxyAct::Request(incarnation)));
    }

    /// Tells every proxy that the routing epoch was raised; the notification is lost with its connection.
    pub(crate) fn notify_routing(&mut self) {
        for index in 0..self.proxies.len() {
            let incarnation = self.proxies[index].incarnation;
            let act = Act::Proxy(index, ProxyAct::Look(incarnation));
            self.send(Place::Database, Place::Proxy(index), act);
        }
    }

    /// A connection to the database that was lost is made again: whatever was told meanwhile is read.
    pub(crate) fn reconnect_proxies(&mut self) {
        for index in 0..self.proxies.len() {
            let delay_us = self.random.between(MS, 600 * MS);
            let incarnation = self.proxies[index].incarnation;
            self.after(delay_us, Act::Proxy(index, ProxyAct::Look(incarnation)));
        }
    }

    fn read_table(&mut self, index: usize) {
        if !self.proxy_reaches_database(index) {
            return;
        }
        let environment = |e: &zectre_scheduler_core::Environment| {
            let weight = e.target_weight.map_or(0, u64::from);
            (e.id, (e.current, e.target, weight))
        };
        let table = Table {
            epoch: self.database.routing_epoch,
            read_us: self.now_us,
            tasks: self
                .database
                .routed()
                .map(|task| (task.id, task.deployment_id))
                .collect(),
            environments: {
                let all = self.database.environments.values();
                let shown = all.filter(|e| !self.operator.is_deleted(e.id));
                shown.map(environment).collect()
            },
        };
        let incarnation = self.proxies[index].incarnation;
        let latency_us = self.latency_us();
        let act = ProxyAct::Apply(incarnation, Box::new(table));
        self.after(latency_us, Act::Proxy(index, act));
    }

    fn apply_table(&mut self, index: usize, table: Table) {
        let proxy = &mut self.proxies[index];
        // Reads of one proxy follow each other.
        if proxy.from_database && table.read_us < proxy.table.read_us {
            return;
        }
        let applied = proxy.table.epoch;
        for task in table.tasks.keys() {
            proxy.replicas.entry(*task).or_default().removed_at = None;
        }
        proxy.leaving.retain(|(task, _)| !table.tasks.contains_key(task));
        proxy.woken.retain(|_, (_, epoch)| *epoch >= table.epoch);
        let woken: BTreeSet<TaskId> = proxy
            .woken
            .values()
            .flat_map(|(tasks, _)| tasks)
            .copied()
            .collect();
        let removed_at = (applied + 1).min(table.epoch);
        let gone = proxy.replicas.extract_if(.., |task, _| {
            !table.tasks.contains_key(task) && !woken.contains(task)
        });
        proxy.leaving.extend(gone.map(|(task, mut replica)| {
            replica.removed_at = Some(removed_at);
            (task, replica)
        }));
        (proxy.table, proxy.from_database) = (table, true);
        let (epoch, incarnation) = (proxy.table.epoch, proxy.incarnation);
        note!(self, "proxy {index} routes by epoch {epoch}");
        let latency_us = self.latency_us();
        self.after(latency_us, Act::Proxy(index, ProxyAct::Renew(incarnation)));
    }

    /// Writes the proxy's row, and tells the leader.
    fn renew_proxy(&mut self, index: usize) {
        let now_us = self.now_us;
        if !self.proxy_reaches_database(index) || !self.proxies[index].from_database {
            return;
        }
        let proxy = &mut self.proxies[index];
        proxy.leaving.retain(|(_, replica)| !replica.requests.is_empty());
        let busy = proxy
            .leaving
            .iter()
            .filter_map(|(_, replica)| replica.removed_at)
            .min();
        let applied_epoch = proxy.table.epoch;
        let drained_epoch = busy.map_or(applied_epoch, |epoch| (epoch - 1).min(applied_epoch));
        let row = self
            .database
            .proxies
            .entry(proxy.id)
            .or_insert(crate::database::ProxyRow {
                lease_until_us: 0,
                applied_epoch,
                drained_epoch,
            });
        row.lease_until_us = now_us + crate::database::LEASE_US;
        (row.applied_epoch, row.drained_epoch) = (applied_epoch, drained_epoch);
        if let Some((leader, term)) = self.database.lock {
            let act = listen(leader, term, ListenAct::ProxyNotified);
            self.send(Place::Database, Place::Scheduler(leader), act);
        }
    }

    fn request_comes(&mut self, index: usize) {
        let incarnation = self.proxies[index].incarnation;
        let pause_us = self.random.between(50 * MS, 2 * SECOND);
        self.after(pause_us, Act::Proxy(index, ProxyAct::Request(incarnation)));
        // A preview, or an environment.
        let roll = self.random.chance(if self.is_stormy() { 50 } else { 0 });
        let environments: Vec<_> = self.proxies[index].table.environments.values().copied().collect();
        let deployment = if roll {
            let all: Vec<DeploymentId> = self.database.deployments.keys().copied().collect();
            self.random.pick(&all)
        } else if let Some((current, target, weight)) = self.random.pick(&environments) {
            let share = self.random.between(0, 99);
            let (first, second) = if share < weight {
                (target, current)
            } else {
                (current, target)
            };
            let has = |id: Option<DeploymentId>| id.is_some_and(|id| !self.backends(index, id).is_empty());
            if !has(first) && weight > 0 && has(second) {
                second
            } else {
                first
            }
        } else {
            None
        };
        let Some(deployment) = deployment else { return };
        if self.proxy_reaches_database(index) {
            let by_own = crate::is_planted!(ActivityByProxyClock);
            let activity = self.clock(if by_own { self.proxies[index].skew_us } else { 0 });
            self.database.activity.insert(deployment, activity);
            self.checks.asked_us.insert(deployment, self.now_us);
        }
        let backends = self.backends(index, deployment);
        match self.random.pick(&backends) {
            Some(task) => self.route(index, task),
            None => self.call_wake(index, deployment, false),
        }
    }

    /// The tasks that a request for the deployment may go to.
    fn backends(&self, index: usize, deployment: DeploymentId) -> Vec<TaskId> {
        let proxy = &self.proxies[index];
        if let Some((tasks, _)) = proxy.woken.get(&deployment) {
            return tasks.clone();
        }
        let of = proxy.table.tasks.iter().filter(|(_, of)| **of == deployment);
        of.map(|(task, _)| *task).collect()
    }

    fn route(&mut self, index: usize, task: TaskId) {
        self.check_routed(index, task);
        let request = self.fresh();
        let length_us = if self.random.chance(30) {
            self.random.between(2 * SECOND, 40 * SECOND)
        } else {
            self.random.between(MS, 200 * MS)
        };
        let proxy = &mut self.proxies[index];
        let incarnation = proxy.incarnation;
        proxy.replicas.entry(task).or_default().requests.insert(request);
        let act = ProxyAct::Done(incarnation, task, request);
        self.after(length_us, Act::Proxy(index, act));
    }

    fn request_ends(&mut self, index: usize, task: TaskId, request: u64) {
        let proxy = &mut self.proxies[index];
        if let Some(replica) = proxy.replicas.get_mut(&task) {
            replica.requests.remove(&request);
        }
        let mut drained = false;
        for (_, replica) in proxy.leaving.iter_mut().filter(|(left, _)| *left == task) {
            drained |= replica.requests.remove(&request) && replica.requests.is_empty();
        }
        if drained {
            self.renew_proxy(index);
        }
    }

    /// Whether a proxy may send a task the next request, by its table.
    pub(crate) fn routes_to(&self, index: usize, task: TaskId) -> bool {
        self.proxies[index].table.tasks.contains_key(&task)
    }

    /// Whether it may by what a wake named.
    pub(crate) fn goes_by_wake_to(&self, index: usize, task: TaskId) -> bool {
        let mut named = self.proxies[index].woken.values().flat_map(|(tasks, _)| tasks);
        named.any(|named| *named == task)
    }

    /// Whether a proxy has a request under way on a task.
    pub(crate) fn has_requests(&self, index: usize, task: TaskId) -> bool {
        let proxy = &self.proxies[index];
        let kept = proxy.replicas.get(&task).into_iter();
        let left = proxy.leaving.iter().filter(|(left, _)| *left == task);
        kept.chain(left.map(|(_, replica)| replica))
            .any(|replica| !replica.requests.is_empty())
    }

    /// The process is gone, and so are its connections.
    pub(crate) fn requests_end_with(&mut self, task: TaskId) {
        for index in 0..self.proxies.len() {
            let proxy = &mut self.proxies[index];
            let kept = proxy.replicas.get_mut(&task).into_iter();
            let left = proxy.leaving.iter_mut().filter(|(left, _)| *left == task);
            for replica in kept.chain(left.map(|(_, replica)| replica)) {
                replica.requests.clear();
            }
        }
    }

    /// One wake call a deployment, however many requests wait.
    fn call_wake(&mut self, index: usize, deployment: DeploymentId, is_second: bool) {
        let call = self.fresh();
        let proxy = &mut self.proxies[index];
        if proxy.waking.contains_key(&deployment) {
            return;
        }
        proxy.waking.insert(deployment, (call, is_second));
        let incarnation = proxy.incarnation;
        note!(self, "proxy {index} wakes {}", short(deployment.get()));
        let waiter: Waiter = (index, incarnation);
        self.call_scheduler(Place::Proxy(index), Letter::Wake(deployment, waiter));
        let act = ProxyAct::WakeTimeout(incarnation, deployment, call);
        self.after(WAKE_TIMEOUT_US, Act::Proxy(index, act));
    }

    /// Answers a wake: tasks that take requests, or none.
    pub(crate) fn answer_wake(
        &mut self,
        index: usize,
        (proxy, incarnation): Waiter,
        deployment: DeploymentId,
        answer: Option<Answer>,
        late_us: Us,
    ) {
        let act = Act::Proxy(proxy, ProxyAct::Woken(incarnation, deployment, answer));
        let (from, to) = (Place::Scheduler(index), Place::Proxy(proxy));
        if late_us > 0 && self.network.reaches(from, to) {
            return self.after(late_us, act);
        }
        self.send(from, to, act);
    }

    fn woken(&mut self, index: usize, deployment: DeploymentId, answer: Option<Answer>) {
        let proxy = &mut self.proxies[index];
        let Some((_, is_second)) = proxy.waking.remove(&deployment) else {
            return;
        };
        let Some((tasks, epoch)) = answer else { return };
        if epoch < proxy.table.epoch && !crate::is_planted!(StaleWakeBelieved) {
            // What it names may be gone by now.
            if !is_second && self.backends(index, deployment).is_empty() {
                self.call_wake(index, deployment, true);
            }
            return;
        }
        for task in &tasks {
            proxy.replicas.entry(*task).or_default().removed_at = None;
        }
        proxy.woken.insert(deployment, (tasks.clone(), epoch));
        note!(self, "proxy {index}: {} is awake", short(deployment.get()));
        if let Some(task) = self.random.pick(&tasks) {
            self.route(index, task);
        }
    }

    /// Looks at the API's answer to a change: the leader is told at once.
    pub(crate) fn nudge(&mut self) {
        let index = self.random.below(self.schedulers.len());
        let incarnation = self.schedulers[index].incarnation;
        let act = LeaderAct::Hear(incarnation, Box::new(Letter::Nudge));
        let latency_us = self.latency_us();
        if !self.is_stormy() || !self.random.chance(self.faults.loss_per_mille) {
            self.after(latency_us, Act::Leader(index, act));
        }
    }
}
