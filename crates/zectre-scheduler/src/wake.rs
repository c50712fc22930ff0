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

/// One who waits.
#[derive(Debug)]
struct Waiter {
    /// A request of a proxy: a superseded version is the API's to wake.
    unless_superseded: bool,
    reply: oneshot::Sender<WakeReply>,
}

/// Who waits for what.
#[derive(Debug, Default)]
pub struct Waiters {
    by_deployment: BTreeMap<DeploymentId, Vec<Waiter>>,
    count: usize,
}

impl Waiters {
    /// One more.
    pub fn add(&mut self, id: DeploymentId, unless_superseded: bool, reply: oneshot::Sender<WakeReply>) {
        if self.count >= WAITERS_MAX {
            self.forget_gone();
        }
        if self.count >= WAITERS_MAX {
            drop(reply.send(WakeReply::Overloaded));
            return;
        }
        let waiter = Waiter {
            unless_superseded,
            reply,
        };
        self.by_deployment.entry(id).or_default().push(waiter);
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
            drop(waiter.reply.send(WakeReply::Ready(WakeResponse {
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
            drop(waiter.reply.send(WakeReply::Failed {
                reason,
                message: message.to_owned(),
            }));
        }
    }

    /// It serves no more: proxies' requests for this very version go by the API, like those that come now. Whether others wait on.
    pub fn answer_superseded(&mut self, id: DeploymentId) -> bool {
        let (refused, others): (Vec<_>, Vec<_>) = self
            .take(id)
            .into_iter()
            .partition(|waiter| waiter.unless_superseded);
        for waiter in refused {
            drop(waiter.reply.send(WakeReply::Superseded));
        }
        self.count += others.len();
        if !others.is_empty() {
            self.by_deployment.insert(id, others);
        }
        self.wait_for(id)
    }

    fn take(&mut self, id: DeploymentId) -> Vec<Waiter> {
        let waiters = self.by_deployment.remove(&id).unwrap_or_default();
        self.count -= waiters.len();
        waiters
    }

    /// Those whose callers gave up are not counted.
    fn forget_gone(&mut self) {
        for waiters in self.by_deployment.values_mut() {
            waiters.retain(|waiter| !waiter.reply.is_closed());
        }
        self.by_deployment.retain(|_, waiters| !waiters.is_empty());
        self.count = self.by_deployment.values().map(Vec::len).sum();
    }
}
