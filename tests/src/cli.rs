//! The `zectre` command as a person runs it.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};
use tokio::io::AsyncWriteExt;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct CliOutput {
    /// The exit code.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Progress and errors.
    pub stderr: String,
}

impl CliOutput {
    /// Standard output, once the command has succeeded; panics, showing all it said, when it hasn't.
    pub fn success(&self) -> &str {
        assert_eq!(self.code, 0, "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self.stdout.trim()
    }

    /// Standard error, once the command has failed.
    pub fn failure(&self) -> &str {
        assert_ne!(self.code, 0, "it succeeded:\n{}\n{}", self.stdout, self.stderr);
        &self.stderr
    }
}

/// The command with its own home, so that nobody's login is touched.
#[derive(Debug, Clone)]
pub struct Cli {
    home: PathBuf,
    environment: Vec<(String, String)>,
}

impl Cli {
    /// With credentials under `home`.
    pub fn new(home: &Path) -> Self {
        Self {
            home: home.into(),
            environment: Vec::new(),
        }
    }

    /// With one more variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// `zectre ARGUMENTS`, to be started in `directory`.
    pub fn command(&self, directory: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(crate::program("zectre"));
        command
            .args(arguments)
            .current_dir(directory)
            .env("HOME", &self.home)
            .env("XDG_CONFIG_HOME", self.home.join("config"))
            .env("XDG_DATA_HOME", self.home.join("data"))
            .env_remove("ZECTRE_API_URL")
            .env_remove("ZECTRE_API_KEY")
            .env_remove("ZECTRE_CATALOG_URL")
            .env_remove("DISPLAY")
            .env_remove("WAYLAND_DISPLAY")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null());
        command
    }

    /// Runs `zectre ARGUMENTS` in `directory` and waits for it.
    pub async fn run(&self, directory: &Path, arguments: &[&str]) -> CliOutput {
        self.run_with(directory, arguments, "").await
    }

    /// The same with `input` on its standard input.
    pub async fn run_with(&self, directory: &Path, arguments: &[&str], input: &str) -> CliOutput {
        let mut command = tokio::process::Command::from(self.command(directory, arguments));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("zectre was built");
        let mut stdin = child.stdin.take().expect("piped");
        // A command that reads nothing may be gone by now.
        let _ = stdin.write_all(input.as_bytes()).await;
        drop(stdin);
        let output = child.wait_with_output().await.expect("it ends");
        CliOutput {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}
