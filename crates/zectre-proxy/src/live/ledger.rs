//! Keeps the live side of every task and deployment across tables, and knows which epoch has drained.

use super::{Activity, Replica, Route, Traffic, Woken, traffic::Changed};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::sync::Notify;
use zectre_common::{
    id::{DeploymentId, EnvironmentId, TaskId},
    time::Time,
    wire::deployment::Backend,
};

/// What the scheduler is told: it stops a task only after both have reached the epoch that removed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledgement {
    /// The newest epoch that is routed by.
    pub applied_epoch: u64,
    /// The newest epoch of whose removed tasks none has a request under way.
    pub drained_epoch: u64,
}

/// The ledger.
#[derive(Debug)]
pub struct Ledger {
    kept: Mutex<Kept>,
    drained: Arc<Notify>,
    changed: Arc<Changed>,
}

/// What the ledger keeps; a new table is built from it under its lock.
#[derive(Debug)]
pub struct Kept {
    applied_epoch: u64,
    replicas: HashMap<TaskId, Arc<Replica>>,
    /// Out of the table, perhaps with requests left.
    leaving: Vec<Arc<Replica>>,
    traffic: HashMap<DeploymentId, Arc<Traffic>>,
    routes: HashMap<EnvironmentId, Arc<Route>>,
    /// Deployments whose wake was answered before the table knew.
    woken: Vec<Arc<Traffic>>,
    drained: Arc<Notify>,
    changed: Arc<Changed>,
}

impl Default for Ledger {
    fn default() -> Self {
        let (drained, changed) = (Arc::new(Notify::new()), Arc::new(Changed::default()));
        let kept = Kept {
            applied_epoch: 0,
            replicas: HashMap::new(),
            leaving: Vec::new(),
            traffic: HashMap::new(),
            routes: HashMap::new(),
            woken: Vec::new(),
            drained: Arc::clone(&drained),
            changed: Arc::clone(&changed),
        };
        Self {
            kept: Mutex::new(kept),
            drained,
            changed,
        }
    }
}

impl Kept {
    /// The live side of a task: the known one while its address holds.
    pub fn replica(&mut self, task: TaskId, address: &str, port: u16, http2: bool) -> Arc<Replica> {
        if let Some(known) = self.replicas.get(&task)
            && known.address() == address
            && known.port() == port
            && known.http2() == http2
        {
            return Arc::clone(known);
        }
        let same = |r: &Arc<Replica>| r.task() == task && r.address() == address && r.port() == port;
        let back = self
            .leaving
            .iter()
            .position(same)
            .map(|index| self.leaving.swap_remove(index));
        let replica =
            back.unwrap_or_else(|| Replica::new(task, address, port, http2, Arc::clone(&self.drained)));
        replica.restore();
        if let Some(moved) = self.replicas.insert(task, Arc::clone(&replica)) {
            moved.remove(self.applied_epoch + 1);
            self.leaving.push(moved);
        }
        replica
    }

    /// The live side of a deployment of an environment.
    pub fn traffic(&mut self, deployment: DeploymentId, environment: EnvironmentId) -> Arc<Traffic> {
        let (changed, routes) = (&self.changed, &mut self.routes);
        let entry = self.traffic.entry(deployment);
        let new = || {
            let route = Arc::clone(routes.entry(environment).or_default());
            Traffic::new(deployment, route, Arc::clone(changed))
        };
        Arc::clone(entry.or_insert_with(new))
    }

    /// After the table of `epoch` (read from `read_from` on) serves: what is not in it takes no more requests.
    pub fn settle(
        &mut self,
        epoch: u64,
        read_from: Instant,
        tasks: &HashSet<TaskId>,
        deployments: &HashSet<DeploymentId>,
    ) {
        let mut woken_tasks = HashSet::new();
        self.woken.retain(|traffic| {
            let Some(woken) = traffic.woken() else {
                return false;
            };
            let newer = woken.at > read_from;
            if newer {
                woken_tasks.extend(woken.replicas.iter().map(|replica| replica.task()));
            } else {
                traffic.set_woken(None);
            }
            newer
        });
        // Epochs may have been skipped; the task may have gone with the first of them.
        let removed_at = (self.applied_epoch + 1).min(epoch);
        let gone = |task: &TaskId| !tasks.contains(task) && !woken_tasks.contains(task);
        for (_, replica) in self.replicas.extract_if(|task, _| gone(task)) {
            replica.remove(removed_at);
            self.leaving.push(replica);
        }
        self.traffic.retain(|id, _| deployments.contains(id));
        // The ledger's own is the last one once no deployment of it is left.
        self.routes.retain(|_, route| Arc::strong_count(route) > 1);
        self.applied_epoch = epoch;
    }

    fn acknowledgement(&mut self) -> Acknowledgement {
        self.leaving.retain(|replica| replica.in_flight() > 0);
        let busy = self.leaving.iter().map(|replica| replica.removed_at() - 1).min();
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

    /// A wake was answered: its tasks take requests at once.
    pub fn wake(&self, traffic: &Arc<Traffic>, http2: bool, backends: &[Backend]) {
        let mut kept = self.open();
        let replicas = backends
            .iter()
            .map(|b| kept.replica(b.task_id, &b.address, b.port, http2))
            .collect();
        traffic.set_woken(Some(Arc::new(Woken {
            replicas,
            at: Instant::now(),
        })));
        kept.woken.push(Arc::clone(traffic));
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

    /// Whether `task` may still take requests (its idle connections are worth keeping).
    pub fn knows(&self, task: TaskId) -> bool {
        self.open().replicas.contains_key(&task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settle(ledger: &Ledger, epoch: u64, tasks: &[TaskId]) {
        let mut kept = ledger.open();
        for task in tasks {
            kept.replica(*task, "127.0.0.1", 80, false);
        }
        kept.settle(
            epoch,
            Instant::now(),
            &tasks.iter().copied().collect(),
            &HashSet::new(),
        );
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
        let lease = ledger
            .open()
            .replica(old, "127.0.0.1", 80, false)
            .lease()
            .expect("routed");
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
        let lease = ledger
            .open()
            .replica(task, "127.0.0.1", 80, false)
            .lease()
            .expect("routed");
        settle(&ledger, 2, &[]);
        settle(&ledger, 3, &[task]);
        assert_eq!(acknowledged(&ledger), (3, 3));
        assert_eq!(ledger.open().replica(task, "127.0.0.1", 80, false).in_flight(), 1);
        drop(lease);
    }

    #[test]
    fn a_table_read_before_the_wake_does_not_undo_it_and_a_later_one_does() {
        let ledger = Ledger::default();
        let (deployment, task) = (DeploymentId::new(), TaskId::new());
        let read_before = Instant::now();
        let traffic = ledger.open().traffic(deployment, EnvironmentId::new());
        ledger.wake(
            &traffic,
            false,
            &[Backend {
                task_id: task,
                address: "127.0.0.1".into(),
                port: 80,
            }],
        );
        let known = HashSet::from([deployment]);
        ledger.open().settle(1, read_before, &HashSet::new(), &known);
        let woken = traffic.woken().expect("the older table doesn't count");
        assert!(woken.replicas[0].lease().is_some());
        ledger.open().settle(2, Instant::now(), &HashSet::new(), &known);
        assert!(traffic.woken().is_none());
        assert!(woken.replicas[0].lease().is_none());
    }

    #[test]
    fn activity_is_told_while_requests_run_and_once_after() {
        let ledger = Ledger::default();
        let traffic = ledger.open().traffic(DeploymentId::new(), EnvironmentId::new());
        let visit = traffic.visit();
        for _ in 0..2 {
            let told = ledger.take_activity(Time::now(), 10);
            assert_eq!(told.iter().map(|(_, a)| a.in_flight).collect::<Vec<_>>(), [1]);
        }
        drop(visit);
        assert_eq!(ledger.take_activity(Time::now(), 10)[0].1.in_flight, 0);
        assert!(ledger.take_activity(Time::now(), 10).is_empty());
    }
}
