//! Time series: what proxies and agents told, summed up to coarser steps as it ages, and shown step by step.
//!
//! [`span`] decides which steps a question is answered in and [`points`] makes them of rows: both are pure. [`rollup`] is the
//! task that samples and sums up, [`forget`] the one that forgets.

pub(crate) mod forget;
pub(crate) mod points;
pub(crate) mod rollup;
pub(crate) mod span;

use std::time::Duration;
use zectre_common::config::MetricsConfig;

/// The steps that are kept, in seconds, finest first. Six of the finest are one of the next: what a proxy scraped as rarely as
/// most are would show; and 24 of the coarsest are a day.
pub(crate) const STEPS_SECS: [u32; 3] = [10, 60, 3_600];

/// For so long what is told of a step may come late (proxies keep nine minutes); then it is summed up.
pub(crate) const LATE: Duration = Duration::from_secs(600);

/// How long each of [`STEPS_SECS`] is kept.
pub(crate) fn keeps(config: &MetricsConfig) -> [Duration; 3] {
    let hours = |count: u32| Duration::from_secs(u64::from(count) * 3_600);
    [
        hours(config.step_10s_keep_hours),
        hours(config.step_60s_keep_days * 24),
        hours(config.step_1h_keep_days * 24),
    ]
}
