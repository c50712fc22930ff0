//! Keeps the engine up with what others wrote to the database: at every notification, and every second
//! without one, so that a lost notification only delays.

use crate::{
    core::{Event, Operation, Proxy},
    error::Error,
    handle::{Answer, Handle},
    store::{OPERATIONS_MAX, ProxyLease, Store},
};
use sqlx::postgres::PgListener;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, MissedTickBehavior},
};
use zectre_common::{
    db::channel,
    id::{DeploymentId, NodeId, ProxyId},
    state::Eligibility,
    time::Time,
};
use zectre_service::tasks::Shutdown;

/// The longest that anything waits for which no notification came.
const RESYNC: Duration = Duration::from_secs(1);
/// How far back activity is read: more than a few missed looks.
const ACTIVITY_WINDOW: Duration = Duration::from_secs(15);
/// The most looks at the operations in a row, each at up to [`OPERATIONS_MAX`]; the next notification goes on.
const OPERATION_ROUNDS_MAX: usize = 100;
/// Not having read the proxies' rows for longer means not to know who was silent.
const DEAFNESS_MAX: Duration = Duration::from_secs(5);
/// Deleted deployments are looked for once in so many resyncs.
const GONE_EVERY: u32 = 5;

impl ProxyLease {
    /// With the end of its lease by this machine's clock, and time to read of a renewal in the last moment. `None` when it
    /// doesn't count any more.
    pub fn at(self, now: Time) -> Option<Proxy> {
        Some(Proxy {
            id: self.id,
            lease_expires_at: now.plus(self.remaining? + RESYNC + RESYNC / 2),
            applied_epoch: self.applied_epoch,
            drained_epoch: self.drained_epoch,
        })
    }
}

/// Applies every operation that was not applied yet; returns once the last one is committed.
pub async fn operations(store: &Store, engine: &Handle) -> Result<(), Error> {
    for _ in 0..OPERATION_ROUNDS_MAX {
        // Two may look at once, and the rows of the later look must not be overtaken by those of the earlier one.
        let reading = engine.reading().await;
        let operations = store.unapplied_operations().await?;
        let count = operations.len();
        let done = apply(store, engine, operations).await?;
        drop(reading);
        if let Some(done) = done {
            done.await.map_err(|_| Error::LeadLost)?;
        }
        if count < OPERATIONS_MAX {
            break;
        }
    }
    Ok(())
}

/// Hands them in; the answer comes when the last one is committed.
async fn apply(
    store: &Store,
    engine: &Handle,
    operations: Vec<Operation>,
) -> Result<Option<oneshot::Receiver<Answer>>, Error> {
    let deployments: BTreeSet<DeploymentId> = operations.iter().filter_map(|o| o.deployment_id).collect();
    bring(store, engine, deployments.into_iter().collect()).await?;
    if operations.iter().any(|operation| operation.node_id.is_some()) {
        nodes(store, engine).await?;
    }
    let Some((last, others)) = operations.split_last() else {
        return Ok(None);
    };
    for operation in others {
        engine.send(Event::Operation(operation.clone())).await?;
    }
    engine.submit(Event::Operation(last.clone())).await.map(Some)
}

/// Reads these deployments and hands them to the engine. Returns how many there are.
pub async fn load(store: &Store, engine: &Handle, ids: Vec<DeploymentId>) -> Result<usize, Error> {
    let _reading = engine.reading().await;
    bring(store, engine, ids).await
}

async fn bring(store: &Store, engine: &Handle, ids: Vec<DeploymentId>) -> Result<usize, Error> {
    if ids.is_empty() {
        return Ok(0);
    }
    let mut found = 0;
    for (environment, deployments) in store.load_deployments(&ids).await? {
        found += deployments.len();
        engine
            .send(Event::Loaded {
                environment,
                deployments,
            })
            .await?;
    }
    Ok(found)
}

async fn nodes(store: &Store, engine: &Handle) -> Result<(), Error> {
    // Memory first: a node that joins in between is not known yet, and not taken for deleted.
    let known = engine
        .look(|cluster| {
            cluster
                .nodes()
                .map(|node| (node.id, node.eligibility))
                .collect::<Vec<_>>()
        })
        .await?;
    let wanted: BTreeMap<NodeId, Eligibility> = store.eligibilities().await?.into_iter().collect();
    for (id, eligibility) in &known {
        match wanted.get(id) {
            None => engine.send(Event::NodeGone(*id)).await?,
            Some(wanted) if wanted != eligibility => {
                engine
                    .send(Event::NodeWanted {
                        id: *id,
                        eligibility: *wanted,
                    })
                    .await?;
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn gone(store: &Store, engine: &Handle) -> Result<(), Error> {
    let known = engine
        .look(|cluster| {
            cluster
                .deployments()
                .map(|deployment| deployment.id)
                .collect::<Vec<_>>()
        })
        .await?;
    for id in store.gone_deployments(&known).await? {
        engine.send(Event::DeploymentGone(id)).await?;
    }
    Ok(())
}

/// Listens for one term.
pub struct Listener {
    store: Store,
    engine: Handle,
    /// Those whose lease held when last looked at.
    proxies: BTreeSet<ProxyId>,
    /// Those that the engine was told of; asked of it first.
    known: Option<BTreeSet<ProxyId>>,
    /// When the proxies' rows were read last.
    read_at: Instant,
    rounds: u32,
}

impl Listener {
    /// For this term's engine.
    pub fn new(store: Store, engine: Handle) -> Self {
        Self {
            store,
            engine,
            proxies: BTreeSet::new(),
            known: None,
            // The engine has just read them.
            read_at: Instant::now(),
            rounds: 0,
        }
    }

    /// Runs until the term ends.
    pub async fn run(mut self, stop: &Shutdown) {
        let mut tick = tokio::time::interval(RESYNC);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listener: Option<PgListener> = None;
        loop {
            if listener.is_none() {
                listener = self.listen().await;
            }
            let heard = tokio::select! {
                () = stop.requested() => return,
                _ = tick.tick() => None,
                heard = hear(&mut listener) => heard,
            };
            let done = match heard.as_deref() {
                Some(channel::PROXY) => self.proxies().await,
                Some(channel::BUILDS) => self.sources().await,
                _ => self.everything().await,
            };
            match done {
                Ok(()) => {}
                Err(Error::LeadLost) => return,
                Err(error) => {
                    tracing::warn!(%error, "could not read what changed; trying again within a second");
                }
            }
        }
    }

    async fn listen(&self) -> Option<PgListener> {
        let connected = async {
            let mut listener = PgListener::connect_with(self.store.pool()).await?;
            listener.listen_all([channel::PROXY, channel::BUILDS]).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        connected
            .await
            .inspect_err(|error| tracing::warn!(%error, "can't listen; asking every second"))
            .ok()
    }

    async fn proxies(&mut self) -> Result<(), Error> {
        let has_listened = self.read_at.elapsed() < DEAFNESS_MAX;
        // Memory first: what the engine was given at the beginning of its term was spared, and may be gone by now.
        let known = match self.known.take() {
            Some(known) => known,
            None => {
                self.engine
                    .look(|cluster| cluster.proxies().map(|p| p.id).collect())
                    .await?
            }
        };
        let leases = self.store.proxies(has_listened).await?;
        let now = Time::now();
        self.read_at = Instant::now();
        // One without a row has said good-bye, or the next one of its place has said it for it.
        let rows: BTreeSet<ProxyId> = leases.iter().map(|lease| lease.id).collect();
        let mut gone: BTreeSet<ProxyId> = known.difference(&rows).copied().collect();
        let live: Vec<Proxy> = leases.into_iter().filter_map(|lease| lease.at(now)).collect();
        let ids: BTreeSet<ProxyId> = live.iter().map(|proxy| proxy.id).collect();
        self.known = Some(
            known
                .intersection(&rows)
                .copied()
                .chain(ids.iter().copied())
                .collect(),
        );
        if has_listened {
            gone.extend(self.proxies.difference(&ids));
            self.proxies = ids;
        } else {
            // Those of them that are silent are told by their leases.
            self.proxies.clear();
        }
        for id in gone {
            self.engine.send(Event::ProxyGone(id)).await?;
        }
        for proxy in live {
            self.engine.send(Event::ProxyReport(proxy)).await?;
        }
        let activity = self.store.activity(ACTIVITY_WINDOW).await?;
        if !activity.is_empty() {
            self.engine.send(Event::Activity(activity)).await?;
        }
        Ok(())
    }

    async fn sources(&self) -> Result<(), Error> {
        let ids = self.store.sourced_deployments().await?;
        load(&self.store, &self.engine, ids).await.map(drop)
    }

    async fn everything(&mut self) -> Result<(), Error> {
        self.proxies().await?;
        self.sources().await?;
        operations(&self.store, &self.engine).await?;
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(GONE_EVERY) {
            let reading = self.engine.reading().await;
            nodes(&self.store, &self.engine).await?;
            drop(reading);
            gone(&self.store, &self.engine).await?;
        }
        Ok(())
    }
}

/// The channel of the next notification; `None` when the connection was lost and something may have been missed.
async fn hear(listener: &mut Option<PgListener>) -> Option<String> {
    let Some(connected) = listener else {
        return std::future::pending().await;
    };
    if let Ok(Some(notification)) = connected.try_recv().await {
        return Some(notification.channel().to_owned());
    }
    *listener = None;
    None
}
