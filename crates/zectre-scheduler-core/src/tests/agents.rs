//! The model's agents: they obey orders by the rules of the protocol, and report.

use super::world::{Program, World};
use crate::*;
use zectre_common::{
    id::TaskId,
    state::{Reason, TaskState},
    time::Time,
    wire::{agent::TaskReport, task::Phases},
};

impl World {
    /// Delivers what waits for an agent that is up; what is for others is lost.
    pub(super) fn deliver(&mut self) {
        for command in std::mem::take(&mut self.undelivered) {
            let (node, task_id, generation) = match &command {
                Command::Start { node_id, task } => (*node_id, task.id, task.generation),
                Command::Stop {
                    node_id,
                    task_id,
                    generation,
                    ..
                }
                | Command::Forget {
                    node_id,
                    task_id,
                    generation,
                } => (*node_id, *task_id, *generation),
                _ => continue,
            };
            let Some(index) = self.agents.iter().position(|agent| agent.id == node && agent.up) else {
                continue;
            };
            let held = self.agents[index]
                .held
                .get(&task_id)
                .map(|report| report.generation);
            if held.is_some_and(|held| generation <= held) {
                continue;
            }
            if let Some(report) = self.obey(index, &command, task_id, generation) {
                self.agents[index].held.insert(task_id, report.clone());
                self.feed(Event::TaskReports {
                    node_id: node,
                    tasks: vec![report],
                });
            }
        }
    }

    fn obey(
        &mut self,
        index: usize,
        command: &Command,
        task_id: TaskId,
        generation: u64,
    ) -> Option<TaskReport> {
        match command {
            Command::Start { task, .. } => {
                let starts = self.agents[index].started.entry(task_id).or_default();
                *starts += 1;
                assert_eq!(*starts, 1, "one task is started once");
                Some(match self.programs[&task.deployment_id] {
                    Program::Serves => report(task_id, generation, TaskState::Running),
                    Program::Hangs => report(task_id, generation, TaskState::Starting),
                    Program::Exits(code) => TaskReport {
                        exit_code: Some(code),
                        reason: Some(Reason::Exited),
                        message: Some(format!("it ended with {code}")),
                        ..report(
                            task_id,
                            generation,
                            if code == 0 {
                                TaskState::Stopped
                            } else {
                                TaskState::Failed
                            },
                        )
                    },
                })
            }
            Command::Stop { .. } => Some(report(task_id, generation, TaskState::Stopped)),
            _ => {
                self.agents[index].held.remove(&task_id);
                None
            }
        }
    }

    pub(super) fn heartbeat(&mut self, index: usize) {
        let agent = &self.agents[index];
        if agent.up {
            let (node_id, tasks) = (agent.id, agent.held.values().cloned().collect());
            self.digest(node_id, tasks);
        }
    }

    /// A running program ends by itself.
    pub(super) fn crash(&mut self, index: usize) -> Option<TaskId> {
        let agent = &mut self.agents[index];
        let running = agent
            .held
            .values_mut()
            .find(|report| agent.up && report.state == TaskState::Running)?;
        (running.state, running.healthy) = (TaskState::Failed, false);
        (running.reason, running.signal) = (Some(Reason::Exited), Some(9));
        let (node_id, report) = (agent.id, running.clone());
        let id = report.task_id;
        self.feed(Event::TaskReports {
            node_id,
            tasks: vec![report],
        });
        Some(id)
    }
}

pub(super) fn report(task_id: TaskId, generation: u64, state: TaskState) -> TaskReport {
    TaskReport {
        task_id,
        generation,
        state,
        healthy: state == TaskState::Running,
        port: None,
        reason: None,
        message: None,
        exit_code: None,
        signal: None,
        last_probe: None,
        log_tail: Vec::new(),
        phases: Phases::default(),
        usage: None,
        since: Time::from_unix_ms(0),
    }
}
