//! What the command line asks for.

use std::time::Duration;

/// Sizes, with those of the goals as defaults.
pub(crate) struct Options {
    /// Which benchmarks.
    pub(crate) names: Vec<String>,
    /// Whether to add the results to bench/RESULTS.md.
    pub(crate) record: bool,
    /// Tasks of `schedule`.
    pub(crate) tasks: usize,
    /// Nodes of `schedule`.
    pub(crate) nodes: usize,
    /// Replicas of each deployment of `schedule`.
    pub(crate) replicas: usize,
    /// Nodes while single decisions are measured.
    pub(crate) decision_nodes: usize,
    /// How often each of them sends a heartbeat.
    pub(crate) heartbeat: Duration,
    /// Lines a second of `logs`, all tasks together.
    pub(crate) log_lines_per_sec: u64,
    /// How long they write.
    pub(crate) log_duration: Duration,
    /// Rounds of each load of `proxy`.
    pub(crate) rounds: usize,
    /// Seconds of one of them.
    pub(crate) round_secs: usize,
    /// Applications of `api`.
    pub(crate) apps: usize,
    /// Deployments of `api`.
    pub(crate) deployments: usize,
    /// Log lines of `api`.
    pub(crate) log_lines: usize,
    /// Whether `api` leaves the plans of its statements in a file.
    pub(crate) plans: bool,
}

impl Options {
    /// From the arguments; what is wrong with them otherwise.
    pub(crate) fn parse(mut arguments: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self {
            names: Vec::new(),
            record: false,
            tasks: 1_000_000,
            nodes: 5_000,
            replicas: 1_000,
            decision_nodes: 10_000,
            heartbeat: Duration::from_secs(2),
            // A tenth more than the goal, so that what is stored is not bounded by what is written.
            log_lines_per_sec: 55_000,
            log_duration: Duration::from_secs(30),
            rounds: 7,
            round_secs: 5,
            apps: 10_000,
            deployments: 100_000,
            log_lines: 10_000_000,
            plans: false,
        };
        while let Some(argument) = arguments.next() {
            let mut number = || {
                let value = arguments.next().and_then(|value| value.parse::<usize>().ok());
                value
                    .filter(|value| *value > 0)
                    .ok_or_else(|| format!("{argument} takes a number above 0"))
            };
            match argument.as_str() {
                "--record" => options.record = true,
                "--tasks" => options.tasks = number()?,
                "--nodes" => options.nodes = number()?,
                "--replicas" => options.replicas = number()?,
                "--decision-nodes" => options.decision_nodes = number()?,
                "--heartbeat-ms" => options.heartbeat = Duration::from_millis(number()? as u64),
                "--lines-per-sec" => options.log_lines_per_sec = number()? as u64,
                "--log-secs" => options.log_duration = Duration::from_secs(number()? as u64),
                "--rounds" => options.rounds = number()?,
                "--round-secs" => options.round_secs = number()?,
                "--apps" => options.apps = number()?,
                "--deployments" => options.deployments = number()?,
                "--log-lines" => options.log_lines = number()?,
                "--plans" => options.plans = true,
                flag if flag.starts_with('-') => return Err(format!("there is no option `{flag}`")),
                name => options.names.push(name.into()),
            }
        }
        if options.tasks < options.replicas {
            return Err("--tasks must be at least --replicas".into());
        }
        if options.apps < 100 || options.deployments < options.apps {
            return Err("--apps must be at least 100, and --deployments at least --apps".into());
        }
        Ok(options)
    }
}
