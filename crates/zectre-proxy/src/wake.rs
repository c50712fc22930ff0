//! One wake call a deployment, however many requests wait for it. The call belongs to nobody's connection:
//! a client that goes away doesn't take it along.
//!
//! The scheduler that leads is asked: each stop on the way there and back costs a request a third of a millisecond. Where it doesn't
//! answer or doesn't lead any more, or somebody else answers in its place, and for a superseded version, whose coming back has to be written down first, it is the API.

use crate::{
    ingress::cause::publicly,
    leader::{Leader, Term},
    metrics::Metrics,
    table::{Deployment, Idle},
    tables::Tables,
};
use std::{
    sync::{Arc, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use zectre_common::{
    config::ProxyConfig,
    id::DeploymentId,
    state::Reason,
    wire::{
        deployment::WakeResponse,
        scheduler::{SUPERSEDED, WakeRequest},
        task::Phases,
    },
};
use zectre_service::{
    call::{CallError, Caller, UNEXPECTED_ANSWER},
    request_id,
    token::name,
};

/// The most by which whoever is asked gives up before this proxy does.
const MARGIN_MAX: Duration = Duration::from_secs(1);
/// Between two tries where nobody could say anything: at first, and at most.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Of a deployment that is down, and stays so, nobody is asked more often, however many ask for it.
const REFUSAL_MEMORY: Duration = Duration::from_millis(250);
/// With less time left nobody could answer.
const ASKED_WITHIN_MIN: Duration = Duration::from_millis(20);
/// What the scheduler and the API say when no task was ready in time.
const WAKE_TIMEOUT: &str = "WAKE_TIMEOUT";

/// Why a deployment could not be woken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WakeFailure {
    /// Stable, `UPPER_SNAKE`.
    pub code: String,
    /// A sentence.
    pub detail: String,
}

impl WakeFailure {
    /// Whether it says why nothing of the deployment is on its way, and not that nobody could say.
    pub fn is_of_the_deployment(&self) -> bool {
        reason(&self.code).is_some()
    }

    /// Whether what it says may be over in a moment: a node comes back, or something else ends.
    pub fn may_pass(&self) -> bool {
        matches!(
            reason(&self.code),
            Some(Reason::NoCapacity | Reason::NoEligibleNode)
        )
    }
}

/// How a wake went.
pub type WakeResult = Result<Phases, Arc<WakeFailure>>;

/// A wake call under way.
#[derive(Debug, Clone)]
pub struct Waking {
    result: watch::Receiver<Option<WakeResult>>,
    slept: bool,
}

impl Waking {
    /// What it said of its phases, if it has succeeded by now.
    pub fn phases(&self) -> Option<Phases> {
        self.result
            .borrow()
            .as_ref()
            .and_then(|result| result.as_ref().ok().copied())
    }

    /// Whether the deployment slept. Of one that is awake and has no replica it is only asked whether one is on its way.
    pub fn is_wake(&self) -> bool {
        self.slept
    }

    /// Waits for its result.
    pub async fn result(&mut self) -> WakeResult {
        let answered = self.result.wait_for(Option::is_some).await;
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

    /// The wake call of `deployment`: the one under way, or a new one on behalf of the request `id`. Where it is awake and down, the call
    /// asks whether a replica is on its way.
    pub fn wake(self: &Arc<Self>, deployment: &Arc<Deployment>, id: &str) -> Waking {
        let mut slot = deployment
            .traffic
            .waking
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let slept = deployment.idle() == Idle::Wake;
        if let Some(waking) = &*slot
            && (waking.slept || !slept)
        {
            return waking.clone();
        }
        let (answer, result) = watch::channel(None);
        let waking = Waking { result, slept };
        *slot = Some(waking.clone());
        drop(slot);
        let call = Arc::clone(self).call(Arc::clone(deployment), slept, answer);
        let (id, cut) = (id.to_owned(), self.calls.cut.clone());
        self.calls
            .tasks
            .spawn(async move { cut.run_until_cancelled(request_id::scope(id, call)).await });
        waking
    }

    async fn call(
        self: Arc<Self>,
        deployment: Arc<Deployment>,
        slept: bool,
        answer: watch::Sender<Option<WakeResult>>,
    ) {
        let started = Instant::now();
        // One is the slot's, for those who come yet.
        let is_awaited = || answer.receiver_count() > 1;
        let result = match self.ask(&deployment, started, is_awaited).await {
            Ok(phases) => {
                if slept {
                    self.metrics.wakes.inc();
                    self.metrics.wake_seconds.observe(started.elapsed().as_secs_f64());
                }
                Ok(phases)
            }
            Err(error) => {
                if slept && !is_superseded(&error) {
                    self.metrics.wakes_failed.inc();
                    tracing::warn!(deployment = %deployment.id, %error, "a deployment could not be woken");
                } else {
                    tracing::debug!(deployment = %deployment.id, %error, "no replica is on its way");
                }
                let failure = if self.left(started).is_zero() {
                    too_late()
                } else {
                    explain(&error)
                };
                Err(Arc::new(failure))
            }
        };
        if !slept && result.is_err() {
            answer.send_replace(Some(result));
            tokio::time::sleep(REFUSAL_MEMORY).await;
            return end(&deployment, &answer);
        }
        // First the replicas, then the slot, then the news: a request in between finds one or the other.
        end(&deployment, &answer);
        answer.send_replace(Some(result));
    }
}

impl Waker {
    /// Asks, and once more when the table was newer than the answer, whose tasks may be gone by then. A second such answer means
    /// that the table is about to tell of them. Where nobody can say anything now (a part of the platform is started again, say),
    /// it is asked until somebody can, as long as there is time: whoever waits for it has nothing better.
    async fn ask(
        &self,
        deployment: &Deployment,
        started: Instant,
        is_awaited: impl Fn() -> bool,
    ) -> Result<Phases, CallError> {
        let (mut is_second, mut pause) = (false, PAUSE_MIN);
        loop {
            let answer = match self.ask_scheduler(deployment.id, started).await {
                // It may have been superseded meanwhile: who waited for what serves was led there, and nobody wants this version.
                Some(Err(error)) if is_superseded(&error) && is_awaited() => {
                    self.ask_api(deployment.id, started).await
                }
                Some(answer) => answer,
                None => self.ask_api(deployment.id, started).await,
            };
            match answer {
                Ok(answer) => {
                    let ledger = self.tables.ledger();
                    if ledger.wake(&deployment.traffic, deployment.http2, &answer) || is_second {
                        return Ok(answer.phases);
                    }
                    is_second = true;
                }
                Err(error) if passes(&error) && pause < less_a_margin(self.left(started)) => {
                    tracing::debug!(deployment = %deployment.id, %error, "a wake is asked for again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                Err(error) => return Err(error),
            }
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

    /// What the leader says of the deployment; `None` where the API has to be asked. Whoever leads next is asked once more: one that is cut
    /// off says nothing, not even that it is gone, and a second wake has no second effect.
    async fn ask_scheduler(
        &self,
        id: DeploymentId,
        started: Instant,
    ) -> Option<Result<WakeResponse, CallError>> {
        loop {
            let term = self.leader.term(Instant::now())?;
            let left = self.left(started);
            if left < ASKED_WITHIN_MIN {
                return None;
            }
            tokio::select! {
                biased;
                answer = self.ask_leader(&term, id, left) => return answer,
                () = self.leader.is_over(&term) => {}
            }
        }
    }

    async fn ask_leader(
        &self,
        term: &Term,
        id: DeploymentId,
        left: Duration,
    ) -> Option<Result<WakeResponse, CallError>> {
        let body = WakeRequest {
            deployment_id: id,
            wait_ms: less_a_margin(left).as_millis() as u64,
            unless_superseded: true,
        };
        let url = format!("{}/api/v1/scheduler/wake", term.url);
        let asked = Instant::now();
        let answer = self.caller.post_json(&url, name::SCHEDULER, &body, left).await;
        match &answer {
            Ok(_) => self.leader.has_answered(term),
            Err(error) if is_ours(error) => self.leader.has_answered(term),
            Err(_) => self.leader.is_silent(term, asked, Instant::now()),
        }
        let Err(error) = &answer else {
            return Some(answer);
        };
        if is_final(error) || is_superseded(error) {
            return Some(answer);
        }
        tracing::debug!(deployment = %id, %error, "the API is asked for a wake");
        None
    }
}

/// What is left of that for somebody who is asked, so that whoever is nearer to the cause tells it.
/// The call is none any more that others may wait for; another one may be by now.
fn end(deployment: &Deployment, answer: &watch::Sender<Option<WakeResult>>) {
    let slot = &deployment.traffic.waking;
    let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
    let own = answer.subscribe();
    if slot
        .as_ref()
        .is_some_and(|waking| waking.result.same_channel(&own))
    {
        *slot = None;
    }
}

fn less_a_margin(left: Duration) -> Duration {
    left.saturating_sub((left / 10).min(MARGIN_MAX))
}

/// Whether nothing was said about the deployment, and something may be in a moment.
fn passes(error: &CallError) -> bool {
    match error {
        CallError::Unreachable { .. } => true,
        CallError::Refused { problem, .. } => problem.status >= 500 && !is_final(error),
        CallError::Nonsense { .. } => false,
    }
}

/// Whether a part of the platform has spoken, and not something that stands before it.
fn is_ours(error: &CallError) -> bool {
    error
        .problem()
        .is_some_and(|problem| problem.code != UNEXPECTED_ANSWER)
}

/// Whether the scheduler has spoken about the deployment, so that the API could say nothing else.
fn is_final(error: &CallError) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| {
        let is_word = problem.code == WAKE_TIMEOUT || reason(&problem.code).is_some();
        problem.status == 503 && is_word
    })
}

/// Whether the scheduler leaves it to the API to wake a version that serves no more.
fn is_superseded(error: &CallError) -> bool {
    let problem = error.problem();
    problem.is_some_and(|problem| problem.status == 409 && problem.code == SUPERSEDED)
}

/// The reason of a deployment that a code stands for.
fn reason(code: &str) -> Option<Reason> {
    code.to_ascii_lowercase().parse().ok()
}

/// The time is over, whoever was asked.
fn too_late() -> WakeFailure {
    WakeFailure {
        code: WAKE_TIMEOUT.into(),
        detail: "no task was ready in time; it may still become so".into(),
    }
}

fn explain(error: &CallError) -> WakeFailure {
    match error.problem() {
        // That the platform's parts don't trust each other is no visitor's business, nor is what they have trouble with.
        Some(problem) if !matches!(problem.status, 401 | 403) && !passes(error) => WakeFailure {
            code: problem.code.clone(),
            detail: match reason(&problem.code) {
                Some(reason) => publicly(reason).into(),
                None => problem.detail.clone(),
            },
        },
        _ => WakeFailure {
            code: "WAKE_UNAVAILABLE".into(),
            detail: "the part of the platform that wakes deployments does not answer; try again".into(),
        },
    }
}
