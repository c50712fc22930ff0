//! A scheduler on a database of its own, an agent that speaks the protocol over real HTTP, and the rows that
//! the API would write.

pub(crate) mod agent;
pub(crate) mod line;
pub(crate) mod rows;

use line::Line;
use secrecy::ExposeSecret;
use std::{path::PathBuf, time::Duration};
use tempfile::TempDir;
use zectre_common::{config::Config, wire::scheduler::SchedulerStatus};
use zectre_scheduler::{Service, core::Cluster, handle::Handle, leader::CurrentTerm};
use zectre_service::{
    call::{CallError, Caller},
    key::{Keys, ServiceKey, ensure_key_file},
    tasks::Shutdown,
    token::name,
};
use zectre_testkit::{TestDatabase, wait_until};

/// How long anything in these tests may take, on a busy machine, too.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

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
        let mut config = Config::load_with(None, &self.overrides(more)).expect("valid");
        config.database.url = self.database.url();
        config
    }

    /// The same as a file, for a scheduler on this port.
    pub(crate) fn config_text(&self, port: u16) -> String {
        let url = self.database.url();
        let text = self.overrides(&format!("public_url = \"http://127.0.0.1:{port}\""));
        let text = text.replace("port = 0", &format!("port = {port}"));
        format!("[database]\nurl = \"{}\"\n{text}", url.expose_secret())
    }

    /// Where the database's socket is.
    pub(crate) fn socket_directory(&self) -> PathBuf {
        let url = self.database.url();
        let directory = url
            .expose_secret()
            .split_once("?host=")
            .expect("tests use a socket")
            .1;
        directory.into()
    }

    fn overrides(&self, more: &str) -> String {
        let keys = self.keys.path().display();
        format!(
            "[scheduler]\nport = 0\nheartbeat_ms = 100\nnode_lease_ms = 8000\ndrain_timeout_ms = 2000\nbackoff_initial_ms = 20\n{more}\n\
             [secrets]\nservice_key_file = \"{keys}/service\"\nmaster_key_file = \"{keys}/master\"\n"
        )
    }

    /// A scheduler that something else runs.
    pub(crate) fn reach(&self, url: String) -> Scheduler {
        Scheduler {
            url,
            shutdown: Shutdown::new(),
            run: None,
            runtime: None,
            term: None,
            api: self.api.clone(),
        }
    }

    pub(crate) async fn scheduler(&self) -> Scheduler {
        self.scheduler_with(self.config("")).await
    }

    /// A scheduler that reaches the database over `line`.
    pub(crate) async fn scheduler_over(&self, line: &Line) -> Scheduler {
        let mut config = self.config("");
        let (server, directory) = (self.socket_directory(), line.directory());
        let url = self.database.url();
        let url = url
            .expose_secret()
            .replace(&*server.to_string_lossy(), &directory.to_string_lossy());
        config.database.url = url.into();
        self.scheduler_with(config).await
    }

    /// A scheduler with a configuration of its own.
    pub(crate) async fn scheduler_with(&self, config: Config) -> Scheduler {
        // A runtime of its own: dropping it is as sudden as `kill -9`.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("threads can be made");
        let service = runtime.spawn(async move { Service::new(&config).await }).await;
        let service = service.expect("no panic").expect("it starts");
        let url = format!("http://{}", service.address());
        let (shutdown, term) = (Shutdown::new(), service.term());
        let run = runtime.spawn(service.run(shutdown.clone()));
        Scheduler {
            url,
            shutdown,
            run: Some(run),
            runtime: Some(runtime),
            term: Some(term),
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
    term: Option<CurrentTerm>,
    api: Caller,
}

impl Scheduler {
    /// A copy of the state that it decides by.
    pub(crate) async fn state(&self) -> Cluster {
        self.engine().look(Cluster::clone).await.expect("it leads")
    }

    /// Its engine.
    pub(crate) fn engine(&self) -> Handle {
        let term = self.term.as_ref().expect("it runs in this process");
        term.borrow().clone().expect("it leads").engine
    }

    /// Keeps its engine busy with one decision until `ended`.
    pub(crate) async fn busy_until<T>(&self, ended: impl Future<Output = T>) -> T {
        let (end, gate) = std::sync::mpsc::channel::<()>();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let engine = self.engine();
        let decision = engine.look(move |_| {
            begin.send(()).expect("it is waited for");
            // Ends with the sender.
            let _ = gate.recv();
        });
        let (_, ended) = tokio::join!(decision, async {
            begun.await.expect("the engine runs");
            let ended = ended.await;
            drop(end);
            ended
        });
        ended
    }

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

    /// The epoch it leads with, by its own word: `None` while it does not, or does not answer.
    pub(crate) async fn ready_epoch(&self) -> Option<u64> {
        self.status()
            .await
            .ok()
            .filter(|status| status.leader)
            .map(|status| status.epoch)
    }

    pub(crate) async fn nudge(&self) {
        self.try_nudge().await.expect("accepted");
    }

    pub(crate) async fn try_nudge(&self) -> Result<(), CallError> {
        let url = format!("{}/api/v1/scheduler/deploy", self.url);
        let body = serde_json::json!({ "deployment_id": null });
        let answer: Result<serde_json::Value, _> =
            self.api.post_json(&url, name::SCHEDULER, &body, PATIENCE).await;
        answer.map(drop)
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
