//! The life of one task, from the order to the last report.

use super::{
    Home,
    board::{Killed, Wish},
    container, native,
    ready::Health,
    usage::Meter,
    workload::{Handle, Workload},
};
use crate::{
    artifact::Cached,
    core::{
        exit::{Cause, Exit, Facts, conclude},
        tail,
    },
    error::StartError,
    host::Host,
    images::HeldImage,
    log::Follower,
};
use futures_util::future::BoxFuture;
use std::{
    convert::Infallible,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use zectre_common::{
    id::TaskId,
    spec::{ProcessType, RestartPolicy},
    state::{Reason, TaskState},
    time::Time,
    wire::{
        agent::{TaskOrder, TaskReport},
        task::Phases,
    },
};

/// How long a start may use more of the processors than the task's share; most take milliseconds.
pub(super) const START_CPU_TIME: Duration = Duration::from_secs(3);
/// How long a task that has failed its checks waits for the order to stop, before it is killed without one: the proxies
/// are told, and what it is still asked may end (30 s when not configured), with as much again in hand.
const ORDER_TIMEOUT: Duration = Duration::from_secs(60);
/// On a busy machine the checks may notice sooner that a program is gone than its supervisor is heard: this long its own
/// end is waited for, which says more.
const END_HEARD_TIMEOUT: Duration = Duration::from_millis(250);
/// How long a killed task may take to be gone before its end is reported all the same.
pub(super) const KILL_TIMEOUT: Duration = Duration::from_secs(15);
/// When the first sample of a task's usage is taken.
const USAGE_DELAY: Duration = Duration::from_secs(1);
/// How often from then on.
const USAGE_INTERVAL: Duration = Duration::from_secs(5);
/// How long the last lines of an ended task may take to be read.
pub(super) const TAIL_TIMEOUT: Duration = Duration::from_secs(5);

/// Where a life begins.
pub(super) enum Begin {
    /// With its start.
    Start,
    /// In the middle: it runs since before this agent.
    Running {
        workload: Box<Workload>,
        held: Held,
        was_ready: bool,
        accepted_at: Time,
    },
    /// At its end, which came while no agent watched.
    Ended {
        cause: Cause,
        exit: Exit,
        oom_killed: bool,
    },
}

/// One task's life.
pub(super) struct Life {
    pub(super) host: Arc<Host>,
    pub(super) task: TaskId,
    pub(super) order: TaskOrder,
    pub(super) home: Home,
    pub(super) follower: Follower,
    /// Set once it is to stop.
    pub(super) stop: watch::Receiver<Option<Wish>>,
    /// An earlier agent told it to end because its time was over.
    pub(super) overran: bool,
}

/// What a start needs on this node.
enum Fetched {
    Artifact(Cached),
    Image(container::Prepared),
}

/// What stays on the node because a task runs from it.
#[derive(Debug)]
pub(super) enum Held {
    Artifact(#[expect(dead_code, reason = "held for its drop")] Cached),
    Image(#[expect(dead_code, reason = "held for its drop")] HeldImage),
    /// It is gone already.
    Nothing,
}

/// What came of a start.
enum Started {
    Runs(Box<Workload>, Held),
    Failed(StartError),
    /// It was told to stop before it ran.
    Stopped,
}

impl Life {
    /// All of it.
    pub(super) async fn live(mut self, begin: Begin) {
        match begin {
            Begin::Start => {
                let mut phases = Phases::default();
                match self.start(&mut phases).await {
                    Started::Runs(workload, held) => {
                        self.host.board.time(self.task, phases);
                        self.watch(*workload, held, false, Instant::now(), Time::now())
                            .await;
                    }
                    Started::Failed(error) => {
                        let cause = Cause::NotStarted {
                            reason: error.reason,
                            message: error.message,
                        };
                        self.conclude(cause, Exit::default(), false, None).await;
                    }
                    Started::Stopped => self.conclude(Cause::Ordered, Exit::default(), false, None).await,
                }
            }
            Begin::Running {
                workload,
                held,
                was_ready,
                accepted_at,
            } => {
                self.watch(*workload, held, was_ready, Instant::now(), accepted_at)
                    .await;
            }
            Begin::Ended {
                cause,
                exit,
                oom_killed,
            } => self.conclude(cause, exit, oom_killed, None).await,
        }
    }

    fn tell(&self, change: impl FnOnce(&mut TaskReport)) {
        self.host.board.update(self.task, change);
    }

    /// Starts it. Fetching can take minutes, so a stop interrupts it; the start itself takes milliseconds and is
    /// never torn apart in the middle.
    async fn start(&mut self, phases: &mut Phases) -> Started {
        let mut stop = self.stop.clone();
        let began = Instant::now();
        let fetched = tokio::select! {
            fetched = self.fetch() => fetched,
            _ = stop.wait_for(Option::is_some) => return Started::Stopped,
        };
        phases.fetch_us = Some(began.elapsed().as_micros() as u64);
        let began = Instant::now();
        let (host, task, order, home) = (&self.host, self.task, &self.order, &self.home);
        let started = match fetched {
            Ok(Fetched::Artifact(cached)) => native::start(host, task, order, home, &cached)
                .await
                .map(|workload| Started::Runs(Box::new(workload), Held::Artifact(cached))),
            Ok(Fetched::Image(prepared)) => container::start(host, task, order, home, prepared)
                .await
                .map(|(workload, image)| Started::Runs(Box::new(workload), Held::Image(image))),
            Err(error) => Err(error),
        };
        phases.start_us = Some(began.elapsed().as_micros() as u64);
        started.unwrap_or_else(Started::Failed)
    }

    async fn fetch(&self) -> Result<Fetched, StartError> {
        match self.order.process_type {
            ProcessType::Tish => native::fetch(&self.host, &self.order)
                .await
                .map(Fetched::Artifact),
            ProcessType::Docker => {
                let tell = |progress: String| {
                    self.follower.note(progress.clone());
                    self.tell(|report| report.message = Some(progress));
                };
                let fetched = container::fetch(&self.host, &self.order, tell).await;
                self.tell(|report| report.message = None);
                fetched.map(Fetched::Image)
            }
        }
    }

    /// Watches the running task until its end, whatever brings it about.
    async fn watch(
        &mut self,
        workload: Workload,
        held: Held,
        was_ready: bool,
        began: Instant,
        accepted_at: Time,
    ) {
        let Workload { handle, mut exit } = workload;
        let mut is_ready = was_ready;
        let mut stop = self.stop.clone();
        let (mut cause, mut ended) = {
            let health = self.stay_healthy(&handle, &mut is_ready, began);
            tokio::select! {
                // An end that is there already explains all else.
                biased;
                ended = &mut exit => (None, Some(ended)),
                _ = stop.wait_for(Option::is_some) => (Some(Cause::Ordered), None),
                cause = health => (Some(cause), None),
                cause = self.max_runtime(accepted_at) => (Some(cause), None),
                never = self.sample(&handle, was_ready) => match never {},
            }
        };
        if let Some(Cause::Unhealthy { failures }) = cause {
            // The scheduler was told. It takes the task out of the proxies' way before it orders the stop, so that what
            // goes to it meanwhile is not cut off.
            let patience = if failures > 0 {
                ORDER_TIMEOUT
            } else {
                END_HEARD_TIMEOUT
            };
            tokio::select! {
                biased;
                exit = &mut exit => (cause, ended) = (None, Some(exit)),
                _ = stop.wait_for(Option::is_some) => cause = Some(Cause::Ordered),
                () = tokio::time::sleep(patience) => {}
            }
        }
        let cause = cause.unwrap_or(Cause::Itself { was_ready: is_ready });
        let ended = match ended {
            Some(ended) => ended,
            None => self.end(&handle, &mut exit, &cause).await,
        };
        let (oom_killed, processes_peak) = (handle.oom_killed(), handle.processes_peak());
        handle.clear().await;
        drop(held);
        self.conclude(cause, ended, oom_killed, processes_peak).await;
    }

    /// Becomes ready and stays so; resolves with why it doesn't.
    async fn stay_healthy(&self, handle: &Handle, is_ready: &mut bool, began: Instant) -> Cause {
        let tell = |change: &mut dyn FnMut(&mut TaskReport)| self.tell(|report| change(report));
        let health = Health {
            order: &self.order,
            handle,
            began,
            node: &self.host.address,
        };
        if !*is_ready {
            let cpu_millis = self.order.resources.cpu.0;
            let mut ready = std::pin::pin!(health.ready(&tell));
            let left = START_CPU_TIME.saturating_sub(began.elapsed());
            let readied = match tokio::time::timeout(left, &mut ready).await {
                Ok(readied) => readied,
                Err(_) => {
                    // A program that never gets ready has no claim to more than its share.
                    handle.settle(cpu_millis);
                    ready.await
                }
            };
            if let Err(cause) = readied {
                return cause;
            }
            *is_ready = true;
            let serves = self.order.restart != RestartPolicy::Never;
            let ready_us = began.elapsed().as_micros() as u64;
            self.tell(|report| {
                report.state = TaskState::Running;
                report.healthy = true;
                report.port = serves.then_some(self.order.port);
                report.last_probe = None;
                report.phases.ready_us = Some(ready_us);
            });
            // Somebody waits for the news, nobody for this.
            handle.settle(cpu_millis);
            self.host.started(Duration::from_micros(ready_us));
            self.host.refill();
        }
        health.alive(&tell).await
    }

    /// Tells now and then what the task uses.
    async fn sample(&self, handle: &Handle, was_ready: bool) -> Infallible {
        let began = Instant::now();
        let order = &self.order;
        let names = (&*order.application, &*order.namespace);
        let mut series = self.host.series.of(self.task, names, &order.environment);
        let mut meter = None;
        let mut ticks = tokio::time::interval_at((began + USAGE_DELAY).into(), USAGE_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(reading) = handle.usage().await else {
                continue;
            };
            series.read(reading, !was_ready);
            let now = Instant::now();
            // What it used before this agent's time is no part of a sample.
            let meter = meter.get_or_insert_with(|| {
                if was_ready {
                    Meter::from(began, reading)
                } else {
                    Meter::new(began)
                }
            });
            self.host.board.sample(self.task, meter.sample(now, reading));
        }
    }

    async fn max_runtime(&self, accepted_at: Time) -> Cause {
        let Some(limit_secs) = self.order.max_runtime_secs else {
            return std::future::pending().await;
        };
        let limit = Duration::from_secs(limit_secs.into());
        tokio::time::sleep(limit.saturating_sub(Time::now().since(accepted_at))).await;
        Cause::MaxRuntime(limit)
    }

    /// A program that doesn't serve has nothing to finish; the others get their grace.
    fn grace(&self, cause: &Cause) -> Duration {
        let own = Duration::from_secs(self.order.stop_grace_secs.into());
        match cause {
            Cause::Ordered => match *self.stop.borrow() {
                Some(Wish::Within(grace)) => grace,
                Some(Wish::OwnGrace) => own,
                None => Duration::ZERO,
            },
            Cause::MaxRuntime(_) => own,
            _ => Duration::ZERO,
        }
    }

    /// SIGTERM, grace, SIGKILL.
    async fn end(&self, handle: &Handle, exit: &mut BoxFuture<'static, Exit>, cause: &Cause) -> Exit {
        let grace = self.grace(cause);
        self.tell(|report| {
            report.state = TaskState::Stopping;
            report.healthy = false;
            // For the next agent, which may see no more than a program that ended with 0 when it was told to.
            report.reason = matches!(cause, Cause::MaxRuntime(_)).then_some(Reason::MaxRuntime);
        });
        if !grace.is_zero() {
            handle.ask_to_end().await;
            let asked = Instant::now();
            tokio::select! {
                biased;
                exit = &mut *exit => return exit,
                () = tokio::time::sleep(grace) => {}
                () = self.host.board.time_is_over() => {}
            }
            self.note_killed(asked.elapsed().min(grace));
        }
        handle.kill().await;
        match tokio::time::timeout(KILL_TIMEOUT, exit).await {
            Ok(exit) => exit,
            Err(_) => {
                tracing::error!(task = %self.task, "a killed task is not gone");
                Exit::default()
            }
        }
    }

    /// Tells that it did not go in time.
    fn note_killed(&self, after: Duration) {
        let after_secs = after.as_secs();
        let tenths = after.as_millis() / 100;
        self.follower.note(format!(
            "still running {} s after SIGTERM: killed",
            tenths as f64 / 10.0
        ));
        if !self.host.board.is_closed() {
            return;
        }
        tracing::warn!(
            task = %self.task, application = %self.order.application, after_secs,
            "still running after SIGTERM: killed, because the agent stops"
        );
        self.host.board.note_killed(Killed {
            task_id: self.task,
            application: self.order.application.clone(),
            namespace: self.order.namespace.clone(),
            environment: self.order.environment.clone(),
            after_secs,
        });
    }

    /// The last report, with the last lines at hand.
    async fn conclude(&self, cause: Cause, exit: Exit, oom_killed: bool, processes_peak: Option<u32>) {
        let cause = match (cause, self.order.max_runtime_secs) {
            (Cause::Itself { .. } | Cause::Lost | Cause::Ordered, Some(limit_secs)) if self.overran => {
                Cause::MaxRuntime(Duration::from_secs(limit_secs.into()))
            }
            // One that was ordered to stop as well is told so by the scheduler, which knows its orders.
            (Cause::Ordered, _) if self.host.board.is_closed() => Cause::AgentStops,
            (cause, _) => cause,
        };
        let facts = Facts {
            cause,
            exit,
            oom_killed,
            processes_peak,
            memory_bytes: self.order.resources.memory.0,
            port: self.order.port,
            restart: self.order.restart,
        };
        let ending = conclude(&facts);
        // How a program ends that we kill says nothing about it.
        let exit = if facts.cause.is_our_kill() {
            Exit::default()
        } else {
            exit
        };
        let failed = ending.state == TaskState::Failed;
        let last_word = failed.then(|| ending.message.clone());
        let log_tail = self.follower.finish(last_word, TAIL_TIMEOUT).await;
        tracing::info!(task = %self.task, state = %ending.state, reason = ?ending.reason, "{}", ending.message);
        self.tell(|report| {
            report.state = ending.state;
            report.healthy = false;
            report.port = None;
            report.usage = None;
            report.reason = ending.reason;
            report.message = Some(ending.message);
            report.exit_code = exit.code;
            report.signal = exit.signal;
            report.log_tail = if failed {
                tail::bounded(log_tail)
            } else {
                Vec::new()
            };
        });
        self.host.refill();
    }
}
