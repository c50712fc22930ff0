//! The build worker: source in, artifact out, in a sandbox.
//!
//! Work is rows in PostgreSQL, claimed by lease ([`mod@worker`]); hints over HTTP and NOTIFY only make it fast.
//! A build fetches its source from the registry, or a commit from a repository ([`git`]), unpacks it with suspicion ([`source`]), compiles it with
//! `zectre-tishc` behind walls ([`sandbox`]), and stores the program ([`job`]). Whether builds can run at all is
//! found out beside ([`prepare`]), never by refusing to start.

pub mod cgroup;
pub mod compiler;
pub mod core;
pub mod error;
pub mod git;
pub mod job;
pub mod log;
pub mod nudges;
pub mod prepare;
pub mod registry;
pub mod routes;
pub mod sandbox;
pub mod source;
pub mod store;
mod tree;
mod work_dir;
pub mod worker;

use error::Error;
use git::Fetcher;
use job::Workshop;
use nudges::Nudges;
use prepare::{Preparation, Preparer};
use prometheus_client::metrics::counter::Counter;
use registry::Registry;
use sandbox::Sandbox;
use source::Bounds;
use sqlx::PgPool;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use work_dir::WorkDir;
use worker::Worker;
use zectre_common::{config::Config, db};
use zectre_service::{
    call::Caller,
    key::{Keys, ServiceKey},
    listen,
    ring::KeyRing,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::name,
};

/// How long slots may take to give their builds back.
const STOP: Duration = Duration::from_secs(10);

/// The build worker, bound and ready to run.
pub struct Service {
    listener: TcpListener,
    address: SocketAddr,
    base: Base,
    key: ServiceKey,
    slots: u32,
    worker: Worker,
    // Held while the service lives: nobody else empties it.
    work_dir: WorkDir,
}

impl Service {
    /// Connects, gives back what a worker that was killed here had, and binds. A missing compiler or sandbox is told by `/ready` and by
    /// the builds that need it.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let keys = Keys::load(&config.secrets)?;
        let key = keys.service()?;
        let pool = db::connect(&config.database.url, name::BUILD, config.database.connections_max).await?;
        let work_dir = WorkDir::open(&config.build.work_dir)?;
        take_over(&pool, &work_dir).await?;
        let listener = listen::bind(name::BUILD, "build", &config.build.host, config.build.port).await?;
        let address = listener.local_addr().map_err(Error::Serve)?;
        let base = Base::new(name::BUILD).readable_by(keys.metrics());
        // Only tokens of private repositories need it.
        let master_key = keys.master().ok();
        base.health.note_keys(master_key.clone());
        let worker = worker(config, &base, &pool, (&key, master_key), &work_dir);
        watch(&base, &pool, &worker.workshop.preparer);
        Ok(Self {
            listener,
            address,
            base,
            key,
            slots: config.build.slots,
            worker,
            work_dir,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `shutdown` is requested; builds under way are given back.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let tasks = Tasks::new(shutdown.clone());
        let (nudges, pool) = (self.worker.nudges.clone(), self.worker.workshop.pool.clone());
        let preparer = self.worker.workshop.preparer.clone();
        let app = routes::App {
            pool: pool.clone(),
            nudges: nudges.clone(),
            shutdown: shutdown.clone(),
        };
        tasks.spawn("nudges", |stop| nudges.run(pool.clone(), stop));
        tasks.spawn("prepare", |stop| preparer.run(stop));
        let worker = Arc::new(self.worker);
        for _ in 0..self.slots {
            tasks.spawn("slot", |stop| worker.clone().slot(stop));
        }
        // Logs are followed for as long as a build takes.
        let limits = Limits {
            request_timeout: None,
            ..Limits::default()
        };
        let router = self.base.wrap(routes::router(app, self.key), limits);
        tracing::info!(address = %self.address, slots = self.slots, "the build worker is up");
        server::serve(self.listener, router, limits, shutdown).await;
        tasks.stop(STOP).await;
        pool.close().await;
        drop(self.work_dir);
        Ok(())
    }
}

/// What the last worker of this directory had is anybody's again, without waiting for the ends of its leases.
async fn take_over(pool: &PgPool, work_dir: &WorkDir) -> Result<(), Error> {
    let left = work_dir.left()?;
    if !left.is_empty() {
        let builds = store::builds::hand_back(pool, &left).await?;
        tracing::info!(builds, "a worker was killed here; its builds are begun anew");
    }
    // Only now: they say what it had.
    work_dir.clear()
}

fn worker(
    config: &Config,
    base: &Base,
    pool: &PgPool,
    (key, master_key): (&ServiceKey, Option<KeyRing>),
    work_dir: &WorkDir,
) -> Worker {
    let build = &config.build;
    let caller = Caller::new(name::BUILD, key.clone());
    let sandbox = Arc::new(Sandbox::new(build.sandbox, build.memory_bytes_max));
    let workshop = Workshop {
        pool: pool.clone(),
        registry: Registry::new(
            caller.clone(),
            &config.registry.public_url,
            build.source_bytes_max,
        ),
        preparer: Preparer::new(build, sandbox.clone()),
        sandbox,
        work_dir: work_dir.path().to_owned(),
        bounds: Bounds {
            unpacked_bytes_max: build.unpacked_bytes_max,
            files_max: build.files_max,
        },
        quota_bytes_max: config.quotas.artifact_bytes_max,
        timeout: Duration::from_secs(build.timeout_secs),
        fetcher: Fetcher {
            allowed: build.git_sources.clone(),
            file_bytes_max: build.unpacked_bytes_max,
        },
        master_key,
    };
    Worker {
        workshop,
        lease: Duration::from_millis(build.lease_ms),
        nudges: Nudges::default(),
        caller,
        scheduler_url: config.scheduler.public_url.trim_end_matches('/').to_owned(),
        ended: base
            .metrics
            .register("builds_ended", "Builds brought to an end", Counter::default()),
    }
}

fn watch(base: &Base, pool: &PgPool, preparer: &Preparer) {
    let (pool, preparer) = (pool.clone(), preparer.clone());
    base.health.check("database", move || {
        let pool = pool.clone();
        async move {
            store::builds::ping(&pool)
                .await
                .map_err(|error| error.to_string())
        }
    });
    base.health.check("compiler", move || {
        let state = preparer.state();
        async move {
            match state {
                Preparation::Ready(_) => Ok(()),
                Preparation::Underway(line) => Err(format!("being prepared: {line}")),
                Preparation::Failed(reason) => Err(reason),
            }
        }
    });
}
