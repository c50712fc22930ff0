//! Ids from the cluster's seed: version 7, each greater than the one before, and the same run makes the same.

use uuid::{Builder, Uuid};
use zectre_common::time::Time;

/// Bits of a version 7 id after its time, without version and variant.
const TAIL_BITS: u32 = 74;

/// Makes ids. Later ones sort after earlier ones, also within a millisecond and when the clock steps back.
#[derive(Debug, Clone)]
pub(super) struct Ids {
    seed: u64,
    last_ms: u64,
    tail: u128,
}

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            seed,
            last_ms: 0,
            tail: 0,
        }
    }

    /// Goes on after an id that another leader made: within the same millisecond, or by a clock that is ahead.
    pub(super) fn follow(&mut self, id: Uuid) {
        let bits = id.as_u128();
        let (ms, upper) = ((bits >> 80) as u64, (bits >> 64) & 0xfff);
        let tail = upper << 62 | (bits & ((1 << 62) - 1));
        if (ms, tail) > (self.last_ms, self.tail) {
            (self.last_ms, self.tail) = (ms, tail);
        }
    }

    /// The next id.
    pub(super) fn next(&mut self, now: Time) -> Uuid {
        let now_ms = now.unix_ms().max(0) as u64;
        let random = self.split_mix();
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            // The upper bits stay free for the ids that follow within this millisecond.
            self.tail = u128::from(random) << 8;
        } else {
            self.tail += 1 + u128::from(random as u32);
        }
        let tail = self.tail & ((1 << TAIL_BITS) - 1);
        let mut bytes = [0; 10];
        bytes[..2].copy_from_slice(&((tail >> 62) as u16).to_be_bytes());
        bytes[2..].copy_from_slice(&((tail & ((1 << 62) - 1)) as u64).to_be_bytes());
        Builder::from_unix_timestamp_millis(self.last_ms, &bytes).into_uuid()
    }

    /// Sebastiano Vigna's splitmix64.
    fn split_mix(&mut self) -> u64 {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.seed ^ (self.seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_within_a_millisecond_and_when_the_clock_steps_back() {
        let mut ids = Ids::new(3);
        let times = [5, 5, 5, 4, 6, 6, 2, 7];
        let made: Vec<Uuid> = times.iter().map(|ms| ids.next(Time::from_unix_ms(*ms))).collect();
        assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
        assert!(made.iter().all(|id| id.get_version_num() == 7));
        let mut others = Ids::new(8);
        others.follow(made[7]);
        assert!(others.next(Time::from_unix_ms(7)) > made[7]);
    }
}
