//! A task's latest lines, for reports and for whoever watches.

use super::TAIL_LINES_MAX;
use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
};
use tokio::sync::broadcast;
use zectre_common::wire::log::LogLine;

/// Lines a slow watcher may fall behind; it is told when it lost some.
const BEHIND_MAX: usize = 1_024;

/// The end of a task's output.
#[derive(Debug)]
pub(crate) struct Live {
    tail: Mutex<VecDeque<LogLine>>,
    watchers: broadcast::Sender<LogLine>,
}

impl Live {
    /// With the lines that are known already.
    pub(crate) fn new(lines: Vec<LogLine>) -> Self {
        let live = Self {
            tail: Mutex::default(),
            watchers: broadcast::Sender::new(BEHIND_MAX),
        };
        live.publish(lines);
        live
    }

    /// Takes up new lines.
    pub(crate) fn publish(&self, lines: Vec<LogLine>) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        for line in lines {
            if tail.len() == TAIL_LINES_MAX {
                tail.pop_front();
            }
            tail.push_back(line.clone());
            if self.is_watched() {
                // The last one may have gone meanwhile.
                let _ = self.watchers.send(line);
            }
        }
    }

    /// Whether anybody wants every line.
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.receiver_count() > 0
    }

    /// The last lines.
    pub(crate) fn tail(&self) -> Vec<LogLine> {
        self.tail
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// The last lines and all that follow, without gap or repeat between the two.
    pub(crate) fn watch(&self) -> (Vec<LogLine>, broadcast::Receiver<LogLine>) {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        (tail.iter().cloned().collect(), self.watchers.subscribe())
    }
}
