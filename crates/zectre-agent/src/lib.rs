//! `zectre-agent`: runs tasks on one node, as native processes or containers.
//!
//! It obeys the scheduler and decides nothing by itself: orders come in (`routes`, `link`), each starts or stops
//! a life (`task`), and what becomes of it is reported. Tasks outlive the agent: each has a supervisor of its own
//! ([`shim`]), and an agent that starts takes up what it finds. What an order, a probe or an exit means is decided
//! in [`core`], without side effects.

mod artifact;
mod background;
mod cgroup;
mod collect;
pub mod core;
mod enforcement;
mod engine;
mod error;
mod host;
mod identity;
mod images;
mod link;
mod log;
mod machine;
mod metadata;
mod orders;
mod port;
mod process;
mod record;
mod remove;
mod routes;
pub mod shim;
mod task;
mod users;

pub use error::Error;
pub use task::Killed;

use collect::{Collector, Requests};
use host::Host;
use identity::Identities;
use link::{Link, Schedulers};
use log::Shipping;
use orders::Orders;
use rustix::fs::FlockOperation;
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::watch};
use zectre_common::config::Config;
use zectre_service::{
    call::{Caller, Identity as CallerIdentity},
    key::MetricsKey,
    listen,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
};

/// Below the data directory: a directory for each task.
const TASKS_DIR: &str = "tasks";
/// The file that says that an agent uses a data directory; locked while it does.
const LOCK_FILE: &str = "agent.lock";
/// How long an agent that was just killed may still seem to use its data directory.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause between two looks.
const LOCK_PAUSE: Duration = Duration::from_millis(10);
/// How long killed tasks may take to be gone, and their last lines to be read.
const KILLED_TIMEOUT: Duration = Duration::from_secs(20);
/// The largest batch of orders: most are a few KiB, and their number is bounded too.
const ORDERS_BYTES_MAX: usize = 64 << 20;
/// How long the agent's own work may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// The agent, ready to run.
pub struct Service {
    base: Base,
    listener: TcpListener,
    address: SocketAddr,
    host: Arc<Host>,
    orders: Arc<Orders>,
    link: Arc<Link>,
    identities: Arc<Identities>,
    requests: Requests,
    tasks: Tasks,
    /// Requested when a background task fails.
    part_failed: Shutdown,
    /// An orderly end stops the tasks too; set to those that did not go by themselves.
    killed: Option<Arc<OnceLock<Vec<Killed>>>>,
    stop_timeout: Duration,
    /// Held as long as the service lives.
    _lock: fs::File,
}

/// How many native programs of an agent's data directory run, whether an agent looks after them or not.
///
/// # Errors
/// The directory is there and can't be read.
pub fn running_programs(data_dir: &Path) -> io::Result<usize> {
    match task::Home::count_running(&data_dir.join(TASKS_DIR)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        counted => counted,
    }
}

impl Service {
    /// Takes stock of the machine, claims the data directory and binds the actions port. The scheduler need not be
    /// there.
    ///
    /// # Errors
    /// A sentence that says what is missing, taken or unusable.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let metrics_key = MetricsKey::load(&config.secrets)?;
        let lock = claim(config).await?;
        let listener = listen::bind("zectre-agent", "agent", &config.agent.host, config.agent.port).await?;
        let address = listener.local_addr().map_err(|source| Error::Io {
            doing: "reading the own address",
            source,
        })?;
        let base = Base::new("zectre-agent").readable_by(metrics_key);
        let part_failed = Shutdown::new();
        let tasks = Tasks::new(part_failed.clone());
        let caller = Caller::with_identity(CallerIdentity::Anonymous);
        let identities = Arc::new(Identities::open(&config.agent.data_dir)?);
        let shipping = Shipping::new(
            caller.clone(),
            &config.api.public_url,
            identities.watch(),
            &base.metrics,
        );
        let (collector, requests) = Collector::new();
        let host = Host::new(config, &caller, shipping, collector, tasks.clone(), &base.metrics).await?;
        let host = Arc::new(host);
        let orders = Arc::new(Orders::open(host.clone(), &config.agent.data_dir)?);
        let link = Arc::new(Link {
            host: host.clone(),
            orders: orders.clone(),
            identities: identities.clone(),
            caller,
            schedulers: Schedulers::new(config),
            actions_port: address.port(),
            is_registered: watch::Sender::new(false),
        });
        observe(&base, &identities);
        Ok(Self {
            base,
            listener,
            address,
            host,
            orders,
            link,
            identities,
            requests,
            tasks,
            part_failed,
            killed: None,
            stop_timeout: Duration::from_millis(config.agent.stop_timeout_ms),
            _lock: lock,
        })
    }

    /// Where it takes orders.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Turns true once the scheduler has heard from this agent what the node has: what is known of it before is of an earlier
    /// start.
    pub fn registration(&self) -> watch::Receiver<bool> {
        self.link.is_registered.subscribe()
    }

    /// An orderly end stops the tasks too: each has its own grace, and all together have `agent.stop_timeout_ms`. By
    /// default they run on, and the next agent takes them up.
    ///
    /// What this gives is set at the end to those that had to be killed.
    pub fn stop_tasks_on_shutdown(&mut self) -> Arc<OnceLock<Vec<Killed>>> {
        self.killed.insert(Arc::default()).clone()
    }

    /// Runs until `shutdown` is requested.
    ///
    /// # Errors
    /// When what is left of earlier tasks can't be taken up, or a part of the agent fails.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let stop = shutdown.child();
        let host = self.host.clone();
        let watcher = host.watcher.clone();
        self.tasks.spawn("file events", |stop| watcher.run(stop));
        task::adopt_all(&host).await?;
        let pool_host = host.clone();
        self.tasks.spawn(
            "supervisors",
            |stop| async move { pool_host.pool.fill(stop).await },
        );
        let spares = host.spares.clone();
        self.tasks.spawn("spare directories", |stop| spares.fill(stop));
        let engine_host = host.clone();
        self.tasks.spawn("container engine", |stop| async move {
            task::watch_engine(&engine_host, stop).await;
        });
        let (collect_host, collect_link, requests) = (host.clone(), self.link.clone(), self.requests);
        self.tasks.spawn("collector", |stop| {
            collect::run(collect_host, collect_link, requests, stop)
        });
        self.tasks.spawn("news", |stop| self.link.clone().tell_news(stop));
        self.tasks
            .spawn("scheduler link", |stop| self.link.clone().keep(stop));
        let shared = routes::Shared {
            host: host.clone(),
            orders: self.orders.clone(),
            identity: self.identities.watch(),
            shutdown: stop.clone(),
        };
        let limits = Limits {
            body_bytes_max: ORDERS_BYTES_MAX,
            drain_timeout: END_TIMEOUT,
            ..Limits::default()
        };
        let router = self.base.wrap(routes::router(shared), limits);
        tracing::info!(address = %self.address, "agent is up");
        let failure = async {
            tokio::select! {
                () = self.part_failed.requested() => stop.request(),
                () = stop.requested() => {}
            }
        };
        tokio::join!(
            server::serve(self.listener, router, limits, stop.clone()),
            failure
        );
        if let Some(killed) = self.killed {
            stop_all(&host, &self.link, self.stop_timeout).await;
            // Nobody else sets it.
            let _ = killed.set(host.board.killed());
        }
        host.let_go();
        let part_failed = self.part_failed.is_requested();
        self.tasks.stop(END_TIMEOUT).await;
        host.cgroups.close();
        host.places.clear();
        if part_failed {
            Err(Error::PartFailed)
        } else {
            Ok(())
        }
    }
}

/// Stops every task within `timeout`, and tells so.
async fn stop_all(host: &Host, link: &Link, timeout: Duration) {
    host.board.stop_all(Instant::now() + timeout);
    if tokio::time::timeout(timeout + KILLED_TIMEOUT, host.board.ended())
        .await
        .is_err()
    {
        tracing::error!("some tasks could not be stopped in time");
    }
    link.tell_all(END_TIMEOUT).await;
}

/// Makes the data directory and claims it, so that two agents never run the same tasks.
async fn claim(config: &Config) -> Result<fs::File, Error> {
    let dir = &config.agent.data_dir;
    let failed = |source| Error::DataDir {
        path: dir.clone(),
        source,
    };
    // Passable, not readable: a task's program lies below it.
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(failed)?;
    // Whoever may read it may lock it, and a task must not be able to keep the agent from starting.
    let lock = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join(LOCK_FILE))
        .map_err(failed)?;
    let began = Instant::now();
    loop {
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            // A supervisor that was being started when an agent was killed shares its lock for a moment.
            Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_TIMEOUT => {
                tokio::time::sleep(LOCK_PAUSE).await;
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(Error::DataDirHeld(dir.clone())),
            Err(error) => return Err(failed(error.into())),
        }
    }
}

/// Readiness. A container engine that is away is no part of it: native tasks run all the same.
fn observe(base: &Base, identities: &Arc<Identities>) {
    let identity = identities.watch();
    base.health.check("registration", move || {
        let registered = identity.current().is_some();
        async move {
            if registered {
                Ok(())
            } else {
                Err("not registered with a scheduler yet".into())
            }
        }
    });
}
