//! Where the time of a start goes, as the platform itself tells it: the median of each phase.

use crate::sample::Samples;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// The phases of many starts, by name.
#[derive(Debug, Default)]
pub(crate) struct PhaseTimes(BTreeMap<String, Samples>);

impl PhaseTimes {
    /// Those of one answer: the value of its `Server-Timing`.
    pub(crate) fn push_header(&mut self, value: &str) {
        for part in value.split(", ") {
            let Some((name, ms)) = part.split_once(";dur=") else {
                continue;
            };
            let secs = ms.parse().map_or(0.0, |ms: f64| ms / 1e3);
            self.push(name, Duration::from_secs_f64(secs));
        }
    }

    /// Those of one task: its `phases`.
    pub(crate) fn push_task(&mut self, phases: &Value) {
        for (name, us) in phases.as_object().into_iter().flatten() {
            let us = us.as_u64().unwrap_or_default();
            self.push(name.trim_end_matches("_us"), Duration::from_micros(us));
        }
    }

    fn push(&mut self, name: &str, time: Duration) {
        self.0.entry(name.to_owned()).or_default().push(time);
    }

    /// In a sentence.
    pub(crate) fn told(&self) -> String {
        let medians = self
            .0
            .iter()
            .map(|(name, times)| format!("{name} {:.2} ms", times.percentile_ms(50)));
        medians.collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_to_tell_them_are_understood() {
        let mut phases = PhaseTimes::default();
        phases.push_header("queue;dur=3.500, ready;dur=2.000");
        phases.push_task(&serde_json::json!({"ready_us": 4_000}));
        phases.push_header("ready;dur=9.000");
        assert_eq!(phases.told(), "queue 3.50 ms, ready 4.00 ms");
    }
}
