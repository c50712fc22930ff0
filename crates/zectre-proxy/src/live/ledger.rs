//! Keeps the live side of every task and deployment across tables, and knows which epoch has drained.

mod settle;

pub use settle::Shift;

use super::{
    Activity, Replica, Route, RouteName, Traffic, Woken,
    node::Nodes,
    red::{Red, Series},
    traffic::Changed,
};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::Notify;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, NodeId, TaskId},
    time::Time,
    wire::deployment::WakeResponse,
};

/// What the scheduler is told: it stops a task only after both have reached the epoch that removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The newest epoch that is routed by.
    pub applied_epoch: u64,
    /// The newest epoch of whose removed tasks none has a request under way.
    pub drained_epoch: u64,
}

/// Of how many routes and tasks there are numbers of their own; the others are summed up.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Routes.
    pub routes_max: usize,
    /// Tasks.
    pub backends_max: usize,
}

/// What is counted of a task.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Places that were given on it.
    pub requests: u64,
    /// Requests that it lost, or answered with an error of its own.
    pub failures: u64,
    /// Attempts to connect to it that failed.
    pub connect_failures: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.requests += other.requests;
        self.failures += other.failures;
        self.connect_failures += other.connect_failures;
    }
}

/// A task and whose it is.
#[derive(Debug, Clone)]
pub struct Backend {
    /// The task.
    pub replica: Arc<Replica>,
    /// Its deployment.
    pub traffic: Arc<Traffic>,
    /// It has numbers of its own.
    own_series: bool,
    /// The table has it.
    listed: bool,
}

/// All tasks, as they are measured.
#[derive(Debug, Default)]
pub struct Backends {
    /// Those with numbers of their own.
    pub own: Vec<Backend>,
    /// The others that are there now.
    pub other: Vec<Arc<Replica>>,
    /// What was counted of others that are gone: a sum that only grows.
    pub departed: Tally,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    kept: Mutex<Kept>,
    drained: Arc<Notify>,
    changed: Arc<Changed>,
    series: Arc<Series>,
    nodes: Arc<Series>,
}

/// What the ledger keeps; a new table is built from it under its lock.
#[derive(Debug)]
pub struct Kept {
    applied_epoch: u64,
    replicas: HashMap<TaskId, Backend>,
    /// Out of the table, perhaps with requests left.
    leaving: Vec<Backend>,
    backends_max: usize,
    /// Tasks with numbers of their own.
    own_series: usize,
    /// What was counted of tasks that are gone and had no numbers of their own.
    departed: Tally,
    traffic: HashMap<DeploymentId, Arc<Traffic>>,
    routes: HashMap<EnvironmentId, Arc<Route>>,
    nodes: Nodes,
    /// Deployments whose wake was answered before the table knew.
    woken: Vec<Arc<Traffic>>,
    /// Tasks that answers named and that no table has been settled with or without since.
    answered: HashSet<TaskId>,
    drained: Arc<Notify>,
    changed: Arc<Changed>,
    series: Arc<Series>,
}

impl Ledger {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        let (drained, changed) = (Arc::new(Notify::new()), Arc::new(Changed::default()));
        let (series, nodes) = (Series::new(bounds.routes_max), Nodes::new());
        let node_series = nodes.series();
        let kept = Kept {
            applied_epoch: 0,
            replicas: HashMap::new(),
            leaving: Vec::new(),
            backends_max: bounds.backends_max,
            own_series: 0,
            departed: Tally::default(),
            traffic: HashMap::new(),
            routes: HashMap::new(),
            nodes,
            woken: Vec::new(),
            answered: HashSet::new(),
            drained: Arc::clone(&drained),
            changed: Arc::clone(&changed),
            series: Arc::clone(&series),
        };
        Self {
            kept: Mutex::new(kept),
            drained,
            changed,
            series,
            nodes: node_series,
        }
    }
}

#[cfg(test)]
impl Default for Ledger {
    fn default() -> Self {
        Self::new(Bounds {
            routes_max: 2,
            backends_max: 2,
        })
    }
}

impl Kept {
    /// The same, of a task on a node.
    pub fn replica_on(
        &mut self,
        node: Option<NodeId>,
        traffic: &Arc<Traffic>,
        task: TaskId,
        (address, port): (&str, u16),
        http2: bool,
    ) -> Arc<Replica> {
        let replica = self.replica(traffic, task, address, port, http2);
        if let Some(node) = node {
            replica.stands_on(|| self.nodes.get(node));
        }
        replica
    }

    /// The live side of a task of `traffic`: the known one while its address holds.
    pub fn replica(
        &mut self,
        traffic: &Arc<Traffic>,
        task: TaskId,
        address: &str,
        port: u16,
        http2: bool,
    ) -> Arc<Replica> {
        let same = |r: &Replica| {
            r.task() == task && r.address() == address && r.port() == port && r.http2() == http2
        };
        if let Some(known) = self.replicas.get(&task)
            && same(&known.replica)
        {
            return Arc::clone(&known.replica);
        }
        let back = self.leaving.iter().position(|left| same(&left.replica));
        let backend = match back {
            Some(index) => self.leaving.swap_remove(index),
            None => {
                let own_series = self.own_series < self.backends_max;
                let (drained, lull) = (Arc::clone(&self.drained), Arc::clone(traffic.lull()));
                self.own_series += usize::from(own_series);
                Backend {
                    replica: Replica::new(task, address, port, http2, drained, lull),
                    traffic: Arc::clone(traffic),
                    own_series,
                    listed: false,
                }
            }
        };
        let replica = Arc::clone(&backend.replica);
        replica.restore();
        if let Some(moved) = self.replicas.insert(task, backend) {
            moved.replica.remove(self.applied_epoch + 1);
            self.leaving.push(moved);
        }
        replica
    }

    /// The live side of a deployment, the `version` of its application, in an environment; `name` is asked for when that is new.
    pub fn traffic(
        &mut self,
        deployment: DeploymentId,
        version: i32,
        environment: EnvironmentId,
        name: impl FnOnce() -> RouteName,
    ) -> Arc<Traffic> {
        let (changed, series, routes) = (&self.changed, &self.series, &mut self.routes);
        let new = || {
            let route = || Arc::new(Route::new(name(), Arc::clone(series)));
            let route = Arc::clone(routes.entry(environment).or_insert_with(route));
            Traffic::new(deployment, version, route, Arc::clone(changed))
        };
        Arc::clone(self.traffic.entry(deployment).or_insert_with(new))
    }

    fn acknowledgement(&mut self) -> Acknowledgement {
        for left in self.leaving.extract_if(.., |left| left.replica.in_flight() == 0) {
            if left.own_series {
                self.own_series -= 1;
            } else {
                self.departed += left.replica.tally();
            }
        }
        let busy = self
            .leaving
            .iter()
            .map(|left| left.replica.removed_at() - 1)
            .min();
        let applied_epoch = self.applied_epoch;
        Acknowledgement {
            applied_epoch,
            drained_epoch: busy.map_or(applied_epoch, |epoch| epoch.min(applied_epoch)),
        }
    }
}

impl Ledger {
    /// Opens the ledger to build a table from it.
    pub fn open(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which epoch is applied and which one has drained.
    pub fn acknowledgement(&self) -> Acknowledgement {
        self.open().acknowledgement()
    }

    /// Resolves when a removed task's last request has ended.
    pub async fn drained(&self) {
        self.drained.notified().await;
    }

    /// A wake was answered: its tasks take requests at once. False when the table is newer than the answer, and knows better.
    pub fn wake(&self, traffic: &Arc<Traffic>, http2: bool, answer: &WakeResponse) -> bool {
        let mut kept = self.open();
        let epoch = answer.routing_epoch.unwrap_or(kept.applied_epoch);
        if epoch < kept.applied_epoch {
            return false;
        }
        kept.answered
            .extend(answer.backends.iter().map(|backend| backend.task_id));
        let replicas = answer
            .backends
            .iter()
            .map(|b| kept.replica_on(b.node_id, traffic, b.task_id, (&b.address, b.port), http2))
            .collect();
        traffic.set_woken(Some(Arc::new(Woken { replicas, epoch })));
        kept.woken.push(Arc::clone(traffic));
        true
    }

    /// The deployments with news, at most `max` of them; the rest stays for the next time.
    pub fn take_activity(&self, now: Time, max: usize) -> Vec<(Arc<Traffic>, Activity)> {
        let told = {
            let mut changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
            let count = changed.len().min(max);
            let rest = changed.split_off(count);
            std::mem::replace(&mut *changed, rest)
        };
        told.into_iter()
            .map(|traffic| (Arc::clone(&traffic), traffic.tell(now)))
            .collect()
    }

    /// The database did not take it.
    pub fn return_activity(&self, untold: &[(Arc<Traffic>, Activity)]) {
        for (traffic, _) in untold {
            traffic.tell_again();
        }
    }

    /// What is counted of routes, that of all others last.
    pub fn routes(&self) -> Vec<Arc<Red>> {
        self.series.all()
    }

    /// What is counted of nodes, that of all others last; the app of each is the node's id.
    pub fn nodes(&self) -> Vec<Arc<Red>> {
        self.nodes.all()
    }

    /// All tasks, those included that have left and are not done yet.
    pub fn backends(&self) -> Backends {
        let kept = self.open();
        let mut backends = Backends {
            departed: kept.departed,
            ..Backends::default()
        };
        for backend in kept.replicas.values().chain(&kept.leaving) {
            if backend.own_series {
                backends.own.push(backend.clone());
            } else {
                backends.other.push(Arc::clone(&backend.replica));
            }
        }
        backends
    }

    /// Whether `task` may still take requests (its idle connections are worth keeping).
    pub fn knows(&self, task: TaskId) -> bool {
        self.open().replicas.contains_key(&task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn traffic(kept: &mut Kept, deployment: DeploymentId) -> Arc<Traffic> {
        kept.traffic(deployment, 1, EnvironmentId::new(), || RouteName {
            app: "shop-default".into(),
            environment: "production".into(),
        })
    }

    fn lease(ledger: &Ledger, task: TaskId) -> crate::live::Lease {
        let mut kept = ledger.open();
        let of = traffic(&mut kept, DeploymentId::new());
        kept.replica(&of, task, "127.0.0.1", 80, false)
            .lease()
            .expect("routed")
    }

    fn settle(ledger: &Ledger, epoch: u64, tasks: &[TaskId]) {
        let mut kept = ledger.open();
        let of = traffic(&mut kept, DeploymentId::new());
        for task in tasks {
            kept.replica(&of, *task, "127.0.0.1", 80, false);
        }
        kept.settle(epoch, &tasks.iter().copied().collect(), &HashSet::new());
    }

    fn acknowledged(ledger: &Ledger) -> (u64, u64) {
        let ack = ledger.acknowledgement();
        (ack.applied_epoch, ack.drained_epoch)
    }

    #[test]
    fn an_epoch_drains_when_the_last_request_of_its_removed_tasks_ends() {
        let ledger = Ledger::default();
        let (old, new) = (TaskId::new(), TaskId::new());
        settle(&ledger, 3, &[old]);
        let lease = lease(&ledger, old);
        // Epochs 4 to 6 were skipped: the task may have gone with 4, so 3 is all that is sure.
        settle(&ledger, 7, &[new]);
        assert_eq!(acknowledged(&ledger), (7, 3));
        settle(&ledger, 8, &[new]);
        assert_eq!(acknowledged(&ledger), (8, 3));
        drop(lease);
        assert_eq!(acknowledged(&ledger), (8, 8));
    }

    #[test]
    fn a_task_that_comes_back_is_the_same_one() {
        let ledger = Ledger::default();
        let task = TaskId::new();
        settle(&ledger, 1, &[task]);
        let held = lease(&ledger, task);
        settle(&ledger, 2, &[]);
        settle(&ledger, 3, &[task]);
        assert_eq!(acknowledged(&ledger), (3, 3));
        assert_eq!(lease(&ledger, task).replica().in_flight(), 2);
        drop(held);
    }

    #[test]
    fn of_a_table_and_an_answer_the_newer_one_counts() {
        let ledger = Ledger::default();
        let (deployment, task) = (DeploymentId::new(), TaskId::new());
        let traffic = traffic(&mut ledger.open(), deployment);
        let known = HashSet::from([deployment]);
        let answered_at = |routing_epoch| {
            let backend = zectre_common::wire::deployment::Backend {
                task_id: task,
                address: "127.0.0.1".into(),
                port: 80,
                node_id: None,
            };
            let answer = WakeResponse {
                backends: vec![backend],
                routing_epoch,
                ..WakeResponse::default()
            };
            ledger.wake(&traffic, false, &answer)
        };
        let table = |epoch| ledger.open().settle(epoch, &HashSet::new(), &known);
        assert!(answered_at(Some(2)));
        // Read before the commit that lets the task take requests.
        table(2);
        let woken = traffic.woken().expect("the table doesn't know it yet");
        assert!(woken.replicas[0].lease().is_some());
        table(3);
        assert!(traffic.woken().is_none());
        assert!(woken.replicas[0].lease().is_none());
        assert!(!answered_at(Some(2)), "the answer was slower than its task");
        assert!(traffic.woken().is_none());
        assert!(
            answered_at(None),
            "a scheduler of the version before says nothing of it"
        );
        table(4);
        assert!(traffic.woken().is_none());
    }

    #[test]
    fn activity_is_told_while_requests_run_and_once_after() {
        let ledger = Ledger::default();
        let traffic = traffic(&mut ledger.open(), DeploymentId::new());
        let visit = traffic.visit();
        for _ in 0..2 {
            let told = ledger.take_activity(Time::now(), 10);
            assert_eq!(told.iter().map(|(_, a)| a.in_flight).collect::<Vec<_>>(), [1]);
        }
        drop(visit);
        let last = ledger.take_activity(Time::now().plus(Duration::from_secs(60)), 10)[0].1;
        assert_eq!(last.in_flight, 0);
        assert!(last.idle >= Duration::from_secs(60));
        assert!(ledger.take_activity(Time::now(), 10).is_empty());
    }

    #[test]
    fn tasks_beyond_the_bound_are_summed_up_and_what_they_counted_stays() {
        let ledger = Ledger::default();
        let tasks = [(); 4].map(|()| TaskId::new());
        settle(&ledger, 1, &tasks);
        for task in tasks {
            drop(lease(&ledger, task));
        }
        let counted = |ledger: &Ledger| {
            let backends = ledger.backends();
            let other: u64 = backends
                .other
                .iter()
                .map(|replica| replica.tally().requests)
                .sum();
            (
                backends.own.len(),
                backends.other.len(),
                other + backends.departed.requests,
            )
        };
        assert_eq!(counted(&ledger), (2, 2, 2));
        let others: Vec<_> = ledger
            .backends()
            .other
            .iter()
            .map(|replica| replica.task())
            .collect();
        settle(
            &ledger,
            2,
            &tasks
                .into_iter()
                .filter(|task| !others.contains(task))
                .collect::<Vec<_>>(),
        );
        assert_eq!(acknowledged(&ledger), (2, 2));
        assert_eq!(counted(&ledger), (2, 0, 2));
        // The places of those that are gone are free again.
        settle(&ledger, 3, &[]);
        acknowledged(&ledger);
        settle(&ledger, 4, &[TaskId::new()]);
        assert_eq!(counted(&ledger), (1, 0, 2));
    }
}
