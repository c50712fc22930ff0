//! The artifact store: bytes known by their SHA-256, streamed in and out with flat memory.
//!
//! The database says which artifact holds which content ([`store`]); the disk holds each content once
//! ([`blobs`]). An artifact becomes `ready` in one statement, after its content is safe on disk; from then on
//! it never changes.

pub mod blobs;
pub mod digest;
pub mod error;
mod metrics;
pub mod range;
pub mod routes;
pub mod store;
pub mod sweep;

use blobs::Blobs;
use error::Error;
use routes::App;
use sqlx::PgPool;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpListener;
use zectre_common::{config::Config, db};
use zectre_service::{
    key::Keys,
    listen,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::name,
};

/// How long background work may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// The registry, bound and ready to run.
pub struct Service {
    listener: TcpListener,
    address: SocketAddr,
    base: Base,
    app: App,
}

impl Service {
    /// Connects, opens the store (clearing what a crash left), and binds.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let keys = Keys::load(&config.secrets)?;
        let key = keys.service()?;
        let pool = db::connect(
            &config.database.url,
            name::REGISTRY,
            config.database.connections_max,
        )
        .await?;
        let blobs = Arc::new(Blobs::open(&config.registry.store)?);
        let listener = listen::bind(
            name::REGISTRY,
            "registry",
            &config.registry.host,
            config.registry.port,
        )
        .await?;
        let address = listener.local_addr().map_err(Error::Serve)?;
        let base = Base::new(name::REGISTRY).readable_by(keys.metrics());
        watch(&base, &pool);
        let transfers = metrics::Transfers::new(&base.metrics);
        let artifact_bytes_max = config.registry.artifact_bytes_max;
        let app = App {
            pool,
            blobs,
            key,
            artifact_bytes_max,
            transfers,
        };
        Ok(Self {
            listener,
            address,
            base,
            app,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `shutdown` is requested.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let tasks = Tasks::new(shutdown.clone());
        let (blobs, pool) = (self.app.blobs.clone(), self.app.pool.clone());
        tasks.spawn(
            "sweep",
            |stop| async move { sweep::run(&blobs, &pool, stop).await },
        );
        // Transfers take as long as they take; each wait for a client has its own deadline.
        let limits = Limits {
            request_timeout: None,
            // The API hands on to clients of its own, and takes nothing while a slow one has not taken what it has.
            write_timeout: Duration::from_secs(600),
            ..Limits::default()
        };
        let pool = self.app.pool.clone();
        let router = self.base.wrap(routes::router(self.app), limits);
        tracing::info!(address = %self.address, "the registry is up");
        server::serve(self.listener, router, limits, shutdown).await;
        tasks.stop(STOP).await;
        pool.close().await;
        Ok(())
    }
}

fn watch(base: &Base, pool: &PgPool) {
    let pool = pool.clone();
    base.health.check("database", move || {
        let pool = pool.clone();
        async move {
            store::artifacts::ping(&pool)
                .await
                .map_err(|error| error.to_string())
        }
    });
}
