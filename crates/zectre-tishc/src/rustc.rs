//! Calls `rustc` on a program's generated source, and reads its complaints.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde::Deserialize;

use crate::cache::InUse;
use crate::diagnostic::{DIAGNOSTICS_MAX, Diagnostic, Failure, Stage};
use crate::error::Error;
use crate::names;
use crate::project::Project;
use crate::scope::as_written;
use crate::template::{CODEGEN_FLAGS, PROGRAM_FLAGS, TARGET};
use crate::toolchain::{self, Output, Unfinished};

/// How long one program may take: a small one takes a second, one of a megabyte of source a minute.
const RUSTC_DEADLINE: Duration = Duration::from_mins(5);

/// Compiles and links `rust` in the empty directory `scratch`; gives the binary's path there.
pub(crate) fn build(cache: &InUse, project: &Project, rust: &str, scratch: &Path) -> Result<PathBuf, Error> {
    let source = scratch.join("program.rs");
    fs::write(&source, rust).map_err(|error| Error::file("write", &source, &error))?;
    let mut command = Command::new(&cache.ready.toolchain.rustc);
    toolchain::bare(&mut command, scratch);
    command
        .current_dir(scratch)
        // The name is relative: it ends up in the binary, as the place of panics.
        .args([
            "program.rs",
            "-o",
            "program",
            "--crate-name",
            "tish_program",
            "--crate-type",
            "bin",
        ])
        .args([
            "--edition",
            "2021",
            "--target",
            TARGET,
            "--error-format",
            "json",
            "--cap-lints",
            "allow",
        ])
        .args(CODEGEN_FLAGS)
        .args(PROGRAM_FLAGS);
    for dir in &cache.ready.search {
        command.arg("-L").arg(cache.dir.join(dir));
    }
    for (name, library) in &cache.ready.externs {
        command
            .arg("--extern")
            .arg(format!("{name}={}", cache.dir.join(library).display()));
    }
    let finished = match toolchain::run(&mut command, Output::Stderr, RUSTC_DEADLINE) {
        Ok(finished) => finished,
        Err(Unfinished::NotStarted(error)) => {
            return Err(Error::file("start", &cache.ready.toolchain.rustc, &error));
        }
        Err(Unfinished::TimedOut) => {
            let message = format!("compiling this program takes over {} s", RUSTC_DEADLINE.as_secs());
            let diagnostic =
                Diagnostic::new(message).hint("split it, or move large tables of data into files");
            return Err(Error::Program(Failure::one(Stage::Rustc, diagnostic)));
        }
    };
    if finished.success {
        return Ok(scratch.join("program"));
    }
    Err(complaint(project, &finished.text, &finished.status))
}

#[derive(Deserialize)]
struct Complaint {
    message: String,
    level: String,
    code: Option<Code>,
    #[serde(default)]
    children: Vec<Child>,
}

#[derive(Deserialize)]
struct Code {
    code: String,
}

#[derive(Deserialize)]
struct Child {
    message: String,
}

/// Whose fault a failed run was, and what to tell them.
fn complaint(project: &Project, stderr: &str, status: &str) -> Error {
    let messages = stderr
        .lines()
        .filter_map(|line| serde_json::from_str::<Complaint>(line).ok());
    let errors: Vec<Complaint> = messages.filter(|message| message.level == "error").collect();
    if let Some(fault) = errors.iter().find_map(machine_fault) {
        return fault;
    }
    let mut diagnostics = vec![];
    for error in &errors {
        for diagnostic in explain(project, error) {
            if !diagnostics.contains(&diagnostic) && diagnostics.len() < DIAGNOSTICS_MAX {
                diagnostics.push(diagnostic);
            }
        }
    }
    if diagnostics.is_empty() {
        return Error::machine(
            format!("`rustc` ended without a reason ({status})"),
            "If it was killed, give builds more memory; otherwise warm the cache anew",
        );
    }
    Error::Program(Failure {
        stage: Stage::Rustc,
        diagnostics,
    })
}

/// Complaints that no change to the program can mend.
fn machine_fault(error: &Complaint) -> Option<Error> {
    let code = error.code.as_ref().map_or("", |code| code.code.as_str());
    if ["E0460", "E0463", "E0514", "E0786"].contains(&code) {
        return Some(Error::machine(
            "the compiler's cache is damaged or belongs to another rustc",
            "Delete it and run `zectre-tishc warm --cache DIR`",
        ));
    }
    if error.message.starts_with("linking with") || error.message.starts_with("linker `") {
        // The command line that rustc tells first is long and full of paths; the linker's own words
        // come last.
        let ran = error.message.starts_with("linking with");
        let words = error.children.iter().rev().find_map(|child| {
            let line = child
                .message
                .lines()
                .rfind(|line| line.contains("error") || line.contains("cannot find"))?;
            Some(without_paths(line))
        });
        let words = words
            .filter(|_| ran)
            .unwrap_or_else(|| without_paths(&error.message));
        return Some(Error::machine(
            format!("the program can't be linked: {words}"),
            "Install Debian's `gcc` and `libc6-dev`, and see that a sandbox shows /usr and /etc/alternatives",
        ));
    }
    let io = [
        "couldn't create",
        "failed to write",
        "error writing",
        "could not write",
        "failed to create",
        "io error",
    ];
    io.iter().any(|start| error.message.starts_with(start)).then(|| {
        Error::machine(
            format!("`rustc` can't write: {}", without_paths(&error.message)),
            "Check the free disk space where the output goes",
        )
    })
}

fn explain(project: &Project, error: &Complaint) -> Vec<Diagnostic> {
    if error.message.starts_with("aborting due to") {
        return vec![];
    }
    let code = error.code.as_ref().map_or("", |code| code.code.as_str());
    let name = error.message.split('`').nth(1).map(as_written);
    let found = match (code, name) {
        // Unknown as a value, a function, a type or a module: all the same word in Tish.
        ("E0425" | "E0412" | "E0423" | "E0433", Some(name)) => names::undefined(project, name),
        ("E0384" | "E0594" | "E0596", Some(name)) => names::written(project, name),
        _ => vec![],
    };
    if !found.is_empty() {
        return found;
    }
    let message = format!(
        "the Tish compiler made Rust of this program that is not valid: {}",
        without_paths(&error.message)
    );
    let hint = "this is a limit of the Tish compiler: write differently what changed since it last compiled";
    vec![Diagnostic::new(message).hint(hint)]
}

/// Leaves only the last part of absolute paths: where things lie on this machine is nobody's business.
fn without_paths(text: &str) -> String {
    let is_end = |c: char| c.is_whitespace() || "\"'`(),:;=".contains(c);
    let mut shown = String::with_capacity(text.len());
    for piece in text.split_inclusive(is_end) {
        match piece.trim_end_matches(is_end).rsplit_once('/') {
            Some((before, last)) if before.is_empty() || before.starts_with('/') => {
                let end = piece.trim_end_matches(is_end).len();
                shown.push_str(last);
                shown.push_str(&piece[end..]);
            }
            _ => shown.push_str(piece),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_shrink_to_their_last_part() {
        let text = "/usr/bin/ld: cannot find -lfoo (\"/var/cache/a b/lib.rlib\"): src/main.rs a/b";
        assert_eq!(
            without_paths(text),
            "ld: cannot find -lfoo (\"a b/lib.rlib\"): src/main.rs a/b"
        );
    }

    #[test]
    fn a_missing_linker_is_the_machines_fault() {
        let line = r#"{"message":"linking with `cc` failed: exit status: 1","level":"error","code":null,"children":[{"message":"\"cc\" \"/secret/x.o\""},{"message":"rust-lld: error: unable to find library -lc\n"}]}"#;
        let fault = machine_fault(&serde_json::from_str(line).unwrap()).unwrap();
        assert_eq!(fault.exit_code(), 70);
        assert!(
            fault.to_string().contains("unable to find library -lc"),
            "{fault}"
        );
        assert!(!fault.to_string().contains("/secret"), "{fault}");
    }
}
