//! Carries out orders, whichever way they came: pushed by the scheduler, or in the answer to a heartbeat.

use crate::{
    core::order::{Decision, decide, fence},
    error::Error,
    host::Host,
    record,
    task::{forget, hold_stopped, start},
};
use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};
use zectre_common::wire::agent::{Action, ActionKind, ActionsResponse};

/// The newest epoch's file in the data directory.
const FILE: &str = "epoch.json";

/// Takes orders, one batch at a time.
pub(crate) struct Orders {
    host: Arc<Host>,
    path: PathBuf,
    epoch: Mutex<u64>,
}

impl Orders {
    /// Takes up the newest epoch seen before.
    pub(crate) fn open(host: Arc<Host>, data_dir: &Path) -> Result<Self, Error> {
        let path = data_dir.join(FILE);
        let epoch = record::read(&path).map_err(|source| Error::DataDir {
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            host,
            path,
            epoch: Mutex::new(epoch.unwrap_or(0)),
        })
    }

    /// Carries out what is new of `actions`.
    ///
    /// # Errors
    /// [`Error::StaleEpoch`] when a leader speaks that has been replaced; nothing was done then.
    pub(crate) fn obey(&self, leader_epoch: u64, actions: Vec<Action>) -> Result<ActionsResponse, Error> {
        // Held to the end: two batches about one task must not decide at the same time.
        let mut epoch = self.epoch.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = fence(*epoch, leader_epoch)?;
        if newest != *epoch {
            record::write(&self.path, &newest).map_err(|source| Error::DataDir {
                path: self.path.clone(),
                source,
            })?;
            *epoch = newest;
        }
        let mut response = ActionsResponse {
            accepted: 0,
            ignored: 0,
        };
        for action in actions {
            if self.carry_out(action) {
                response.accepted += 1;
            } else {
                response.ignored += 1;
            }
        }
        Ok(response)
    }

    fn carry_out(&self, action: Action) -> bool {
        let Action {
            task_id,
            generation,
            kind,
        } = action;
        if matches!(kind, ActionKind::Start { .. }) && self.host.board.is_closed() {
            return false;
        }
        let decision = decide(self.host.board.known(task_id), generation, &kind);
        tracing::debug!(task = %task_id, generation, ?decision, "order");
        match (decision, kind) {
            (Decision::Start, ActionKind::Start { order }) => start(&self.host, task_id, generation, *order),
            (Decision::Stop, ActionKind::Stop { grace }) => {
                let grace = grace.duration();
                self.host.board.stop_as_ordered(task_id, generation, grace);
            }
            (Decision::HoldStopped, _) => hold_stopped(&self.host, task_id, generation),
            (Decision::Acknowledge, _) => self.host.board.acknowledge(task_id, generation),
            (Decision::Forget, _) => forget(&self.host, task_id, generation),
            (Decision::Ignore | Decision::Start | Decision::Stop, _) => return false,
        }
        true
    }
}
