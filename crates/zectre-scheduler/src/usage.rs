//! What tasks use: agents tell it with every heartbeat, and it is written down every ten seconds.
//!
//! It decides nothing, so it passes by the engine, is written without the leader's epoch, and may be late or lost.

use crate::store::Store;
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval, timeout};
use zectre_common::{
    id::TaskId,
    wire::{agent::TaskReport, task::TaskUsage},
};
use zectre_service::tasks::Shutdown;

/// As fine as it is shown (`/metrics`), and as often as agents measure.
const WRITE_EVERY: Duration = Duration::from_secs(10);
/// Tasks in one statement: some 50 ms.
const ROWS_MAX: usize = 5_000;
/// Statements in a row: with more tasks than these hold, each is written less often, in turn.
const STATEMENTS_MAX: usize = 4;
/// Tasks that may wait to be written, some 100 bytes each: as many as a cluster is measured with, so that each gets its
/// turn. With fewer places than tasks those of the nodes that speak first after a write would take them every time.
const WAITING_MAX: usize = 1_000_000;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// What was told and not written yet, the one that waits longest first.
#[derive(Debug, Default)]
pub struct UsageBoard(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<TaskId>,
    newest: HashMap<TaskId, TaskUsage>,
}

impl UsageBoard {
    /// A node has told of its tasks.
    pub fn told(&self, tasks: &[TaskReport]) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for report in tasks {
            let Some(usage) = report.usage else { continue };
            if let Some(known) = waiting.newest.get_mut(&report.task_id) {
                *known = usage;
            } else if waiting.order.len() < WAITING_MAX {
                waiting.order.push_back(report.task_id);
                waiting.newest.insert(report.task_id, usage);
            }
        }
    }

    fn take(&self) -> Vec<(TaskId, TaskUsage)> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.order.len().min(ROWS_MAX);
        let taken: Vec<TaskId> = waiting.order.drain(..count).collect();
        let usage = |id| waiting.newest.remove(&id).map(|usage| (id, usage));
        taken.into_iter().filter_map(usage).collect()
    }

    /// Writes until `shutdown`.
    pub async fn run(&self, store: Store, shutdown: Shutdown) {
        let mut ticks = interval(WRITE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while shutdown.or_requested(ticks.tick()).await.is_some() {
            for _ in 0..STATEMENTS_MAX {
                let rows = self.take();
                if rows.is_empty() {
                    break;
                }
                match timeout(STATEMENT_TIMEOUT, store.write_usage(&rows)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::debug!(%error, "what tasks use could not be written"),
                    Err(_) => tracing::debug!("what tasks use took too long to write"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_of_a_task_counts_and_who_waits_longest_is_first() {
        let board = UsageBoard::default();
        let report = |task_id, memory_bytes| TaskReport {
            usage: Some(TaskUsage {
                cpu_millis: 1,
                memory_bytes,
            }),
            ..crate::order::failure(task_id, 1, zectre_common::state::Reason::Internal, String::new())
        };
        let (one, two) = (TaskId::new(), TaskId::new());
        board.told(&[report(one, 1), report(two, 2)]);
        board.told(&[report(one, 3)]);
        let taken: Vec<_> = board
            .take()
            .into_iter()
            .map(|(id, usage)| (id, usage.memory_bytes))
            .collect();
        assert_eq!(taken, [(one, 3), (two, 2)]);
        assert!(board.take().is_empty());
    }
}
