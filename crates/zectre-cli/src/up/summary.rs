//! What a person wants to know once everything runs.

use super::data_dir::DataDir;
use crate::{
    output::{Output, Shown},
    progress::seconds,
};
use serde::{Deserialize, Serialize};
use std::{path::PathBuf, time::Duration};
use zectre_common::config::Config;

/// Where everything is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) pid: u32,
    pub(super) api_url: String,
    pub(super) docs_url: String,
    /// `{name}` and `{namespace}` stand for themselves.
    pub(super) apps_url: String,
    pub(super) data_dir: PathBuf,
    pub(super) log: PathBuf,
    /// Whether images can be deployed.
    pub(super) containers: bool,
    pub(super) took_ms: u64,
}

impl Summary {
    pub(super) fn new(config: &Config, data: &DataDir) -> Self {
        let host = format!("{{name}}-{{namespace}}.{}", config.proxy.domain);
        Self {
            pid: std::process::id(),
            api_url: config.api.public_url.clone(),
            docs_url: format!("{}/docs", config.api.public_url),
            apps_url: config.proxy.url_of(&host),
            data_dir: data.path().into(),
            log: data.log_path(),
            containers: config.agent.container_enabled,
            took_ms: 0,
        }
    }

    pub(super) fn show(&self, output: Output) -> Shown {
        output.value(self, |summary| {
            if output.terse() {
                output.data(&summary.api_url);
                return;
            }
            let took = seconds(Duration::from_millis(summary.took_ms));
            output.data(format!("Zectre is ready ({took})"));
            let containers = if summary.containers {
                "yes"
            } else {
                "no container engine answers"
            };
            let data_dir = summary.data_dir.display().to_string();
            let log = summary.log.display().to_string();
            for (what, value) in [
                ("API", summary.api_url.as_str()),
                ("API docs", &summary.docs_url),
                ("apps", &summary.apps_url),
                ("images", containers),
                ("data", &data_dir),
                ("log", &log),
            ] {
                output.data(format!("  {what:<9} {value}"));
            }
        })
    }
}
