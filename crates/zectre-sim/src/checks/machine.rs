//! What holds on the machines themselves, whatever the scheduler believes.

use crate::{faults::SKEW_MAX_US, operator::Program, sim::Sim, trace::short};
use zectre_common::{
    id::TaskId,
    state::{TaskState, Wanted},
};
use zectre_scheduler_core::Command;

impl Sim {
    /// A process was made: the first of its task, on a port of its own, within what the machine has.
    pub(crate) fn check_process(&mut self, index: usize, task: TaskId) {
        let count = self.checks.started.entry(task).or_default();
        *count += 1;
        if *count > 1 {
            let detail = format!("task {} on host {index}", short(task.get()));
            return self.fail("7: a task is started once", detail);
        }
        if let Some(detail) = self.runs_again(index, task) {
            return self.fail("7: what runs to completion runs once", detail);
        }
        let host = &self.hosts[index];
        let port = host.processes.get(&task).and_then(|process| process.port);
        let same = host
            .processes
            .iter()
            .find(|(id, other)| **id != task && other.port == port);
        if let Some((other, _)) = same {
            let detail = format!(
                "tasks {} and {} on port {port:?} of host {index}",
                short(other.get()),
                short(task.get())
            );
            return self.fail("1: a port is never given twice", detail);
        }
        let capacity = host.facts.capacity;
        let mut sum = (0, 0);
        for process in host.processes.values() {
            if let Some(row) = self.database.deployments.get(&process.deployment) {
                sum.0 += row.spec.resources.cpu.0;
                sum.1 += row.spec.resources.memory.0;
            }
        }
        let slots = host.processes.len() as u32;
        if sum.0 > capacity.cpu.0 || sum.1 > capacity.memory.0 || slots > capacity.task_slots {
            let rows = host.processes.keys().filter_map(|id| self.database.tasks.get(id));
            let rows: Vec<_> = rows
                .map(|row| {
                    let said = row.message.as_deref().unwrap_or_default();
                    (
                        short(row.id.get()),
                        short(row.deployment_id.get()),
                        row.state,
                        said,
                    )
                })
                .collect();
            let detail = format!("host {index}: {sum:?} and {slots} processes of {capacity:?}: {rows:?}");
            self.fail("1: capacity", detail);
        }
    }

    /// A program that runs once must not run twice, whatever became of the first run, unless people stop that.
    fn runs_again(&mut self, index: usize, task: TaskId) -> Option<String> {
        let deployment = self.hosts[index].processes.get(&task)?.deployment;
        let slot = self.database.tasks.get(&task)?.slot;
        let is_job = matches!(self.operator.program(deployment), Program::Job(_));
        if !is_job {
            return None;
        }
        let first = self.checks.ran.insert((deployment, slot), task)?;
        let is_asked = self.operator.stopped.contains(&first);
        (!is_asked).then(|| format!("slot {slot} of {deployment}: task {first}, then {task}"))
    }

    /// An agent is about to stop a task: nobody may need it any more.
    pub(crate) fn check_stop(&mut self, index: usize, task: TaskId) {
        let Some(row) = self.database.tasks.get(&task) else {
            return;
        };
        // An ended row: the node was lost, and has come back with what it had.
        if row.state.is_ended() {
            return;
        }
        if row.state != TaskState::Stopping {
            let detail = format!(
                "task {} on host {index} is {} in its row",
                short(task.get()),
                row.state
            );
            return self.fail("6: what is ordered was saved before", detail);
        }
        let drained_by = self.clock(SKEW_MAX_US as i64);
        let may_cut = row.drain_until.is_some_and(|until| until <= drained_by);
        self.checks.stopped.insert(task);
        for proxy in 0..self.proxies.len() {
            if !self.was_known_at_stop(proxy, task) {
                continue;
            }
            if self.routes_to(proxy, task) || self.goes_by_wake_to(proxy, task) {
                let detail = format!(
                    "task {} is stopped, and proxy {proxy} routes to it",
                    short(task.get())
                );
                return self.fail("4: proxies acknowledge before a stop", detail);
            }
            if !may_cut && self.has_requests(proxy, task) {
                let detail = format!("task {} is stopped with requests under way", short(task.get()));
                return self.fail("4: a task is drained before its stop", detail);
            }
        }
    }

    /// The time of a server is over: when nothing goes wrong and there is room, its successor took over before.
    pub(crate) fn check_relieved(&mut self, index: usize, task: TaskId) {
        let accepted_us = self.hosts[index].held.get(&task).map(|held| held.accepted_us);
        let Some(row) = self.database.tasks.get(&task) else {
            return;
        };
        let Some(deployment) = self.database.deployments.get(&row.deployment_id) else {
            return;
        };
        let was_calm = accepted_us.is_some_and(Self::is_calm_since);
        let is_alone = !self
            .database
            .live_tasks_of(deployment.id)
            .any(|other| other.slot == row.slot && other.id > task);
        let serves = row.wanted == Wanted::Run && !deployment.is_job() && !deployment.is_given_up();
        if was_calm && serves && is_alone && self.has_room_for(deployment) {
            let detail = format!("task {} of {} has no successor", short(task.get()), deployment.id);
            self.fail("3: a server is relieved before its time is over", detail);
        }
    }

    /// Whether the scheduler had to wait for this proxy before it told the task to stop.
    fn was_known_at_stop(&self, proxy: usize, task: TaskId) -> bool {
        let (proxy, known) = (&self.proxies[proxy], self.checks.known_at_stop.get(&task));
        proxy.is_up && known.is_some_and(|known| known.contains(&proxy.id))
    }

    /// An order is sent: a start of what lives, and a stop that an agent heeds, because it is newer. Who was overthrown while it
    /// stood still knows of no end since then; what it sends is judged where it is obeyed.
    pub(crate) fn check_order(&mut self, epoch: u64, order: &Command) {
        let leads = epoch == self.database.leader_epoch;
        match order {
            Command::Start { task, .. } => {
                let row = self.database.tasks.get(&task.id);
                if leads && row.is_some_and(|row| row.state.is_ended()) {
                    let detail = format!("task {} has ended", short(task.id.get()));
                    return self.fail("5: what has ended is not started", detail);
                }
                let newest = self.checks.started_as.entry(task.id).or_default();
                *newest = task.generation.max(*newest);
            }
            Command::Stop {
                task_id, generation, ..
            } if self
                .checks
                .started_as
                .get(task_id)
                .is_some_and(|start| start >= generation) =>
            {
                let detail = format!(
                    "task {} is stopped by generation {generation}",
                    short(task_id.get())
                );
                self.fail("5: a stop is newer than its start", detail);
            }
            _ => {}
        }
    }

    /// A host carries out orders: those of the newest leader it has heard, and of nobody before.
    pub(crate) fn check_obedience(&mut self, index: usize, epoch: u64, orders: &[Command]) {
        let heard = self.checks.heard.entry(index).or_default();
        let newest = *heard;
        *heard = newest.max(epoch);
        if epoch < newest && !orders.is_empty() {
            let detail = format!("host {index} obeyed epoch {epoch} after {newest}");
            self.fail("5: an old leader changes nothing", detail);
        }
    }

    /// A request goes to a task: it must not be one that was stopped.
    pub(crate) fn check_routed(&mut self, proxy: usize, task: TaskId) {
        if self.checks.stopped.contains(&task) && self.was_known_at_stop(proxy, task) {
            let detail = format!("proxy {proxy} sends a request to task {}", short(task.get()));
            self.fail("4: no request is sent to a stopped task", detail);
        }
    }
}
