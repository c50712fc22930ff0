//! What holds on the machines themselves, whatever the scheduler believes.

use crate::{
    sim::{SECOND, Sim},
    trace::short,
};
use zectre_common::{id::TaskId, state::TaskState};
use zectre_scheduler::core::Unrouted;

impl Sim {
    /// A process was made: the first of its task, on a port of its own, within what the machine has.
    pub(crate) fn check_process(&mut self, index: usize, task: TaskId) {
        let count = self.checks.started.entry(task).or_default();
        *count += 1;
        if *count > 1 {
            let detail = format!("task {} on host {index}", short(task.get()));
            return self.fail("7: a task is started once", detail);
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
            let detail = format!("host {index}: {sum:?} and {slots} processes of {capacity:?}");
            self.fail("1: capacity", detail);
        }
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
        // Clocks differ by less than a second.
        let drained_by = self.clock(SECOND as i64);
        let may_cut = row.drain_until.is_some_and(|until| until <= drained_by);
        self.checks.stopped.insert(task);
        for proxy in 0..self.proxies.len() {
            if !self.counts(proxy) {
                continue;
            }
            if self.routes_to(proxy, task) {
                let detail = format!(
                    "task {} is stopped, and proxy {proxy} routes to it",
                    short(task.get())
                );
                return self.fail("4: proxies acknowledge before a stop", detail);
            }
            // Requests that waited for a wake go to what the wake named, whatever became of it.
            let was_routed = matches!(row.unrouted, Unrouted::At(_));
            if was_routed && !may_cut && self.has_requests(proxy, task) {
                let detail = format!("task {} is stopped with requests under way", short(task.get()));
                return self.fail("4: a task is drained before its stop", detail);
            }
        }
    }

    /// A request goes to a task: it must not be one that was stopped.
    pub(crate) fn check_routed(&mut self, proxy: usize, task: TaskId) {
        let by_table = self.proxies[proxy].table.tasks.contains_key(&task);
        if by_table && self.checks.stopped.contains(&task) && self.counts(proxy) {
            let detail = format!("proxy {proxy} sends a request to task {}", short(task.get()));
            self.fail("4: no request is sent to a stopped task", detail);
        }
    }
}
