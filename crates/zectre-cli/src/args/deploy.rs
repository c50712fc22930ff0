//! `zectre deploy`

use super::ProjectArgs;
use clap::Args as ClapArgs;
use std::{ffi::OsString, path::PathBuf};

/// `zectre deploy`
#[derive(Debug, ClapArgs)]
pub struct DeployArgs {
    /// The project.
    #[command(flatten)]
    pub project: ProjectArgs,
    /// The directory to deploy
    #[arg(default_value = ".")]
    pub dir: PathBuf,
    /// The environment [default: development]
    #[arg(long, value_name = "ENVIRONMENT", conflicts_with = "prod")]
    pub env: Option<String>,
    /// Short for --env production
    #[arg(long)]
    pub prod: bool,
    /// Runs a container image instead of building
    #[arg(long, conflicts_with = "artifact")]
    pub image: Option<String>,
    /// Runs an artifact instead of building: a file to upload, or the id of one uploaded before
    #[arg(long, value_name = "FILE|ID")]
    pub artifact: Option<OsString>,
    /// How many tasks
    #[arg(long, value_parser = super::number::replicas, allow_negative_numbers = true)]
    pub replicas: Option<u32>,
    /// Waits until it serves or failed [default on a terminal]
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
    /// Returns as soon as it is accepted
    #[arg(long)]
    pub no_wait: bool,
}

#[cfg(test)]
mod tests {
    use crate::args::Args;
    use clap::Parser;

    #[test]
    fn what_contradicts_itself_is_refused() {
        for arguments in [["--wait", "--no-wait"], ["--no-wait", "--wait"]] {
            let refused = Args::try_parse_from(["zectre", "deploy"].iter().chain(&arguments));
            let said = refused.expect_err("both can't be meant").to_string();
            assert!(said.contains("cannot be used with"), "{said}");
        }
    }
}
