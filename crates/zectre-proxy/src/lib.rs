//! The ingress: from a host name to a task, waking what sleeps.
//!
//! The hot path never waits for a database: [`tables`] holds the routing table in memory, [`store`] keeps it
//! at PostgreSQL's epoch and tells PostgreSQL what the scheduler must know, and [`ingress`] is the way of a
//! request. [`tls`] is what comes before it on the other port. [`table`] decides where a host leads, and is pure; [`live`] is what changes with every request.

pub mod access;
pub mod activation;
pub mod error;
pub mod handover;
pub mod ingress;
pub mod leader;
pub mod live;
pub mod metrics;
pub mod raw;
pub mod series;
pub mod store;
pub mod table;
pub mod tables;
pub mod tls;
pub mod upstream;
pub mod wake;
pub mod workers;

mod admin;
mod doors;

pub use error::Error;

use access::AccessLog;
use activation::Activated;
use doors::{Doors, Open, Secure, drain};
use handover::{Giver, Old, Role, Sources};
use ingress::{Ingress, Limits, Marks, admit::Door, connection::Bounds, crowd::Crowd, forwarded::Trust};
use metrics::{LogMetrics, Metrics};
use raw::ports::Ports;
use series::Series;
use sqlx::{PgPool, postgres::PgPoolOptions};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};
use store::{activity, feed, goodbye, history, lease, snapshot, succession::Place};
use tables::Tables;
use tokio::{
    net::TcpListener,
    sync::{Mutex, Semaphore},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use upstream::Upstream;
use wake::{Calls, Waker};
use zectre_common::{
    config::{Config, ProxyConfig},
    db,
    id::ProxyId,
};
use zectre_service::{
    call::Caller,
    key::{Keys, ServiceKey},
    server::{self, Base},
    tasks::{Shutdown, Tasks},
};

/// The service's name.
pub const NAME: &str = "zectre-proxy";
/// How often idle connections to tasks are looked through.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// How long background work may take to end at shutdown.
const TASKS_END: Duration = Duration::from_secs(3);
/// How long the start waits for a connection to PostgreSQL before it takes the snapshot,
const FIRST_CONNECTION: Duration = Duration::from_secs(2);
/// and then for the table: some times what one of 100,000 hosts takes (2.5 s), or such a proxy would always start from its
/// snapshot.
const FIRST_READ: Duration = Duration::from_secs(10);

/// The ingress.
pub struct Service {
    config: ProxyConfig,
    pool: PgPool,
    /// What of PostgreSQL's is in the first table.
    known: Option<feed::Known>,
    id: ProxyId,
    name: String,
    key: ServiceKey,
    base: Base,
    access_writer: Option<access::Writer>,
    ingress: Arc<Ingress>,
    /// Connections to tasks and calls to the API.
    wires: TaskTracker,
    listener: TcpListener,
    address: SocketAddr,
    secure: Option<Secure>,
    admin: TcpListener,
    old: Option<Old>,
    /// Listeners for plain TCP that this process did not open.
    inherited: BTreeMap<u16, raw::ports::Inherited>,
    ports: Arc<Ports>,
    admin_address: SocketAddr,
}

impl Service {
    /// Loads the keys, reads the first table and opens both ports. PostgreSQL may be away: it is waited for in the
    /// background, while the snapshot serves.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        Self::activated(config, Activated::default()).await
    }

    /// The same, with sockets that the process was given.
    #[expect(clippy::too_many_lines, reason = "it is the list of the proxy's parts")]
    pub async fn activated(config: &Config, activated: Activated) -> Result<Self, Error> {
        let proxy = &config.proxy;
        if proxy.http3_address().is_some() && !cfg!(feature = "http3") {
            return Err(Error::NoHttp3);
        }
        let keys = Keys::load(&config.secrets)?;
        let (key, id) = (keys.service()?, ProxyId::new());
        let pool = PgPoolOptions::new()
            .max_connections(config.database.connections_max)
            .acquire_timeout(Duration::from_secs(5))
            .connect_lazy_with(db::options(&config.database.url, NAME)?);
        let base = Base::new(NAME).readable_by(keys.metrics());
        let sharing = tls::Sharing::new(&pool, keys.master().ok(), id);
        base.health.note_keys(keys.master().ok());
        let secure = tls::Setup::load(proxy, sharing, &base.metrics).await?;
        let old = handover::find(&proxy.handover_path).await?;
        let mut sources = Sources { activated, old };
        let listener = sources.listener(Role::Plain, &proxy.host, proxy.port).await?;
        let admin = sources
            .listener(Role::Admin, &proxy.host, proxy.admin_port)
            .await?;
        let secure = Secure::open(secure, proxy, &mut sources).await?;
        let (inherited, old) = sources.rest(proxy)?;
        let tables = Arc::new(Tables::new(&proxy.domain, bounds(proxy)));
        let known = first_table(proxy, &pool, &tables).await;
        check_routes(&base, &tables);
        let metrics = Metrics::new(&base.metrics);
        let started = Instant::now();
        base.metrics.collect(Series::new(Arc::clone(&tables), started));
        let (wires, cut) = (TaskTracker::new(), CancellationToken::new());
        let (access, access_writer) = access_log(proxy, &base, cut.clone())?;
        let connect_timeout = Duration::from_millis(proxy.connect_timeout_ms);
        let calls = Calls::new(proxy, &wires, &cut);
        let waker = Waker::new(
            Caller::new(NAME, key.clone()),
            Arc::default(),
            &config.api.public_url,
            Arc::clone(&tables),
            metrics.clone(),
            calls,
        );
        let ingress = Ingress {
            tables,
            tls: secure.as_ref().map(|secure| Arc::clone(&secure.setup.tls)),
            waker: Arc::new(waker),
            upstream: Upstream::new(
                connect_timeout,
                proxy.limits.header_count_max,
                wires.clone(),
                cut.clone(),
            ),
            metrics,
            access,
            door: Door::new(&proxy.limits),
            crowd: Crowd::new(proxy.limits.connections_per_client_max),
            trust: Trust::new(proxy),
            marks: Marks::new(key.clone()),
            limits: Limits::new(proxy),
            connections: TaskTracker::new(),
            cut,
            started,
        };
        Ok(Self {
            config: proxy.clone(),
            pool,
            known,
            id,
            name: name(proxy),
            key,
            base,
            access_writer,
            ingress: Arc::new(ingress),
            wires,
            address: listener.local_addr().map_err(Error::Address)?,
            listener,
            secure,
            admin_address: admin.local_addr().map_err(Error::Address)?,
            admin,
            old,
            inherited,
            ports: Arc::default(),
        })
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where clients connect that speak TLS.
    pub fn tls_address(&self) -> Option<SocketAddr> {
        self.secure.as_ref().map(|secure| secure.address)
    }

    /// Where clients connect that speak HTTP/3.
    #[cfg(feature = "http3")]
    pub fn http3_address(&self) -> Option<SocketAddr> {
        let secure = self.secure.as_ref()?;
        secure.http3.as_ref().map(ingress::http3::door::Door::address)
    }

    /// Where `/health`, `/ready`, `/metrics` and `/routes` are.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Serves until `shutdown`, then finishes what is under way within the drain time-out.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self {
            config,
            pool,
            known,
            id,
            name,
            key,
            base,
            access_writer,
            ingress,
            wires,
            listener,
            address,
            secure,
            admin,
            old,
            inherited,
            ports,
            ..
        } = self;
        // A process that takes over stops this service, and nothing else that runs beside it.
        let shutdown = shutdown.child();
        let tables = Arc::clone(&ingress.tables);
        let tasks = Tasks::new(shutdown.clone());
        let (workers, threads) = workers::start().map_err(Error::Workers)?;
        tasks.spawn("workers", |stop| threads.supervise(stop));
        let prior = (known, Place::of(&config.snapshot_path));
        follow(&pool, &ingress, &ports, lease::Proxy { id, name }, prior, &tasks);
        let past = keep_history(&pool, &tables, id, &tasks);
        write_down(&config, &tables, access_writer, &tasks);
        let (handed, begins) = hand_over(
            &config.handover_path,
            old,
            &tables,
            &tasks,
            &shutdown,
            &ports,
            &[
                (Role::Plain, Some(&listener)),
                (Role::Tls, secure.as_ref().map(|secure| &secure.listener)),
                (Role::Admin, Some(&admin)),
            ],
        )
        .await;
        let router = admin::router(Arc::clone(&tables), Arc::clone(&ports), key, ingress.started);
        let router = base.wrap(router, server::Limits::default());
        tasks.spawn("admin", |stop| serve_admin(admin, router, handed, stop));
        tracing::info!(%address, domain = config.domain, proxy = %id, "the proxy takes requests");
        let doors = Doors {
            ingress: Arc::clone(&ingress),
            workers,
            slots: Arc::new(Semaphore::new(config.connections_max)),
            bounds: Bounds::new(&config),
            shutdown,
        };
        let open = Open {
            plain: listener,
            secure,
            ports,
            inherited,
        };
        if begins {
            doors.serve(open, &config, &tasks, &wires).await;
        }
        drain(&ingress, &wires, Duration::from_millis(config.drain_timeout_ms)).await;
        // Only now does nobody need to wait for this proxy any longer.
        tasks.stop(TASKS_END).await;
        goodbye::say(&pool, &tables, &past, id).await;
        Ok(())
    }
}

/// Starts what keeps the proxy and PostgreSQL in step.
fn follow(
    pool: &PgPool,
    ingress: &Arc<Ingress>,
    ports: &Arc<Ports>,
    proxy: lease::Proxy,
    (known, place): (Option<feed::Known>, Option<Place>),
    tasks: &Tasks,
) {
    let (tables, id) = (&ingress.tables, proxy.id);
    tasks.spawn("routing feed", |stop| {
        feed::run(pool.clone(), Arc::clone(tables), known, stop)
    });
    tasks.spawn("lease", |stop| {
        let (tables, ports) = (Arc::clone(tables), Arc::clone(ports));
        lease::run(pool.clone(), tables, ports, proxy, place, stop)
    });
    tasks.spawn("leader", |stop| {
        store::leader::run(pool.clone(), ingress.waker.leader(), stop)
    });
    tasks.spawn("activity", |stop| {
        activity::run(pool.clone(), Arc::clone(tables), id, stop)
    });
    tasks.spawn("upkeep", |stop| upkeep(Arc::clone(ingress), stop));
}

/// Starts what tells PostgreSQL what routes were asked for.
fn keep_history(
    pool: &PgPool,
    tables: &Arc<Tables>,
    id: ProxyId,
    tasks: &Tasks,
) -> Arc<Mutex<history::History>> {
    let past = Arc::new(Mutex::new(history::History::new(Arc::clone(tables), id)));
    tasks.spawn("history", |stop| {
        history::run(pool.clone(), Arc::clone(&past), stop)
    });
    past
}

/// Starts what writes to disk, where that is wanted.
fn write_down(
    config: &ProxyConfig,
    tables: &Arc<Tables>,
    access_writer: Option<access::Writer>,
    tasks: &Tasks,
) {
    if let Some(writer) = access_writer {
        tasks.spawn("access log", |stop| writer.run(stop));
    }
    if keeps_snapshot(config) {
        tasks.spawn("snapshot", |stop| {
            snapshot::run(config.snapshot_path.clone(), Arc::clone(tables), stop)
        });
    }
}

/// Takes over from the `old` process, if there is one, and is ready to hand over itself. What is returned is requested when
/// that has happened; false: this process was stopped before it began, and whoever comes is the old one's to serve.
async fn hand_over(
    path: &Path,
    old: Option<Old>,
    tables: &Arc<Tables>,
    tasks: &Tasks,
    service: &Shutdown,
    ports: &Arc<Ports>,
    listeners: &[(Role, Option<&TcpListener>)],
) -> (Shutdown, bool) {
    let handed = Shutdown::new();
    let mut old = old;
    if let Some(old) = &mut old
        && service.or_requested(old.wait_for_routes(tables)).await.is_none()
    {
        return (handed, false);
    }
    if !path.as_os_str().is_empty() {
        let listeners: Vec<_> = listeners
            .iter()
            .filter_map(|(role, listener)| Some((*role, (*listener)?)))
            .collect();
        match Giver::open(path, &listeners, Arc::clone(ports)) {
            Ok(giver) => tasks.spawn("hand-over", |stop| {
                giver.run(service.clone(), handed.clone(), stop)
            }),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "no later process will be able to take over");
            }
        }
    }
    if let Some(old) = old {
        old.release().await;
    }
    (handed, true)
}

/// Serves the admin port until the stop, or until another process does.
async fn serve_admin(listener: TcpListener, router: axum::Router, handed: Shutdown, stop: Shutdown) {
    let until = stop.child();
    let ends = async {
        stop.or_requested(handed.requested()).await;
        until.request();
    };
    tokio::join!(
        server::serve(listener, router, server::Limits::default(), until.clone()),
        ends
    );
    stop.requested().await;
}

/// Keeps connections to tasks and the epoch's gauge up to date.
async fn upkeep(ingress: Arc<Ingress>, shutdown: Shutdown) {
    let mut changes = ingress.tables.changes();
    let mut sweep = interval(SWEEP_EVERY);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let due = async {
            tokio::select! {
                _ = sweep.tick() => {}
                _ = changes.changed() => {}
            }
        };
        if shutdown.or_requested(due).await.is_none() {
            return;
        }
        ingress.upstream.sweep(|task| ingress.tables.ledger().knows(task));
        ingress.metrics.epoch.set(ingress.tables.current().epoch() as i64);
    }
}

fn access_log(
    config: &ProxyConfig,
    base: &Base,
    cut: CancellationToken,
) -> Result<(AccessLog, Option<access::Writer>), Error> {
    let (config, metrics) = (&config.access_log, LogMetrics::new(&base.metrics));
    AccessLog::open(config, metrics, cut).map_err(|error| Error::AccessLog(config.target.clone(), error))
}

fn bounds(config: &ProxyConfig) -> live::Bounds {
    live::Bounds {
        routes_max: config.metrics.routes_max,
        backends_max: config.metrics.backends_max,
    }
}

fn keeps_snapshot(config: &ProxyConfig) -> bool {
    !config.snapshot_path.as_os_str().is_empty()
}

/// The table of now; only where PostgreSQL doesn't answer, what was known last. A request must not be told that its
/// host is unknown by an old table when the new one is a moment away.
async fn first_table(config: &ProxyConfig, pool: &PgPool, tables: &Tables) -> Option<feed::Known> {
    let connected = timeout(FIRST_CONNECTION, pool.acquire()).await;
    // It is in the pool again before the table is read.
    let is_there = matches!(connected, Ok(Ok(_)));
    drop(connected);
    if is_there && let Ok(Ok(known)) = timeout(FIRST_READ, feed::sync(pool, tables)).await {
        return Some(known);
    }
    restore(config, tables);
    None
}

fn restore(config: &ProxyConfig, tables: &Tables) {
    if !keeps_snapshot(config) {
        return;
    }
    match snapshot::read(&config.snapshot_path) {
        Ok(Some(rows)) => tables.restore(rows),
        Ok(None) => {}
        // A proxy without memory is better than none.
        Err(error) => {
            tracing::warn!(%error, path = %config.snapshot_path.display(), "the routing snapshot is unusable");
        }
    }
}

fn check_routes(base: &Base, tables: &Arc<Tables>) {
    let tables = Arc::clone(tables);
    base.health.check("routes", move || {
        let loaded = tables.is_loaded();
        async move {
            if loaded {
                Ok(())
            } else {
                Err("no routing table has been read yet".to_owned())
            }
        }
    });
}

fn name(config: &ProxyConfig) -> String {
    if !config.name.is_empty() {
        return config.name.clone();
    }
    // Only a name in logs: a system that doesn't tell its own is still a system.
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| NAME.to_owned(), |name| name.trim().to_owned())
}
