//! Deployments that have ended and run nothing, in the order in which something was last asked of them. Only so many are
//! remembered: whoever asks for another one brings its row.

use std::collections::BTreeMap;
use zectre_common::id::DeploymentId;

/// The most of them that are remembered.
const RESTING_MAX: usize = 10_000;

/// Those that rest.
#[derive(Debug, Clone, Default)]
pub(super) struct Resting {
    by_turn: BTreeMap<u64, DeploymentId>,
    turns: BTreeMap<DeploymentId, u64>,
    turn: u64,
}

impl Resting {
    /// It was looked at, and rests: the last to be forgotten.
    pub(super) fn note(&mut self, id: DeploymentId) {
        self.remove(id);
        self.turn += 1;
        self.turns.insert(id, self.turn);
        self.by_turn.insert(self.turn, id);
    }

    /// It rests no more, or is forgotten.
    pub(super) fn remove(&mut self, id: DeploymentId) {
        if let Some(turn) = self.turns.remove(&id) {
            self.by_turn.remove(&turn);
        }
    }

    /// The one that has rested for longest, when there are too many.
    pub(super) fn pop_surplus(&mut self) -> Option<DeploymentId> {
        if self.turns.len() <= RESTING_MAX {
            return None;
        }
        let (_, id) = self.by_turn.pop_first()?;
        self.turns.remove(&id);
        Some(id)
    }
}
