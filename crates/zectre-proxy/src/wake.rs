//! One wake call a deployment, however many requests wait for it. The call belongs to nobody's connection:
//! a client that goes away doesn't take it along.
//!
//! The scheduler that leads is asked: each stop on the way there and back costs a request a third of a millisecond. Where it doesn't
//! answer or doesn't lead any more, and for a superseded version, whose coming back has to be written down first, it is the API.

use crate::{ingress::cause::publicly, leader::Leader, metrics::Metrics, table::Deployment, tables::Tables};
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zectre_common::{
    config::ProxyConfig,
    id::DeploymentId,
    wire::{deployment::WakeResponse, scheduler::WakeRequest, task::Phases},
};
use zectre_service::{
    call::{CallError, Caller},
    request_id,
    token::name,
};

/// The most by which the scheduler gives up before this proxy does: whoever is nearer to the cause tells it.
const MARGIN_MAX: Duration = Duration::from_secs(1);

/// Why a deployment could not be woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeFailure {
    /// Stable, `UPPER_SNAKE`.
    pub code: String,
    /// A sentence.
    pub detail: String,
}

/// How a wake went.
pub type WakeResult = Result<Phases, Arc<WakeFailure>>;

/// A wake call under way.
#[derive(Debug, Clone)]
pub struct Waking(watch::Receiver<Option<WakeResult>>);

impl Waking {
    /// What it said of its phases, if it has succeeded by now.
    pub fn phases(&self) -> Option<Phases> {
        self.0
            .borrow()
            .as_ref()
            .and_then(|result| result.as_ref().ok().copied())
    }

    /// Waits for its result.
    pub async fn result(&mut self) -> WakeResult {
        let answered = self.0.wait_for(Option::is_some).await;
        match answered.as_deref() {
            Ok(Some(result)) => result.clone(),
            _ => Err(Arc::new(WakeFailure {
                code: "WAKE_FAILED".into(),
                detail: "the wake call was given up: the proxy is stopping".into(),
            })),
        }
    }
}

/// How wake calls run.
#[derive(Debug)]
pub struct Calls {
    /// For one call.
    pub timeout: Duration,
    /// Runs them.
    pub tasks: TaskTracker,
    /// Gives them up.
    pub cut: CancellationToken,
}

impl Calls {
    /// By the configuration.
    pub fn new(proxy: &ProxyConfig, tasks: &TaskTracker, cut: &CancellationToken) -> Self {
        Self {
            timeout: Duration::from_millis(proxy.wake_timeout_ms),
            tasks: tasks.clone(),
            cut: cut.clone(),
        }
    }
}

/// Makes wake calls.
#[derive(Debug)]
pub struct Waker {
    caller: Caller,
    leader: Arc<Leader>,
    /// Without a trailing slash.
    api_url: String,
    tables: Arc<Tables>,
    metrics: Metrics,
    calls: Calls,
}

impl Waker {
    /// Calls `leader`, or the API at `api_url`.
    pub fn new(
        caller: Caller,
        leader: Arc<Leader>,
        api_url: &str,
        tables: Arc<Tables>,
        metrics: Metrics,
        calls: Calls,
    ) -> Self {
        Self {
            caller,
            leader,
            api_url: api_url.trim_end_matches('/').to_owned(),
            tables,
            metrics,
            calls,
        }
    }

    /// Whom it calls first.
    pub fn leader(&self) -> Arc<Leader> {
        Arc::clone(&self.leader)
    }

    /// The wake call of `deployment`: the one under way, or a new one on behalf of the request `id`.
    pub fn wake(self: &Arc<Self>, deployment: &Arc<Deployment>, id: &str) -> Waking {
        let mut slot = deployment
            .traffic
            .waking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waking) = &*slot {
            return waking.clone();
        }
        let (answer, waking) = watch::channel(None);
        let waking = Waking(waking);
        *slot = Some(waking.clone());
        drop(slot);
        let call = Arc::clone(self).call(Arc::clone(deployment), answer);
        let (id, cut) = (id.to_owned(), self.calls.cut.clone());
        self.calls
            .tasks
            .spawn(async move { cut.run_until_cancelled(request_id::scope(id, call)).await });
        waking
    }

    async fn call(self: Arc<Self>, deployment: Arc<Deployment>, answer: watch::Sender<Option<WakeResult>>) {
        let started = Instant::now();
        let result = match self.ask(&deployment, started).await {
            Ok(phases) => {
                self.metrics.wakes.inc();
                self.metrics.wake_seconds.observe(started.elapsed().as_secs_f64());
                Ok(phases)
            }
            Err(error) => {
                self.metrics.wakes_failed.inc();
                tracing::warn!(deployment = %deployment.id, %error, "a deployment could not be woken");
                Err(Arc::new(explain(&error)))
            }
        };
        // First the replicas, then the slot, then the news: a request in between finds one or the other.
        *deployment
            .traffic
            .waking
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = None;
        answer.send_replace(Some(result));
    }
}

impl Waker {
    /// Asks, and once more when the table was newer than the answer, whose tasks may be gone by then. A second such answer means
    /// that the table is about to tell of them.
    async fn ask(&self, deployment: &Deployment, started: Instant) -> Result<Phases, CallError> {
        let mut is_second = false;
        loop {
            let answer = match self.ask_scheduler(deployment.id, started).await {
                Some(answer) => answer?,
                None => self.ask_api(deployment.id, started).await?,
            };
            let ledger = self.tables.ledger();
            if ledger.wake(&deployment.traffic, deployment.http2, &answer) || is_second {
                return Ok(answer.phases);
            }
            is_second = true;
        }
    }
}

impl Waker {
    fn left(&self, started: Instant) -> Duration {
        self.calls.timeout.saturating_sub(started.elapsed())
    }

    async fn ask_api(&self, id: DeploymentId, started: Instant) -> Result<WakeResponse, CallError> {
        let url = format!("{}/api/v1/deployments/{id}/wake?wait=ready", self.api_url);
        let body = serde_json::json!({});
        self.caller
            .post_json(&url, name::API, &body, self.left(started))
            .await
    }

    /// What the leader says of the deployment; `None` where the API has to be asked.
    async fn ask_scheduler(
        &self,
        id: DeploymentId,
        started: Instant,
    ) -> Option<Result<WakeResponse, CallError>> {
        let leader = self.leader.url(Instant::now())?;
        let left = self.left(started);
        let body = WakeRequest {
            deployment_id: id,
            wait_ms: left.saturating_sub((left / 10).min(MARGIN_MAX)).as_millis() as u64,
            unless_superseded: true,
        };
        let url = format!("{leader}/api/v1/scheduler/wake");
        let answer = self.caller.post_json(&url, name::SCHEDULER, &body, left).await;
        match &answer {
            Ok(_) | Err(CallError::Refused { .. }) => self.leader.has_answered(&leader),
            Err(CallError::Unreachable { .. } | CallError::Nonsense { .. }) => {
                self.leader.is_silent(&leader, Instant::now());
            }
        }
        let Err(error) = &answer else {
            return Some(answer);
        };
        if is_final(error) {
            return Some(answer);
        }
        tracing::debug!(deployment = %id, %error, "the API is asked for a wake");
        None
    }
}

/// Whether the scheduler has spoken about the deployment, so that the API could say nothing else.
fn is_final(error: &CallError) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| problem.status == 503 && problem.code != "NOT_LEADER")
}

fn explain(error: &CallError) -> WakeFailure {
    match error.problem() {
        // That the platform's parts don't trust each other is no visitor's business.
        Some(problem) if !matches!(problem.status, 401 | 403) => WakeFailure {
            code: problem.code.clone(),
            detail: match problem.code.to_ascii_lowercase().parse() {
                Ok(reason) => publicly(reason).into(),
                Err(_) => problem.detail.clone(),
            },
        },
        _ => WakeFailure {
            code: "WAKE_UNAVAILABLE".into(),
            detail: "the part of the platform that wakes deployments does not answer; try again".into(),
        },
    }
}
