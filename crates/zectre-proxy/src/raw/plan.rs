//! What to do about listeners. Pure.

use std::collections::BTreeSet;

/// Listeners of one proxy: as many as a range may have ports.
pub const LISTENERS_MAX: usize = 4_096;

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
