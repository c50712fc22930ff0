//! The life of a task on its machine: fetched, started, ready, and ended in one of many ways.

use crate::{
    host::{HostAct, Process, report},
    operator::Program,
    sim::{Act, MS, SECOND, Sim, Us, note},
    trace::short,
};
use std::time::Duration;
use zectre_common::{
    id::TaskId,
    spec::RestartPolicy,
    state::{Reason, TaskState},
};
use zectre_scheduler_core::Task;

/// What the specs of the simulator allow for a start.
pub(crate) const START_TIMEOUT_SECS: u64 = 8;

/// A step in the life of a task; the number is its process's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum LifeAct {
    /// Its artifact is there.
    Fetched,
    /// It passes its check.
    Ready(u64),
    /// It did not become ready in time.
    TimedOut(u64),
    /// It begins to fail its checks.
    Sickens(u64),
    /// Its checks failed too often.
    GivenUp(u64),
    /// It has run for as long as it may.
    Limit(u64),
    /// Its end begins: so long until it is killed.
    End(Us),
}

impl Sim {
    pub(crate) fn start_task(&mut self, index: usize, wanted: &Task) {
        let starting = report(wanted.id, wanted.generation, TaskState::Starting);
        self.hold(index, starting, Some(wanted.deployment_id), wanted.port);
        let is_slow = self.is_stormy() && self.random.chance(30);
        let fetch_us = if is_slow {
            self.random.between(SECOND, 6 * SECOND)
        } else {
            self.random.between(2 * MS, 200 * MS)
        };
        self.live(index, wanted.id, fetch_us, LifeAct::Fetched);
    }

    fn live(&mut self, index: usize, task: TaskId, delay_us: Us, act: LifeAct) {
        let incarnation = self.hosts[index].incarnation;
        self.after(delay_us, Act::Host(index, HostAct::Life(incarnation, task, act)));
    }

    pub(crate) fn perform_life(&mut self, index: usize, task: TaskId, act: LifeAct) {
        let process = self.hosts[index]
            .processes
            .get(&task)
            .map(|process| process.number);
        let runs = self.report_state(index, task) == Some(TaskState::Running);
        match act {
            LifeAct::Fetched => self.spawn_process(index, task),
            LifeAct::Ready(number) if process == Some(number) => self.becomes_ready(index, task),
            LifeAct::TimedOut(number) if process == Some(number) => {
                self.kill(index, task, Reason::PortNeverOpened);
            }
            LifeAct::Sickens(number) if process == Some(number) && runs && self.is_stormy() => {
                self.update(index, task, |report| report.healthy = false);
                self.live(index, task, 2 * SECOND, LifeAct::GivenUp(number));
            }
            LifeAct::GivenUp(number) if process == Some(number) && runs => {
                self.kill(index, task, Reason::HealthCheckFailed);
            }
            LifeAct::Limit(number) if process == Some(number) => self.time_is_over(index, task),
            LifeAct::End(grace_us) => self.end_process(index, task, grace_us),
            _ => {}
        }
    }

    fn report_state(&self, index: usize, task: TaskId) -> Option<TaskState> {
        let held = self.hosts[index].held.get(&task)?;
        Some(held.report.state)
    }

    fn spawn_process(&mut self, index: usize, task: TaskId) {
        let number = self.fresh();
        let Some(held) = self.hosts[index].held.get_mut(&task) else {
            return;
        };
        let Some(deployment) = held
            .deployment
            .filter(|_| held.report.state == TaskState::Starting)
        else {
            return;
        };
        if held.is_stopping {
            return;
        }
        held.was_started = true;
        let port = held.port;
        let program = self.operator.program(deployment);
        let ready_us = match program {
            Program::Hangs | Program::Exits(_) => None,
            _ => Some(self.now_us + self.random.between(5 * MS, 600 * MS)),
        };
        let process = Process {
            number,
            deployment,
            port,
            ready_us,
        };
        self.hosts[index].processes.insert(task, process);
        note!(self, "host {index}: task {} has a process", short(task.get()));
        self.check_process(index, task);
        if let Some(ready_us) = ready_us {
            let delay_us = ready_us - self.now_us;
            self.live(index, task, delay_us, LifeAct::Ready(number));
        } else {
            let delay_us = START_TIMEOUT_SECS * SECOND;
            self.live(index, task, delay_us, LifeAct::TimedOut(number));
        }
        self.plan_end(index, task, number, program);
        self.limit_runtime(index, task, number);
    }

    /// The agent ends what runs for longer than its spec allows, counted from when its order was accepted.
    fn limit_runtime(&mut self, index: usize, task: TaskId, number: u64) {
        let Some(held) = self.hosts[index].held.get(&task) else {
            return;
        };
        let spec = held
            .deployment
            .and_then(|id| self.database.deployments.get(&id))
            .map(|row| &row.spec);
        if let Some(limit_secs) = spec.and_then(|spec| spec.max_runtime_secs) {
            let ends_us = held.accepted_us + u64::from(limit_secs) * SECOND;
            let delay_us = ends_us.saturating_sub(self.now_us);
            self.live(index, task, delay_us, LifeAct::Limit(number));
        }
    }

    fn time_is_over(&mut self, index: usize, task: TaskId) {
        let Some(held) = self.hosts[index]
            .held
            .get_mut(&task)
            .filter(|held| !held.is_stopping)
        else {
            return;
        };
        held.is_timed_out = true;
        let deployment = held.deployment.and_then(|id| self.database.deployments.get(&id));
        let grace_secs = deployment.map_or(0, |row| row.spec.stop_grace_secs);
        note!(
            self,
            "host {index}: the time of task {} is over",
            short(task.get())
        );
        self.check_relieved(index, task);
        self.end_process(index, task, u64::from(grace_secs) * SECOND);
    }

    /// How a process of this program ends by itself, if it does.
    fn plan_end(&mut self, index: usize, task: TaskId, number: u64, program: Program) {
        let exit = |code| Act::Host(index, HostAct::Exit(task, number, code));
        match program {
            Program::Exits(code) => {
                let after_us = self.random.between(50 * MS, 400 * MS);
                self.after(after_us, exit(Some(code)));
            }
            Program::Job(code) => {
                let after_us = self.random.between(700 * MS, 15 * SECOND);
                self.after(after_us, exit(Some(code)));
            }
            Program::Flaky if self.is_stormy() => {
                let after_us = self.random.between(5 * SECOND, 60 * SECOND);
                self.after(after_us, exit(None));
            }
            Program::Sickens if self.is_stormy() => {
                let after_us = self.random.between(5 * SECOND, 60 * SECOND);
                self.live(index, task, after_us, LifeAct::Sickens(number));
            }
            _ => {}
        }
    }

    fn becomes_ready(&mut self, index: usize, task: TaskId) {
        let starts = self.report_state(index, task) == Some(TaskState::Starting);
        let held = self.hosts[index].held.get(&task);
        if !starts || held.is_none_or(|held| held.is_stopping) {
            return;
        }
        let port = held.and_then(|held| held.port);
        self.update(index, task, |report| {
            (report.state, report.healthy, report.port) = (TaskState::Running, true, port);
        });
    }

    /// Accepts the order to stop; the end begins a moment later, and only then is on disk.
    pub(crate) fn stop_task(&mut self, index: usize, task: TaskId, generation: u64, grace: Duration) {
        self.check_stop(index, task);
        self.update(index, task, |report| {
            report.generation = report.generation.max(generation);
        });
        let Some(held) = self.hosts[index].held.get_mut(&task) else {
            return;
        };
        if std::mem::replace(&mut held.is_stopping, true) {
            return;
        }
        let slow = self.is_stormy() && self.random.chance(50);
        let delay_us = self.random.between(0, if slow { 800 * MS } else { 2 * MS });
        self.live(index, task, delay_us, LifeAct::End(grace.as_micros() as Us));
    }

    pub(crate) fn end_process(&mut self, index: usize, task: TaskId, grace_us: Us) {
        if self.report_state(index, task).is_none_or(TaskState::is_ended) {
            return;
        }
        let Some(process) = self.hosts[index].processes.get(&task).cloned() else {
            return self.conclude(index, task);
        };
        self.update(index, task, |report| {
            (report.state, report.healthy) = (TaskState::Stopping, false);
        });
        let end_us = match self.operator.program(process.deployment) {
            Program::Stubborn => grace_us,
            _ => self.random.between(MS, 300 * MS).min(grace_us),
        };
        let exit = HostAct::Exit(task, process.number, Some(0));
        self.after(end_us, Act::Host(index, exit));
    }

    /// The agent ends it, for this reason.
    fn kill(&mut self, index: usize, task: TaskId, reason: Reason) {
        if self.hosts[index]
            .held
            .get(&task)
            .is_none_or(|held| held.is_stopping)
        {
            return;
        }
        self.hosts[index].processes.remove(&task);
        self.requests_end_with(task);
        self.update(index, task, |report| {
            (report.state, report.healthy, report.port) = (TaskState::Failed, false, None);
            (report.reason, report.signal) = (Some(reason), Some(9));
        });
    }

    /// A process ended, whoever wished it.
    pub(crate) fn process_exits(&mut self, index: usize, task: TaskId, number: u64, code: Option<i32>) {
        let host = &mut self.hosts[index];
        if host
            .processes
            .get(&task)
            .is_none_or(|process| process.number != number)
        {
            return;
        }
        host.processes.remove(&task);
        self.requests_end_with(task);
        let host = &mut self.hosts[index];
        if let Some(held) = host.held.get_mut(&task) {
            (held.exit_code, held.is_exit_known) = (code, true);
        }
        if host.agent_up {
            self.conclude(index, task);
        }
    }

    /// The last report, from what the supervisor wrote down.
    fn conclude(&mut self, index: usize, task: TaskId) {
        let Some(held) = self.hosts[index].held.get(&task) else {
            return;
        };
        if held.report.state.is_ended() {
            return;
        }
        let (code, is_timed_out) = (held.exit_code, held.is_timed_out);
        let reason = if held.is_exit_known {
            Reason::Exited
        } else {
            Reason::NodeLost
        };
        let ordered = held.is_stopping || held.report.state == TaskState::Stopping;
        let restart = held.deployment.map(|id| self.operator.restart_policy(id));
        let is_success =
            code == Some(0) && matches!(restart, Some(RestartPolicy::Never | RestartPolicy::OnFailure));
        self.update(index, task, |report| {
            (report.healthy, report.port, report.exit_code) = (false, None, code);
            if is_timed_out {
                (report.state, report.exit_code) = (TaskState::Failed, None);
                report.reason = Some(Reason::MaxRuntime);
            } else if ordered || is_success {
                report.state = TaskState::Stopped;
            } else {
                report.state = TaskState::Failed;
                report.reason = Some(reason);
            }
        });
    }

    /// An agent that starts takes up what is on its machine.
    pub(crate) fn adopt(&mut self, index: usize) {
        let tasks: Vec<TaskId> = self.hosts[index].held.keys().copied().collect();
        for task in tasks {
            let host = &mut self.hosts[index];
            let process = host.processes.get(&task).cloned();
            let Some(held) = host.held.get_mut(&task) else {
                continue;
            };
            held.is_stopping = held.report.state == TaskState::Stopping;
            let (state, stopping) = (held.report.state, held.is_stopping);
            host.news.insert(task);
            match process {
                _ if state.is_ended() => {}
                Some(_) if stopping => self.live(index, task, MS, LifeAct::End(10 * SECOND)),
                Some(process) => self.watch_again(index, task, &process),
                None if held.was_started => self.conclude(index, task),
                // It never came to run: the scheduler still wants it, and says so again.
                None => {
                    host.held.remove(&task);
                    host.news.remove(&task);
                }
            }
        }
        let host = &mut self.hosts[index];
        let held: std::collections::BTreeSet<TaskId> = host.held.keys().copied().collect();
        let strays: Vec<TaskId> = host
            .processes
            .keys()
            .filter(|task| !held.contains(task))
            .copied()
            .collect();
        for stray in strays {
            self.hosts[index].processes.remove(&stray);
            self.requests_end_with(stray);
        }
    }

    fn watch_again(&mut self, index: usize, task: TaskId, process: &Process) {
        self.limit_runtime(index, task, process.number);
        if self.report_state(index, task) != Some(TaskState::Starting) {
            return;
        }
        let act = match process.ready_us {
            Some(ready_us) => (
                ready_us.saturating_sub(self.now_us),
                LifeAct::Ready(process.number),
            ),
            None => (START_TIMEOUT_SECS * SECOND, LifeAct::TimedOut(process.number)),
        };
        self.live(index, task, act.0 + MS, act.1);
    }
}
