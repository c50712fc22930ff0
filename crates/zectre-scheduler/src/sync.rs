//! Keeps the engine up with what others wrote to the database: at every notification, and every second
//! without one, so that a lost notification only delays.

use crate::{
    core::{Event, Operation, Proxy},
    error::Error,
    handle::{Answer, Handle},
    store::{OPERATIONS_MAX, ProxyLease, Store},
};
use sqlx::{PgPool, postgres::PgListener};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{
    sync::oneshot,
    time::{Instant, Interval, MissedTickBehavior},
};
use zectre_common::{
    db::{self, channel},
    id::{DeploymentId, NodeId, ProxyId},
    state::Eligibility,
    time::Time,
};

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

/// Reads for one term what people and builds wrote.
pub struct Listener {
    store: Store,
    engine: Handle,
    rounds: u32,
}

impl Listener {
    /// For this term's engine.
    pub fn new(store: Store, engine: Handle) -> Self {
        Self {
            store,
            engine,
            rounds: 0,
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut hints = Hints::of(&self.store, channel::BUILDS);
        loop {
            let done = match hints.next().await {
                Hint::Notified => self.sources().await,
                Hint::Due => self.everything().await,
            };
            report(done);
        }
    }

    async fn sources(&self) -> Result<(), Error> {
        let ids = self.store.sourced_deployments().await?;
        load(&self.store, &self.engine, ids).await.map(drop)
    }

    async fn everything(&mut self) -> Result<(), Error> {
        self.sources().await?;
        operations(&self.store, &self.engine).await?;
        self.rounds = self.rounds.wrapping_add(1);
        if self.rounds.is_multiple_of(GONE_EVERY) {
            let _reading = self.engine.reading().await;
            nodes(&self.store, &self.engine).await?;
            gone(&self.store, &self.engine).await?;
        }
        Ok(())
    }
}

/// Reads for one term what proxies wrote. Apart from the [`Listener`], and never behind the news of a fleet: a proxy that
/// is taken for gone is not waited for, and loses the tasks that it still routes to.
pub struct ProxyWatch {
    store: Store,
    engine: Handle,
    /// Those whose lease held when last looked at.
    live: BTreeSet<ProxyId>,
    /// Those that the engine knows of.
    known: BTreeSet<ProxyId>,
    /// When the proxies' rows were read last.
    read_at: Instant,
}

impl ProxyWatch {
    /// For this term's engine, which begins with `known`: those were spared, and may be gone by now.
    pub fn new(store: Store, engine: Handle, known: BTreeSet<ProxyId>) -> Self {
        Self {
            store,
            engine,
            live: BTreeSet::new(),
            known,
            // The engine has just read them.
            read_at: Instant::now(),
        }
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        let mut hints = Hints::of(&self.store, channel::PROXY);
        loop {
            hints.next().await;
            report(self.look().await);
        }
    }

    async fn look(&mut self) -> Result<(), Error> {
        let has_listened = self.read_at.elapsed() < DEAFNESS_MAX;
        let leases = self.store.proxies(has_listened).await?;
        let now = Time::now();
        self.read_at = Instant::now();
        // One without a row has said good-bye, or the next one of its place has said it for it.
        let rows: BTreeSet<ProxyId> = leases.iter().map(|lease| lease.id).collect();
        let mut gone: BTreeSet<ProxyId> = self.known.difference(&rows).copied().collect();
        let live: Vec<Proxy> = leases.into_iter().filter_map(|lease| lease.at(now)).collect();
        let ids: BTreeSet<ProxyId> = live.iter().map(|proxy| proxy.id).collect();
        self.known.retain(|id| rows.contains(id));
        self.known.extend(&ids);
        if has_listened {
            gone.extend(self.live.difference(&ids));
            self.live = ids;
        } else {
            // Those of them that are silent are told by their leases.
            self.live.clear();
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
}

/// What went wrong is tried again with the next hint; when the engine is gone, the term is about to be ended.
fn report(done: Result<(), Error>) {
    if let Err(error) = done
        && !matches!(error, Error::LeadLost)
    {
        tracing::warn!(%error, "could not read what changed; trying again within a second");
    }
}

/// Why to look.
enum Hint {
    /// Somebody says that something changed.
    Notified,
    /// Nobody did for a while, or it may have been missed.
    Due,
}

/// The notifications of one channel, and a look every [`RESYNC`] without.
struct Hints {
    pool: PgPool,
    channel: &'static str,
    tick: Interval,
    listener: Option<PgListener>,
}

impl Hints {
    fn of(store: &Store, channel: &'static str) -> Self {
        let mut tick = tokio::time::interval(RESYNC);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self {
            pool: store.pool().clone(),
            channel,
            tick,
            listener: None,
        }
    }

    async fn next(&mut self) -> Hint {
        if self.listener.is_none() {
            self.listener = self.listen().await;
        }
        tokio::select! {
            _ = self.tick.tick() => Hint::Due,
            heard = hear(&mut self.listener) => heard,
        }
    }

    async fn listen(&self) -> Option<PgListener> {
        db::listen(&self.pool, &[self.channel])
            .await
            .inspect_err(|error| tracing::warn!(%error, "can't listen; asking every second"))
            .ok()
    }
}

/// The next notification; when the connection was lost, something may have been missed.
async fn hear(listener: &mut Option<PgListener>) -> Hint {
    let Some(connected) = listener else {
        return std::future::pending().await;
    };
    if let Ok(Some(_)) = connected.try_recv().await {
        return Hint::Notified;
    }
    *listener = None;
    Hint::Due
}
