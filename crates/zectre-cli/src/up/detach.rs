//! The platform in the background: this program again, which tells by a file when it is ready.

use super::{data_dir, error::UpError, summary::Summary};
use crate::{args::UpArgs, error::CliError, output::Output};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::{process::Command, time::Instant};

/// The first start makes the database, and a crashed PostgreSQL may have to recover.
const READY_TIMEOUT: Duration = Duration::from_secs(180);
/// How often the file is looked for.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Starts the background process and waits until it is ready.
pub(super) async fn start(args: &UpArgs, output: Output) -> Result<Summary, CliError> {
    // A wrong configuration is told here, with its own exit code.
    super::settings::preview(args.config.as_deref())?;
    let path = data_dir::resolve(args.data_dir.as_deref())?;
    if let Some(holder) = super::lock::holder(&path).await? {
        return Err(UpError::Running {
            path,
            pid: holder.pid,
        }
        .into());
    }
    let directory = tempfile::tempdir()?;
    let ready_file = directory.path().join("ready.json");
    let mut child = command(args, &path, &ready_file)?.spawn()?;
    let mut progress = output.progress("Starting the platform");
    let deadline = Instant::now() + READY_TIMEOUT;
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    loop {
        if let Some(answer) = read(&ready_file) {
            progress.clear();
            return answer.map_err(|error| UpError::Background(error).into());
        }
        if let Ok(word) = fs::read_to_string(word_file(&ready_file)) {
            progress.update(word);
        }
        tokio::select! {
            _ = ticks.tick() => {}
            status = child.wait() => {
                let answer = read(&ready_file).unwrap_or_else(|| Err(format!(
                    "the background process ended ({}). {} tells why.",
                    status.map_or_else(|error| error.to_string(), |status| status.to_string()),
                    path.join("zectre.log").display()
                )));
                return answer.map_err(|error| UpError::Background(error).into());
            }
            () = crate::command::interrupted() => {
                return Err(CliError::Interrupted("It goes on starting in the background; `zectre down` stops it.".into()));
            }
        }
        if Instant::now() >= deadline {
            let secs = READY_TIMEOUT.as_secs();
            return Err(UpError::NotReady {
                secs,
                why: "it is still starting".into(),
            }
            .into());
        }
    }
}

fn command(args: &UpArgs, data_dir: &Path, ready_file: &Path) -> Result<Command, CliError> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("up")
        .arg("--quiet")
        .arg("--data-dir")
        .arg(data_dir)
        .arg("--ready-file")
        .arg(ready_file);
    if let Some(config) = &args.config {
        command.arg("--config").arg(config);
    }
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(command)
}

/// Tells how the start went.
pub(super) fn tell(file: &Path, answer: &Result<Summary, String>) {
    write(
        file,
        &serde_json::to_string(answer).expect("a summary is valid JSON"),
    );
}

/// Tells what is waited for meanwhile.
pub(super) fn say(file: &Path, word: &str) {
    write(&word_file(file), word);
}

/// Beside the file that tells how the start went.
fn word_file(file: &Path) -> PathBuf {
    file.with_extension("word")
}

/// Written beside and moved into place, so that it is never read half.
fn write(file: &Path, text: &str) {
    let fresh: PathBuf = file.with_extension("new");
    if let Err(error) = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, file)) {
        tracing::warn!(%error, "whoever started this can't be told how it goes");
    }
}

fn read(file: &Path) -> Option<Result<Summary, String>> {
    serde_json::from_str(&fs::read_to_string(file).ok()?).ok()
}
