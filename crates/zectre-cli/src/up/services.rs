//! All services in one process: started one on the other, watched, and stopped in order.

use super::{bootstrap::Local, error::UpError};
use crate::error::CliError;
use std::{
    future::Future,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use zectre_agent::Killed;
use zectre_client::{Client, Credential};
use zectre_common::config::Config;
use zectre_service::tasks::Shutdown;

/// How long everything may take to be ready once it is started.
const READY_TIMEOUT: Duration = Duration::from_secs(60);
/// What is said when the node is what is waited for.
const NOT_REGISTERED: &str = "no node has joined";
/// How often readiness is asked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// What a service may take to stop beyond its own drain: its own deadlines are shorter.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// First to last. Nothing new comes in, nothing new is made, tasks end, and then those that record it.
const STOP_ORDER: &[&str] = &[
    "zectre-proxy",
    "zectre-build",
    "zectre-agent",
    "zectre-scheduler",
    "zectre-api",
    "zectre-registry",
];

/// A service that ended by itself.
pub(super) struct Ended {
    pub(super) name: &'static str,
    pub(super) why: String,
}

struct Running {
    name: &'static str,
    shutdown: Shutdown,
    stop_timeout: Duration,
}

/// The services of this process.
pub(super) struct Services {
    running: Vec<Running>,
    ends: JoinSet<(&'static str, Result<(), String>)>,
    /// Whether the scheduler knows what the node of this very start has.
    registration: watch::Receiver<bool>,
    /// Set by the agent when it has stopped.
    killed: Arc<OnceLock<Vec<Killed>>>,
}

/// One service: made, then run until its shutdown.
macro_rules! start {
    ($services:ident, $name:literal, $service:expr, $timeout:expr) => {{
        let service = $service.await.map_err(|error| UpError::ServiceStart {
            name: $name,
            why: error.to_string(),
        })?;
        $services.add($name, $timeout, |shutdown| async move {
            service.run(shutdown).await.map_err(|error| error.to_string())
        });
    }};
}

impl Services {
    pub(super) fn new() -> Self {
        Self {
            running: Vec::new(),
            ends: JoinSet::new(),
            registration: watch::channel(false).1,
            killed: Arc::default(),
        }
    }

    /// Starts all of them, each after what it needs.
    pub(super) async fn start_all(&mut self, config: &Config) -> Result<(), UpError> {
        let drain = Duration::from_millis(config.proxy.drain_timeout_ms);
        let programs = Duration::from_millis(config.agent.stop_timeout_ms);
        start!(
            self,
            "zectre-registry",
            zectre_registry::Service::new(config),
            STOP_TIMEOUT
        );
        start!(self, "zectre-api", zectre_api::Service::new(config), STOP_TIMEOUT);
        start!(
            self,
            "zectre-scheduler",
            zectre_scheduler::Service::new(config),
            STOP_TIMEOUT
        );
        start!(
            self,
            "zectre-build",
            zectre_build::Service::new(config),
            STOP_TIMEOUT
        );
        let agent = async {
            let mut agent = zectre_agent::Service::new(config).await?;
            self.registration = agent.registration();
            // When the platform of the only machine ends, nobody would look after its tasks.
            self.killed = agent.stop_tasks_on_shutdown();
            Ok::<_, zectre_agent::Error>(agent)
        };
        start!(self, "zectre-agent", agent, programs + STOP_TIMEOUT);
        start!(
            self,
            "zectre-proxy",
            zectre_proxy::Service::new(config),
            drain + STOP_TIMEOUT
        );
        Ok(())
    }

    fn add<F>(&mut self, name: &'static str, stop_timeout: Duration, run: impl FnOnce(Shutdown) -> F)
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let shutdown = Shutdown::new();
        let work = run(shutdown.clone());
        self.ends.spawn(async move { (name, work.await) });
        self.running.push(Running {
            name,
            shutdown,
            stop_timeout,
        });
    }

    /// Waits until the API says that everything is ready, and the local node has told what it has since this start: what
    /// the database holds of it may be of the one before.
    pub(super) async fn until_ready(&mut self, config: &Config, local: &Local) -> Result<(), CliError> {
        let client = Client::new(&config.api.public_url, Credential::ApiKey(local.api_key.clone()))?;
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        loop {
            let missing = tokio::select! {
                missing = missing(&client) => missing,
                Ended { name, why } = self.any_ended() => return Err(UpError::ServiceStart { name, why }.into()),
            };
            let is_registered = *self.registration.borrow();
            let why = missing.or_else(|| (!is_registered).then(|| NOT_REGISTERED.into()));
            let Some(why) = why else { return Ok(()) };
            if Instant::now() >= deadline {
                return Err(UpError::NotReady {
                    secs: READY_TIMEOUT.as_secs(),
                    why,
                }
                .into());
            }
            ticks.tick().await;
        }
    }

    /// Resolves when a service ends that nobody asked to.
    pub(super) async fn any_ended(&mut self) -> Ended {
        match self.ends.join_next().await {
            Some(Ok((name, result))) => {
                self.running.retain(|running| running.name != name);
                Ended {
                    name,
                    why: result.err().unwrap_or_else(|| "without a reason".into()),
                }
            }
            Some(Err(error)) => Ended {
                name: "a service",
                why: error.to_string(),
            },
            None => std::future::pending().await,
        }
    }

    /// Stops them one after the other; one that takes too long is cut off, and said so in the log.
    pub(super) async fn stop_all(&mut self) {
        for name in STOP_ORDER {
            let Some(position) = self.running.iter().position(|running| running.name == *name) else {
                continue;
            };
            let running = self.running.swap_remove(position);
            running.shutdown.request();
            let ended = async {
                while let Some(ended) = self.ends.join_next().await {
                    if matches!(&ended, Ok((ended, _)) if *ended == running.name) {
                        return;
                    }
                }
            };
            if tokio::time::timeout(running.stop_timeout, ended).await.is_err() {
                tracing::error!(
                    service = running.name,
                    "did not stop in time; going on without it"
                );
            }
        }
        self.ends.abort_all();
    }

    /// The programs that had to be killed.
    pub(super) fn killed(&self) -> Vec<Killed> {
        self.killed.get().cloned().unwrap_or_default()
    }

    /// Cuts all of them off.
    pub(super) fn abort_all(&mut self) {
        self.ends.abort_all();
    }
}

/// What isn't ready yet.
async fn missing(client: &Client) -> Option<String> {
    match client.cluster_status().await {
        Err(error) => Some(error.to_string()),
        Ok(status) => {
            // The builder may be compiling its cache, which takes minutes the first time; it queues meanwhile.
            let waiting = status
                .services
                .iter()
                .find(|service| !service.ready && service.name != "zectre-build");
            match waiting {
                Some(service) => Some(format!("{}: {}", service.name, service.reasons.join("; "))),
                None if status.nodes_ready == 0 => Some(NOT_REGISTERED.into()),
                None => None,
            }
        }
    }
}
