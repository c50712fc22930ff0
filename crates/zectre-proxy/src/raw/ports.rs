//! The listeners of this proxy, as the table wants them. One that can't be opened (something else on this machine has the port)
//! is tried again, and told: in the log, by a metric, in the proxy's row, and on the admin port.

use super::plan::{LISTENERS_MAX, plan};
use crate::{metrics::RawMetrics, tables::Tables};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    os::fd::{AsFd, OwnedFd},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::TcpListener,
    time::{MissedTickBehavior, interval},
};
use zectre_service::tasks::Shutdown;

/// A port that was taken may be free by then.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// How a port that is wanted is.
#[derive(Debug)]
enum State {
    /// Open; the socket, for the next process.
    Open(OwnedFd),
    /// Why it is not.
    Failed(String),
}

/// The ports that the table wants, as they are.
#[derive(Debug, Default)]
pub struct Ports(Mutex<BTreeMap<u16, State>>);

impl Ports {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u16, State>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ports and why they are not open.
    pub fn failed(&self) -> BTreeMap<u16, String> {
        let states = self.lock();
        let failed = states.iter().filter_map(|(port, state)| match state {
            State::Open(_) => None,
            State::Failed(why) => Some((*port, why.clone())),
        });
        failed.collect()
    }

    /// Ports that are open, with another handle of each socket.
    pub fn open(&self) -> Vec<(u16, OwnedFd)> {
        let states = self.lock();
        let open = states.iter().filter_map(|(port, state)| match state {
            State::Open(fd) => Some((*port, fd.try_clone().ok()?)),
            State::Failed(_) => None,
        });
        open.collect()
    }
}

/// Keeps the listeners.
pub struct Listeners<S> {
    /// The address of all of them.
    pub host: String,
    /// How they are, for others.
    pub ports: Arc<Ports>,
    /// Counts them.
    pub metrics: RawMetrics,
    /// What the process before this one had open.
    pub inherited: BTreeMap<u16, TcpListener>,
    /// Failures that were logged.
    pub told: BTreeSet<u16>,
    /// Accepts at one of them until it is asked to stop.
    pub serve: S,
}

impl<S, F> Listeners<S>
where
    S: Fn(u16, TcpListener, Shutdown) -> F,
    F: Future<Output = ()>,
{
    /// Follows `tables` until `shutdown`, then waits until none accepts any more.
    pub async fn run(mut self, tables: &Tables, shutdown: Shutdown) {
        let mut changes = tables.changes();
        let mut again = interval(TRY_AGAIN);
        again.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut running, mut stops) = (FuturesUnordered::new(), BTreeMap::new());
        loop {
            self.follow(tables, &shutdown, &mut running, &mut stops).await;
            let due = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    _ = again.tick() => self.forget_failed(),
                    // One of them has ended: whatever it was, the next turn opens it again if it is wanted.
                    Some(()) = running.next() => {}
                }
            };
            if shutdown.or_requested(due).await.is_none() {
                break;
            }
        }
        // The other handles first: what is accepted by nobody must not be taken by the kernel.
        self.ports.lock().clear();
        while running.next().await.is_some() {}
    }

    /// Those that failed are tried again.
    fn forget_failed(&self) {
        self.ports
            .lock()
            .retain(|_, state| matches!(state, State::Open(_)));
    }

    async fn follow(
        &mut self,
        tables: &Tables,
        shutdown: &Shutdown,
        running: &mut FuturesUnordered<F>,
        stops: &mut BTreeMap<u16, Shutdown>,
    ) {
        if !tables.is_loaded() {
            return;
        }
        let wanted: BTreeSet<u16> = tables.current().raw_ports().collect();
        let known: BTreeSet<u16> = self.ports.lock().keys().copied().collect();
        let plan = plan(&wanted, &known, LISTENERS_MAX);
        for port in plan.close {
            self.ports.lock().remove(&port);
            if let Some(stop) = stops.remove(&port) {
                tracing::info!(port, "no longer listens for an application");
                stop.request();
            }
        }
        for port in plan.open {
            let state = match self.listen(port).await {
                Ok((listener, handle)) => {
                    tracing::info!(port, "listens for an application");
                    let stop = shutdown.child();
                    running.push((self.serve)(port, listener, stop.clone()));
                    stops.insert(port, stop);
                    State::Open(handle)
                }
                Err(why) => State::Failed(why),
            };
            self.ports.lock().insert(port, state);
        }
        // What the process before this one had and nobody wants is closed, once there is a table that says so.
        self.inherited.clear();
        self.tell(plan.beyond);
    }

    async fn listen(&mut self, port: u16) -> Result<(TcpListener, OwnedFd), String> {
        let listener = match self.inherited.remove(&port) {
            Some(listener) => listener,
            None => TcpListener::bind(format!("{}:{port}", self.host))
                .await
                .map_err(|error| error.to_string())?,
        };
        let handle = listener
            .as_fd()
            .try_clone_to_owned()
            .map_err(|error| error.to_string())?;
        Ok((listener, handle))
    }

    /// Counts, and logs each failure once.
    fn tell(&mut self, beyond: Vec<u16>) {
        let mut states = self.ports.lock();
        for port in beyond {
            let why = format!("this proxy has {LISTENERS_MAX} listeners, which is the most");
            states.insert(port, State::Failed(why));
        }
        let all = states.len();
        drop(states);
        let failed = self.ports.failed();
        self.metrics.listeners.set((all - failed.len()) as i64);
        self.metrics.listeners_failed.set(failed.len() as i64);
        self.told.retain(|port| failed.contains_key(port));
        for (port, why) in failed {
            if self.told.insert(port) {
                tracing::error!(
                    port,
                    why,
                    "an application's port can't be opened here: free it, or keep proxy.tcp_port_range clear of what else listens"
                );
            }
        }
    }
}
