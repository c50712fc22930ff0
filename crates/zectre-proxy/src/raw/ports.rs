//! The listeners of this proxy, as the table wants them. One that can't be opened (something else on this machine has the port)
//! is tried again, and told: in the log, by a metric, in the proxy's row, and on the admin port.

use super::plan::{Retry, plan};
use crate::{metrics::RawMetrics, tables::Tables};
use futures_util::{StreamExt, stream::FuturesUnordered};
use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    io,
    os::fd::AsFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::{net::TcpListener, time::Instant};
use zectre_service::tasks::Shutdown;

/// How a port that is wanted is.
#[derive(Debug)]
enum State {
    /// Open; the one who accepts there has it too, so that a port costs one descriptor.
    Open(Arc<TcpListener>),
    /// Why it is not, and when it is tried again.
    Failed(String, Retry),
    /// It is more than may be open.
    Beyond(String),
}

impl State {
    fn failure(&self) -> Option<&str> {
        match self {
            Self::Open(_) => None,
            Self::Failed(why, _) | Self::Beyond(why) => Some(why),
        }
    }
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
        let failed = states.iter();
        failed
            .filter_map(|(port, state)| Some((*port, state.failure()?.to_owned())))
            .collect()
    }

    /// Ports that are open, with their sockets.
    pub fn open(&self) -> Vec<(u16, Arc<TcpListener>)> {
        let states = self.lock();
        let open = states.iter().filter_map(|(port, state)| match state {
            State::Open(listener) => Some((*port, Arc::clone(listener))),
            State::Failed(..) | State::Beyond(_) => None,
        });
        open.collect()
    }

    /// Those that are open or may become so by another try.
    fn known(&self) -> BTreeSet<u16> {
        let states = self.lock();
        let known = states
            .iter()
            .filter(|(_, state)| !matches!(state, State::Beyond(_)));
        known.map(|(port, _)| *port).collect()
    }

    fn retries(&self) -> Vec<(u16, Retry)> {
        let states = self.lock();
        let retries = states.iter().filter_map(|(port, state)| match state {
            State::Failed(_, retry) => Some((*port, *retry)),
            State::Open(_) | State::Beyond(_) => None,
        });
        retries.collect()
    }

    /// Resolves when one that failed is to be tried again.
    async fn retry_due(&self) {
        match self.retries().iter().map(|(_, retry)| retry.at).min() {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    }
}

/// A listener that this process did not open.
#[derive(Debug)]
pub struct Inherited {
    /// It.
    pub listener: TcpListener,
    /// Who opened it keeps it open: nobody could open it anew, so it is never given away.
    pub is_managed: bool,
}

impl Inherited {
    fn share(&self) -> io::Result<TcpListener> {
        let listener = std::net::TcpListener::from(self.listener.as_fd().try_clone_to_owned()?);
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    }
}

/// Keeps the listeners.
pub struct Listeners<S> {
    /// The address of all of them.
    pub host: String,
    /// The most of them.
    pub max: usize,
    /// How they are, for others.
    pub ports: Arc<Ports>,
    /// Counts them.
    pub metrics: RawMetrics,
    /// What others had opened.
    pub inherited: BTreeMap<u16, Inherited>,
    /// Failures that were logged.
    pub told: BTreeSet<u16>,
    /// Accepts at one of them until it is asked to stop.
    pub serve: S,
}

impl<S, F> Listeners<S>
where
    S: Fn(u16, Arc<TcpListener>, Shutdown) -> F,
    F: Future<Output = ()>,
{
    /// Follows `tables` until `shutdown`, then waits until none accepts any more.
    pub async fn run(mut self, tables: &Tables, shutdown: Shutdown) {
        let mut changes = tables.changes();
        let (mut running, mut stops) = (FuturesUnordered::new(), BTreeMap::new());
        loop {
            self.follow(tables, &shutdown, &mut running, &mut stops).await;
            let due = async {
                tokio::select! {
                    _ = changes.changed() => {}
                    () = self.ports.retry_due() => {}
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
        let plan = plan(&wanted, &self.ports.known(), self.max);
        for port in plan.close {
            self.ports.lock().remove(&port);
            if let Some(stop) = stops.remove(&port) {
                tracing::info!(port, "no longer listens for an application");
                stop.request();
            }
        }
        let now = Instant::now();
        let again = self.ports.retries().into_iter();
        let again = again.filter(|(_, retry)| retry.at <= now);
        let fresh = plan.open.into_iter().map(|port| (port, Retry::first(now)));
        for (port, retry) in fresh.chain(again).collect::<Vec<_>>() {
            let state = match self.listen(port).await {
                Ok(listener) => {
                    tracing::info!(port, "listens for an application");
                    let stop = shutdown.child();
                    running.push((self.serve)(port, Arc::clone(&listener), stop.clone()));
                    stops.insert(port, stop);
                    State::Open(listener)
                }
                Err(why) => State::Failed(why, retry.after(Instant::now())),
            };
            self.ports.lock().insert(port, state);
        }
        // What the process before this one had and nobody wants is closed, once there is a table that says so.
        self.inherited.retain(|_, one| one.is_managed);
        self.tell(plan.beyond, &wanted);
    }

    async fn listen(&mut self, port: u16) -> Result<Arc<TcpListener>, String> {
        let listener = match self.inherited.remove(&port) {
            Some(managed) if managed.is_managed => {
                let listener = managed.share();
                self.inherited.insert(port, managed);
                listener
            }
            Some(inherited) => Ok(inherited.listener),
            None => TcpListener::bind(format!("{}:{port}", self.host)).await,
        };
        listener.map(Arc::new).map_err(|error| error.to_string())
    }

    /// Counts, and logs each failure once.
    fn tell(&mut self, beyond: Vec<u16>, wanted: &BTreeSet<u16>) {
        let mut states = self.ports.lock();
        states.retain(|port, state| wanted.contains(port) && !matches!(state, State::Beyond(_)));
        for port in beyond {
            let why = format!(
                "this proxy may have {} listeners: half of the files it may open (LimitNOFILE=), and no more than a range has ports",
                self.max
            );
            states.insert(port, State::Beyond(why));
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
