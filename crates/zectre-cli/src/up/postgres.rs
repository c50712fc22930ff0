//! A private PostgreSQL: initialised once, started and stopped with the platform, reached by a Unix socket only.
//!
//! It runs in a process group of its own, so that Ctrl-C on the terminal doesn't stop it before those who use it.
//! One left behind by a killed `up` is stopped before the next start: two servers on one directory destroy it.

use super::{data_dir::DataDir, error::UpError, process::Process};
use nix::{
    sys::signal::Signal,
    unistd::{Gid, Uid, User, chown, geteuid},
};
use secrecy::{ExposeSecret, SecretString};
use sqlx::{ConnectOptions, Connection};
use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{
    process::{Child, Command},
    time::Instant,
};

mod binaries;
mod place;

pub(crate) use binaries::Binaries;
use place::Place;

/// The role that owns everything in it.
const ROLE: &str = "zectre";
/// Made by initdb; a database of our own would only be another name for it.
const DATABASE: &str = "postgres";
/// A start may have to recover from a crash.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// A fast shutdown writes a checkpoint.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is asked to stop. Where SIGINT is ignored (a script's background job hands that on), a server that was
/// only just started does not hear it before it has set its own handlers.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// How long a server that died is tried to be started again, and the first pause between two tries; it doubles.
const RESTART_TIMEOUT: Duration = Duration::from_secs(30);
const RESTART_PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause while only the remains of a killed one are in the way.
const RESTART_PAUSE_MAX: Duration = Duration::from_millis(250);
/// How often a starting server is tried.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// How long what a killed initdb started may go on.
const LEFT_TIMEOUT: Duration = Duration::from_secs(5);
/// One try.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Small, because it serves one machine's platform; durable, because that is all there is.
const SETTINGS: &[&str] = &[
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "shared_buffers=32MB",
    "max_connections=150",
    "fsync=on",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=256MB",
    "jit=off",
    "max_parallel_workers=0",
    "log_timezone=UTC",
    "log_min_duration_statement=1000",
    // Without notices such as "already exists, skipping", which nobody reads.
    "client_min_messages=warning",
];

/// A running server.
#[derive(Debug)]
pub(crate) struct Postgres {
    child: Child,
    process: Process,
    url: SecretString,
    log: PathBuf,
}

/// Whom it runs as, when this process is root.
#[derive(Debug, Clone)]
struct Owner {
    name: String,
    uid: Uid,
    gid: Gid,
}

impl Owner {
    /// None when this process is an ordinary user, who owns everything itself.
    fn find() -> Result<Option<Self>, UpError> {
        if !geteuid().is_root() {
            return Ok(None);
        }
        let known = |name: &str| User::from_name(name).ok().flatten();
        let user = known("postgres")
            .or_else(|| known("nobody"))
            .ok_or(UpError::NoPostgresUser)?;
        Ok(Some(Self {
            name: user.name,
            uid: user.uid,
            gid: user.gid,
        }))
    }

    /// Refuses when a directory above `path` is closed to this user: initdb's own words would be obscure.
    fn check_passage(&self, path: &Path) -> Result<(), UpError> {
        for directory in path.ancestors().skip(1) {
            let Ok(metadata) = fs::metadata(directory) else {
                continue;
            };
            let bit = if metadata.uid() == self.uid.as_raw() {
                0o100
            } else if metadata.gid() == self.gid.as_raw() {
                0o010
            } else {
                0o001
            };
            if metadata.permissions().mode() & bit == 0 {
                return Err(UpError::NotTraversable {
                    user: self.name.clone(),
                    path: directory.into(),
                });
            }
        }
        Ok(())
    }
}

impl Postgres {
    /// Initialises it where needed, starts it, and waits until it takes connections. From its start on it is in `slot`, so
    /// that whoever breaks this off can still stop it.
    pub(super) async fn start(
        slot: &mut Option<Self>,
        binaries: &Binaries,
        data: &DataDir,
    ) -> Result<(), UpError> {
        let owner = Owner::find()?;
        let place = Place::prepare(data, owner.as_ref())?;
        if !place.is_initialised() {
            initialise(binaries, &place, owner.as_ref()).await?;
        }
        let server = slot.insert(Self::launch(binaries, &place, owner.as_ref())?);
        let Err(why) = server.until_ready().await else {
            return Ok(());
        };
        // It may have ended, or not answer; what it says of that is in its log.
        let _ = server.stop().await;
        *slot = None;
        Err(UpError::PostgresStart { why, log: place.log })
    }

    fn launch(binaries: &Binaries, place: &Place, owner: Option<&Owner>) -> Result<Self, UpError> {
        let password = place.password()?;
        let url = url(&place.sockets, &password);
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&place.log);
        let log = log.map_err(UpError::at(&place.log, "opened"))?;
        let mut command = command(&binaries.postgres(), owner);
        command.arg("-D").arg(&place.data).arg("-k").arg(&place.sockets);
        for setting in SETTINGS {
            command.arg("-c").arg(setting);
        }
        command
            .stdout(log.try_clone().map_err(UpError::at(&place.log, "opened"))?)
            .stderr(log);
        // Its signals are ours to send, not the terminal's.
        command.process_group(0);
        let failed = |why: String| UpError::PostgresStart {
            why,
            log: place.log.clone(),
        };
        let child = command.spawn().map_err(|error| failed(error.to_string()))?;
        let process = child
            .id()
            .and_then(Process::of)
            .ok_or_else(|| failed(last_line(&place.log)))?;
        Ok(Self {
            child,
            process,
            url,
            log: place.log.clone(),
        })
    }

    /// Starts it where one may have been killed together with its platform, and still be about.
    pub(super) async fn start_over_remains(
        slot: &mut Option<Self>,
        binaries: &Binaries,
        data: &DataDir,
    ) -> Result<(), UpError> {
        let tells_of_remains =
            |error: &UpError| matches!(error, UpError::PostgresStart { why, .. } if tells_of_remains(why));
        Self::start_while(slot, binaries, data, tells_of_remains).await
    }

    /// Starts it after it has died. What it leaves (children, shared memory) goes within moments, and until then a start
    /// is refused.
    pub(super) async fn restart(
        slot: &mut Option<Self>,
        binaries: &Binaries,
        data: &DataDir,
    ) -> Result<(), UpError> {
        Self::start_while(slot, binaries, data, |_| true).await
    }

    /// Starts it, and again after each failure that `passes` holds for one that passes, for `RESTART_TIMEOUT`.
    async fn start_while(
        slot: &mut Option<Self>,
        binaries: &Binaries,
        data: &DataDir,
        passes: impl Fn(&UpError) -> bool,
    ) -> Result<(), UpError> {
        let deadline = Instant::now() + RESTART_TIMEOUT;
        let mut pause = RESTART_PAUSE;
        loop {
            match Self::start(slot, binaries, data).await {
                Err(error) if Instant::now() < deadline && passes(&error) => {
                    tracing::warn!(%error, "PostgreSQL does not start yet");
                }
                result => return result,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RESTART_PAUSE_MAX);
        }
    }

    /// For `[database].url`.
    pub(super) fn url(&self) -> &SecretString {
        &self.url
    }

    /// The same for a server that another process runs, over the data directory `path`.
    pub(super) fn url_in(path: &Path) -> Result<SecretString, UpError> {
        place::url_in(path)
    }

    /// Its own log.
    pub(super) fn log_path(&self) -> PathBuf {
        self.log.clone()
    }

    /// Resolves when it ends by itself, with how.
    pub(super) async fn ended(&mut self) -> String {
        self.child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string())
    }

    /// Ends it: connections are cut, everything committed is on disk.
    pub(super) async fn stop(&mut self) -> Result<(), UpError> {
        shut_down(self.process, self.child.wait()).await
    }

    /// Stops the server that a killed `up` left running; false when there was none.
    pub(super) async fn stop_stale(data: &DataDir) -> Result<bool, UpError> {
        let directory = place::data_in(data);
        let Some(left) = running_in(&directory) else {
            return Ok(false);
        };
        tracing::warn!(pid = left.pid, "a PostgreSQL was left behind; stopping it");
        shut_down(left, left.wait_until_gone(STOP_TIMEOUT)).await?;
        Ok(true)
    }

    /// Tries to connect until it works, the server ends, or the time is over.
    async fn until_ready(&mut self) -> Result<(), String> {
        let options =
            zectre_common::db::options(&self.url, "zectre-up").map_err(|error| error.to_string())?;
        let deadline = Instant::now() + START_TIMEOUT;
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                _ = self.child.wait() => return Err(last_line(&self.log)),
            }
            let why = match tokio::time::timeout(CONNECT_TIMEOUT, options.connect()).await {
                Ok(Ok(connection)) => {
                    let _ = connection.close().await;
                    return Ok(());
                }
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it accepts no connection".into(),
            };
            if Instant::now() >= deadline {
                return Err(why);
            }
        }
    }
}

/// Whether a server refused to start because of the one before it: that was killed, and nobody has buried it, or its children and its
/// shared memory are still there. All of that goes within moments.
fn tells_of_remains(why: &str) -> bool {
    why.contains("postmaster.pid") || why.contains("shared memory block")
}

/// The postmaster of `directory`, if one runs: its pid file names it, its command line proves it.
fn running_in(directory: &Path) -> Option<Process> {
    let text = fs::read_to_string(directory.join("postmaster.pid")).ok()?;
    let process = Process::of(text.lines().next()?.trim().parse().ok()?)?;
    let words = process.command_line();
    let is_ours = words
        .windows(2)
        .any(|pair| pair[0] == "-D" && Path::new(&pair[1]) == directory);
    is_ours.then_some(process)
}

/// Made beside its place and moved there when it is whole and on disk: what was broken off is made anew.
async fn initialise(binaries: &Binaries, place: &Place, owner: Option<&Owner>) -> Result<(), UpError> {
    place.make_password(owner)?;
    let half = place.half();
    remove_half(&half).await?;
    let mut command = command(&binaries.initdb(), owner);
    command
        .arg("-D")
        .arg(&half)
        .arg("-U")
        .arg(ROLE)
        .arg("--pwfile")
        .arg(&place.password_file);
    command
        .args(["--auth=scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync"])
        .kill_on_drop(true);
    let failed = |why: String| UpError::InitDb {
        path: place.data.clone(),
        why,
    };
    let output = command
        .output()
        .await
        .map_err(|error| failed(error.to_string()))?;
    if output.status.success() {
        // A cluster that an earlier version left half made, if any.
        remove(&place.data)?;
        return place.complete();
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let why = text
        .lines()
        .find(|line| line.contains("error:"))
        .or(text.lines().last())
        .unwrap_or("no reason given");
    Err(failed(why.trim().to_owned()))
}

/// Asks the server to end until `ended` says that it has. SIGINT is its fast shutdown: it waits for nobody and loses
/// nothing, and is no worse for being sent twice.
async fn shut_down<T>(server: Process, ended: impl Future<Output = T>) -> Result<(), UpError> {
    let mut ended = std::pin::pin!(ended);
    let asking = async {
        loop {
            let _ = server.signal(Signal::SIGINT);
            if tokio::time::timeout(ASK_AGAIN_EVERY, ended.as_mut())
                .await
                .is_ok()
            {
                return;
            }
        }
    };
    let in_time = tokio::time::timeout(STOP_TIMEOUT, asking).await.is_ok();
    if in_time && !server.is_alive() {
        Ok(())
    } else {
        Err(UpError::PostgresStop(server.pid))
    }
}

/// What initdb started may outlive it for a moment, and write on.
async fn remove_half(half: &Path) -> Result<(), UpError> {
    let deadline = Instant::now() + LEFT_TIMEOUT;
    loop {
        match remove(half) {
            Err(_) if Instant::now() < deadline => tokio::time::sleep(POLL_INTERVAL).await,
            result => return result,
        }
    }
}

fn remove(directory: &Path) -> Result<(), UpError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(UpError::at(directory, "removed")(error))
        }
        _ => Ok(()),
    }
}

/// A program of PostgreSQL, as its user, with nothing of our environment that could change what it does.
fn command(program: &Path, owner: Option<&Owner>) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null());
    if let Some(owner) = owner {
        command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
    }
    command
}

/// The URL form for a Unix socket: the host parameter is the directory.
fn url(sockets: &Path, password: &SecretString) -> SecretString {
    let directory: String = sockets
        .to_string_lossy()
        .bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect();
    format!(
        "postgres://{ROLE}:{}@localhost/{DATABASE}?host={directory}",
        password.expose_secret()
    )
    .into()
}

/// What the log says last, for an error message.
fn last_line(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let fatal = text
        .lines()
        .rev()
        .take(20)
        .find(|line| line.contains("FATAL:") || line.contains("PANIC:"));
    let line = fatal.or(text.lines().last()).unwrap_or("it said nothing").trim();
    line.split_once(": ")
        .filter(|(stamp, _)| stamp.contains("UTC"))
        .map_or(line, |(_, rest)| rest)
        .to_owned()
}

/// Gives a file to the server's user.
fn give(path: &Path, owner: Option<&Owner>) -> Result<(), UpError> {
    let Some(owner) = owner else { return Ok(()) };
    chown(path, Some(owner.uid), Some(owner.gid))
        .map_err(|errno| UpError::at(path, "given to PostgreSQL")(errno.into()))
}

/// Writes a file that only its owner may read.
fn write_private(path: &Path, text: &str) -> Result<(), UpError> {
    let opened = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    opened
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(UpError::at(path, "written"))
}

#[cfg(test)]
mod tests;
