//! Watches a started task's health: until it is ready, and from then on.

use super::{
    probe::{Failed, Target, opens_soon},
    workload::Handle,
};
use crate::{
    core::{
        exit::{Cause, Obstacle},
        probe::{Liveness, READY_PAUSE_MIN, Verdict, next_pause},
    },
    port::Listener,
};
use std::time::{Duration, Instant};
use zectre_common::{
    spec::{HealthCheck, RestartPolicy},
    wire::agent::{TaskOrder, TaskReport},
};

/// What is seen of a start that lasts longer is told while it lasts: its rollout may be given up before its own time is over.
const TOLD_AFTER: Duration = Duration::from_secs(2);
/// What is seen of a port that somebody else has.
const FOREIGN: &str = "another process listens on the port";

/// Tells the board about the task.
pub(super) trait Tell: Fn(&mut dyn FnMut(&mut TaskReport)) + Sync {}
impl<F: Fn(&mut dyn FnMut(&mut TaskReport)) + Sync> Tell for F {}

/// What to watch.
pub(super) struct Health<'a> {
    pub(super) order: &'a TaskOrder,
    pub(super) handle: &'a Handle,
    /// When its start began.
    pub(super) began: Instant,
    /// The address that proxies know this node by.
    pub(super) node: &'a str,
}

impl Health<'_> {
    fn check(&self) -> &HealthCheck {
        &self.order.health_check
    }

    fn target(&self) -> Target {
        Target::new(
            self.order.port,
            self.check(),
            self.order.protocol,
            self.handle.is_forwarded(),
        )
    }

    /// A task that runs to completion serves nobody: it is ready once it runs.
    fn is_server(&self) -> bool {
        self.order.restart != RestartPolicy::Never
    }

    fn is_foreign(&self) -> bool {
        self.handle.listener(self.order.port, self.node) == Listener::Foreign
    }

    /// Waits until the task is ready.
    ///
    /// # Errors
    /// Why it isn't, when its time is over.
    pub(super) async fn ready(&self, tell: &impl Tell) -> Result<(), Cause> {
        if !self.is_server() {
            return Ok(());
        }
        let start_timeout = self.check().start_timeout.duration();
        let mut target = self.target();
        let (mut pause, mut obstacle) = (READY_PAUSE_MIN, Obstacle::PortClosed);
        let mut seen = String::new();
        let mut passes = Liveness::unready(self.check().successes);
        // A port that has just opened is the whole check where no path is asked for.
        let mut has_opened = !self.handle.is_forwarded() && opens_soon(self.order.port).await;
        loop {
            let left = start_timeout.saturating_sub(self.began.elapsed());
            if left.is_zero() || self.began.elapsed() >= TOLD_AFTER {
                tell(&mut |report| report.last_probe = Some(seen.clone()).filter(|seen| !seen.is_empty()));
            }
            if left.is_zero() {
                return Err(Cause::NotReady {
                    start_timeout,
                    obstacle,
                });
            }
            target.timeout = self.check().timeout.duration().min(left);
            let probed = if std::mem::take(&mut has_opened) && target.path.is_none() {
                Ok(())
            } else {
                target.probe().await
            };
            if probed.is_err() {
                passes.observe(false);
            }
            match probed {
                Ok(()) => match self.handle.listener(self.order.port, self.node) {
                    Listener::Ours if passes.observe(true) == Verdict::Healthy => return Ok(()),
                    Listener::Ours => obstacle = Obstacle::CheckFailed { answer: seen.clone() },
                    Listener::Unreachable => {
                        obstacle = Obstacle::PortUnreachable;
                        seen = "it listens where only this node reaches it".into();
                    }
                    Listener::Foreign => {
                        obstacle = Obstacle::PortForeign;
                        seen = FOREIGN.into();
                    }
                    Listener::Nobody => obstacle = Obstacle::PortClosed,
                },
                // Cut short because the time is over: what was seen before says more.
                Err(Failed::Silent(_)) if !seen.is_empty() && target.timeout == left => {}
                // Whoever has the port may be too busy to let a probe in.
                Err(Failed::Silent(_)) if self.is_foreign() => {
                    obstacle = Obstacle::PortForeign;
                    seen = FOREIGN.into();
                }
                Err(failed) => {
                    failed.message().clone_into(&mut seen);
                    obstacle = match failed {
                        Failed::Closed(_) => Obstacle::PortClosed,
                        Failed::Unwell(answer) | Failed::Silent(answer) => Obstacle::CheckFailed { answer },
                    };
                }
            }
            tokio::time::sleep(pause.min(left)).await;
            pause = next_pause(pause);
        }
    }

    /// Watches a ready task until it fails.
    pub(super) async fn alive(&self, tell: &impl Tell) -> Cause {
        let interval = self.check().interval.duration().max(Duration::from_millis(100));
        let target = self.target();
        let mut liveness = Liveness::new(self.check().failures, self.check().successes);
        let mut ticks = tokio::time::interval_at(tokio::time::Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A worker was killed and its parent lives on: what is left is a server that answers some requests.
            if self.handle.oom_killed() {
                return Cause::Unhealthy { failures: 0 };
            }
            if !self.is_server() {
                continue;
            }
            let failed = target.probe().await.err();
            let verdict = liveness.observe(failed.is_none());
            // One failed probe is no illness yet: the task serves on until there were as many as it is allowed.
            tell(&mut |report| {
                report.healthy = verdict != Verdict::Failed;
                report.last_probe = failed.as_ref().map(|failed| failed.message().to_owned());
            });
            if verdict == Verdict::Failed {
                return Cause::Unhealthy {
                    failures: self.check().failures.max(1),
                };
            }
        }
    }
}
