//! Takes builds from the database, one a slot, and brings each to an end or gives it back.
//!
//! A claim is a lease that is renewed while the build goes on. A worker that is killed renews no more, and
//! another one takes the build: the next one of its place at once, since it finds what that one had (`work_dir`). A worker that
//! was only slow finds its lease gone and writes nothing.

use crate::{
    compiler,
    core::{
        lease::{self, Next, Renewal, Standing},
        verdict::{self, End, Outcome, Verdict},
    },
    error::Error,
    job::Workshop,
    log::Log,
    nudges::Nudges,
    store::{
        builds::{self, Claimed},
        logs,
    },
};
use prometheus_client::metrics::counter::Counter;
use std::{sync::Arc, time::Duration};
use tokio::{sync::watch, time::Instant};
use zectre_common::{
    state::{BuildStatus, Reason},
    wire::scheduler::NudgeRequest,
};
use zectre_service::{call::Caller, tasks::Shutdown, token::name};

/// Looks for builds this often even when nothing was heard: hints get lost, and leases run out in silence.
const POLL: Duration = Duration::from_secs(5);
/// The scheduler finds finished builds by itself; telling it must not hold up the next build.
const NUDGE: Duration = Duration::from_secs(2);

/// One worker; its slots share it.
pub struct Worker {
    /// How builds are made.
    pub workshop: Workshop,
    /// How long a claim holds.
    pub lease: Duration,
    /// When to look.
    pub nudges: Nudges,
    /// Calls the scheduler.
    pub caller: Caller,
    /// Where it is.
    pub scheduler_url: String,
    /// Builds brought to an end.
    pub ended: Counter,
}

impl Worker {
    /// One slot: build after build until shutdown.
    pub async fn slot(self: Arc<Self>, stop: Shutdown) {
        let mut nudged = self.nudges.builds();
        while !stop.is_requested() {
            // Before the look, so that what comes during it isn't missed.
            nudged.mark_unchanged();
            match builds::claim(&self.workshop.pool, self.lease).await {
                Ok(Some(claimed)) => {
                    self.take(&claimed, &stop).await;
                    continue;
                }
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "could not look for builds"),
            }
            tokio::select! {
                () = stop.requested() => {}
                _ = nudged.changed() => {}
                () = tokio::time::sleep(POLL) => {}
            }
        }
    }

    async fn take(&self, claimed: &Claimed, stop: &Shutdown) {
        tracing::info!(build = %claimed.id, attempt = claimed.attempts, "took a build");
        let (sender, standing) = watch::channel(Standing::Held);
        tokio::select! {
            biased;
            taken = self.attempt(claimed, standing, stop) => {
                if let Err(error) = taken {
                    // The lease runs out, and the build is taken again.
                    tracing::error!(build = %claimed.id, %error, "a build was left where it was");
                }
            }
            never = self.keep(claimed, sender) => match never {},
        }
    }

    /// Renews the lease until dropped, and tells how the build stands.
    async fn keep(&self, claimed: &Claimed, standing: watch::Sender<Standing>) -> std::convert::Infallible {
        let (mut nudged, mut renewed) = (self.nudges.builds(), Instant::now());
        let pause = lease::renew_every(self.lease);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = nudged.changed() => {}
            }
            let asked = Instant::now();
            let answer =
                tokio::time::timeout(pause, builds::renew(&self.workshop.pool, claimed, self.lease)).await;
            let renewal = match answer {
                Ok(Ok(Some(cancel_requested))) => Renewal::Renewed { cancel_requested },
                Ok(Ok(None)) => Renewal::Refused,
                Ok(Err(_)) | Err(_) => Renewal::Unknown,
            };
            if matches!(renewal, Renewal::Renewed { .. }) {
                renewed = asked;
            }
            let now = lease::standing(renewal, renewed.elapsed(), self.lease);
            standing.send_if_modified(|before| std::mem::replace(before, now) != now);
            if now == Standing::Lost {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn attempt(
        &self,
        claimed: &Claimed,
        standing: watch::Receiver<Standing>,
        stop: &Shutdown,
    ) -> Result<(), Error> {
        match lease::next(claimed.cancel_requested, claimed.attempts) {
            Next::Cancel => self.end(claimed, &End::cancelled()).await,
            Next::GiveUp => self.end(claimed, &End::given_up()).await,
            Next::Build => {
                let seq = logs::last(&self.workshop.pool, claimed.id).await?;
                let (log, writer) = Log::new(&self.workshop.pool, claimed, seq);
                let work = async {
                    let outcome = self.outcome(claimed, &log, standing, stop).await;
                    let verdict = verdict::settle(outcome.clone(), claimed.attempts);
                    last_words(&log, &outcome, &verdict).await;
                    drop(log);
                    verdict
                };
                // The log is whole before the build ends: who follows it misses nothing.
                let (verdict, ()) = tokio::join!(work, writer.run());
                self.settle(claimed, verdict).await
            }
        }
    }

    async fn outcome(
        &self,
        claimed: &Claimed,
        log: &Log,
        mut standing: watch::Receiver<Standing>,
        stop: &Shutdown,
    ) -> Outcome {
        if claimed.attempts > 1 {
            log.say(format!("trying again (attempt {})", claimed.attempts))
                .await;
        }
        // Leaving the build kills what it runs.
        tokio::select! {
            biased;
            now = standing.wait_for(|now| *now != Standing::Held) => match now.map(|now| *now) {
                Ok(Standing::Cancelled) => Outcome::Cancelled,
                Ok(_) | Err(_) => Outcome::Lost,
            },
            () = stop.requested() => Outcome::Interrupted,
            built = self.workshop.build(claimed, log) => built.map_or_else(|outcome| outcome, Outcome::Built),
        }
    }

    async fn settle(&self, claimed: &Claimed, verdict: Verdict) -> Result<(), Error> {
        match verdict {
            Verdict::End(end) => self.end(claimed, &end).await,
            Verdict::Requeue { counted } => builds::requeue(&self.workshop.pool, claimed, counted).await,
            Verdict::Nothing => Ok(()),
        }
    }

    async fn end(&self, claimed: &Claimed, end: &End) -> Result<(), Error> {
        if !builds::end(&self.workshop.pool, claimed, end).await? {
            tracing::warn!(build = %claimed.id, "the lease was lost at the last moment");
            return Ok(());
        }
        self.ended.inc();
        tracing::info!(build = %claimed.id, status = %end.status, message = end.message, "a build ended");
        let url = format!("{}/api/v1/scheduler/assign-pending", self.scheduler_url);
        let hint = NudgeRequest { deployment_id: None };
        let told = self
            .caller
            .post_json::<_, serde_json::Value>(&url, name::SCHEDULER, &hint, NUDGE)
            .await;
        if let Err(error) = told {
            tracing::info!(%error, "the scheduler was not told; it will find out");
        }
        Ok(())
    }
}

/// The end of the log.
async fn last_words(log: &Log, outcome: &Outcome, verdict: &Verdict) {
    match (outcome, verdict) {
        (Outcome::Built(artifact), _) => log.say(format!("built: artifact {artifact}")).await,
        (Outcome::Interrupted, _) => {
            log.say("the worker is stopping; the build goes on elsewhere, or after its start")
                .await;
        }
        (Outcome::Broken(why), Verdict::Requeue { .. }) => {
            log.say(format!("the worker failed: {why}; trying again")).await;
        }
        (Outcome::Lost, _) => {}
        // The compiler has said these itself.
        (
            Outcome::Refused {
                reason: Reason::CompileError,
                ..
            },
            _,
        ) => log.say("failed: the program does not compile").await,
        (Outcome::Refused { diagnostics, .. }, Verdict::End(end)) => {
            for diagnostic in diagnostics {
                log.say(compiler::line(diagnostic)).await;
            }
            log.say(closing(end)).await;
        }
        (_, Verdict::End(end)) => log.say(closing(end)).await,
        (_, Verdict::Requeue { .. } | Verdict::Nothing) => {}
    }
}

fn closing(end: &End) -> String {
    match end.status {
        // By whom is told with the build.
        BuildStatus::Cancelled => "cancelled".into(),
        _ => format!("failed: {}", end.message.as_deref().unwrap_or_default()),
    }
}
