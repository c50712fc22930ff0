//! The directory above clusters: who people are, their organizations, and the clusters these have.
//!
//! Towards GitHub it is an OAuth client ([`github`]), towards command lines, dashboards and clusters an authorization server
//! ([`routes`]). It shares nothing with any cluster: a cluster trusts its tokens by its published keys ([`keys`]), and
//! docs/AUTH_CATALOG.md tells both stories. All state is in a PostgreSQL database of its own.

pub mod claims;
pub mod code;
pub mod config;
pub mod core;
pub mod error;
pub mod github;
pub mod keys;
pub mod metrics;
pub mod page;
pub mod policy;
pub mod purge;
pub mod routes;
pub mod sealed;
pub mod secret;
pub mod store;

use config::Config;
use error::Error;
use keys::Keyring;
use metrics::Logins;
use routes::App;
use std::{net::SocketAddr, time::Duration};
use tokio::net::TcpListener;
use zectre_service::{
    key::{self, KeyError, MasterKey, MetricsKey},
    listen,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
};

/// Its name in logs, answers and the database.
pub const NAME: &str = "zectre-catalog";

/// How long background work may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// The catalog, bound and ready to run.
pub struct Service {
    listener: TcpListener,
    address: SocketAddr,
    base: Base,
    app: App,
    limits: Limits,
}

impl Service {
    /// Connects, brings the database to this version, opens the keys (the first start makes one), and binds.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let master = MasterKey::find(&config.secrets.master_key_file)?;
        let master = master.ok_or(KeyError::NotSet("master_key_file"))?;
        let metrics = key::read("metrics_token_file", &config.secrets.metrics_token_file)?;
        let callback = format!("{}/oauth/github/callback", config.server.public_url);
        let github = github::Github::new(&config.github, config.client_secret()?, callback);
        let pool = store::connect(&config.database).await?;
        let keyring = Keyring::open(pool.clone(), master.clone(), config.tokens.clone()).await?;
        // Its variables are its own.
        let key = "ZECTRE_CATALOG_SERVER__PORT";
        let listener = listen::bind_with_key(NAME, key, &config.server.host, config.server.port).await?;
        let address = listener.local_addr().map_err(Error::Serve)?;
        let base = Base::new(NAME).readable_by(metrics.map(MetricsKey::from_bytes));
        let logins = Logins::new(&base.metrics);
        let app = App::new(config, pool, keyring, github, master, logins);
        watch(&base, &app);
        let limits = Limits {
            request_timeout: Some(Duration::from_millis(config.server.request_timeout_ms)),
            concurrency_max: config.server.concurrency_max,
            ..Limits::default()
        };
        Ok(Self {
            listener,
            address,
            base,
            app,
            limits,
        })
    }

    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Runs until `shutdown` is requested.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let tasks = Tasks::new(shutdown.clone());
        let (keys, pool) = (self.app.clone(), self.app.pool.clone());
        tasks.spawn(
            "keys",
            |stop| async move { keys::maintain(&keys.keyring, stop).await },
        );
        tasks.spawn("purge", |stop| async move { purge::run(&pool, stop).await });
        let router = self.base.wrap(routes::router(&self.app), self.limits);
        tracing::info!(address = %self.address, "the catalog is up");
        if !self.app.issuer_is_safe() {
            tracing::warn!(
                "server.public_url is http:// and no loopback address: codes and tokens can be read on their way"
            );
        }
        server::serve(self.listener, router, self.limits, shutdown).await;
        tasks.stop(STOP).await;
        self.app.pool.close().await;
        Ok(())
    }
}

/// Without its database or a key that signs it gives nobody a token.
fn watch(base: &Base, app: &App) {
    let (pool, app) = (app.pool.clone(), app.clone());
    base.health.check("database", move || {
        let pool = pool.clone();
        async move {
            store::ping(&pool)
                .await
                .map(drop)
                .map_err(|error| error.to_string())
        }
    });
    base.health.check("signing key", move || {
        let app = app.clone();
        async move { app.keyring.check().await.map_err(|error| error.to_string()) }
    });
}
