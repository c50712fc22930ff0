//! Compiles the template crate with cargo, and keeps what `rustc` needs to know of the result: the
//! libraries that generated code names, and the directories that theirs lie in.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStderr, ChildStdout, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Deserialize;

use crate::error::Error;
use crate::template::{CODEGEN_FLAGS, EXTERNS, TARGET};
use crate::toolchain;
use crate::warm::cargo;

/// How long the build may take: 50 seconds on two idle cores, this much on the busiest machine.
const BUILD_DEADLINE: Duration = Duration::from_mins(30);
/// Lines of cargo's own words that are told when it fails.
const LAST_LINES: usize = 15;

/// One line of `cargo build --message-format=json`, as far as it matters.
#[derive(Deserialize)]
#[serde(tag = "reason", rename_all = "kebab-case")]
enum Message {
    CompilerArtifact {
        target: Target,
        filenames: Vec<PathBuf>,
    },
    BuildScriptExecuted {
        linked_paths: Vec<String>,
    },
    BuildFinished {
        success: bool,
    },
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
struct Target {
    name: String,
}

/// What was built; paths are relative to the cache.
#[derive(Default)]
pub(crate) struct Libraries {
    /// `(crate, library)` for what generated code names.
    pub(crate) externs: Vec<(String, PathBuf)>,
    /// Where the libraries lie that those need.
    pub(crate) search: Vec<PathBuf>,
    crates: usize,
    success: bool,
}

impl Libraries {
    fn take(&mut self, message: Message, cache: &Path, say: &mut dyn FnMut(&str)) {
        match message {
            Message::CompilerArtifact { target, filenames } => {
                self.crates += 1;
                say(&format!(
                    "compiling the Tish runtime: {} crates ({})",
                    self.crates, target.name
                ));
                let library = filenames
                    .iter()
                    .find(|name| name.extension().is_some_and(|kind| kind == "rlib"));
                let named = EXTERNS.contains(&target.name.as_str());
                if let Some(library) = library.filter(|_| named) {
                    self.externs.push((target.name, below(cache, library)));
                }
            }
            Message::BuildScriptExecuted { linked_paths } => {
                let paths = linked_paths
                    .iter()
                    .map(|path| path.split_once('=').map_or(path.as_str(), |(_, path)| path));
                self.search
                    .extend(paths.map(|path| below(cache, Path::new(path))));
            }
            Message::BuildFinished { success } => self.success = success,
            Message::Other => {}
        }
    }
}

fn below(cache: &Path, path: &Path) -> PathBuf {
    path.strip_prefix(cache).unwrap_or(path).to_owned()
}

/// Compiles the crate in `home`, a directory of `cache`.
pub(crate) fn build(cache: &Path, home: &Path, say: &mut dyn FnMut(&str)) -> Result<Libraries, Error> {
    let target_dir = home.join("target");
    let mut command = cargo(home);
    command
        .args([
            "build",
            "--release",
            "--offline",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir)
        .arg("--message-format=json-render-diagnostics")
        .env("CARGO_ENCODED_RUSTFLAGS", flags(&target_dir).join("\u{1f}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command
        .spawn()
        .map_err(|error| Error::file("start", Path::new("cargo"), &error))?;
    let messages = messages(child.stdout.take().expect("stdout was asked for as a pipe"));
    let words = words(child.stderr.take().expect("stderr was asked for as a pipe"));
    let deadline = Instant::now() + BUILD_DEADLINE;
    let mut built = Libraries::default();
    loop {
        match messages.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(message) => built.take(message, cache, say),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                toolchain::kill(&mut child);
                let what = format!(
                    "building the Tish runtime took over {} minutes",
                    BUILD_DEADLINE.as_secs() / 60
                );
                return Err(Error::machine(
                    what,
                    "Run it again on a quieter machine: what is built is kept",
                ));
            }
        }
    }
    let success = child.wait().is_ok_and(|status| status.success()) && built.success;
    let words = Vec::from(words.join().unwrap_or_default()).join("\n");
    if !success {
        let what = format!("the Tish runtime can't be built here:\n{words}\n");
        let remedy = "It needs Debian's `gcc` and `libc6-dev`, and 400 MB of free disk; then run it again";
        return Err(Error::machine(what, remedy));
    }
    let deps = [
        target_dir.join(TARGET).join("release/deps"),
        target_dir.join("release/deps"),
    ];
    built.search.extend(deps.iter().map(|deps| below(cache, deps)));
    match EXTERNS
        .iter()
        .find(|name| !built.externs.iter().any(|(built, _)| built == *name))
    {
        None => Ok(built),
        Some(name) => Err(Error::machine(
            format!("cargo built the Tish runtime, but no library `{name}`"),
            "This is a fault of zectre-tishc: its template and its list of crates differ",
        )),
    }
}

/// For every crate. Paths of this machine have no place in programs that run elsewhere.
fn flags(target_dir: &Path) -> Vec<String> {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(std::env::home_dir()?.join(".cargo")));
    let mut flags: Vec<String> = CODEGEN_FLAGS.iter().map(ToString::to_string).collect();
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=/cargo", home.display())));
    flags.push(format!("--remap-path-prefix={}=/build", target_dir.display()));
    flags
}

/// Cargo's messages as they come; the channel closes when cargo ends.
fn messages(stdout: ChildStdout) -> mpsc::Receiver<Message> {
    let (sender, receiver) = mpsc::sync_channel(64);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // A kind of message that isn't known yet doesn't matter.
            let Ok(message) = serde_json::from_str(&line) else {
                continue;
            };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}

/// The last of what cargo says to people.
fn words(stderr: ChildStderr) -> JoinHandle<VecDeque<String>> {
    thread::spawn(move || {
        let mut last = VecDeque::with_capacity(LAST_LINES);
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            if last.len() == LAST_LINES {
                last.pop_front();
            }
            last.push_back(line);
        }
        last
    })
}
