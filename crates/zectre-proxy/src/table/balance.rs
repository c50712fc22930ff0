//! Power of two choices: of two replicas picked at random, the one with fewer requests under way for its weight. Almost
//! as even as asking all of them, at the cost of two.

use crate::live::{Lease, Replica};
use std::sync::Arc;

/// Takes a place on one of `replicas`; `roll` is a random number. `None` when none of them can be reached or all have
/// left; one that is suspect for its answers is still better than none.
pub fn choose(replicas: &[Arc<Replica>], roll: u64, now_ms: u64) -> Option<Lease> {
    let reachable = |replica: &Arc<Replica>| replica.ejected_until_ms() <= now_ms;
    let usable = |replica: &Arc<Replica>| reachable(replica) && !replica.is_suspect(now_ms);
    // Compares (requests + 1) / weight without dividing; a tie is the first one's.
    let busier = |a: &Arc<Replica>, b: &Arc<Replica>| {
        let load = |r: &Arc<Replica>, weight: u64| (u64::from(r.in_flight()) + 1) * weight;
        load(a, b.weight(now_ms)) > load(b, a.weight(now_ms))
    };
    let count = u64::try_from(replicas.len()).ok().filter(|count| *count > 0)?;
    let (low, high) = (roll & 0xFFFF, (roll >> 16) & 0xFFFF);
    let first = low % count;
    // Any other one but the first.
    let second = (first + 1 + high % count.saturating_sub(1).max(1)) % count;
    let (a, b) = (&replicas[first as usize], &replicas[second as usize]);
    let preferred = match (usable(a), usable(b)) {
        (true, true) if busier(a, b) => b,
        (false, true) => b,
        _ => a,
    };
    let lease = |replica: &Arc<Replica>| usable(replica).then(|| replica.lease()).flatten();
    let any = |replica: &Arc<Replica>| reachable(replica).then(|| replica.lease()).flatten();
    lease(preferred)
        .or_else(|| replicas.iter().find_map(lease))
        .or_else(|| replicas.iter().find_map(any))
}

/// Takes a place on the one of `replicas` that is `wanted`; `None` when it is not there, can't be reached, or is suspect.
pub fn choose_again(
    replicas: &[Arc<Replica>],
    wanted: impl Fn(&Replica) -> bool,
    now_ms: u64,
) -> Option<Lease> {
    let replica = replicas.iter().find(|replica| wanted(replica))?;
    let usable = replica.ejected_until_ms() <= now_ms && !replica.is_suspect(now_ms);
    usable.then(|| replica.lease()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::sync::Notify;
    use zectre_common::id::TaskId;

    fn replicas(count: usize) -> Vec<Arc<Replica>> {
        let drained = Arc::new(Notify::new());
        let one = |port| {
            Replica::new(
                TaskId::new(),
                "127.0.0.1",
                port,
                false,
                Arc::clone(&drained),
                Arc::default(),
            )
        };
        (0..count as u16).map(one).collect()
    }

    #[test]
    fn the_less_busy_of_two_is_taken() {
        let two = replicas(2);
        let _busy = two[0].lease().expect("present");
        for roll in 0..100_u64 {
            let lease = choose(&two, roll | roll << 16, 0).expect("both are usable");
            assert_eq!(lease.replica().port(), 1);
        }
    }

    #[test]
    fn load_spreads_evenly() {
        let ten = replicas(10);
        let leases: Vec<_> = (0..1_000)
            .map(|_| choose(&ten, crate::live::roll(), 0).expect("usable"))
            .collect();
        let busiest = ten.iter().map(|replica| replica.in_flight()).max().expect("ten");
        assert_eq!(leases.len(), 1_000);
        // At random alone the busiest of ten would have about 130; two choices keep within a few.
        assert!(busiest <= 110, "{busiest}");
    }

    #[test]
    fn a_new_replica_gets_more_with_each_second() {
        let two = replicas(2);
        two[0].weight(0);
        let mut before = 0;
        for now_ms in [60_000, 61_000, 62_500, 65_000] {
            let leases: Vec<_> = (0..200)
                .map(|_| choose(&two, crate::live::roll(), now_ms).expect("usable"))
                .collect();
            let share = two[1].in_flight();
            assert!(
                share > before && share <= 100,
                "{share} at {now_ms}, {before} before"
            );
            before = share;
            drop(leases);
        }
        assert!(before >= 99, "{before}");
    }

    #[test]
    fn one_that_fails_is_passed_over_and_half_of_them_never() {
        let two = replicas(2);
        let fail = |index: usize| (0..5).for_each(|_| two[index].failed(0, &two));
        fail(0);
        fail(1);
        assert!(two[0].is_suspect(0) && !two[1].is_suspect(0));
        for _ in 0..100 {
            let lease = choose(&two, crate::live::roll(), 0).expect("one is usable");
            assert_eq!(lease.replica().port(), 1);
        }
        // The other one can't be reached at all.
        two[1].eject(0);
        assert_eq!(choose(&two, 0, 0).expect("better than none").replica().port(), 0);
        assert!(!two[0].is_suspect(1_000));
    }

    proptest! {
        #[test]
        fn an_ejected_one_is_taken_never_and_a_usable_one_always(
            count in 0_usize..8, ejected in any::<u8>(), roll in any::<u64>(), now_ms in 0_u64..5_000
        ) {
            let all = replicas(count);
            let out = |index: usize| ejected >> index & 1 == 1;
            for (index, replica) in all.iter().enumerate().filter(|(index, _)| out(*index)) {
                replica.eject(now_ms);
                prop_assert_eq!(usize::from(replica.port()), index);
            }
            let lease = choose(&all, roll, now_ms);
            prop_assert_eq!(lease.is_some(), (0..count).any(|index| !out(index)));
            if let Some(lease) = lease {
                prop_assert!(!out(usize::from(lease.replica().port())));
            }
        }
    }
}
