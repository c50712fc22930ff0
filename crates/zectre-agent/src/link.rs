//! The link to the scheduler: registration, heartbeats, and news in between.
//!
//! The scheduler may be away for any time; tasks run on, and the next heartbeat carries everything.

use crate::{
    error::Error,
    host::Host,
    identity::{Identities, Identity},
    machine,
    orders::Orders,
};
use http::StatusCode;
use secrecy::ExposeSecret;
use serde::{Serialize, de::DeserializeOwned};
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::sync::watch;
use zectre_common::{
    config::{AgentConfig, Config},
    wire::{
        agent::ACTIONS_MAX,
        scheduler::{
            HeartbeatRequest, HeartbeatResponse, NeededRequest, NeededResponse, RegisterRequest,
            RegisterResponse, TaskReportsRequest,
        },
    },
};
use zectre_service::{
    call::{CallError, Caller},
    tasks::Shutdown,
    token::name,
};

/// How long one call to the scheduler may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failed call; doubled for each more in a row.
const PAUSE_MIN: Duration = Duration::from_millis(25);
/// The longest such pause: what a return of the scheduler may go unnoticed.
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The link to the scheduler.
pub(crate) struct Link {
    pub(crate) host: Arc<Host>,
    pub(crate) orders: Arc<Orders>,
    pub(crate) identities: Arc<Identities>,
    pub(crate) caller: Caller,
    pub(crate) schedulers: Schedulers,
    pub(crate) actions_port: u16,
    /// Whether the scheduler has heard from this agent what the node has, since it started.
    pub(crate) is_registered: watch::Sender<bool>,
}

/// Where the schedulers are. Any of them will do: one that doesn't lead hands on to the one that does.
pub(crate) struct Schedulers {
    /// Without a slash at the end; never empty.
    urls: Vec<String>,
    at: AtomicUsize,
}

impl Schedulers {
    /// From the configuration: addresses separated by commas.
    pub(crate) fn new(config: &Config) -> Self {
        let configured = &config.agent.scheduler_address;
        let text = if configured.is_empty() {
            &config.scheduler.public_url
        } else {
            configured
        };
        let urls = text
            .split(',')
            .map(|url| url.trim().trim_end_matches('/').to_owned());
        Self {
            urls: urls.collect(),
            at: AtomicUsize::new(0),
        }
    }

    /// The one that is asked.
    pub(crate) fn current(&self) -> &str {
        let at = self.at.load(Ordering::Relaxed) % self.urls.len();
        &self.urls[at]
    }

    /// The one that answered for `url` could not: the next one is asked, unless that has been decided already.
    fn pass_on(&self, url: &str) {
        let at = self.at.load(Ordering::Relaxed);
        if url.starts_with(self.current()) && self.urls.len() > 1 {
            let next = (at + 1) % self.urls.len();
            // Somebody else may have decided so just now: then the call failed for both.
            let _ = self
                .at
                .compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        }
    }
}

/// Doubles up to its bound.
struct Pause(Duration);

impl Pause {
    const fn new() -> Self {
        Self(PAUSE_MIN)
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(PAUSE_MAX);
    }
}

impl Link {
    fn url(&self, path: &str) -> String {
        format!("{}/api/v1/nodes/{path}", self.schedulers.current())
    }

    /// Registers, then heartbeats, until `stop`.
    pub(crate) async fn keep(self: Arc<Self>, stop: Shutdown) {
        stop.or_requested(async {
            loop {
                let (identity, interval) = self.register().await;
                self.heartbeat(&identity, interval).await;
            }
        })
        .await;
    }

    /// Registers, however long it takes.
    async fn register(&self) -> (Identity, Duration) {
        let mut pause = Pause::new();
        loop {
            match self.try_register().await {
                Ok(Some(registered)) => return registered,
                Ok(None) => tracing::error!("the scheduler gave a credential that is no key"),
                Err(error) => tracing::warn!(error = %error, "not registered yet; trying again"),
            }
            pause.wait().await;
        }
    }

    async fn try_register(
        &self,
    ) -> Result<Option<(Identity, Duration)>, Box<dyn std::error::Error + Send + Sync>> {
        let request = registration(&self.host, self.actions_port);
        let response = match self.identities.current() {
            Some(identity) => match self
                .send_registration(&identity.token(name::SCHEDULER), &request)
                .await
            {
                // Another cluster's, or one whose database was made anew: the join token can still admit us.
                Err(error) if is_unknown(&error) && has_join_token(&self.host.config) => {
                    tracing::warn!(%error, "the credential is refused; joining anew");
                    self.join(&request).await?
                }
                sent => sent?,
            },
            None => self.join(&request).await?,
        };
        if !self.identities.keep(&response)? {
            return Ok(None);
        }
        let interval = Duration::from_millis(response.heartbeat_ms.clamp(10, 60_000));
        tracing::info!(node = %response.node_id, "registered");
        self.is_registered.send_replace(true);
        Ok(self.identities.current().map(|identity| (identity, interval)))
    }

    async fn join(
        &self,
        request: &RegisterRequest,
    ) -> Result<RegisterResponse, Box<dyn std::error::Error + Send + Sync>> {
        if !has_join_token(&self.host.config) {
            return Err(Error::NoJoinToken.into());
        }
        Ok(self
            .send_registration(self.host.config.join_token.expose_secret(), request)
            .await?)
    }

    async fn send_registration(
        &self,
        token: &str,
        request: &RegisterRequest,
    ) -> Result<RegisterResponse, CallError> {
        self.call("register", token, request, CALL_TIMEOUT).await
    }

    /// One call. When the scheduler can't answer it, the next call goes to the next one.
    async fn call<B: Serialize + Sync, A: DeserializeOwned>(
        &self,
        path: &str,
        token: &str,
        request: &B,
        timeout: Duration,
    ) -> Result<A, CallError> {
        let url = self.url(path);
        let answer = self.caller.post_json_as(&url, token, request, timeout).await;
        if let Err(error) = &answer
            && error.problem().is_none_or(|problem| problem.status >= 500)
        {
            self.schedulers.pass_on(&url);
        }
        answer
    }

    /// Which of these artifacts and images the cluster needs.
    pub(crate) async fn needed(
        &self,
        identity: &Identity,
        request: &NeededRequest,
    ) -> Result<NeededResponse, CallError> {
        let token = identity.token(name::SCHEDULER);
        self.call("needed", &token, request, CALL_TIMEOUT).await
    }

    /// Heartbeats until the scheduler doesn't know this node any more.
    async fn heartbeat(&self, identity: &Identity, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Past this, the lease is in danger: better a new attempt.
        let timeout = (interval * 2).clamp(Duration::from_millis(500), CALL_TIMEOUT);
        let mut engine = self.host.engine.changes();
        let registered_with_engine = engine.borrow_and_update().is_some();
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = engine.wait_for(|engine| engine.is_some() != registered_with_engine) => {
                    // The scheduler must not place containers where none can run.
                    return;
                }
            }
            let request = HeartbeatRequest {
                node_id: identity.node_id,
                tasks: self.host.board.digest(),
            };
            let token = identity.token(name::SCHEDULER);
            let answer: Result<HeartbeatResponse, _> =
                self.call("heartbeat", &token, &request, timeout).await;
            match answer {
                Ok(answer) => self.obey(answer),
                Err(error) if is_unknown(&error) => {
                    tracing::warn!(%error, "the scheduler doesn't know this node; registering again");
                    return;
                }
                Err(error) => tracing::warn!(%error, "no heartbeat"),
            }
        }
    }

    fn obey(&self, answer: HeartbeatResponse) {
        if let Err(error) = self.orders.obey(answer.leader_epoch, answer.actions) {
            tracing::warn!(%error, "orders were not carried out");
        }
    }

    /// Tells news at once, until `stop`.
    pub(crate) async fn tell_news(self: Arc<Self>, stop: Shutdown) {
        stop.or_requested(async {
            let watch = self.identities.watch();
            let mut pause = Pause::new();
            loop {
                let reports = self.host.board.news(ACTIONS_MAX).await;
                let identity = watch.registered().await;
                let request = TaskReportsRequest { node_id: identity.node_id, tasks: reports };
                match self.tell(&identity, &request).await {
                    Ok(answer) => {
                        pause = Pause::new();
                        // What follows from the news comes with the answer: a start in the place of what ended.
                        self.obey(answer);
                    }
                    Err(error) => {
                        tracing::debug!(%error, "news could not be told; the next attempt or heartbeat carries them");
                        self.host.board.untold(&request.tasks);
                        pause.wait().await;
                    }
                }
            }
        })
        .await;
    }

    async fn tell(
        &self,
        identity: &Identity,
        request: &TaskReportsRequest,
    ) -> Result<HeartbeatResponse, CallError> {
        let token = identity.token(name::SCHEDULER);
        self.call("task-published-port", &token, request, CALL_TIMEOUT)
            .await
    }

    /// Tells once how everything stands, for an orderly end.
    pub(crate) async fn tell_all(&self, deadline: Duration) {
        let Some(identity) = self.identities.current() else {
            return;
        };
        for tasks in self.host.board.digest().chunks(ACTIONS_MAX) {
            let request = TaskReportsRequest {
                node_id: identity.node_id,
                tasks: tasks.to_vec(),
            };
            let told = tokio::time::timeout(deadline, self.tell(&identity, &request)).await;
            if !matches!(told, Ok(Ok(_))) {
                tracing::info!(
                    "the last reports could not be told; the scheduler will see that the tasks are gone"
                );
                return;
            }
        }
    }
}

fn has_join_token(config: &AgentConfig) -> bool {
    !config.join_token.expose_secret().is_empty()
}

/// Whether the scheduler has no such node, or not with this key.
fn is_unknown(error: &CallError) -> bool {
    error.problem().is_some_and(|problem| {
        [
            StatusCode::UNAUTHORIZED,
            StatusCode::FORBIDDEN,
            StatusCode::NOT_FOUND,
            StatusCode::GONE,
        ]
        .iter()
        .any(|status| status.as_u16() == problem.status)
    })
}

fn registration(host: &Host, actions_port: u16) -> RegisterRequest {
    let config = &host.config;
    RegisterRequest {
        name: machine::name(config),
        address: host.address.clone(),
        actions_port,
        labels: config.labels.clone(),
        capacity: machine::capacity(config),
        port_min: config.port_min,
        port_max: config.port_max,
        container_enabled: host.engine.current().is_some(),
        enforcement: host.enforcement.clone(),
    }
}
