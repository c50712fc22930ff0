//! Makes this machine ready to build: the compiler is there, the sandbox works, the cache is warm.
//!
//! It runs beside the service from its start, so that the first build needn't wait for what takes minutes on
//! a fresh machine; a build that comes earlier follows it in its log.

use crate::{
    log::{Lines, Log},
    sandbox::Sandbox,
    tree::Tree,
};
use serde::Deserialize;
use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, BufReader},
    process::Command,
    sync::{Notify, watch},
};
use zectre_common::config::BuildConfig;
use zectre_service::tasks::Shutdown;

/// A warm-up on a slow machine with a slow network ends before this.
const WARM_MAX: Duration = Duration::from_secs(45 * 60);
/// After a failure it is tried again: somebody may have installed what was missing.
const RETRY: Duration = Duration::from_secs(30);
/// A build's log tells of the preparation this often: there is a line a library, more than anyone reads.
const SAY_EVERY: Duration = Duration::from_secs(5);
/// The compiler's file name.
const COMPILER: &str = "zectre-tishc";

/// How far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preparation {
    /// It goes on; the last thing that was said.
    Underway(String),
    /// Builds can run.
    Ready(Ready),
    /// They can't: why, and what to do.
    Failed(String),
}

/// What builds run with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// The compiler's executable.
    pub compiler: PathBuf,
    /// The Rust toolchain that it calls.
    pub sysroot: PathBuf,
    /// The warm cache.
    pub cache: PathBuf,
}

/// The answer of `zectre-tishc warm --json`.
#[derive(Deserialize)]
struct Warmed {
    sysroot: PathBuf,
}

/// Prepares, and tells how it goes.
#[derive(Debug, Clone)]
pub struct Preparer {
    compiler: PathBuf,
    cache: PathBuf,
    sandbox: Arc<Sandbox>,
    state: watch::Sender<Preparation>,
    again: Arc<Notify>,
}

impl Preparer {
    /// For this configuration; nothing is done yet.
    pub fn new(config: &BuildConfig, sandbox: Arc<Sandbox>) -> Self {
        let beside = || {
            std::env::current_exe()
                .ok()?
                .parent()
                .map(|dir| dir.join(COMPILER))
        };
        let given = Some(config.compiler.clone()).filter(|path| !path.as_os_str().is_empty());
        let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
        Self {
            compiler: absolute(given.or_else(beside).unwrap_or_else(|| COMPILER.into())),
            cache: absolute(config.cache_dir.clone()),
            sandbox,
            state: watch::Sender::new(Preparation::Underway("not begun".into())),
            again: Arc::default(),
        }
    }

    /// How far it is now.
    pub fn state(&self) -> Preparation {
        self.state.borrow().clone()
    }

    /// Something is wrong with the cache: look at everything again.
    pub fn look_again(&self) {
        self.state.send_replace(Preparation::Underway(
            "looking at the compiler's cache again".into(),
        ));
        self.again.notify_one();
    }

    /// Prepares until shutdown.
    pub async fn run(self, stop: Shutdown) {
        while !stop.is_requested() {
            let Some(prepared) = stop.or_requested(self.prepare()).await else {
                return;
            };
            let retry = prepared.is_err();
            match prepared {
                Ok(ready) => {
                    tracing::info!("builds can run");
                    self.state.send_replace(Preparation::Ready(ready));
                }
                Err(reason) => {
                    tracing::warn!(reason, "builds can't run; looking again in {} s", RETRY.as_secs());
                    self.state.send_replace(Preparation::Failed(reason));
                }
            }
            tokio::select! {
                () = stop.requested() => return,
                () = self.again.notified() => {}
                () = tokio::time::sleep(RETRY), if retry => {}
            }
        }
    }

    async fn prepare(&self) -> Result<Ready, String> {
        if !self.compiler.is_file() {
            return Err(format!(
                "the Tish compiler `{COMPILER}` is not beside this program: install it there, or name it in build.compiler"
            ));
        }
        self.sandbox.probe().await?;
        let warmed = tokio::time::timeout(WARM_MAX, self.warm()).await;
        let sysroot = warmed.unwrap_or_else(|_| Err("warming the compiler's cache took too long".into()))?;
        Ok(Ready {
            compiler: self.compiler.clone(),
            sysroot,
            cache: self.cache.clone(),
        })
    }

    /// Warms the cache; the answer is where the toolchain lies. Outside of the sandbox: nothing of a user's is
    /// involved, and it may fetch what the compiler's lock file names.
    async fn warm(&self) -> Result<PathBuf, String> {
        let mut command = Command::new(&self.compiler);
        command
            .args(["warm", "--online", "--json", "--until-eof", "--cache"])
            .arg(&self.cache);
        if let Some(group) = self.sandbox.group() {
            command.arg("--group").arg(group.to_string());
        }
        command.env(
            "PATH",
            with_cargo(std::env::var_os("PATH"), std::env::home_dir().as_deref()),
        );
        command
            // Never written to: it closes when this service ends, however it ends, and with that the warm-up does.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        let mut child = command
            .spawn()
            .map_err(|error| format!("the compiler does not start: {error}"))?;
        // Declared after the child, so dropped before it.
        let mut tree = Tree::of(&child);
        let open = child.stdin.take();
        let mut stdout = child
            .stdout
            .take()
            .expect("stdout was asked for as a pipe")
            .take(64 * 1024);
        let stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let mut answer = Vec::new();
        let (read, last) = tokio::join!(
            stdout.read_to_end(&mut answer),
            self.follow(BufReader::new(stderr))
        );
        read.map_err(|error| error.to_string())?;
        let status = child.wait().await.map_err(|error| error.to_string())?;
        tree.has_ended();
        drop(open);
        match serde_json::from_slice::<Warmed>(&answer) {
            Ok(warmed) if status.success() => Ok(warmed.sysroot),
            _ => Err(cache_trouble(&self.cache, &last)),
        }
    }

    /// Passes progress on; returns the last line.
    async fn follow(&self, from: BufReader<tokio::process::ChildStderr>) -> String {
        let (mut lines, mut last) = (Lines::new(from), String::new());
        while let Some(line) = lines.next().await {
            tracing::debug!(line, "preparing the compiler");
            self.state.send_replace(Preparation::Underway(line.clone()));
            last = line;
        }
        last
    }

    /// Waits until builds can run, telling `log` how it goes; an error says why they can't.
    pub async fn ready(&self, log: &Log) -> Result<Ready, String> {
        let mut state = self.state.subscribe();
        let mut waiting = false;
        let mut said = Instant::now();
        loop {
            let now = state.borrow_and_update().clone();
            match now {
                Preparation::Ready(ready) => return Ok(ready),
                Preparation::Failed(reason) => return Err(reason),
                Preparation::Underway(line) => {
                    if !waiting {
                        log.say("preparing the compiler: this happens once for each data directory")
                            .await;
                        waiting = true;
                    } else if !line.is_empty() && said.elapsed() >= SAY_EVERY {
                        log.say(line).await;
                        said = Instant::now();
                    }
                }
            }
            if state.changed().await.is_err() {
                return Err("the worker is stopping".into());
            }
        }
    }
}

/// Why the cache can't be warmed, without a full stop: `last` is the compiler's last line, which leaves the path out.
fn cache_trouble(cache: &Path, last: &str) -> String {
    let why = last.trim().trim_start_matches("error: ").trim_end_matches('.');
    format!(
        "the compiler's cache {} can't be prepared: {why}",
        cache.display()
    )
}

/// Rust's own installer puts it into the home directory, which a service's `PATH` rarely names.
fn with_cargo(path: Option<std::ffi::OsString>, home: Option<&Path>) -> std::ffi::OsString {
    let path = path.unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
    let Some(home) = home else { return path };
    let parts = std::env::split_paths(&path).chain([home.join(".cargo/bin")]);
    std::env::join_paths(parts).unwrap_or_else(|_| path.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_with_the_cache_names_its_path_and_leaves_the_full_stop_to_others() {
        let last =
            "error: could not create the directory `cache`: Read-only file system. Check its permissions.";
        let told = cache_trouble(Path::new("/var/lib/zectre/build/cache"), last);
        assert!(
            told.starts_with("the compiler's cache /var/lib/zectre/build/cache can't"),
            "{told}"
        );
        assert!(
            told.ends_with("Check its permissions") && !told.contains("error:"),
            "{told}"
        );
    }

    #[test]
    fn cargo_is_looked_for_at_home_last() {
        let path = with_cargo(Some("/usr/bin:/bin".into()), Some(Path::new("/home/me")));
        assert_eq!(path, "/usr/bin:/bin:/home/me/.cargo/bin");
        assert_eq!(with_cargo(None, None), "/usr/local/bin:/usr/bin:/bin");
    }
}
