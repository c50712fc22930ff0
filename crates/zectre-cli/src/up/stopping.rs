//! How the platform stops, for whoever waits for it (`zectre down`): the time it takes at most, and what had to be killed.

use super::{data_dir::DataDir, error::UpError};
use serde::{Deserialize, Serialize};
use std::{fs, path::Path, time::Duration};
use zectre_agent::Killed;
use zectre_common::config::Config;

/// The file's name in the data directory.
pub(super) const FILE: &str = "stopping.json";
/// What stopping may take beside the drain of the proxy and the ends of programs: every service's own deadline, and
/// PostgreSQL's.
const BASE_TIMEOUT: Duration = Duration::from_secs(120);

/// What a platform says of its stop: when it starts, and again when it has stopped.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stopping {
    /// Seconds that a stop takes at most.
    pub(super) timeout_secs: u64,
    /// Sentences about programs that did not go by themselves.
    pub(super) killed: Vec<String>,
}

impl Stopping {
    /// Before it is known how it goes.
    pub(super) fn expected(config: &Config) -> Self {
        let own = Duration::from_millis(
            config
                .agent
                .stop_timeout_ms
                .saturating_add(config.proxy.drain_timeout_ms),
        );
        Self {
            timeout_secs: BASE_TIMEOUT.saturating_add(own).as_secs(),
            killed: Vec::new(),
        }
    }

    /// Takes up what had to be killed.
    pub(super) fn killed(&mut self, killed: &[Killed]) {
        self.killed = killed.iter().map(sentence).collect();
    }

    /// Keeps it in the data directory: written beside and moved into place, so that it is never read half.
    pub(super) fn keep(&self, data: &DataDir) -> Result<(), UpError> {
        let (path, fresh) = (data.path().join(FILE), data.path().join("stopping.json.new"));
        let text = serde_json::to_string(self).expect("strings and numbers are valid JSON");
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .map_err(UpError::at(path, "written"))
    }

    /// What was kept last; what can't be read says no more than the usual.
    pub(super) fn read(directory: &Path) -> Self {
        let kept = fs::read_to_string(directory.join(FILE)).ok();
        kept.and_then(|text| serde_json::from_str(&text).ok())
            .unwrap_or(Self {
                timeout_secs: BASE_TIMEOUT.as_secs(),
                killed: Vec::new(),
            })
    }
}

fn sentence(killed: &Killed) -> String {
    let Killed {
        application,
        namespace,
        environment,
        after_secs,
        ..
    } = killed;
    format!("Killed {namespace}/{application} ({environment}): it still ran {after_secs} s after SIGTERM.")
}
