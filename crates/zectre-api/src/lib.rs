//! The public REST API.
//!
//! Read in this order: [`policy`] says who may call what and enforces it, `routes` holds the handlers, one file
//! a resource, `store` the SQL behind them. A write is one transaction with the wanted columns, an operation for
//! the scheduler and an event (`store::change`); the call to the scheduler after it is only a nudge.

mod attempts;
pub mod bootstrap;
mod catalog;
mod cli_login;
pub mod code;
mod context;
mod domain;
mod email;
mod endpoint;
mod error;
mod fanout;
mod forge;
mod handler;
mod idempotency;
mod identity;
mod let_in;
mod login_token;
mod maintenance;
mod metrics;
pub mod openapi;
mod outside;
mod page;
mod password;
pub mod policy;
mod quota;
pub mod reference;
mod registry;
pub mod rotation;
mod routes;
mod scheduler;
mod scope;
mod sign_in;
mod sse;
mod store;
mod streams;
mod unclaimed;
mod urls;
mod webhook;

pub use error::Error;

use attempts::Attempts;
use axum::{
    Router,
    response::Html,
    routing::{MethodRouter, get},
};
use context::{Context, Inner, Settings};
use fanout::Fanout;
use http::header;
use maintenance::LogBounds;
use sqlx::PgPool;
use std::{
    net::SocketAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};
use store::rows::Lists;
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
};
use utoipa_axum::router::OpenApiRouter;
use zectre_common::{config::Config, db, wire::quota::Amounts};
use zectre_service::{
    call::Caller,
    forwarded::{self, Trust},
    key::Keys,
    listen,
    server::{self, Base, Limits},
    tasks::{Shutdown, Tasks},
    token::name,
};

/// How long background work may take to stop.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// The API, bound to its port and ready to run.
pub struct Service {
    base: Base,
    limits: Limits,
    listener: TcpListener,
    address: SocketAddr,
    context: Context,
    logs: LogBounds,
    /// Whose word counts on who a request is from.
    trust: Trust,
    /// How long a build waits while no worker lives.
    worker_timeout: Duration,
    /// Ends streams before the listener drains.
    streams: Shutdown,
}

impl Service {
    /// Loads keys, connects and migrates the database, and binds the port.
    ///
    /// # Errors
    /// A missing key, a database that does not answer, a taken port: one sentence that says what to do.
    pub async fn new(config: &Config) -> Result<Self, Error> {
        let keys = Keys::load(&config.secrets)?;
        let (service_key, token_key, master_key) = (keys.service()?, keys.token()?, keys.master()?);
        let listener = listen::bind(name::API, "api", &config.api.host, config.api.port).await?;
        let address = listener
            .local_addr()
            .map_err(|error| Error::Internal(format!("the listener has no address: {error}")))?;
        let (url, connections_max) = (&config.database.url, config.database.connections_max);
        // A quarter for lists, which never take what is written and woken with.
        let for_lists = (connections_max / 4).max(1);
        let lists = Lists::new(url, for_lists)?;
        let pool = db::connect(url, name::API, (connections_max - for_lists).max(1)).await?;
        db::migrate(&pool).await?;
        maintenance::prepare(&pool).await?;
        let catalog = catalog::Catalog::new(&config.auth, &pool).await?;
        let base = Base::new(name::API).readable_by(keys.metrics());
        let checked = pool.clone();
        base.health
            .check("database", move || database_answers(checked.clone()));
        // What people say from now on would be sealed with a key that a rotation may have forgotten.
        let ring = master_key.clone();
        base.health
            .check("master keys", move || std::future::ready(ring.check()));
        let streams = Shutdown::new();
        let context = Context::new(Inner {
            pool,
            lists,
            caller: Caller::new(name::API, service_key.clone()),
            service_key,
            token_key,
            master_key,
            urls: urls::Urls::new(config),
            scheduler: scheduler::Asked::new(&config.scheduler.public_url),
            settings: settings(config),
            attempts: Attempts::default(),
            catalog,
            fanout: Fanout::new(),
            domains: domain::look::Looker::new(&config.domains),
            claimed: Notify::new(),
            poster: outside::post::Poster::new(&config.webhooks, &config.domains),
            redelivered: Notify::new(),
            streams: streams::Streams::default(),
            inbound_checks: Arc::new(Semaphore::new(routes::CHECKS_AT_ONCE)),
            shutdown: streams.clone(),
        });
        let limits = Limits {
            body_bytes_max: config.api.body_bytes_max,
            // Each endpoint's guard bounds its time: streams, uploads and wakes may take longer than the others.
            request_timeout: None,
            concurrency_max: config.api.concurrency_max,
            ..Limits::default()
        };
        Ok(Self {
            base,
            limits,
            listener,
            address,
            context,
            logs: LogBounds {
                days: config.logs.task_retention_days,
                bytes_max: config.logs.task_bytes_max,
            },
            trust: Trust {
                peers: config.api.trusted_peers.clone(),
                header: config.api.trusted_header,
            },
            worker_timeout: Duration::from_secs(config.build.worker_timeout_secs),
            streams,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until the shutdown is requested, then drains.
    ///
    /// # Errors
    /// None once it runs; the type is that of every service.
    pub async fn run(self, shutdown: Shutdown) -> Result<(), Error> {
        let tasks = Tasks::new(shutdown.clone());
        let (context, pool) = (self.context.clone(), self.context.pool.clone());
        tasks.spawn("maintenance", {
            let (pool, logs) = (pool.clone(), self.logs);
            move |stop| maintenance::run(pool, logs, stop)
        });
        tasks.spawn("metrics", {
            let pool = pool.clone();
            move |stop| metrics::rollup::run(pool, stop)
        });
        tasks.spawn("metrics-age", {
            let (pool, keeps) = (pool.clone(), context.settings.metrics_keep);
            move |stop| metrics::forget::run(pool, keeps, stop)
        });
        tasks.spawn("fanout", {
            let (pool, fanout) = (pool.clone(), context.fanout.clone());
            move |stop| fanout.run(pool, stop)
        });
        tasks.spawn("unclaimed", {
            let (pool, patience) = (pool.clone(), self.worker_timeout);
            move |stop| unclaimed::run(pool, patience, stop)
        });
        tasks.spawn("domains", {
            let context = context.clone();
            move |stop| domain::recheck::run(context, stop)
        });
        tasks.spawn("catalog", {
            let context = context.clone();
            move |stop| async move {
                match &context.catalog {
                    Some(catalog) => catalog.run(&context.pool, stop).await,
                    None => stop.requested().await,
                }
            }
        });
        tasks.spawn("webhooks", {
            let context = context.clone();
            move |stop| webhook::deliver::run(context, stop)
        });
        tasks.spawn("streams", {
            let (shutdown, streams) = (shutdown.clone(), self.streams);
            move |stop| async move {
                // Streams never end by themselves: they must before the listener waits for them.
                shutdown.requested().await;
                streams.request();
                stop.requested().await;
            }
        });
        tracing::info!(address = %self.address, "listening");
        let router = forwarded::believing(router(&context), self.trust);
        let router = self.base.wrap(router, self.limits);
        server::serve(self.listener, router, self.limits, shutdown).await;
        tasks.stop(STOP_DEADLINE).await;
        pool.close().await;
        Ok(())
    }
}

fn settings(config: &Config) -> Settings {
    Settings {
        signup: config.auth.signup,
        quotas: Amounts {
            applications: config.quotas.applications_max,
            tasks: config.quotas.tasks_max,
            cpu_millis: config.quotas.cpu_millis_max,
            memory_bytes: config.quotas.memory_bytes_max,
            artifact_bytes: config.quotas.artifact_bytes_max,
        },
        orgs_per_user_max: config.quotas.orgs_per_user_max,
        namespaces_per_org_max: config.quotas.namespaces_per_org_max,
        token_ttl: Duration::from_secs(config.auth.token_ttl_secs),
        catalog_roles_ttl: Duration::from_secs(config.auth.catalog_roles_ttl_secs),
        request_timeout: Duration::from_millis(config.api.request_timeout_ms),
        stream_recheck: Duration::from_millis(config.api.stream_recheck_ms),
        body_bytes_max: config.api.body_bytes_max,
        wake_timeout: Duration::from_millis(config.proxy.wake_timeout_ms),
        max_runtime_secs_cap: config.scheduler.max_runtime_secs_cap,
        source_bytes_max: config.build.source_bytes_max,
        artifact_bytes_max: config.registry.artifact_bytes_max,
        domain_pending_ttl_secs: config.domains.pending_ttl_secs,
        git_sources: config.build.git_sources.clone(),
        metrics_keep: metrics::keeps(&config.metrics),
    }
}

async fn database_answers(pool: PgPool) -> Result<(), String> {
    pool.acquire()
        .await
        .map(drop)
        .map_err(|error| format!("it does not answer: {error}"))
}

fn router(context: &Context) -> Router {
    let endpoints = routes::endpoints();
    let inner = endpoints
        .into_iter()
        .fold(OpenApiRouter::new(), |router, endpoint| {
            endpoint.route(router, context)
        });
    let (inner, _) = inner.split_for_parts();
    let (document, page) = documents();
    Router::new()
        .nest(
            openapi::PREFIX,
            inner.with_state(context.clone()).route("/openapi.json", document),
        )
        .route("/docs", page)
        .merge(routes::cli_page::router(context))
}

/// The two pages about the API itself: public, and the same for everyone. They are written when somebody first asks for one,
/// aside of all other requests: that takes as long as the rest of the start.
fn documents() -> (MethodRouter, MethodRouter) {
    static JSON: LazyLock<String> = LazyLock::new(openapi::json);
    static PAGE: LazyLock<String> =
        LazyLock::new(|| openapi::page(&serde_json::from_str(&JSON).expect("the document was just written")));
    async fn written(page: &'static LazyLock<String>) -> &'static str {
        let written = tokio::task::spawn_blocking(|| LazyLock::force(page).as_str());
        written.await.expect("writing it does not panic")
    }
    let document = get(async || ([(header::CONTENT_TYPE, "application/json")], written(&JSON).await));
    (document, get(async || Html(written(&PAGE).await)))
}
