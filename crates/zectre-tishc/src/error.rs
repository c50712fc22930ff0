//! Whose fault it was, which is what the exit code says.

use std::io;
use std::path::Path;

use crate::diagnostic::Failure;

/// Everything that ends a command early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program that was to be compiled is at fault; its author can mend it.
    #[error("{0}")]
    Program(Failure),
    /// The command line is at fault.
    #[error("{0}")]
    Usage(String),
    /// This machine is at fault: what happened, and what to do.
    #[error("{what}. {remedy}.")]
    Machine {
        /// What happened, to which thing, without a full stop.
        what: String,
        /// What to do next, one sentence.
        remedy: String,
    },
}

impl Error {
    /// A fault of the machine.
    pub(crate) fn machine(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Machine {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    /// A file operation of ours that failed. Only the last part of the path is told: messages
    /// travel to people who have no business with this machine's directories.
    pub(crate) fn file(doing: &str, path: &Path, source: &io::Error) -> Self {
        // A wrapped error may tell the whole path; what it wraps doesn't.
        let wrapped = source.get_ref().and_then(std::error::Error::source);
        let cause = wrapped.map_or_else(|| source.to_string(), ToString::to_string);
        let name = path
            .file_name()
            .map_or_else(|| "/".into(), |name| name.to_string_lossy());
        Self::machine(
            format!("could not {doing} `{name}`: {cause}"),
            "Check the disk's free space and the permissions of the cache and output directories",
        )
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Program(_) => 1,
            Self::Usage(_) => 2,
            Self::Machine { .. } => 70,
        }
    }
}
