//! From a host to a place on a replica. A request for a sleeping deployment waits for the one wake call, a
//! request between two replicas waits for the table, both bounded in number and time.

use super::{Ingress, Refusal, affinity, patience::Patience};
use crate::{
    access::Entry,
    live::{Held, Lease, Replica, Visit, roll},
    table::{self, Deployment, Idle},
    wake::{WakeFailure, Waking},
};
use http::{HeaderValue, Method, StatusCode, request::Parts};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{sync::watch, time::timeout_at};
use zectre_common::{id::TaskId, wire::task::Phases};

/// Whom a request, or a connection, is for.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Target<'r> {
    /// Whoever answers at this host.
    Host(&'r str),
    /// Whoever has this port.
    Port(u16),
}

/// A request on its way to a replica.
#[derive(Debug)]
pub(crate) struct Waiting<'r> {
    target: Target<'r>,
    id: &'r HeaderValue,
    entry: &'r mut Entry,
    visit: Option<Visit>,
    held: Option<Held>,
    changes: Option<watch::Receiver<u64>>,
    patience: Patience,
    /// It waited for a wake, whoever told first that there is a replica: the call's answer or the table.
    slept: bool,
    /// What the wake said.
    woken: Option<Phases>,
    /// Its deployment was down, and it was asked whether a replica is on its way.
    asked: bool,
    /// Why none was.
    in_vain: Option<Arc<WakeFailure>>,
    /// The wake that it waited for, when the table told of a replica first.
    waking: Option<Waking>,
    /// The last replica that could not be reached.
    unreachable: Option<String>,
    /// Times that it was sent and lost.
    losses: u32,
    /// The tasks that lost it.
    avoided: Vec<TaskId>,
    /// What its cookie says of the task that it had before.
    mark: Option<String>,
    /// Its deployment wants visitors to come back to the same task.
    is_affine: bool,
    /// A person waits for a page.
    navigates: bool,
}

/// A place on a replica, and what is spoken there.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) lease: Lease,
    pub(super) http2: bool,
}

impl<'r> Waiting<'r> {
    pub(super) fn new(host: &'r str, id: &'r HeaderValue, entry: &'r mut Entry) -> Self {
        Self::of(Target::Host(host), id, entry)
    }

    /// A connection without a request.
    pub(crate) fn at_port(port: u16, id: &'r HeaderValue, entry: &'r mut Entry) -> Self {
        Self::of(Target::Port(port), id, entry)
    }

    fn of(target: Target<'r>, id: &'r HeaderValue, entry: &'r mut Entry) -> Self {
        Self {
            target,
            id,
            entry,
            visit: None,
            held: None,
            changes: None,
            patience: Patience::default(),
            slept: false,
            woken: None,
            waking: None,
            asked: false,
            in_vain: None,
            unreachable: None,
            losses: 0,
            avoided: Vec::new(),
            mark: None,
            is_affine: false,
            navigates: false,
        }
    }

    /// Remembers what matters of the request's head.
    pub(super) fn look_at(&mut self, parts: &Parts, has_body: bool) {
        self.mark = affinity::brought(&parts.headers).map(str::to_owned);
        self.navigates = !has_body && is_navigation(parts);
    }

    /// Whether its visitor must be told of the task with this mark.
    pub(super) fn is_new_to(&self, mark: &str) -> bool {
        self.is_affine && self.mark.as_deref() != Some(mark)
    }

    fn id_text(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    /// Whether it waited for a wake, of which its client will be told.
    pub(super) fn has_slept(&self) -> bool {
        self.slept
    }

    /// What it is counted on; once it has had a place.
    pub(super) fn visit(&self) -> Option<&Visit> {
        self.visit.as_ref()
    }

    /// Whom it is for.
    pub(super) fn target(&self) -> Target<'r> {
        self.target
    }

    /// The replica that was tried is gone; the next place must be elsewhere.
    pub(crate) fn unreachable(&mut self, cause: String) {
        self.unreachable = Some(cause);
    }

    /// What was wrong with the last replica that was tried.
    pub(crate) fn last_failure(&self) -> Option<&str> {
        self.unreachable.as_deref()
    }

    /// Ends the waiting with a refusal.
    pub(crate) fn refuse(mut self, status: StatusCode, after: Duration) {
        self.told();
        if let Some(visit) = self.visit.take() {
            visit.red().answered(status, after);
        }
    }

    /// Ends the waiting: the count of the deployment, and how long a woken request waited with the wake's phases.
    pub(crate) fn finish(mut self) -> (Option<Visit>, Option<(Duration, Phases)>) {
        let told = self.told();
        (self.visit.take(), told)
    }

    /// For how long it waited for a wake, and the wake's phases.
    fn told(&mut self) -> Option<(Duration, Phases)> {
        let since = self.patience.first();
        let waited = since.map_or(Duration::ZERO, |since| since.elapsed());
        let told = self
            .woken
            .or_else(|| self.waking.as_ref().and_then(Waking::phases));
        let phases = self.slept.then(|| told.unwrap_or_default())?;
        self.entry.woken(waited, phases);
        Some((waited, phases))
    }

    /// It was sent, and lost; how often by now.
    pub(super) fn lost(&mut self) -> u32 {
        self.patience.reached();
        self.losses += 1;
        self.losses
    }

    /// This task lost it: another one is better, if there is another one.
    pub(super) fn avoid(&mut self, task: TaskId) {
        self.avoided.push(task);
    }

    /// The tasks that lost it.
    pub(super) fn avoided(&self) -> &[TaskId] {
        &self.avoided
    }

    /// It has to be sent once more.
    pub(super) fn retried(&mut self) {
        self.entry.retried();
    }

    /// Where it is written down what becomes of it.
    pub(super) fn entry(&mut self) -> &mut Entry {
        self.entry
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Whoever is told anything has taken the visit before.
        if self.visit.is_some() {
            self.told();
        }
        if let Some(visit) = &self.visit {
            visit.red().gone();
        }
    }
}

impl Ingress {
    /// A place for the request. Each turn looks at the table of now: what a request waits for may change.
    pub(crate) async fn place(&self, waiting: &mut Waiting<'_>) -> Result<Place, Refusal> {
        loop {
            let deployment = {
                let table = self.tables.current();
                let found = self.lead(&table, waiting)?;
                waiting.is_affine = found.affinity;
                if waiting
                    .visit
                    .as_ref()
                    .is_none_or(|visit| visit.deployment() != found.id)
                {
                    let is_first = waiting.visit.is_none();
                    waiting.visit = Some(found.traffic.visit());
                    waiting.entry.led_to(&found.traffic);
                    // Another one's wake says nothing about this one.
                    (waiting.woken, waiting.waking) = (None, None);
                    (waiting.asked, waiting.in_vain) = (false, None);
                    if is_first {
                        self.door.admit_to(&found.traffic, || self.now_ns())?;
                    }
                }
                let lease = found.with_replicas(|replicas| self.choose(replicas, found, waiting));
                if let Some(lease) = lease {
                    waiting.held = None;
                    waiting.entry.placed(lease.replica().task());
                    return Ok(Place {
                        lease,
                        http2: found.http2,
                    });
                }
                Arc::clone(found)
            };
            let all_ejected = deployment.with_replicas(|replicas| !replicas.is_empty());
            let idle = if all_ejected {
                Idle::Await
            } else {
                deployment.idle()
            };
            Box::pin(self.wait(waiting, &deployment, idle)).await?;
        }
    }

    /// The deployment that a visitor is led to: of those that serve the one that its cookie is of, else one by chance.
    fn lead<'t>(
        &self,
        table: &'t table::Table,
        waiting: &Waiting<'_>,
    ) -> Result<&'t Arc<Deployment>, Refusal> {
        let found = find(table, waiting.target)?;
        let Some(mark) = waiting.mark.as_deref().filter(|_| found.affinity) else {
            return Ok(found);
        };
        let is_it = |replica: &Arc<Replica>| self.marks.of(replica) == mark;
        let holds =
            |deployment: &&Arc<Deployment>| deployment.with_replicas(|replicas| replicas.iter().any(is_it));
        let Target::Host(host) = waiting.target else {
            return Ok(found);
        };
        let route = table.resolve(host);
        Ok(route
            .and_then(|route| route.affine().find(holds))
            .unwrap_or(found))
    }

    /// The task that the visitor had before, or another one; one that lost the request already only when there is no other.
    fn choose(&self, replicas: &[Arc<Replica>], of: &Deployment, waiting: &Waiting<'_>) -> Option<Lease> {
        let now_ms = self.now_ms();
        if !waiting.avoided.is_empty() {
            let is_new = |replica: &&Arc<Replica>| !waiting.avoided.contains(&replica.task());
            let new: Vec<_> = replicas.iter().filter(is_new).cloned().collect();
            let chosen = table::choose(&new, roll(), now_ms);
            return chosen.or_else(|| table::choose(replicas, roll(), now_ms));
        }
        let mark = waiting.mark.as_deref().filter(|_| of.affinity);
        let again = mark
            .and_then(|mark| table::choose_again(replicas, |replica| self.marks.of(replica) == mark, now_ms));
        again.or_else(|| table::choose(replicas, roll(), now_ms))
    }

    /// Whether some other replica than these would take the request.
    pub(super) fn has_other(&self, target: Target<'_>, than: &[TaskId]) -> bool {
        let now_ms = self.now_ms();
        let usable =
            |replica: &Arc<Replica>| !than.contains(&replica.task()) && replica.ejected_until_ms() <= now_ms;
        find(&self.tables.current(), target)
            .is_ok_and(|found| found.with_replicas(|replicas| replicas.iter().any(usable)))
    }

    /// A task failed a request that reached it.
    pub(super) fn judge(&self, replica: &Replica, waiting: &Waiting<'_>) {
        let table = self.tables.current();
        let deployment = waiting
            .visit
            .as_ref()
            .and_then(|visit| table.deployment(visit.deployment()));
        if let Some(deployment) = deployment {
            deployment.with_replicas(|all| deployment.traffic.judge(replica, self.now_ms(), all));
        }
    }

    /// Waits until it may be worth to look again.
    async fn wait(
        &self,
        waiting: &mut Waiting<'_>,
        deployment: &Arc<Deployment>,
        idle: Idle,
    ) -> Result<(), Refusal> {
        if let Some(refusal) = refusal(deployment, idle) {
            return Err(refusal);
        }
        // The table may tell that it is awake before the call tells of the task, which it does first.
        let is_woken = idle == Idle::Wake || (idle == Idle::Await && deployment.is_being_woken());
        // A wake that was answered without a usable replica is not asked for a second time.
        let wake = is_woken && waiting.woken.is_none();
        if waiting
            .held
            .as_ref()
            .is_none_or(|held| held.deployment() != deployment.id)
        {
            waiting.held = Some(
                deployment
                    .traffic
                    .hold(self.limits.held_requests_max)
                    .ok_or(Refusal::TooManyHeld)?,
            );
        }
        if waiting.changes.is_none() {
            // What changes from now on is told; what changed before is seen in the next turn.
            waiting.changes = Some(self.tables.changes());
            return Ok(());
        }
        if wake {
            let until = waiting
                .patience
                .until(Instant::now(), true, self.limits.wake_timeout);
            return self.wait_awake(waiting, deployment, until).await;
        }
        let until = waiting
            .patience
            .until(Instant::now(), false, self.limits.replace_timeout);
        let asks = deployment.is_down() && !waiting.asked;
        let asked = asks.then(|| self.waker.wake(deployment, waiting.id_text()));
        let waited = timeout_at(until.into(), async {
            tokio::select! {
                () = changed(&mut waiting.changes) => None,
                () = self.ejections_over(deployment) => None,
                told = is_on_its_way(asked) => Some(told),
            }
        });
        let Ok(told) = waited.await else {
            return Err(match (waiting.in_vain.take(), waiting.unreachable.take()) {
                (Some(failure), _) => Refusal::WakeFailed(failure),
                (None, Some(cause)) => Refusal::BadGateway(cause),
                (None, None) => Refusal::NoReplica(self.limits.replace_timeout.as_secs()),
            });
        };
        waiting.asked |= told.is_some();
        match told {
            Some(Err(failure)) if failure.may_pass() => waiting.in_vain = Some(failure),
            Some(Err(failure)) => return Err(Refusal::WakeFailed(failure)),
            Some(Ok(())) | None => {}
        }
        Ok(())
    }

    /// Waits for a wake, or for the table to change meanwhile.
    async fn wait_awake(
        &self,
        waiting: &mut Waiting<'_>,
        deployment: &Arc<Deployment>,
        until: Instant,
    ) -> Result<(), Refusal> {
        waiting.slept = true;
        let mut waking = self.waker.wake(deployment, waiting.id_text());
        let page_at = self.limits.page_at(waiting.navigates, until);
        let changes = &mut waiting.changes;
        let waited = timeout_at(page_at.unwrap_or(until).into(), async {
            tokio::select! {
                result = waking.result() => Some(result),
                () = changed(changes) => None,
            }
        });
        match waited.await {
            Ok(Some(Ok(phases))) => waiting.woken = Some(phases),
            Ok(Some(Err(failure))) => return Err(Refusal::WakeFailed(failure)),
            Ok(None) => waiting.waking = Some(waking),
            Err(_) if page_at.is_some() => return Err(Refusal::Waking),
            Err(_) => return Err(Refusal::WakeTimeout(self.limits.wake_timeout.as_secs())),
        }
        Ok(())
    }

    /// Resolves when the first ejected replica may be tried again; never when there are none.
    async fn ejections_over(&self, deployment: &Deployment) {
        let first = deployment
            .with_replicas(|replicas| replicas.iter().map(|replica| replica.ejected_until_ms()).min());
        match first {
            Some(until_ms) => {
                tokio::time::sleep_until((self.started + Duration::from_millis(until_ms)).into()).await;
            }
            None => std::future::pending().await,
        }
    }
}

/// Resolves with the next table; never where nobody asked for its news.
async fn changed(changes: &mut Option<watch::Receiver<u64>>) {
    match changes {
        Some(changes) => drop(changes.changed().await),
        None => std::future::pending().await,
    }
}

/// Resolves when a replica is there, or with why none is on its way; never where nobody can say.
async fn is_on_its_way(asked: Option<Waking>) -> Result<(), Arc<WakeFailure>> {
    let Some(mut asked) = asked else {
        return std::future::pending().await;
    };
    match asked.result().await {
        Ok(_) => Ok(()),
        Err(failure) if failure.is_of_the_deployment() => Err(failure),
        Err(_) => std::future::pending().await,
    }
}

/// Why a request is not to wait, if it isn't.
fn refusal(deployment: &Deployment, idle: Idle) -> Option<Refusal> {
    let version = deployment.version;
    match idle {
        Idle::Pending => Some(Refusal::DeploymentPending(version)),
        Idle::Asleep => Some(Refusal::Asleep(version)),
        Idle::Job => Some(Refusal::ServesNothing(version)),
        Idle::Failed => Some(Refusal::DeploymentFailed {
            version,
            reason: deployment.reason,
        }),
        Idle::Await | Idle::Wake => None,
    }
}

/// Whether a browser asks for a page to show, and nothing else: not a script's request, and not a program's.
fn is_navigation(parts: &Parts) -> bool {
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
    parts.method == Method::GET
        && header("accept").is_some_and(|accept| accept.contains("text/html"))
        && header("sec-fetch-mode").is_none_or(|mode| mode == "navigate")
        && header("upgrade").is_none()
}

fn find<'t>(table: &'t table::Table, target: Target<'_>) -> Result<&'t Arc<Deployment>, Refusal> {
    if table.epoch() == 0 {
        return Err(Refusal::NoTable);
    }
    let (found, is_raw) = match target {
        Target::Host(host) => {
            let route = table
                .resolve(host)
                .ok_or_else(|| Refusal::UnknownHost(host.to_owned()))?;
            let found = route.deployment(roll());
            (
                found.ok_or_else(|| Refusal::NothingDeployed(host.to_owned()))?,
                false,
            )
        }
        Target::Port(port) => {
            let found = table.at_port(port).and_then(|route| route.deployment(roll()));
            (found.ok_or(Refusal::UnknownPort(port))?, true)
        }
    };
    // A rollout may change what is spoken.
    if found.raw == is_raw {
        Ok(found)
    } else {
        Err(Refusal::OtherProtocol(found.version))
    }
}
