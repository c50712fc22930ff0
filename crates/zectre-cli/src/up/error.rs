//! Why the platform can't run here: a sentence each, with the remedy.

use crate::shell::word;
use std::path::PathBuf;

/// Why the platform can't be started, or why it stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    /// Neither root's place nor a home.
    #[error("no place for the data: HOME is not set. Name one with --data-dir.")]
    NoHome,
    /// Its name is no text.
    #[error(
        "{0} has a name that is not UTF-8, and can't be written into configurations. Name another directory with --data-dir."
    )]
    NoText(PathBuf),
    /// Something else lives there.
    #[error("{0} holds something that is not Zectre's. Name an empty or a new directory with --data-dir.")]
    ForeignDataDir(PathBuf),
    /// Made by something newer.
    #[error("{path} was made by Zectre {version}, which this version ({ours}) doesn't know. Use that version, or another --data-dir.", ours = env!("CARGO_PKG_VERSION"))]
    NewerDataDir {
        /// Where.
        path: PathBuf,
        /// Which.
        version: String,
    },
    /// A file or directory there can't be used.
    #[error(
        "{path} can't be {action}: {source}. Check that you may use it, or name another place with --data-dir."
    )]
    DataDir {
        /// Which.
        path: PathBuf,
        /// `made`, `read`, …
        action: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Another one runs there.
    #[error(
        "Zectre runs in {path} already (pid {pid}). Use it, or stop it with `zectre down --data-dir {}`.",
        word(path)
    )]
    Running {
        /// Where.
        path: PathBuf,
        /// Its process.
        pid: u32,
    },
    /// Another one runs there, and isn't a process that this one can see.
    #[error(
        "{0} is in use by a Zectre that can't be seen from here (in another container?). Run `zectre down` where it was started, or name another place with --data-dir."
    )]
    HeldUnseen(PathBuf),
    /// The process in the lock can't be stopped by us.
    #[error(
        "the platform (pid {pid}) can't be stopped: {source}. Run `zectre down` as the user who started it."
    )]
    NotOurs {
        /// Its process.
        pid: u32,
        /// Why.
        source: std::io::Error,
    },
    /// It doesn't go away.
    #[error(
        "the platform did not stop within {0} s. Look at its log, and end it with `kill -9` if need be; the next start recovers."
    )]
    DoesNotStop(u64),
    /// A directory above can't be passed.
    #[error(
        "the user `{user}`, who runs PostgreSQL, can't pass {path}. Run `chmod o+x {}`, or name another place with --data-dir.",
        word(path)
    )]
    NotTraversable {
        /// Who.
        user: String,
        /// The first closed directory.
        path: PathBuf,
    },
    /// PostgreSQL isn't installed.
    #[error(
        "PostgreSQL is not installed. Run `apt-get install postgresql` (or your system's package) and try again."
    )]
    NoPostgres,
    /// No user to run it as.
    #[error(
        "PostgreSQL must not run as root, and there is no user `postgres` or `nobody`. Run `apt-get install postgresql` and try again."
    )]
    NoPostgresUser,
    /// Nowhere to put the socket.
    #[error("no directory for PostgreSQL's socket has a path short enough ({0}). Name a shorter --data-dir.")]
    SocketPath(PathBuf),
    /// initdb failed.
    #[error(
        "PostgreSQL's data could not be made in {path}: {why}. Correct that (is the disk full?) and try again."
    )]
    InitDb {
        /// Where.
        path: PathBuf,
        /// What initdb said.
        why: String,
    },
    /// It ended while starting.
    #[error("PostgreSQL did not start: {why}. {log} tells more.")]
    PostgresStart {
        /// The last line of its log.
        why: String,
        /// Its log.
        log: PathBuf,
    },
    /// It died.
    #[error(
        "PostgreSQL ended again and again ({status} at last), so everything was stopped. {log} tells why; `zectre up` starts again."
    )]
    PostgresDied {
        /// How.
        status: String,
        /// Its log.
        log: PathBuf,
    },
    /// It doesn't go away.
    #[error("PostgreSQL (pid {0}) did not stop in time; it is left running. Stop it with `kill -INT {0}`.")]
    PostgresStop(u32),
    /// The database refuses.
    #[error("the database can't be used: {0}")]
    Database(#[from] zectre_common::db::DbError),
    /// The first admin or the join token could not be made.
    #[error("the local admin could not be set up: {0}. Try again; the log in the data directory tells more.")]
    Bootstrap(String),
    /// A key.
    #[error("{0}")]
    Key(#[from] zectre_service::key::KeyError),
    /// Someone else has the port.
    #[error(
        "port {port} ({service}) is taken by {holder}. {remedy}, or choose another port with {variable}=PORT.{prevention}"
    )]
    PortTaken {
        /// Whose port.
        service: &'static str,
        /// Which.
        port: u16,
        /// By whom, as far as it can be found out.
        holder: String,
        /// What makes it free, without a full stop.
        remedy: String,
        /// What changes it.
        variable: &'static str,
        /// What keeps it from happening again: empty, or a sentence with a space before it.
        prevention: String,
    },
    /// A service didn't start.
    #[error("{name} did not start: {why}")]
    ServiceStart {
        /// Which.
        name: &'static str,
        /// Why.
        why: String,
    },
    /// A service ended by itself.
    #[error(
        "{name} ended ({why}), so everything was stopped. The log in the data directory tells more; `zectre up` starts again."
    )]
    ServiceEnded {
        /// Which.
        name: &'static str,
        /// Why.
        why: String,
    },
    /// Everything started, and yet.
    #[error("the platform was not ready within {secs} s: {why}. The log in the data directory tells more.")]
    NotReady {
        /// How long it was given.
        secs: u64,
        /// What was missing last.
        why: String,
    },
    /// The background process.
    #[error("{0}")]
    Background(String),
}

impl UpError {
    /// A file of the data directory that can't be used.
    pub(super) fn at(path: impl Into<PathBuf>, action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::DataDir {
            path: path.into(),
            action,
            source,
        }
    }
}
