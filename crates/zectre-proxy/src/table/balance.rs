//! Power of two choices: of two replicas picked at random, the one with fewer requests under way. Almost
//! as even as asking all of them, at the cost of two.

use crate::live::{Lease, Replica};
use std::sync::Arc;

/// Takes a place on one of `replicas`; `roll` is a random number. `None` when all of them are ejected or
/// have left.
pub fn choose(replicas: &[Arc<Replica>], roll: u64, now_ms: u64) -> Option<Lease> {
    let usable = |replica: &Arc<Replica>| replica.ejected_until_ms() <= now_ms;
    let count = u64::try_from(replicas.len()).ok().filter(|count| *count > 0)?;
    let (low, high) = (roll & 0xFFFF, (roll >> 16) & 0xFFFF);
    let first = low % count;
    // Any other one but the first.
    let second = (first + 1 + high % count.saturating_sub(1).max(1)) % count;
    let (a, b) = (&replicas[first as usize], &replicas[second as usize]);
    let preferred = match (usable(a), usable(b)) {
        (true, true) if b.in_flight() < a.in_flight() => b,
        (false, true) => b,
        _ => a,
    };
    let lease = |replica: &Arc<Replica>| usable(replica).then(|| replica.lease()).flatten();
    lease(preferred).or_else(|| replicas.iter().find_map(lease))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::sync::Notify;
    use zectre_common::id::TaskId;

    fn replicas(count: usize) -> Vec<Arc<Replica>> {
        let drained = Arc::new(Notify::new());
        let one = |port| Replica::new(TaskId::new(), "127.0.0.1", port, false, Arc::clone(&drained));
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
