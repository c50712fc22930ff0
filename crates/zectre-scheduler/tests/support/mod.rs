//! A scheduler on a database of its own, an agent that speaks the protocol over real HTTP, and the rows that
//! the API would write.

pub(crate) mod agent;
pub(crate) mod rows;

use std::time::Duration;
use tempfile::TempDir;
use zectre_common::{config::Config, wire::scheduler::SchedulerStatus};
use zectre_scheduler::Service;
use zectre_service::{
    call::{CallError, Caller},
    key::{Keys, ServiceKey, ensure_key_file},
    tasks::Shutdown,
    token::name,
};
use zectre_testkit::{TestDatabase, wait_until};

/// How long anything in these tests may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One cluster.
pub(crate) struct World {
    pub(crate) database: TestDatabase,
    pub(crate) keys: TempDir,
    pub(crate) key: ServiceKey,
    pub(crate) api: Caller,
}

impl World {
    pub(crate) async fn new() -> Self {
        let keys = TempDir::new().expect("a temporary directory");
        for name in ["service", "master"] {
            ensure_key_file(&keys.path().join(name)).expect("the directory is writable");
        }
        let database = TestDatabase::create().await;
        let mut world = Self {
            database,
            key: ServiceKey::from_bytes([0; 32]),
            keys,
            api: Caller::with_identity(zectre_service::call::Identity::Anonymous),
        };
        world.key = Keys::load(&world.config("").secrets)
            .and_then(|keys| keys.service())
            .expect("the key was just made");
        world.api = Caller::new(name::API, world.key.clone());
        world
    }

    pub(crate) fn config(&self, more: &str) -> Config {
        let keys = self.keys.path().display();
        let overrides = format!(
            "[scheduler]\nport = 0\nheartbeat_ms = 100\nnode_lease_ms = 1500\ndrain_timeout_ms = 2000\nbackoff_initial_ms = 20\n{more}\n\
             [secrets]\nservice_key_file = \"{keys}/service\"\nmaster_key_file = \"{keys}/master\"\n"
        );
        let mut config = Config::load_with(None, &overrides).expect("valid");
        config.database.url = self.database.url();
        config
    }

    pub(crate) async fn scheduler(&self) -> Scheduler {
        // A runtime of its own: dropping it is as sudden as `kill -9`.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be made");
        let config = self.config("");
        let service = runtime.spawn(async move { Service::new(&config).await }).await;
        let service = service.expect("no panic").expect("it starts");
        let url = format!("http://{}", service.address());
        let shutdown = Shutdown::new();
        let run = runtime.spawn(service.run(shutdown.clone()));
        Scheduler {
            url,
            shutdown,
            run: Some(run),
            runtime: Some(runtime),
            api: self.api.clone(),
        }
    }
}

/// One scheduler process's worth.
pub(crate) struct Scheduler {
    pub(crate) url: String,
    shutdown: Shutdown,
    run: Option<tokio::task::JoinHandle<Result<(), zectre_scheduler::Error>>>,
    runtime: Option<tokio::runtime::Runtime>,
    api: Caller,
}

impl Scheduler {
    pub(crate) async fn status(&self) -> Result<SchedulerStatus, CallError> {
        let url = format!("{}/api/v1/scheduler/status", self.url);
        self.api.get_json(&url, name::SCHEDULER, PATIENCE).await
    }

    pub(crate) async fn leads(&self) {
        wait_until(PATIENCE, "the scheduler leads", async || {
            self.status().await.ok().filter(|status| status.leader).map(drop)
        })
        .await;
    }

    pub(crate) async fn nudge(&self) {
        let url = format!("{}/api/v1/scheduler/deploy", self.url);
        let body = serde_json::json!({ "deployment_id": null });
        let _: serde_json::Value = self
            .api
            .post_json(&url, name::SCHEDULER, &body, PATIENCE)
            .await
            .expect("accepted");
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        self.shutdown.request();
        let run = self.run.take().expect("it is stopped once");
        run.await.expect("no panic").expect("it stops without an error");
    }
}

impl Drop for Scheduler {
    /// Ends it without a word to anyone.
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
