//! What can go wrong for a command: a sentence that ends with what to do next, and an exit code.

use crate::up::UpError;
use std::{path::PathBuf, process::ExitCode};
use zectre_client::ClientError;
use zectre_common::{config::ConfigError, manifest::ManifestError};

/// What can go wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A call failed.
    #[error("{0}")]
    Client(#[from] ClientError),
    /// The manifest is wrong.
    #[error("{0}\nCorrect it and run the command again; docs/zectre.schema.json lists every key.")]
    Manifest(#[from] ManifestError),
    /// The configuration is wrong.
    #[error("{0}\nCorrect the configuration and run the command again.")]
    Config(#[from] ConfigError),
    /// The command can't be meant so; the text says what to do.
    #[error("{0}")]
    Usage(String),
    /// What was named isn't there; the text says what to do.
    #[error("{0}")]
    NotFound(String),
    /// The build failed; everything about it has been shown.
    #[error("{0}")]
    BuildFailed(String),
    /// The deployment failed; everything about it has been shown.
    #[error("{0}")]
    DeploymentFailed(String),
    /// The project can't be packed.
    #[error("{0}")]
    Pack(#[from] crate::pack::PackError),
    /// A file can't be read or written.
    #[error("{path} can't be {action}: {source}. Check that the path is right and that you may use it.")]
    File {
        /// Which.
        path: PathBuf,
        /// `read` or `written`.
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// The operating system refused something.
    #[error("{0}. Try again; if it stays so, `zectre doctor` may know why.")]
    Io(#[from] std::io::Error),
    /// The platform can't be started or stopped.
    #[error("{0}")]
    Up(#[from] UpError),
    /// Ctrl-C; the text says what goes on regardless.
    #[error("{0}")]
    Interrupted(String),
}

impl CliError {
    /// A file that can't be read.
    pub(crate) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File {
            path: path.into(),
            action: "read",
            source,
        }
    }

    /// A file that can't be written.
    pub(crate) fn write(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        |source| Self::File {
            path: path.into(),
            action: "written",
            source,
        }
    }

    /// As documented in docs/CLI.md.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Client(error) => match (error, error.status()) {
                (ClientError::Unreachable { .. } | ClientError::TimedOut { .. }, _) => 5,
                (_, Some(401 | 403)) => 3,
                (_, Some(404)) => 4,
                _ => 1,
            },
            Self::Usage(_) => 2,
            Self::NotFound(_) => 4,
            Self::BuildFailed(_) | Self::DeploymentFailed(_) => 6,
            Self::Manifest(_) | Self::Config(_) => 64,
            Self::Interrupted(_) => 130,
            Self::Pack(_) | Self::File { .. } | Self::Io(_) | Self::Up(_) => 1,
        }
    }

    /// What to do next, where the message itself doesn't say it.
    fn hint(&self) -> Option<&'static str> {
        let Self::Client(error) = self else { return None };
        match (error.code(), error.status()) {
            (Some("INVALID_CREDENTIALS"), _) => Some("Check the address and the password and try again."),
            (_, Some(401)) => Some("Sign in with `zectre login`."),
            (_, Some(403)) => {
                Some("Ask an admin of the organization for the role; `zectre whoami` shows yours.")
            }
            (_, Some(404)) => Some("`zectre projects list` and `zectre status` show what there is."),
            (_, Some(429)) => Some("Wait a moment and try again."),
            (_, Some(500..)) => Some("Try again; `zectre doctor` shows which service is in trouble."),
            _ => None,
        }
    }

    /// Shows the error on stderr.
    pub(crate) fn report(&self) -> ExitCode {
        eprintln!("error: {self}");
        if let Some(hint) = self.hint() {
            eprintln!("{hint}");
        }
        ExitCode::from(self.exit_code())
    }
}
