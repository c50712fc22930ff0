//! Runs `zectre-tishc` on one unpacked project and understands its answer.

use crate::{
    core::verdict::Outcome,
    log::Log,
    sandbox::{PROGRAM, Sandbox, View, inside},
};
use serde::Deserialize;
use std::{
    fs,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::ExitStatus,
};
use tokio::io::{AsyncRead, AsyncReadExt, BufReader};
use zectre_common::{
    state::Reason,
    wire::{build::Diagnostic, log::Stream},
};

/// The largest answer that is read; twenty diagnostics have a few KiB.
const ANSWER_BYTES_MAX: u64 = 1 << 20;
/// `zectre-tishc` says with it that the program is at fault.
const EXIT_PROGRAM: i32 = 1;

/// The one object on the compiler's stdout.
#[derive(Debug, Deserialize)]
struct Answer {
    ok: bool,
    #[serde(default)]
    diagnostics: Vec<Diagnostic>,
}

/// A program that came out.
#[derive(Debug)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// In bytes.
    pub size: u64,
}

/// Compiles; the compiler's words go to `log`.
pub async fn compile(
    sandbox: &Sandbox,
    view: View<'_>,
    entry: &str,
    name: &str,
    log: &Log,
) -> Result<Program, Outcome> {
    let mut running = sandbox
        .start(view, entry, name)
        .map_err(|error| Outcome::Broken(format!("the compiler could not be started: {error}")))?;
    let stdout = running
        .child
        .stdout
        .take()
        .expect("stdout was asked for as a pipe");
    let stderr = running
        .child
        .stderr
        .take()
        .expect("stderr was asked for as a pipe");
    let clean = |line: &str| without_paths(line, view);
    let (answer, ()) = tokio::join!(
        answer(stdout),
        log.copy(Stream::Stderr, BufReader::new(stderr), clean),
    );
    let status = running
        .wait()
        .await
        .map_err(|error| Outcome::Broken(format!("the compiler got lost: {error}")))?;
    if running
        .group
        .as_ref()
        .is_some_and(crate::cgroup::Cgroup::out_of_memory)
    {
        let mib = sandbox.memory_bytes_max() >> 20;
        let message = format!(
            "compiling needed more than {mib} MiB of memory (build.memory_bytes_max): split the program's largest files"
        );
        return Err(Outcome::refused(Reason::OomKilled, message));
    }
    judge(status, answer, view)?;
    program(view.output)
}

/// Reads the answer, and everything past its bound to nowhere, so that the compiler can end.
async fn answer(mut stdout: impl AsyncRead + Unpin) -> Option<Answer> {
    let mut bytes = Vec::new();
    (&mut stdout)
        .take(ANSWER_BYTES_MAX)
        .read_to_end(&mut bytes)
        .await
        .ok()?;
    tokio::io::copy(&mut stdout, &mut tokio::io::sink()).await.ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn judge(status: ExitStatus, answer: Option<Answer>, view: View<'_>) -> Result<(), Outcome> {
    match (status.code(), answer) {
        (Some(0), Some(answer)) if answer.ok => Ok(()),
        (Some(EXIT_PROGRAM), Some(answer)) if !answer.diagnostics.is_empty() => {
            let clean = |diagnostic: Diagnostic| Diagnostic {
                message: without_paths(&diagnostic.message, view),
                ..diagnostic
            };
            let diagnostics: Vec<_> = answer.diagnostics.into_iter().map(clean).collect();
            let message = summary(&diagnostics);
            Err(Outcome::Refused {
                reason: Reason::CompileError,
                message,
                diagnostics,
            })
        }
        (Some(_), Some(Answer { diagnostics, .. })) if !diagnostics.is_empty() => {
            Err(Outcome::Broken(without_paths(&diagnostics[0].message, view)))
        }
        (Some(code), _) => Err(Outcome::Broken(format!(
            "the compiler ended with {code} and gave no answer"
        ))),
        (None, _) => {
            let signal = status.signal().unwrap_or_default();
            Err(Outcome::Broken(format!(
                "the compiler was killed by signal {signal}"
            )))
        }
    }
}

/// The first mistake with its place, and how many more there are.
fn summary(diagnostics: &[Diagnostic]) -> String {
    let Some(first) = diagnostics.first() else {
        return "the program does not compile".into();
    };
    let more = match diagnostics.len() {
        1 => String::new(),
        2 => " (and one more mistake)".into(),
        many => format!(" (and {} more mistakes)", many - 1),
    };
    format!("{}{more}", line(first))
}

/// `src/main.tish:3:9: message`, the form that editors make a link of.
pub fn line(diagnostic: &Diagnostic) -> String {
    let message = &diagnostic.message;
    match (&diagnostic.file, diagnostic.line) {
        (Some(file), Some(line)) => format!("{file}:{line}:{}: {message}", diagnostic.column.unwrap_or(1)),
        (Some(file), None) => format!("{file}: {message}"),
        (None, _) => message.clone(),
    }
}

/// What the compiler left must be a plain file: the directory was the build's to write.
fn program(output: &Path) -> Result<Program, Outcome> {
    let path = output.join(PROGRAM);
    match fs::symlink_metadata(&path) {
        Ok(metadata) if metadata.is_file() && metadata.len() > 0 => Ok(Program {
            path,
            size: metadata.len(),
        }),
        _ => Err(Outcome::Broken(
            "the compiler said it was done and left no program".into(),
        )),
    }
}

/// No path of this machine reaches the build's log.
fn without_paths(line: &str, view: View<'_>) -> String {
    let mut line = line.to_owned();
    let project = [Path::new(inside::PROJECT), view.project].map(|path| format!("{}/", path.display()));
    for path in project {
        line = line.replace(&path, "");
    }
    let others = [
        (view.output, "output"),
        (view.cache, "cache"),
        (view.sysroot, "rust"),
        (view.compiler, "zectre-tishc"),
        (Path::new(inside::OUTPUT), "output"),
        (Path::new(inside::CACHE), "cache"),
        (Path::new(inside::COMPILER), "zectre-tishc"),
    ];
    for (path, short) in others {
        line = line.replace(&path.display().to_string(), short);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View<'static> {
        View {
            compiler: Path::new("/opt/zectre-tishc"),
            sysroot: Path::new("/home/me/rust"),
            cache: Path::new("/var/cache/tish"),
            project: Path::new("/var/work/1/project"),
            output: Path::new("/var/work/1/output"),
        }
    }

    fn answer(json: &str) -> Answer {
        serde_json::from_str(json).expect("it is an answer")
    }

    #[test]
    fn no_path_of_the_machine_is_left() {
        let line = "/var/work/1/project/src/main.tish:1: no; see /var/cache/tish/x and /home/me/rust/lib";
        assert_eq!(
            without_paths(line, view()),
            "src/main.tish:1: no; see cache/x and rust/lib"
        );
    }

    #[test]
    fn mistakes_are_the_programs_and_everything_else_is_the_workers() {
        let mistakes = r#"{"ok":false,"stage":"check","diagnostics":[
            {"file":"src/main.tish","line":3,"column":9,"message":"unexpected `=`","hint":null,"source":"x"},
            {"file":null,"line":null,"column":null,"message":"more","hint":"h","source":null}]}"#;
        let exit = |code: i32| ExitStatus::from_raw(code << 8);
        match judge(exit(1), Some(answer(mistakes)), view()) {
            Err(Outcome::Refused {
                reason: Reason::CompileError,
                message,
                diagnostics,
            }) => {
                assert_eq!(
                    message,
                    "src/main.tish:3:9: unexpected `=` (and one more mistake)"
                );
                assert_eq!(diagnostics.len(), 2);
            }
            other => panic!("{other:?}"),
        }
        assert!(matches!(
            judge(exit(70), Some(answer(mistakes)), view()),
            Err(Outcome::Broken(_))
        ));
        assert!(matches!(judge(exit(0), None, view()), Err(Outcome::Broken(_))));
        assert!(
            matches!(judge(ExitStatus::from_raw(9), None, view()), Err(Outcome::Broken(why)) if why.contains("signal 9"))
        );
        assert_eq!(
            judge(exit(0), Some(answer(r#"{"ok":true,"size":1}"#)), view()),
            Ok(())
        );
    }
}
