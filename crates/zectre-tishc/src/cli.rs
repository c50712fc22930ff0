//! The command line.

use std::io::Write;
use std::panic;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use clap::{Parser, Subcommand};
use serde::Serialize;

use crate::diagnostic::Diagnostic;
use crate::error::Error;
use crate::{compile, warm};

/// Stack of the thread that works: syntax trees are walked recursively, and the parser allows deep ones.
const STACK_BYTES: usize = 256 * 1024 * 1024;

/// Whoever waited for it has gone: like a program that Ctrl-C ended.
const EXIT_LEFT: i32 = 130;

#[derive(Parser)]
#[command(
    name = "zectre-tishc",
    version,
    about = "Compiles Tish programs to static binaries"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a cache ready: compile the Tish runtime once. Quick when it is ready.
    Warm {
        /// The directory that `compile` reads.
        #[arg(long)]
        cache: PathBuf,
        /// Allow the network, for fetching the dependencies that the lock file names.
        #[arg(long)]
        online: bool,
        /// The id of the group that compiles with it, where that is not the user who warms it.
        #[arg(long)]
        group: Option<u32>,
        /// End, with all that was started, when standard input does: who starts this as a process group of its own and
        /// holds the other end leaves nothing behind, however it ends.
        #[arg(long)]
        until_eof: bool,
        /// Print one JSON object on stdout.
        #[arg(long)]
        json: bool,
    },
    /// Compile one program.
    Compile {
        /// The directory that holds all of the program's files.
        #[arg(long)]
        project: PathBuf,
        /// Where the program starts, relative to the project.
        #[arg(long, default_value = "src/main.tish")]
        entry: PathBuf,
        /// The binary to write; scratch files go beside it.
        #[arg(long)]
        output: PathBuf,
        /// A warm cache; it is only read.
        #[arg(long)]
        cache: PathBuf,
        /// Print one JSON object on stdout.
        #[arg(long)]
        json: bool,
    },
}

/// Runs one command: the whole program.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    // The Tish compiler panics on some programs; that is told as a diagnostic, without its place on
    // the machine where it was built.
    panic::set_hook(Box::new(|_| {}));
    let work = thread::Builder::new()
        .stack_size(STACK_BYTES)
        .spawn(move || match cli.command {
            Command::Warm {
                cache,
                online,
                group,
                until_eof,
                json,
            } => {
                if until_eof {
                    end_at_eof();
                }
                let warmed = warm(&cache, online, group, &mut say);
                finish(json, warmed, |warmed| {
                    if warmed.built {
                        String::new()
                    } else {
                        "the cache is warm".into()
                    }
                })
            }
            Command::Compile {
                project,
                entry,
                output,
                cache,
                json,
            } => {
                let built = compile(&project, &entry, &output, &cache);
                finish(json, built, |built| {
                    let ms = built.phases.translate_ms + built.phases.cargo_ms;
                    format!(
                        "compiled {} ({:.1} MB) in {ms} ms",
                        entry.display(),
                        built.size as f64 / 1e6
                    )
                })
            }
        });
    let code = work.ok().and_then(|work| work.join().ok()).unwrap_or_else(|| {
        say("zectre-tishc failed inside: please report the program that does this");
        70
    });
    ExitCode::from(code)
}

/// Watches standard input on a thread of its own.
fn end_at_eof() {
    thread::spawn(|| {
        // What comes in says nothing; that it ends does.
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let own = rustix::process::getpid();
        // In somebody else's group that would be others' end.
        if rustix::process::getpgrp() == own {
            let _ = rustix::process::kill_process_group(own, rustix::process::Signal::KILL);
        }
        std::process::exit(EXIT_LEFT);
    });
}

fn say(line: &str) {
    // A reader who left needs no progress.
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// The object on stdout when a command fails.
#[derive(Serialize)]
struct Failed<'a> {
    ok: bool,
    /// `check`, `translate` or `rustc`; `usage` or `machine` when the program isn't at fault.
    stage: String,
    diagnostics: &'a [Diagnostic],
}

fn finish<T: Serialize>(json: bool, result: Result<T, Error>, summary: impl FnOnce(&T) -> String) -> u8 {
    match result {
        Ok(done) => {
            let summary = summary(&done);
            if !summary.is_empty() {
                say(&summary);
            }
            print(json, &done);
            0
        }
        Err(error) => {
            say(&error.to_string());
            let whole = [Diagnostic::new(error.to_string())];
            let (stage, diagnostics) = match &error {
                Error::Program(failure) => (failure.stage.to_string(), failure.diagnostics.as_slice()),
                Error::Usage(_) => ("usage".to_owned(), whole.as_slice()),
                Error::Machine { .. } => ("machine".to_owned(), whole.as_slice()),
            };
            print(
                json,
                &Failed {
                    ok: false,
                    stage,
                    diagnostics,
                },
            );
            error.exit_code()
        }
    }
}

fn print(json: bool, object: &impl Serialize) {
    if json {
        let text = serde_json::to_string(object).expect("these types have only string keys");
        let _ = writeln!(std::io::stdout(), "{text}");
    }
}
