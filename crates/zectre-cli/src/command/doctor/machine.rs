//! What `zectre up` needs on this machine.

use super::{Finding, Verdict};
use crate::up;
use std::{env, path::PathBuf};

/// Looks at this machine. What is missing is a failure only where the platform is to run here.
pub(super) fn look(runs_here: bool) -> Vec<Finding> {
    let mut findings = vec![
        check(
            up::postgres_installed(),
            "PostgreSQL is installed",
            "PostgreSQL is not installed",
            "Run `apt-get install postgresql`.",
        ),
        check(
            beside("zectre-shim"),
            "zectre-shim is beside this program (it starts tasks)",
            "zectre-shim is not beside this program (it starts tasks)",
            "Build all programs together: `cargo build --release --workspace --bins`.",
        ),
        check(
            beside("zectre-tishc"),
            "zectre-tishc is beside this program (it compiles)",
            "zectre-tishc is not beside this program (it compiles)",
            "Build all programs together: `cargo build --release --workspace --bins`.",
        ),
        check(
            on_path("cargo") || in_home(".cargo/bin/cargo"),
            "Rust is installed (builds need it)",
            "Rust is not installed (builds need it)",
            "Install it from https://rustup.rs.",
        ),
        check(
            on_path("bwrap"),
            "bubblewrap is installed (it isolates builds)",
            "bubblewrap is not installed (it isolates builds)",
            "Run `apt-get install bubblewrap`, or set [build].sandbox = \"none\" if you trust all sources.",
        ),
    ];
    if !runs_here {
        for finding in findings
            .iter_mut()
            .filter(|finding| finding.verdict == Verdict::Fail)
        {
            finding.verdict = Verdict::Note;
            let remedy = finding.remedy.take().unwrap_or_default();
            finding.remedy = Some(format!("Only `zectre up` on this machine needs it. {remedy}"));
        }
    }
    findings
}

fn check(holds: bool, good: &str, bad: &str, remedy: &str) -> Finding {
    if holds {
        Finding::ok(good)
    } else {
        Finding::fail(bad, remedy)
    }
}

fn beside(name: &str) -> bool {
    let path = env::current_exe()
        .ok()
        .and_then(|exe| exe.parent().map(|directory| directory.join(name)));
    path.is_some_and(|path| path.is_file())
}

/// Whether a program is found by its name.
pub(super) fn on_path(name: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory: PathBuf| directory.join(name).is_file())
}

fn in_home(path: &str) -> bool {
    env::home_dir().is_some_and(|home| home.join(path).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_here_is_no_failure_of_a_platform_elsewhere() {
        // This test program lies beside neither of them.
        let missing = |runs_here: bool| {
            let findings = look(runs_here);
            let shim = findings.iter().find(|one| one.what.starts_with("zectre-shim"));
            shim.map(|one| (one.verdict, one.what.contains("is not beside")))
        };
        assert_eq!(missing(true), Some((Verdict::Fail, true)));
        assert_eq!(missing(false), Some((Verdict::Note, true)));
    }
}
