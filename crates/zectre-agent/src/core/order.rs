//! What an order means, given what is held.
//!
//! Orders may come twice, late, and from a leader that has been replaced; none of that may start a task
//! twice or bring back one that was stopped.

use zectre_common::wire::agent::ActionKind;

/// What the agent knows of the task that an order is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    /// Nothing.
    Nothing,
    /// It was forgotten; the newest order about it had this generation.
    Forgotten(u64),
    /// It is starting, running or stopping; the newest order acted on had this generation.
    Live(u64),
    /// It has ended; the newest order acted on had this generation.
    Ended(u64),
}

/// What to do about an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start the task.
    Start,
    /// Stop the running task.
    Stop,
    /// There is nothing to stop: hold it as stopped, so that its end is reported and a start that comes late
    /// is refused.
    HoldStopped,
    /// Nothing to do but to acknowledge the newer generation.
    Acknowledge,
    /// Drop it.
    Forget,
    /// Old or repeated.
    Ignore,
}

impl Known {
    const fn generation(self) -> Option<u64> {
        match self {
            Self::Nothing => None,
            Self::Forgotten(generation) | Self::Live(generation) | Self::Ended(generation) => {
                Some(generation)
            }
        }
    }
}

/// Decides about one order.
pub fn decide(known: Known, generation: u64, kind: &ActionKind) -> Decision {
    let newer = known.generation().is_none_or(|held| generation > held);
    match (kind, known) {
        // Forgetting repeats the generation of the end it answers to.
        (ActionKind::Forget, Known::Ended(held)) if generation >= held => Decision::Forget,
        (ActionKind::Forget, _) => Decision::Ignore,
        _ if !newer => Decision::Ignore,
        (ActionKind::Start { .. }, Known::Nothing | Known::Forgotten(_)) => Decision::Start,
        // A task runs once, a fresh run is a task of its own; and what has ended needs no stop.
        (ActionKind::Start { .. }, Known::Live(_)) | (_, Known::Ended(_)) => Decision::Acknowledge,
        (ActionKind::Stop { .. }, Known::Live(_)) => Decision::Stop,
        (ActionKind::Stop { .. }, Known::Nothing | Known::Forgotten(_)) => Decision::HoldStopped,
    }
}

/// A leader that has been replaced speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("epoch {given} is over: this node obeys epoch {seen}")]
pub struct StaleEpoch {
    /// Its epoch.
    pub given: u64,
    /// The newest one seen.
    pub seen: u64,
}

/// The newest epoch after hearing `given`, which must not be older than `seen`.
pub const fn fence(seen: u64, given: u64) -> Result<u64, StaleEpoch> {
    if given < seen {
        Err(StaleEpoch { given, seen })
    } else {
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zectre_common::quantity::DurationMs;

    fn stop() -> ActionKind {
        ActionKind::Stop { grace: DurationMs(1) }
    }

    fn start() -> ActionKind {
        serde_json::from_value(serde_json::json!({ "kind": "start", "order": {
            "deployment_id": "01900000-0000-7000-8000-000000000001", "application": "a", "namespace": "n",
            "environment": "e", "process_type": "tish", "args": [], "env": {}, "port": 1, "protocol": "http",
            "health_check": {}, "resources": {"cpu": "100m", "memory": "1Mi"}, "restart": "always",
            "stop_grace_secs": 1, "volumes": [] } }))
        .expect("a valid order")
    }

    #[test]
    fn a_stop_before_its_start_wins() {
        assert_eq!(decide(Known::Nothing, 2, &stop()), Decision::HoldStopped);
        assert_eq!(decide(Known::Ended(2), 1, &start()), Decision::Ignore);
        assert_eq!(decide(Known::Forgotten(2), 1, &start()), Decision::Ignore);
    }

    #[test]
    fn only_what_has_ended_is_forgotten() {
        assert_eq!(decide(Known::Live(3), 4, &ActionKind::Forget), Decision::Ignore);
        assert_eq!(decide(Known::Ended(3), 3, &ActionKind::Forget), Decision::Forget);
        assert_eq!(decide(Known::Ended(3), 2, &ActionKind::Forget), Decision::Ignore);
    }

    #[test]
    fn epochs_never_go_back() {
        assert_eq!(fence(4, 4), Ok(4));
        assert_eq!(fence(4, 7), Ok(7));
        assert_eq!(fence(4, 3), Err(StaleEpoch { given: 3, seen: 4 }));
    }

    #[derive(Debug, Clone, Copy)]
    enum Kind {
        Start,
        Stop,
        Forget,
    }

    proptest! {
        /// Whatever comes in whatever order, and however often: a task is started at most once, and never
        /// after a newer stop.
        #[test]
        fn a_task_starts_at_most_once(
            orders in proptest::collection::vec((0_u64..6, prop_oneof![
                Just(Kind::Start), Just(Kind::Stop), Just(Kind::Forget)]), 0..24)
        ) {
            let (mut known, mut starts, mut stopped_at) = (Known::Nothing, 0, None::<u64>);
            for (generation, kind) in orders {
                let order = match kind {
                    Kind::Start => start(),
                    Kind::Stop => stop(),
                    Kind::Forget => ActionKind::Forget,
                };
                let held = known.generation().unwrap_or(0).max(generation);
                known = match decide(known, generation, &order) {
                    Decision::Start => {
                        starts += u32::from(!matches!(known, Known::Forgotten(_)));
                        prop_assert!(stopped_at.is_none_or(|stopped| generation > stopped));
                        Known::Live(generation)
                    }
                    Decision::Stop | Decision::HoldStopped => {
                        stopped_at = Some(generation);
                        Known::Ended(generation)
                    }
                    Decision::Acknowledge if matches!(known, Known::Live(_)) => Known::Live(held),
                    Decision::Acknowledge => Known::Ended(held),
                    Decision::Forget => Known::Forgotten(held),
                    Decision::Ignore => known,
                };
            }
            prop_assert!(starts <= 1);
        }
    }
}
