//! Durations in fixed buckets, each a fifth wider than the one before or less: any two histograms add up bucket by bucket,
//! and a quantile read from the sum is at most [`ERROR`] off.

/// Up to here all durations are one bucket: nobody needs to tell them apart.
const FLOOR_LOG2: u32 = 7;
/// Parts of each doubling, as a power of two: 2 bits are four parts.
const PART_BITS: u32 = 2;
/// Where the last bucket begins: about 67 s, more than any answer may take by default.
const CEILING_LOG2: u32 = 26;

/// How many buckets there are: one up to 128 µs, four for each doubling, one for the rest.
pub const BUCKETS: usize = ((CEILING_LOG2 - FLOOR_LOG2) << PART_BITS) as usize + 2;

/// The largest relative error of a quantile between 128 µs and 67 s: a bucket is at most a quarter wide, and its geometric
/// middle is told.
pub const ERROR: f64 = 0.12;

/// The bucket of a duration.
pub fn bucket(us: u64) -> usize {
    if us < 1 << FLOOR_LOG2 {
        return 0;
    }
    let log2 = us.ilog2();
    if log2 >= CEILING_LOG2 {
        return BUCKETS - 1;
    }
    let part = (us >> (log2 - PART_BITS)) & ((1 << PART_BITS) - 1);
    1 + ((log2 - FLOOR_LOG2) << PART_BITS) as usize + part as usize
}

/// Where a bucket begins, in microseconds.
fn begins_us(bucket: usize) -> f64 {
    let Some(place) = bucket.checked_sub(1) else {
        return 0.0;
    };
    let (doubling, part) = (place >> PART_BITS, place & ((1 << PART_BITS) - 1));
    let octave = f64::from(1_u32 << FLOOR_LOG2) * 2_f64.powi(doubling as i32);
    octave * (1.0 + part as f64 / f64::from(1_u32 << PART_BITS))
}

/// What stands for the durations of a bucket, in milliseconds: its middle; of the first its end, of the last its begin.
fn stands_for_ms(bucket: usize) -> f64 {
    let us = match bucket {
        0 => begins_us(1),
        _ if bucket >= BUCKETS - 1 => begins_us(BUCKETS - 1),
        _ => (begins_us(bucket) * begins_us(bucket + 1)).sqrt(),
    };
    us / 1_000.0
}

/// Counts by bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram(Vec<u64>);

impl Histogram {
    /// From counts, the first bucket's first; what is missing is zero.
    pub fn of(counts: impl IntoIterator<Item = u64>) -> Self {
        Self(counts.into_iter().take(BUCKETS).collect())
    }

    /// Adds another one's counts.
    pub fn add(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (sum, count) in self.0.iter_mut().zip(&other.0) {
            *sum += count;
        }
    }

    /// All that was counted.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The duration, in milliseconds, that the share `quantile` of all is not beyond; none without any.
    pub fn quantile_ms(&self, quantile: f64) -> Option<f64> {
        let rank = (quantile * self.count() as f64).ceil().max(1.0) as u64;
        let mut seen = 0;
        let found = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        found.map(stands_for_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn buckets_follow_each_other_and_are_no_wider_than_a_quarter() {
        for bucket in 1..BUCKETS - 1 {
            let (begin, end) = (begins_us(bucket), begins_us(bucket + 1));
            assert!(end / begin <= 1.25, "{bucket}: {begin} to {end}");
        }
        assert_eq!((bucket(0), bucket(127), bucket(128)), (0, 0, 1));
        assert_eq!(
            (bucket((1 << 26) - 1), bucket(1 << 26), bucket(u64::MAX)),
            (76, 77, 77)
        );
        assert_eq!(Histogram::default().quantile_ms(0.5), None);
    }

    proptest! {
        #[test]
        fn a_duration_is_in_its_bucket_and_told_within_the_error(us in 128_u64..(1 << 26)) {
            let place = bucket(us);
            prop_assert!(begins_us(place) <= us as f64 && (us as f64) < begins_us(place + 1));
            let told = stands_for_ms(place) * 1_000.0;
            prop_assert!((told / us as f64 - 1.0).abs() <= ERROR, "{} told as {}", us, told);
        }

        #[test]
        fn sums_of_parts_tell_what_the_whole_tells(all in prop::collection::vec(128_u64..(1 << 26), 1..200), at in 0_usize..200) {
            let of = |durations: &[u64]| {
                let mut counts = vec![0; BUCKETS];
                for us in durations {
                    counts[bucket(*us)] += 1;
                }
                Histogram::of(counts)
            };
            let (left, right) = all.split_at(at.min(all.len()));
            let mut sum = of(left);
            sum.add(&of(right));
            prop_assert_eq!(&sum, &of(&all));
            let mut sorted = all.clone();
            sorted.sort_unstable();
            for quantile in [0.5, 0.9, 0.99] {
                let rank = ((quantile * all.len() as f64).ceil() as usize).max(1);
                let exact = sorted[rank - 1] as f64 / 1_000.0;
                let told = sum.quantile_ms(quantile).expect("there are some");
                prop_assert!((told / exact - 1.0).abs() <= ERROR, "{} told as {}", exact, told);
            }
        }
    }
}
