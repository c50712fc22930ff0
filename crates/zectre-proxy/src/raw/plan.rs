//! What to do about listeners. Pure.

use std::{collections::BTreeSet, time::Duration};
use tokio::time::Instant;

/// Listeners of one proxy: as many as a range may have ports.
pub const LISTENERS_MAX: usize = 4_096;
/// What took a port may be gone a moment later …
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// … or stay.
const RETRY_LAST: Duration = Duration::from_secs(30);

/// The most listeners of a process that may open so many files: with all of them open, as many are left for connections.
pub(crate) fn listeners_max(open_files_max: u64) -> usize {
    usize::try_from(open_files_max / 2).map_or(LISTENERS_MAX, |half| half.min(LISTENERS_MAX))
}

/// When a port that failed is tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Retry {
    pub(super) at: Instant,
    pause: Duration,
}

impl Retry {
    /// At once.
    pub(super) fn first(now: Instant) -> Self {
        Self {
            at: now,
            pause: RETRY_FIRST,
        }
    }

    /// After it has failed once more.
    pub(super) fn after(self, now: Instant) -> Self {
        Self {
            at: now + self.pause,
            pause: (self.pause * 2).min(RETRY_LAST),
        }
    }
}

/// Ports in ascending order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Nobody wants them any more.
    pub(super) close: Vec<u16>,
    /// Wanted, and neither open nor tried.
    pub(super) open: Vec<u16>,
    /// Wanted, and more than may be open.
    pub(super) beyond: Vec<u16>,
}

/// From the ports that are `known` (open, or known to be taken) to the `wanted` ones, of which at most `max` are opened.
pub(super) fn plan(wanted: &BTreeSet<u16>, known: &BTreeSet<u16>, max: usize) -> Plan {
    let kept = wanted.intersection(known).count();
    let mut open: Vec<u16> = wanted.difference(known).copied().collect();
    let beyond = open.split_off(open.len().min(max.saturating_sub(kept)));
    Plan {
        close: known.difference(wanted).copied().collect(),
        open,
        beyond,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn tries_become_rarer_and_never_end() {
        let began = Instant::now();
        let (mut retry, mut pauses) = (Retry::first(began), Vec::new());
        assert_eq!(retry.at, began);
        for _ in 0..7 {
            let failed_at = retry.at;
            retry = retry.after(failed_at);
            pauses.push((retry.at - failed_at).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30]);
    }

    #[test]
    fn as_many_files_are_left_for_connections() {
        assert_eq!(
            [200, 1_024, 1 << 20].map(listeners_max),
            [100, 512, LISTENERS_MAX]
        );
    }

    proptest! {
        #[test]
        fn what_follows_is_what_is_wanted_within_the_bound(
            wanted in prop::collection::btree_set(1_u16..40, 0..20), known in prop::collection::btree_set(1_u16..40, 0..10),
            max in 10_usize..16
        ) {
            let plan = plan(&wanted, &known, max);
            let mut after = known;
            for port in &plan.close {
                prop_assert!(after.remove(port));
            }
            for port in &plan.open {
                prop_assert!(after.insert(*port));
            }
            prop_assert!(after.len() <= max && after.is_subset(&wanted));
            let missing: Vec<_> = wanted.difference(&after).copied().collect();
            prop_assert_eq!(&missing, &plan.beyond);
            prop_assert!(missing.is_empty() || after.len() == max);
        }
    }
}
