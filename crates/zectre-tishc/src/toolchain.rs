//! The Rust toolchain on this machine, and how its programs are called: without the caller's environment.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// How long a question to the toolchain (its version) may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Most output of a program that is kept.
const OUTPUT_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Where `cc` is looked for when the caller has no `PATH`.
const PATH_DEFAULT: &str = "/usr/local/bin:/usr/bin:/bin";

/// One installed `rustc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Toolchain {
    /// The compiler itself, not a front of it that needs a home directory.
    pub(crate) rustc: PathBuf,
    /// All that the compiler reads lies below.
    pub(crate) sysroot: PathBuf,
    /// `rustc -vV`.
    pub(crate) version: String,
    /// With its time: tells whether it was replaced.
    bytes: u64,
    modified_ms: u64,
}

impl Toolchain {
    /// Asks the `rustc` of the caller's `PATH`.
    pub(crate) fn find() -> Result<Self, Error> {
        let version = ask(&["-vV"])?;
        let sysroot = PathBuf::from(ask(&["--print", "sysroot"])?);
        let rustc = sysroot.join("bin/rustc");
        let (bytes, modified_ms) = identity(&rustc)?;
        Ok(Self {
            rustc,
            sysroot,
            version,
            bytes,
            modified_ms,
        })
    }

    /// Whether it is still there as it was.
    pub(crate) fn unchanged(&self) -> bool {
        identity(&self.rustc).is_ok_and(|now| now == (self.bytes, self.modified_ms))
    }
}

const INSTALL: &str = "Install Rust (https://rustup.rs) and Debian's `gcc` and `libc6-dev`, and see that `cargo` is on the PATH";

fn ask(question: &[&str]) -> Result<String, Error> {
    let mut command = Command::new("rustc");
    command.args(question);
    clean(&mut command);
    let answer = run(&mut command, Output::Stdout, ANSWER_DEADLINE)
        .ok()
        .filter(|answer| answer.success);
    let answer = answer.ok_or_else(|| Error::machine("`rustc` does not run here", INSTALL))?;
    Ok(answer.text.trim_end().to_owned())
}

fn identity(rustc: &Path) -> Result<(u64, u64), Error> {
    let metadata = rustc
        .metadata()
        .map_err(|error| Error::file("find", rustc, &error))?;
    let modified = metadata
        .modified()
        .ok()
        .and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    Ok((metadata.len(), modified.map_or(0, |time| time.as_millis() as u64)))
}

/// For cargo and the question above: the caller's environment, less what would change a build.
pub(crate) fn clean(command: &mut Command) {
    const KEPT: [&str; 6] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTRIES_",
        "CARGO_REGISTRY_",
        "CARGO_SOURCE_",
    ];
    for (name, _) in std::env::vars_os() {
        let Some(text) = name.to_str() else { continue };
        let builds = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS"]
            .iter()
            .any(|start| text.starts_with(start));
        if builds && !KEPT.iter().any(|kept| text.starts_with(kept)) {
            command.env_remove(name);
        }
    }
    // How C compilers are found is not for the caller of a build to say.
    for name in ["CC", "CFLAGS", "CXX", "CXXFLAGS", "AR", "LDFLAGS"] {
        command.env_remove(name);
    }
}

/// For `rustc` itself: nothing of the caller's but where programs are found.
pub(crate) fn bare(command: &mut Command, scratch: &Path) {
    let path = std::env::var_os("PATH").filter(|path| !path.is_empty());
    command
        .env_clear()
        .env("PATH", path.unwrap_or_else(|| PATH_DEFAULT.into()))
        .env("TMPDIR", scratch)
        .env("LC_ALL", "C");
}

/// Which stream is read; the other is dropped.
#[derive(Clone, Copy)]
pub(crate) enum Output {
    Stdout,
    Stderr,
}

/// What a program said.
pub(crate) struct Finished {
    pub(crate) success: bool,
    /// How it ended, in words.
    pub(crate) status: String,
    pub(crate) text: String,
}

/// Why a program said nothing.
pub(crate) enum Unfinished {
    NotStarted(std::io::Error),
    TimedOut,
}

/// Runs a program to its end, or to the deadline, when it is killed.
pub(crate) fn run(command: &mut Command, output: Output, deadline: Duration) -> Result<Finished, Unfinished> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    match output {
        Output::Stdout => command.stdout(Stdio::piped()),
        Output::Stderr => command.stderr(Stdio::piped()),
    };
    let mut child = command.spawn().map_err(Unfinished::NotStarted)?;
    let text = match output {
        Output::Stdout => child.stdout.take().map(collect),
        Output::Stderr => child.stderr.take().map(collect),
    };
    let text = text.expect("the stream was asked for as a pipe above");
    // The stream ends when the program does: no clock has to be watched in between.
    let Ok(text) = text.recv_timeout(deadline) else {
        kill(&mut child);
        return Err(Unfinished::TimedOut);
    };
    let status = child.wait().map_err(Unfinished::NotStarted)?;
    Ok(Finished {
        success: status.success(),
        status: status.to_string(),
        text,
    })
}

/// Kills and reaps; that it is gone already is fine.
pub(crate) fn kill(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn collect(mut stream: impl Read + Send + 'static) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::sync_channel(1);
    thread::spawn(move || {
        let mut bytes = vec![];
        let _ = stream.by_ref().take(OUTPUT_BYTES_MAX).read_to_end(&mut bytes);
        // Nobody listens past the deadline; what exceeds the bound is read and dropped, so that the
        // program can end.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}
