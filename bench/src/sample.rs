//! Times of one kind, and what is said of them.

use std::time::Duration;

/// Measured times.
#[derive(Debug, Clone, Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    /// One more.
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// How many.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The time that `percent` of the samples do not exceed, in milliseconds (nearest rank).
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort();
        let rank = (sorted.len() * percent)
            .div_ceil(100)
            .clamp(1, sorted.len().max(1));
        sorted
            .get(rank - 1)
            .map_or(f64::NAN, |time| time.as_secs_f64() * 1_000.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_of_the_nearest_rank() {
        let mut samples = Samples::default();
        (1..=100)
            .rev()
            .for_each(|ms| samples.push(Duration::from_millis(ms)));
        assert!((samples.percentile_ms(50) - 50.0).abs() < 1e-9);
        assert!((samples.percentile_ms(99) - 99.0).abs() < 1e-9);
        assert!((samples.percentile_ms(100) - 100.0).abs() < 1e-9);
    }
}
