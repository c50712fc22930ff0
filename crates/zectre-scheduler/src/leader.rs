//! Terms: wait for the lock, read the state, decide until the lock is lost, begin again.

use crate::{
    commit::Committer,
    core::Settings,
    dispatch::Dispatcher,
    engine::Engine,
    error::Error,
    handle::Handle,
    metrics::Metrics,
    order::Composer,
    store::{Election, Store},
    sync::{Listener, ProxyWatch},
};
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;
use tokio::{
    sync::{oneshot, watch},
    time::MissedTickBehavior,
};
use zectre_common::time::Time;
use zectre_service::{
    call::Caller,
    tasks::{Shutdown, Tasks},
};

/// How often a leader looks whether it still holds the lock.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// A database that doesn't answer for so long has dropped the lock, or is about to.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// The pause after a failed attempt to be elected.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// How long the parts of a term may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// A term of this scheduler.
#[derive(Clone)]
pub struct Term {
    /// Its epoch.
    pub epoch: u64,
    /// Since when.
    pub since: Time,
    /// Its engine.
    pub engine: Handle,
}

/// The term under way, if this scheduler leads.
pub type CurrentTerm = watch::Receiver<Option<Term>>;

/// All that a term needs.
pub struct Candidate {
    /// For the connection that holds the lock, and those that commit.
    pub options: PgConnectOptions,
    /// Where followers forward to.
    pub address: String,
    /// The database.
    pub store: Store,
    /// The rules' numbers.
    pub settings: Settings,
    /// Makes orders.
    pub composer: Composer,
    /// Sends them.
    pub caller: Caller,
    /// Counts.
    pub metrics: Metrics,
    /// Tells the routes who leads.
    pub term: watch::Sender<Option<Term>>,
}

impl Candidate {
    /// Stands for election again and again until asked to stop.
    pub async fn run(self, stop: Shutdown) {
        while !stop.is_requested() {
            let Some(won) = stop
                .or_requested(Election::win(&self.options, &self.address))
                .await
            else {
                return;
            };
            let result = match won {
                Ok(election) => self.lead(election, &stop).await,
                Err(error) => Err(error.into()),
            };
            self.term.send_replace(None);
            self.metrics.leader.set(0);
            if let Err(error) = result {
                tracing::warn!(%error, "not leading");
                // The database is away or another one leads: asking faster helps nobody.
                stop.or_requested(tokio::time::sleep(RETRY_PAUSE)).await;
            }
        }
    }

    async fn lead(&self, mut election: Election, stop: &Shutdown) -> Result<(), Error> {
        let epoch = election.epoch;
        // Held in a task of its own and from the first moment: reading a large state, or a large decision, takes longer
        // than the server lets the lock's session be silent.
        let lock = Tasks::new(stop.clone());
        let (mut say_lost, mut lost) = oneshot::channel();
        lock.spawn_brief("lock", async move {
            tokio::select! {
                error = hold(&mut election) => drop(say_lost.send(error)),
                () = say_lost.closed() => {}
            }
        });
        // Senders and listeners end with the term, however it ends.
        let term_stop = stop.child();
        let tasks = Tasks::new(term_stop.clone());
        let result = tokio::select! {
            result = self.serve(epoch, &term_stop, &tasks) => result,
            error = &mut lost => Err(error.unwrap_or(sqlx::Error::WorkerCrashed).into()),
        };
        self.term.send_replace(None);
        term_stop.request();
        tasks.stop(STOP_TIMEOUT).await;
        // The next one may lead only now.
        drop(lost);
        lock.stop(STOP_TIMEOUT).await;
        tracing::info!(epoch, "no longer leading");
        result
    }

    /// Reads the state and decides until asked to stop, or until a commit fails.
    async fn serve(&self, epoch: u64, stop: &Shutdown, tasks: &Tasks) -> Result<(), Error> {
        let Some(begun) = stop.or_requested(self.begin(epoch, tasks)).await else {
            return Ok(());
        };
        let (engine, handle) = begun?;
        let proxies = ProxyWatch::new(self.store.clone(), handle.clone(), engine.proxies());
        tasks.spawn("proxies", |stop| async move {
            stop.or_requested(proxies.run()).await;
        });
        let listener = Listener::new(self.store.clone(), handle.clone());
        tasks.spawn("listener", |stop| async move {
            stop.or_requested(listener.run()).await;
        });
        tracing::info!(epoch, "leading");
        self.metrics.leader.set(1);
        self.term.send_replace(Some(Term {
            epoch,
            since: Time::now(),
            engine: handle,
        }));
        engine.run(stop).await
    }

    async fn begin(&self, epoch: u64, tasks: &Tasks) -> Result<(Engine, Handle), Error> {
        let (composer, caller) = (self.composer.clone(), self.caller.clone());
        let dispatcher = Dispatcher::new(epoch, composer, caller, self.metrics.clone(), tasks.clone());
        let committer = Committer::start(&self.options, epoch, tasks).await?;
        Engine::load(
            epoch,
            self.store.clone(),
            self.settings,
            committer,
            dispatcher,
            self.metrics.clone(),
        )
        .await
    }
}

/// Ends when the lock may be lost.
async fn hold(election: &mut Election) -> sqlx::Error {
    let mut tick = tokio::time::interval(CHECK_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        match tokio::time::timeout(CHECK_TIMEOUT, election.check()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return error,
            Err(_) => return sqlx::Error::PoolTimedOut,
        }
    }
}
