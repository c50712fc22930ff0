//! Sends orders to agents: a bounded queue and one sender for each node, so that a slow node delays nobody
//! else. When quiet an order goes out at once; when thousands wait, each node's are gathered for a moment, because
//! a call costs more than an order. An order that doesn't arrive is not lost: the node's next heartbeat shows that
//! it is missing.

use crate::{
    core::{Event, NodeFacts},
    handle::Handle,
    metrics::Metrics,
    order::{Composer, Order},
};
use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use zectre_common::{
    id::NodeId,
    wire::agent::{ACTIONS_MAX, ActionsRequest, ActionsResponse},
};
use zectre_service::{
    call::Caller,
    key::{ServiceKey, node_key},
    tasks::Tasks,
    token,
};

/// Orders that wait for one node.
const QUEUE_MAX: usize = 4_096;
/// Orders waiting for all nodes from which on they are gathered.
const BUSY_ORDERS: usize = 1_024;
/// For how long.
const GATHER_TIME: Duration = Duration::from_millis(250);
/// How long an agent may take to accept a batch.
const SEND_TIMEOUT: Duration = Duration::from_secs(5);

/// An order with where to send it.
type Addressed = (String, Order);

/// The senders of one term.
pub struct Dispatcher {
    epoch: u64,
    composer: Composer,
    caller: Caller,
    service_key: ServiceKey,
    metrics: Metrics,
    tasks: Tasks,
    queues: Mutex<BTreeMap<NodeId, mpsc::Sender<Addressed>>>,
    waiting: Arc<AtomicUsize>,
}

impl Dispatcher {
    /// For the leader of `epoch`; its senders end when it is dropped.
    pub fn new(epoch: u64, composer: Composer, caller: Caller, metrics: Metrics, tasks: Tasks) -> Self {
        let service_key = composer.service_key.clone();
        Self {
            epoch,
            composer,
            caller,
            service_key,
            metrics,
            tasks,
            queues: Mutex::default(),
            waiting: Arc::default(),
        }
    }

    /// Queues an order for the node.
    pub fn send(&self, facts: &NodeFacts, order: Order, engine: &Handle) {
        let url = format!(
            "http://{}:{}/api/v1/actions",
            host(&facts.address),
            facts.actions_port
        );
        let node_id = order.node_id;
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        let queue = queues
            .entry(node_id)
            .or_insert_with(|| self.start_sender(node_id, engine.clone()));
        // Counted before it can be taken out and counted down.
        self.waiting.fetch_add(1, Ordering::Relaxed);
        if queue.try_send((url, order)).is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            self.metrics.orders_undelivered.inc();
        }
    }

    /// The node is gone: its sender ends once it has sent what it has.
    pub fn forget(&self, node_id: NodeId) {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        queues.remove(&node_id);
    }

    fn start_sender(&self, node_id: NodeId, engine: Handle) -> mpsc::Sender<Addressed> {
        let (queue, orders) = mpsc::channel(QUEUE_MAX);
        let sender = Sender {
            node_id,
            epoch: self.epoch,
            composer: self.composer.clone(),
            caller: self.caller.clone(),
            service_key: self.service_key.clone(),
            metrics: self.metrics.clone(),
            engine,
            waiting: self.waiting.clone(),
        };
        self.tasks.spawn_brief("dispatch", Arc::new(sender).run(orders));
        queue
    }
}

/// A bare IPv6 address needs brackets in a URL.
fn host(address: &str) -> String {
    if address.contains(':') && !address.starts_with('[') {
        format!("[{address}]")
    } else {
        address.to_owned()
    }
}

struct Sender {
    node_id: NodeId,
    epoch: u64,
    composer: Composer,
    caller: Caller,
    service_key: ServiceKey,
    metrics: Metrics,
    engine: Handle,
    waiting: Arc<AtomicUsize>,
}

impl Sender {
    async fn run(self: Arc<Self>, mut orders: mpsc::Receiver<Addressed>) {
        let mut batch = Vec::new();
        while orders.recv_many(&mut batch, ACTIONS_MAX).await > 0 {
            if self.waiting.load(Ordering::Relaxed) > BUSY_ORDERS {
                tokio::time::sleep(GATHER_TIME).await;
                while batch.len() < ACTIONS_MAX
                    && let Ok(next) = orders.try_recv()
                {
                    batch.push(next);
                }
            }
            let count = batch.len();
            self.waiting.fetch_sub(count, Ordering::Relaxed);
            // All go to where the node was last: an older address leads nowhere.
            let Some((url, _)) = batch.last().cloned() else {
                continue;
            };
            let orders = batch.drain(..).map(|(_, order)| order).collect();
            if let Err(error) = self.deliver(&url, orders).await {
                self.metrics.orders_undelivered.inc_by(count as u64);
                tracing::warn!(node = %self.node_id, %error, "orders were not delivered; the next heartbeat brings them");
            }
        }
    }

    async fn deliver(
        &self,
        url: &str,
        orders: Vec<Order>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let composed = self.composer.compose(orders).await?;
        if !composed.failures.is_empty() {
            let event = Event::TaskReports {
                node_id: self.node_id,
                tasks: composed.failures,
            };
            self.engine.send(event).await?;
        }
        if composed.actions.is_empty() {
            return Ok(());
        }
        let key = node_key(&self.service_key, self.node_id);
        let token = token::mint_node(&key, self.node_id, token::name::SCHEDULER, token::name::AGENT);
        let request = ActionsRequest {
            leader_epoch: self.epoch,
            actions: composed.actions,
        };
        let _: ActionsResponse = self
            .caller
            .post_json_as(url, &token, &request, SEND_TIMEOUT)
            .await?;
        Ok(())
    }
}
