//! A task's directory: its order, its last report, its output, and what its supervisor recorded.

use super::{board::report, output::Mark, spare::Spares};
use crate::{
    log::Spool,
    record,
    remove::remove,
    shim::{ENDED_FILE, Ended, STARTED_FILE, Started},
};
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};
use zectre_common::{
    id::TaskId,
    quantity::DurationMs,
    state::TaskState,
    time::Time,
    wire::agent::{TaskOrder, TaskReport},
};

const KEPT_FILE: &str = "order.json";
const REPORT_FILE: &str = "report.json";
const STOP_FILE: &str = "stop.json";
const OUTPUT_FILE: &str = "output.json";
const WORK_DIR: &str = "work";

/// What is kept of an order, for the next agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Without variables and signed URLs: those are secrets, and needed only to start.
    pub order: TaskOrder,
    /// When it was taken on.
    pub accepted_at: Time,
    /// Its generation: until the first report is kept there is nothing else that tells. Agents before did not keep it.
    #[serde(default)]
    pub generation: Option<u64>,
}

impl Kept {
    /// Of an order that is taken on now.
    pub(crate) fn new(order: &TaskOrder, generation: u64, accepted_at: Time) -> Self {
        let mut order = order.clone();
        order.env.clear();
        if let Some(artifact) = &mut order.artifact {
            artifact.url.clear();
        }
        Self {
            order,
            accepted_at,
            generation: Some(generation),
        }
    }

    /// The report of a task that has made none yet.
    pub(crate) fn first_report(&self, task: TaskId) -> Option<TaskReport> {
        let mut report = report(task, self.generation?, TaskState::Starting);
        report.since = self.accepted_at;
        Some(report)
    }
}

/// One task's directory.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    dir: PathBuf,
}

impl Home {
    /// The directory of a task below that of all tasks, there or not.
    pub(crate) fn of(tasks_dir: &Path, task: TaskId) -> Self {
        Self {
            dir: tasks_dir.join(task.to_string()),
        }
    }

    /// Every task that has a directory. What isn't named like a task is left alone.
    pub(crate) fn list(tasks_dir: &Path) -> io::Result<Vec<TaskId>> {
        let names = fs::read_dir(tasks_dir)?
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    /// How many of them have a program that runs, whether an agent does or not.
    pub(crate) fn count_running(tasks_dir: &Path) -> io::Result<usize> {
        let runs = |task: &TaskId| {
            let started = Self::of(tasks_dir, *task).started();
            started.is_ok_and(|started| started.is_some_and(|started| started.is_supervised()))
        };
        Ok(Self::list(tasks_dir)?.iter().filter(|task| runs(task)).count())
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the task may leave files while it runs.
    pub(crate) fn work_dir(&self) -> PathBuf {
        self.dir.join(WORK_DIR)
    }

    /// Makes the directories, of a spare one where one waits, and keeps the order.
    pub(crate) fn make(&self, kept: &Kept, uid: Option<u32>, spares: &Spares) -> io::Result<()> {
        if !spares.give(&self.dir) {
            make_dirs(&self.dir)?;
        }
        if let Some(uid) = uid {
            std::os::unix::fs::chown(self.work_dir(), Some(uid), Some(uid))?;
        }
        record::write(&self.dir.join(KEPT_FILE), kept)
    }

    /// The kept order.
    pub(crate) fn kept(&self) -> io::Result<Option<Kept>> {
        record::read(&self.dir.join(KEPT_FILE))
    }

    /// The last report.
    pub(crate) fn report(&self) -> io::Result<Option<TaskReport>> {
        record::read(&self.dir.join(REPORT_FILE))
    }

    /// Keeps a report.
    pub(crate) fn keep_report(&self, report: &TaskReport) -> io::Result<()> {
        record::write(&self.dir.join(REPORT_FILE), report)
    }

    /// Keeps the wish to stop, with its grace.
    pub(crate) fn keep_stop(&self, grace: Duration) -> io::Result<()> {
        record::write(&self.dir.join(STOP_FILE), &DurationMs(grace.as_millis() as u64))
    }

    /// The grace of the task that is to stop, if it is.
    pub(crate) fn stop(&self) -> io::Result<Option<Duration>> {
        let grace: Option<DurationMs> = record::read(&self.dir.join(STOP_FILE))?;
        Ok(grace.map(DurationMs::duration))
    }

    /// Who was started, if anybody.
    pub(crate) fn started(&self) -> io::Result<Option<Started>> {
        record::read(&self.dir.join(STARTED_FILE))
    }

    /// How the program ended, if its supervisor saw it.
    pub(crate) fn ended(&self) -> io::Result<Option<Ended>> {
        record::read(&self.dir.join(ENDED_FILE))
    }

    /// Up to when a container's output was taken over.
    pub(crate) fn output_mark(&self) -> io::Result<Option<Mark>> {
        record::read(&self.dir.join(OUTPUT_FILE))
    }

    /// Keeps up to when it was taken over.
    pub(crate) fn keep_output_mark(&self, mark: &Mark) -> io::Result<()> {
        record::write(&self.dir.join(OUTPUT_FILE), mark)
    }

    /// Removes all of it.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove(&self.dir)
    }
}

/// The way to the work directory is open to the task's user, the rest isn't.
fn make_dirs(dir: &Path) -> io::Result<()> {
    let make = |path: &Path, mode| fs::DirBuilder::new().recursive(true).mode(mode).create(path);
    make(dir, 0o711)?;
    make(&dir.join(WORK_DIR), 0o700)
}

/// The files that a start writes first.
fn first_files(dir: &Path) -> impl Iterator<Item = PathBuf> {
    let records = [KEPT_FILE, REPORT_FILE, STARTED_FILE].map(|name| record::beside(&dir.join(name)));
    records.into_iter().chain(Spool::first_files(dir))
}

/// Removes what [`lay_out`] made and could not finish. By their names: a process without room for one more open file can't list a
/// directory.
pub(super) fn clear_away(dir: &Path) {
    for path in first_files(dir) {
        // Those that were never made are not there.
        let _ = fs::remove_file(path);
    }
    for dir in [&dir.join(WORK_DIR), dir] {
        if let Err(error) = fs::remove_dir(dir)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!(%error, dir = %dir.display(), "half a directory stays");
        }
    }
}

/// Makes the directory of a task to come, with an empty file wherever its start will write.
pub(super) fn lay_out(dir: &Path) -> io::Result<()> {
    make_dirs(dir)?;
    for path in first_files(dir) {
        fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)?;
    }
    Ok(())
}
