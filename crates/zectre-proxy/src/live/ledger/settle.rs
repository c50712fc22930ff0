//! What a new table means for the live side: what is not in it takes no more requests.

use super::Kept;
use std::{collections::HashSet, sync::Arc};
use zectre_common::id::{DeploymentId, EnvironmentId, TaskId};

/// In what a table differs from the one before it.
#[derive(Debug, Default)]
pub struct Shift {
    /// Tasks that it has; those that both have alike may be left out.
    pub listed: HashSet<TaskId>,
    /// Tasks that it has no longer.
    pub unlisted: Vec<TaskId>,
    /// Deployments that it has no longer, and where they were.
    pub deployments_gone: Vec<(DeploymentId, EnvironmentId)>,
}

impl Kept {
    /// After the table of `epoch` serves, which has these tasks and deployments. What an answer of that epoch or a later one named
    /// takes requests still.
    pub fn settle(&mut self, epoch: u64, tasks: &HashSet<TaskId>, deployments: &HashSet<DeploymentId>) {
        let woken = self.retire_woken(epoch);
        let removed_at = self.removed_at(epoch);
        for (task, backend) in &mut self.replicas {
            backend.listed = tasks.contains(task);
        }
        let gone = self
            .replicas
            .extract_if(|task, backend| !backend.listed && !woken.contains(task));
        for (_, backend) in gone {
            backend.replica.remove(removed_at);
            self.leaving.push(backend);
        }
        self.answered = woken;
        self.traffic.retain(|id, _| deployments.contains(id));
        // The ledger's own is the last one once no deployment of it is left.
        self.routes.retain(|_, route| Arc::strong_count(route) > 1);
        self.nodes.settle();
        self.applied_epoch = epoch;
    }

    /// The same where the table is the one before it but for `shift`. It costs what that holds.
    pub fn settle_shift(&mut self, epoch: u64, shift: &Shift) {
        let woken = self.retire_woken(epoch);
        let removed_at = self.removed_at(epoch);
        for task in &shift.listed {
            if let Some(backend) = self.replicas.get_mut(task) {
                backend.listed = true;
            }
        }
        for task in &shift.unlisted {
            if let Some(backend) = self.replicas.get_mut(task) {
                backend.listed = false;
            }
        }
        let answered = std::mem::take(&mut self.answered);
        for task in shift.unlisted.iter().chain(&answered) {
            let stays = |listed: bool| listed || woken.contains(task);
            if self
                .replicas
                .get(task)
                .is_none_or(|backend| stays(backend.listed))
            {
                continue;
            }
            if let Some(backend) = self.replicas.remove(task) {
                backend.replica.remove(removed_at);
                self.leaving.push(backend);
            }
        }
        self.answered = woken;
        for (deployment, environment) in &shift.deployments_gone {
            self.traffic.remove(deployment);
            // One that is still held by a request goes with the next whole table.
            if self
                .routes
                .get(environment)
                .is_some_and(|route| Arc::strong_count(route) == 1)
            {
                self.routes.remove(environment);
            }
        }
        self.nodes.settle();
        self.applied_epoch = epoch;
    }

    /// Epochs may have been skipped; the task may have gone with the first of them.
    fn removed_at(&self, epoch: u64) -> u64 {
        (self.applied_epoch + 1).min(epoch)
    }

    /// Lets go of the answers that are older than the table of `epoch`; the tasks of the others.
    fn retire_woken(&mut self, epoch: u64) -> HashSet<TaskId> {
        let mut tasks = HashSet::new();
        self.woken.retain(|traffic| {
            let Some(woken) = traffic.woken() else {
                return false;
            };
            let newer = woken.epoch >= epoch;
            if newer {
                tasks.extend(woken.replicas.iter().map(|replica| replica.task()));
            } else {
                traffic.set_woken(None);
            }
            newer
        });
        tasks
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{Ledger, RouteName, Traffic};
    use zectre_common::wire::deployment::{Backend, WakeResponse};

    fn traffic(kept: &mut Kept, deployment: DeploymentId, environment: EnvironmentId) -> Arc<Traffic> {
        kept.traffic(deployment, 1, environment, || RouteName {
            app: "shop-default".into(),
            environment: "production".into(),
        })
    }

    #[test]
    fn a_shift_takes_out_what_left_and_what_only_an_older_answer_named() {
        let ledger = Ledger::default();
        let [deployment, other] = [(); 2].map(|()| DeploymentId::new());
        let environment = EnvironmentId::new();
        let [old, stays, first, second, late] = [(); 5].map(|()| TaskId::new());
        let traffic = {
            let mut kept = ledger.open();
            let one = traffic(&mut kept, deployment, environment);
            let _gone = traffic(&mut kept, other, EnvironmentId::new());
            for task in [old, stays] {
                kept.replica(&one, task, "127.0.0.1", 80, false);
            }
            let known = HashSet::from([deployment, other]);
            kept.settle(1, &HashSet::from([old, stays]), &known);
            one
        };
        let answer = |epoch, task_id| {
            let backend = Backend {
                task_id,
                address: "127.0.0.1".into(),
                port: 80,
                node_id: None,
            };
            let answer = WakeResponse {
                backends: vec![backend],
                routing_epoch: Some(epoch),
                ..WakeResponse::default()
            };
            assert!(ledger.wake(&traffic, false, &answer));
        };
        // The second answer takes the place of the first, whose task still has a request.
        answer(1, first);
        let woken = traffic.woken().expect("answered");
        let lease = woken.replicas[0].lease().expect("it takes requests");
        answer(1, second);
        let mut shift = Shift {
            unlisted: vec![old],
            deployments_gone: vec![(other, EnvironmentId::new())],
            ..Shift::default()
        };
        ledger.open().settle_shift(2, &shift);
        let known = |tasks: &[TaskId]| tasks.iter().map(|task| ledger.knows(*task)).collect::<Vec<_>>();
        assert_eq!(known(&[old, stays, first, second]), [false, true, false, false]);
        let acknowledged = || {
            let ack = ledger.acknowledgement();
            (ack.applied_epoch, ack.drained_epoch)
        };
        assert_eq!(acknowledged(), (2, 1));
        drop(lease);
        assert_eq!(acknowledged(), (2, 2));
        assert!(!ledger.open().traffic.contains_key(&other));
        // An answer that is no older than the table stays.
        answer(3, late);
        shift.unlisted = vec![stays];
        ledger.open().settle_shift(3, &shift);
        assert_eq!(known(&[stays, late]), [false, true]);
        assert!(traffic.woken().is_some());
    }
}
