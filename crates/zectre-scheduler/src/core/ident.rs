//! Ids from the cluster's seed: version 7, so they sort by time, and the same run makes the same ids.

use uuid::{Builder, Uuid};
use zectre_common::time::Time;

/// The next id; moves the seed on (splitmix64).
pub(super) fn next(seed: &mut u64, now: Time) -> Uuid {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&split_mix(seed).to_be_bytes());
    random[8..].copy_from_slice(&split_mix(seed).to_be_bytes()[..2]);
    Builder::from_unix_timestamp_millis(now.unix_ms().max(0) as u64, &random).into_uuid()
}

fn split_mix(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
