//! The scheduler as a service: wiring only.

use crate::{
    core::Settings,
    error::Error,
    handle::QUEUE_MAX,
    leader::{Candidate, CurrentTerm},
    metrics::Metrics,
    order::Composer,
    routes::{self, App},
    store::Store,
    usage::UsageBoard,
    wake::WAITERS_MAX,
};
use axum::Router;
use sqlx::postgres::PgConnectOptions;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{net::TcpListener, sync::watch};
use zectre_common::{config::Config, db};
use zectre_service::{
    call::Caller,
    key::Keys,
    listen,
    server::{self, Apart, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::name,
};

/// How long all parts together may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

/// Heartbeats handled at once, beside all other requests: as many as the engine's queue holds. An agent sends one at a
/// time, and what a fleet has to tell besides may wait for commits in every other place.
const HEARTBEATS_MAX: usize = QUEUE_MAX;
/// What has room of its own: the signs of life, and what may wait for as long as a start takes.
const APART: [Apart; 2] = [
    Apart {
        path: routes::HEARTBEAT,
        concurrency_max: HEARTBEATS_MAX,
    },
    Apart {
        path: routes::WAKE,
        concurrency_max: WAITERS_MAX,
    },
];
/// Open connections: an agent keeps one for its heartbeats, and another for its news while there are any.
const CONNECTIONS_MAX: usize = 16_384;

/// A scheduler: connected and listening, not deciding yet.
pub struct Service {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    limits: Limits,
    candidate: Candidate,
    usage: Arc<UsageBoard>,
}

fn limits() -> Limits {
    Limits {
        apart: &APART,
        connections_max: CONNECTIONS_MAX,
        ..Limits::default()
    }
}

impl Service {
    /// Connects, loads the keys and opens the port. The port 0 takes a free one.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let keys = Keys::load(&config.secrets)?;
        let key = keys.service()?;
        let options: PgConnectOptions = db::options(&config.database.url, name::SCHEDULER)?;
        let pool = db::connect(
            &config.database.url,
            name::SCHEDULER,
            config.database.connections_max,
        )
        .await?;
        db::migrate(&pool).await?;
        let scheduler = &config.scheduler;
        let listener = listen::bind(name::SCHEDULER, "scheduler", &scheduler.host, scheduler.port).await?;
        let address = listener.local_addr().map_err(sqlx::Error::Io)?;
        // With a port of the system's choice, the configured URL can't be right.
        let own_url = if scheduler.port == 0 {
            format!("http://{address}")
        } else {
            scheduler.public_url.clone()
        };
        let own_url = own_url.trim_end_matches('/').to_owned();

        let base = Base::new(name::SCHEDULER).readable_by(keys.metrics());
        let metrics = Metrics::new(&base.metrics);
        let (store, settings) = (Store::new(pool.clone()), Settings::from(scheduler));
        let caller = Caller::new(name::SCHEDULER, key.clone());
        let composer = Composer {
            store: store.clone(),
            service_key: key.clone(),
            master_key: keys.master().ok(),
            registry_url: config.registry.public_url.clone(),
            url_ttl: Duration::from_secs(config.registry.url_ttl_secs),
            max_runtime_secs_cap: scheduler.max_runtime_secs_cap,
        };
        let (term, current) = watch::channel(None);
        base.health.note_keys(keys.master().ok());
        base.health.check("database", move || {
            let pool = pool.clone();
            async move { pool.acquire().await.map(drop).map_err(|error| error.to_string()) }
        });
        let usage = Arc::<UsageBoard>::default();
        let app = App {
            term: current,
            store: store.clone(),
            composer: composer.clone(),
            caller: caller.clone(),
            key,
            settings,
            usage: Arc::clone(&usage),
            address: own_url.clone(),
        };
        let limits = limits();
        let router = base.wrap(routes::router(app), limits);
        let candidate = Candidate {
            options,
            address: own_url,
            store,
            settings,
            composer,
            caller,
            metrics,
            term,
        };
        Ok(Self {
            listener,
            address,
            router,
            limits,
            candidate,
            usage,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The term under way here, for whoever runs this and wants to look at its state.
    pub fn term(&self) -> CurrentTerm {
        self.candidate.term.subscribe()
    }

    /// Serves, and stands for election, until `shutdown` is requested.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let Self {
            listener,
            router,
            limits,
            candidate,
            usage,
            ..
        } = self;
        let store = candidate.store.clone();
        let tasks = Tasks::new(shutdown.clone());
        tasks.spawn("leader", |stop| candidate.run(stop));
        tasks.spawn("usage", |stop| async move { usage.run(store, stop).await });
        tasks.spawn("http", |stop| server::serve(listener, router, limits, stop));
        shutdown.requested().await;
        tasks.stop(STOP_TIMEOUT).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A wake holds its place for as long as a start takes: of those there are as many places as may wait.
    #[test]
    fn what_waits_and_what_lives_has_room_apart_from_all_else() {
        let room = |path| {
            let own = limits().apart.iter().find(|apart| apart.path == path);
            own.map(|apart| apart.concurrency_max)
        };
        assert_eq!(room(routes::WAKE), Some(WAITERS_MAX));
        assert_eq!(room(routes::HEARTBEAT), Some(HEARTBEATS_MAX));
        assert_eq!(room("/api/v1/scheduler/deploy"), None);
    }
}
