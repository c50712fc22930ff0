//! Those who wait for a deployment: all of them are answered by its first ready task, or by its failure.

use crate::core::Cluster;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use zectre_common::{
    id::DeploymentId,
    state::Reason,
    wire::deployment::{Backend, WakeResponse},
};

/// The most that wait for all deployments together; proxies send one call a deployment.
pub const WAITERS_MAX: usize = 10_000;

/// The answer to a wake.
#[derive(Debug)]
pub enum WakeReply {
    /// Here it is.
    Ready(WakeResponse),
    /// It can't be.
    Failed {
        /// The stable code.
        reason: Reason,
        /// Why.
        message: String,
    },
    /// Its row has to be brought first.
    Unknown,
    /// The API has to be asked for it.
    Superseded,
    /// Too many wait already.
    Overloaded,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Waiters {
    by_deployment: BTreeMap<DeploymentId, Vec<oneshot::Sender<WakeReply>>>,
    count: usize,
}

impl Waiters {
    /// One more.
    pub fn add(&mut self, id: DeploymentId, reply: oneshot::Sender<WakeReply>) {
        if self.count >= WAITERS_MAX {
            self.forget_gone();
        }
        if self.count >= WAITERS_MAX {
            drop(reply.send(WakeReply::Overloaded));
            return;
        }
        self.by_deployment.entry(id).or_default().push(reply);
        self.count += 1;
    }

    /// Whether anybody waits for it.
    pub fn wait_for(&self, id: DeploymentId) -> bool {
        self.by_deployment.contains_key(&id)
    }

    /// Answers all who wait for it, if it has a task that takes requests; whether anybody was.
    pub fn answer_ready(&mut self, cluster: &Cluster, id: DeploymentId) -> bool {
        if !self.wait_for(id) {
            return false;
        }
        let backend = |task: &crate::core::Task| {
            Some(Backend {
                task_id: task.id,
                address: task.address.as_deref()?.to_owned(),
                port: task.port?,
                node_id: task.node_id,
            })
        };
        let backends: Vec<Backend> = cluster.tasks_to_tell(id).filter_map(backend).collect();
        if backends.is_empty() {
            return false;
        }
        let phases = cluster
            .tasks_to_tell(id)
            .next()
            .and_then(|task| task.phases)
            .unwrap_or_default();
        for waiter in self.take(id) {
            drop(waiter.send(WakeReply::Ready(WakeResponse {
                backends: backends.clone(),
                phases,
                routing_epoch: Some(cluster.routing_epoch()),
            })));
        }
        true
    }

    /// Answers all who wait for it with its failure.
    pub fn answer_failure(&mut self, id: DeploymentId, reason: Reason, message: &str) {
        for waiter in self.take(id) {
            drop(waiter.send(WakeReply::Failed {
                reason,
                message: message.to_owned(),
            }));
        }
    }

    fn take(&mut self, id: DeploymentId) -> Vec<oneshot::Sender<WakeReply>> {
        let waiters = self.by_deployment.remove(&id).unwrap_or_default();
        self.count -= waiters.len();
        waiters
    }

    /// Those whose callers gave up are not counted.
    fn forget_gone(&mut self) {
        for waiters in self.by_deployment.values_mut() {
            waiters.retain(|waiter| !waiter.is_closed());
        }
        self.by_deployment.retain(|_, waiters| !waiters.is_empty());
        self.count = self.by_deployment.values().map(Vec::len).sum();
    }
}
