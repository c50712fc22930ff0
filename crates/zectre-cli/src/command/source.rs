//! Pack, upload, build: shared by `build` and `deploy`.

use crate::{
    command::{begun::Begun, patience::Patience},
    context::Context,
    describe,
    error::{CliError, sentence},
    pack,
    progress::Progress,
    table,
    terminal_text::harmless,
};
use base64::Engine;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::Instant;
use zectre_client::Upload;
use zectre_common::{
    id::{ApplicationId, BuildId},
    manifest::Manifest,
    state::BuildStatus,
    wire::{
        build::{Build, Diagnostic},
        cluster::ServiceStatus,
        log::Stream,
    },
};

/// Longer than any build may take, with its time in the queue.
const BUILD_TIMEOUT: Duration = Duration::from_secs(1_800);
/// After so long in the queue it is told that nobody has taken the build yet: a worker that has room does so at once.
const QUEUED_LONG: Duration = Duration::from_secs(10);
/// The service that builds.
const BUILD_WORKER: &str = "zectre-build";
/// Its word for a compiler that is not warm yet, in why it is not ready.
const PREPARING: &str = "being prepared";
/// How many lines of the log are remembered, so as not to say the same twice.
const SHOWN_LINES_MAX: usize = 1_000;
/// How often a build is looked at where its log stream has ended.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Builds `directory` and shows the log; fails when the build does.
pub(crate) async fn build(
    context: &Context,
    app: ApplicationId,
    directory: &Path,
    begun: &Begun,
) -> Result<Build, CliError> {
    let progress = context.output.progress("Packing");
    let path = directory.to_owned();
    // Reading and compressing a project is no work for the threads that serve connections.
    let packed = tokio::task::spawn_blocking(move || {
        let archive = pack::pack(&path)?;
        let digest = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(&archive.bytes));
        Ok::<_, pack::PackError>((archive, digest))
    });
    let (archive, digest) = packed.await.map_err(std::io::Error::other)??;
    let size_bytes = archive.bytes.len() as u64;
    progress.done(&format!(
        "Packed {}, {}",
        describe::counted(archive.files, "file"),
        table::bytes(size_bytes)
    ));
    if !archive.left_out.is_empty() {
        context.output.say(format!(
            "  without {}: `zectre env add` sets variables",
            archive.left_out.join(", ")
        ));
    }
    let progress = context.output.progress("Uploading");
    let upload = Upload {
        body: archive.bytes.into(),
        size_bytes,
        sha256_base64: Some(digest),
    };
    let build = context.client.create_build(app, upload).await?;
    begun.build(build.id);
    progress.clear();
    let mut progress = context.output.progress("Building");
    let mut shown = BTreeSet::new();
    let build = follow(context, &build, &mut progress, &mut shown).await?;
    begun.built();
    if build.status == BuildStatus::Succeeded {
        progress.done("Built");
        return Ok(build);
    }
    progress.clear();
    for diagnostic in &build.diagnostics {
        let lines = explain(directory, diagnostic);
        // The compiler's own words, in the log above, may have said the same.
        if !shown.contains(&lines[0]) {
            for line in &lines {
                context.output.say(line);
            }
        }
    }
    Err(CliError::BuildFailed(failure(&build)))
}

/// Refuses what is no directory at all.
pub(crate) fn check_directory(directory: &Path) -> Result<(), CliError> {
    if directory.is_dir() {
        return Ok(());
    }
    let what = if directory.exists() {
        "is no directory"
    } else {
        "does not exist"
    };
    Err(CliError::NotFound(format!(
        "`{}` {what}. Name the project's directory, or run the command in it.",
        directory.display()
    )))
}

/// Refuses a project whose entry file isn't there: better now than after the upload.
pub(crate) fn check_entry(manifest: &Manifest, directory: &Path) -> Result<(), CliError> {
    let entry = manifest.entry();
    if directory.join(entry).is_file() {
        return Ok(());
    }
    check_directory(directory)?;
    Err(CliError::NotFound(format!(
        "there is no {entry} in `{}`. Add it, name another file in `build.source` of zectre.yaml, or run `zectre init` to \
         write a first one.",
        directory.display()
    )))
}

/// Shows the build's log until it has ended.
async fn follow(
    context: &Context,
    build: &Build,
    progress: &mut Progress,
    shown: &mut BTreeSet<String>,
) -> Result<Build, CliError> {
    let deadline = Instant::now() + BUILD_TIMEOUT;
    let mut log = context.client.build_log_stream(build.id);
    let queued_long = tokio::time::sleep(QUEUED_LONG);
    tokio::pin!(queued_long);
    let mut is_told = false;
    let late = || {
        CliError::BuildFailed(format!(
            "the build {} did not end within {} minutes. `zectre builds` shows what became of it.",
            build.id,
            BUILD_TIMEOUT.as_secs() / 60
        ))
    };
    loop {
        tokio::select! {
            line = log.next() => match line {
                // What the platform does is progress; what the compiler says is for keeps.
                Ok(Some(line)) if line.stream == Stream::System => progress.update(harmless(&line.message)),
                Ok(Some(line)) => {
                    progress.line(&format!("  {}", harmless(&line.message)));
                    if shown.len() < SHOWN_LINES_MAX {
                        shown.insert(line.message);
                    }
                }
                // Without its log the build goes on all the same.
                Ok(None) | Err(_) => break,
            },
            () = &mut queued_long, if !is_told => {
                is_told = true;
                // Whoever can't be asked now is asked again for the end.
                let now = context.client.build(build.id).await;
                if now.is_ok_and(|now| now.status == BuildStatus::Queued) {
                    progress.line(&format!("  {}", why_queued(context).await));
                }
            }
            () = tokio::time::sleep_until(deadline) => return Err(late()),
        }
    }
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    let mut patience = Patience::default();
    loop {
        match context.client.build(build.id).await {
            Ok(now) if now.status.is_ended() => return Ok(now),
            Ok(_) => patience = Patience::default(),
            Err(error) if error.is_not_found() => return Err(gone(build.id)),
            Err(error) => {
                let (what, look) = (
                    format!("the build {}", build.id),
                    "`zectre builds` shows how it ends",
                );
                progress.update(patience.spend(error.into(), Instant::now(), &what, look)?);
            }
        }
        if Instant::now() >= deadline {
            return Err(late());
        }
        ticks.tick().await;
    }
}

/// Builds go with their project only.
fn gone(id: BuildId) -> CliError {
    CliError::NotFound(format!(
        "the build {id} is gone: its project was deleted meanwhile, or is no longer yours. Nothing was deployed. \
         `zectre projects list` shows what there is."
    ))
}

/// Why no worker has taken a build yet, as far as this caller is told: how services are is for admins.
async fn why_queued(context: &Context) -> String {
    let status = context.client.cluster_status().await.ok();
    let services = status.map(|status| status.services).unwrap_or_default();
    queued_because(services.iter().find(|one| one.name == BUILD_WORKER))
}

fn queued_because(worker: Option<&ServiceStatus>) -> String {
    match worker {
        Some(worker) if worker.ready => {
            "The build worker is busy with other builds; this one waits for its turn.".into()
        }
        Some(worker) if worker.reasons.iter().any(|reason| reason.contains(PREPARING)) => format!(
            "The build worker is preparing the Tish compiler, which happens once for each data directory; the build waits for it, {} \
             minutes at most.",
            BUILD_TIMEOUT.as_secs() / 60
        ),
        _ => {
            "No build worker has taken it yet. It waits until one has room; if none runs, start zectre-build."
                .into()
        }
    }
}

fn failure(build: &Build) -> String {
    let reason = build
        .reason
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default();
    if build.status == BuildStatus::Cancelled {
        let by_whom = match &build.message {
            Some(message) => format!(": {message}"),
            None => String::new(),
        };
        return format!("the build was cancelled{by_whom}. Run the command again to try once more.");
    }
    if !build.diagnostics.is_empty() {
        return format!("the build failed{reason}. Correct the source and run the command again.");
    }
    let message = build.message.as_deref().unwrap_or("no reason was given");
    format!(
        "the build failed{reason}: {}\n`zectre builds` lists builds; run the command again to try once more.",
        sentence(message)
    )
}

/// A mistake as compilers show it: place, message, the line with a mark under it, hint.
fn explain(directory: &Path, diagnostic: &Diagnostic) -> Vec<String> {
    let mut lines = Vec::new();
    let Some(file) = &diagnostic.file else {
        lines.push(diagnostic.message.clone());
        lines.extend(diagnostic.hint.iter().map(|hint| format!("  hint: {hint}")));
        return lines;
    };
    let mut place = file.clone();
    for number in [diagnostic.line, diagnostic.column].into_iter().flatten() {
        place.push(':');
        place.push_str(&number.to_string());
    }
    lines.push(format!("{place}: {}", diagnostic.message));
    if let Some(number) = diagnostic.line
        && let Some(source) = source_line(directory, file, number)
    {
        lines.push(format!("{number:>5} | {source}"));
        if let Some(column) = diagnostic.column {
            // Tabs stay tabs, so that the mark stands under its character.
            let before = source.chars().take((column as usize).saturating_sub(1));
            let indent: String = before.map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
            lines.push(format!("      | {indent}^"));
        }
    }
    lines.extend(diagnostic.hint.iter().map(|hint| format!("  hint: {hint}")));
    lines
}

/// Line `number` of a file of the project; the name comes from elsewhere, so it must stay inside.
fn source_line(directory: &Path, file: &str, number: u32) -> Option<String> {
    let root = fs::canonicalize(directory).ok()?;
    let path: PathBuf = fs::canonicalize(root.join(file)).ok()?;
    if !path.starts_with(&root) {
        return None;
    }
    let text = fs::read_to_string(path).ok()?;
    text.lines()
        .nth((number as usize).checked_sub(1)?)
        .map(|line| line.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_waits_is_told_what_for() {
        let worker = |ready, reason: &str| ServiceStatus {
            name: BUILD_WORKER.into(),
            ready,
            reasons: vec![reason.into()],
        };
        let warming = worker(
            false,
            "compiler: being prepared: compiling the Tish runtime: 6 crates (syn)",
        );
        assert!(queued_because(Some(&warming)).contains("preparing the Tish compiler"));
        assert!(queued_because(Some(&worker(true, ""))).contains("waits for its turn"));
        let away = worker(false, "http://localhost:47083 does not answer");
        for unknown in [Some(&away), None] {
            assert!(queued_because(unknown).contains("start zectre-build"));
        }
    }

    #[test]
    fn a_mistake_is_shown_with_its_line_and_a_mark() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("a.tish"), "let x = 1\n\tlet = 2\n").expect("writable");
        let diagnostic = Diagnostic {
            file: Some("a.tish".into()),
            line: Some(2),
            column: Some(6),
            message: "unexpected `=`".into(),
            hint: Some("name the variable".into()),
        };
        let shown = explain(directory.path(), &diagnostic);
        let expected = [
            "a.tish:2:6: unexpected `=`",
            "    2 | \tlet = 2",
            "      | \t    ^",
            "  hint: name the variable",
        ];
        assert_eq!(shown, expected);
        let outside = Diagnostic {
            file: Some("../../etc/hostname".into()),
            line: Some(1),
            ..diagnostic
        };
        assert_eq!(
            explain(directory.path(), &outside).len(),
            2,
            "no line of a file outside is shown"
        );
    }
}
