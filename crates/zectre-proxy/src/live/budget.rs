//! How many requests of a deployment may be sent a second time after a task lost them: a share of all. Without a
//! bound, tasks that die of their load are sent every request again and again.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What one more try costs, in requests: a fifth of the requests may be tried again.
const PRICE: u32 = 5;
/// The most that is saved up: a busy task that is killed loses hundreds of requests at once, and each of them is worth it.
const SAVED_MAX: u32 = 1_000 * PRICE;

/// The budget of one deployment.
#[derive(Debug)]
pub struct Budget(AtomicU32);

impl Default for Budget {
    fn default() -> Self {
        Self(AtomicU32::new(SAVED_MAX))
    }
}

impl Budget {
    /// A request came.
    pub fn earn(&self) {
        // Mostly there is nothing to do: a load is cheaper than a store. A few too many do no harm.
        if self.0.load(Relaxed) < SAVED_MAX {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Pays for one more try, if there is enough.
    pub fn spend(&self) -> bool {
        self.0
            .fetch_update(Relaxed, Relaxed, |saved| saved.checked_sub(PRICE))
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn tries_are_a_share_of_the_requests(events in prop::collection::vec(any::<bool>(), 0..20_000)) {
            let budget = Budget::default();
            let (mut earned, mut spent) = (0, 0);
            for request in events {
                if request {
                    budget.earn();
                    earned += 1;
                } else {
                    spent += u32::from(budget.spend());
                }
                prop_assert!(spent * PRICE <= SAVED_MAX + earned);
            }
        }
    }

    #[test]
    fn an_empty_budget_fills_again() {
        let budget = Budget::default();
        assert_eq!((0..2_000).filter(|_| budget.spend()).count(), 1_000);
        (1..PRICE).for_each(|_| budget.earn());
        assert!(!budget.spend());
        budget.earn();
        assert!(budget.spend() && !budget.spend());
    }
}
