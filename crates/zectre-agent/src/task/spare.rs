//! Directories that wait for a task, laid out with every file that a start writes.
//!
//! A start makes eight directories and files. Where many were deleted within the last minute, as on a node that wakes and sleeps a lot,
//! ext4 looks at each of those before it gives a number to a new one: half a millisecond a file was measured, more than half of a
//! wake. Renaming a directory costs 10 µs, whatever was deleted.

use super::{home, stock::Wanted};
use std::{
    collections::VecDeque,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use zectre_common::id::TaskId;
use zectre_service::tasks::Shutdown;

/// How many wait: a few wakes that come at once find one each; more of them pay the price.
const WAITING_MAX: usize = 8;
/// The waiting directories.
#[derive(Debug)]
pub(crate) struct Spares {
    dir: PathBuf,
    waiting: Mutex<VecDeque<PathBuf>>,
    wanted: Wanted,
}

impl Spares {
    /// Keeps them below `dir`, where nothing else is; those of an earlier agent go.
    pub(crate) fn open(dir: PathBuf) -> io::Result<Self> {
        crate::remove::remove(&dir)?;
        fs::create_dir(&dir)?;
        Ok(Self {
            dir,
            waiting: Mutex::default(),
            wanted: Wanted::default(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, VecDeque<PathBuf>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes one of them the directory `home`; whether that went. It does not where none waits, or where `home` is there already.
    pub(super) fn give(&self, home: &Path) -> bool {
        let Some(spare) = self.waiting().pop_front() else {
            return false;
        };
        match fs::rename(&spare, home) {
            Ok(()) => true,
            Err(error) => {
                tracing::debug!(%error, home = %home.display(), "a directory is made anew");
                self.waiting().push_back(spare);
                false
            }
        }
    }

    /// Makes up for what was given; called when a start is over, so as not to slow it down.
    pub(crate) fn refill(&self) {
        self.wanted.tell();
    }

    /// Keeps directories waiting until `stop`.
    pub(crate) async fn fill(self: Arc<Self>, stop: Shutdown) {
        let full = || self.waiting().len() >= WAITING_MAX;
        let make = || async {
            let spares = self.clone();
            let made = tokio::task::spawn_blocking(move || spares.make()).await;
            made.map_err(io::Error::other).flatten()
        };
        self.wanted.keep(full, make, &stop).await;
    }

    fn make(&self) -> io::Result<()> {
        self.make_at(self.dir.join(TaskId::new().to_string()))
    }

    /// The next try has another name: half a directory would stay, and one more with each try.
    fn make_at(&self, spare: PathBuf) -> io::Result<()> {
        home::lay_out(&spare).inspect_err(|_| home::clear_away(&spare))?;
        self.waiting().push_back(spare);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn spares() -> (tempfile::TempDir, Spares) {
        let dir = tempfile::tempdir().expect("a directory");
        let spares = Spares::open(dir.path().join("spares")).expect("they open");
        (dir, spares)
    }

    fn files(dir: &Path) -> Vec<(String, u64)> {
        let entries = fs::read_dir(dir).expect("it is a directory").flatten();
        let mut files: Vec<_> = entries
            .map(|entry| {
                let inode = entry.metadata().expect("it is there").ino();
                (entry.file_name().to_string_lossy().into_owned(), inode)
            })
            .collect();
        files.sort();
        files
    }

    #[test]
    fn a_spare_becomes_a_home_with_all_its_files_and_is_nobodys_else() {
        let (dir, spares) = spares();
        spares.make().expect("one is made");
        let laid_out = files(spares.waiting().front().expect("it waits"));
        let (home, other) = (dir.path().join("home"), dir.path().join("other"));
        assert!(spares.give(&home), "one waits");
        assert_eq!(files(&home), laid_out, "the same files, none made anew");
        assert!(!spares.give(&other), "none waits any more");
        let mode = |path: &Path| path.metadata().expect("it is there").permissions().mode() & 0o777;
        assert_eq!((mode(&home), mode(&home.join("work"))), (0o711, 0o700));
        for (name, _) in laid_out.iter().filter(|(name, _)| name != "work") {
            assert_eq!(mode(&home.join(name)), 0o600, "{name}");
        }
    }

    #[test]
    fn a_home_that_is_there_keeps_what_it_has() {
        let (dir, spares) = spares();
        spares.make().expect("one is made");
        let home = dir.path().join("home");
        fs::create_dir(&home).expect("it is made");
        fs::write(home.join("order.json"), "{}").expect("it is written");
        assert!(!spares.give(&home));
        assert_eq!(files(&home).len(), 1);
        assert!(
            spares.give(&dir.path().join("other")),
            "it waits for the next one"
        );
    }

    #[test]
    fn one_that_can_not_be_finished_leaves_nothing_behind() {
        let (dir, spares) = spares();
        let whole = dir.path().join("whole");
        home::lay_out(&whole).expect("it is made");
        let (second, _) = files(&whole).swap_remove(1);
        let half = dir.path().join("spares/half");
        fs::create_dir(&half).expect("it is made");
        fs::write(half.join(second), "").expect("it is written");
        spares
            .make_at(half)
            .expect_err("one of its files is there already");
        assert_eq!(files(&dir.path().join("spares")), Vec::new());
        assert!(!spares.give(&dir.path().join("home")), "none waits");
    }

    #[test]
    fn those_of_an_earlier_agent_go() {
        let (dir, spares) = spares();
        spares.make().expect("one is made");
        let spares = Spares::open(dir.path().join("spares")).expect("they open again");
        assert_eq!(files(&dir.path().join("spares")), Vec::new());
        assert!(!spares.give(&dir.path().join("home")));
    }
}
