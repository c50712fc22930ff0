//! One living proxy a place: whoever holds the lock beside the snapshot knows that those who held it before are gone,
//! though the lease of one that was killed says otherwise for a while. It takes their rows away, so that nobody waits for
//! acknowledgements that will never come.

use std::{
    ffi::OsString,
    fs::{File, TryLockError},
    io::{self, Read, Seek, Write},
    path::{Path, PathBuf},
};
use zectre_common::id::ProxyId;

/// The most former proxies that are remembered; more starts without a word to PostgreSQL leave rows that run out.
const FORMER_MAX: usize = 32;

/// Where this proxy lives, and who lived there before.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
    held: Option<File>,
    former: Vec<ProxyId>,
}

impl Place {
    /// The place of the snapshot at `snapshot`; `None` when none is kept: then nothing tells who came before.
    pub fn of(snapshot: &Path) -> Option<Self> {
        let mut path: OsString = snapshot.into();
        path.push(".proxy");
        (!snapshot.as_os_str().is_empty()).then(|| Self {
            path: path.into(),
            held: None,
            former: Vec::new(),
        })
    }

    /// Makes the place that of `me`, unless another proxy lives here (as in an upgrade): then a later call may. To be called
    /// before PostgreSQL hears of `me`: whoever comes next must know of every row there may be.
    pub fn take(&mut self, me: ProxyId) -> io::Result<()> {
        if self.held.is_some() {
            return Ok(());
        }
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&self.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut text = String::new();
        // Anything else in it was not written by a proxy.
        (&file).take(4_096).read_to_string(&mut text)?;
        let mut former: Vec<ProxyId> = text.lines().filter_map(|line| line.parse().ok()).collect();
        former.drain(..former.len().saturating_sub(FORMER_MAX));
        // Both, until the rows of the former are gone: this proxy may be killed before that.
        let all: Vec<ProxyId> = former.iter().copied().chain([me]).collect();
        write(&mut file, &all)?;
        self.held = Some(file);
        self.former = former;
        Ok(())
    }

    /// Those whose place this is now, and of whose end PostgreSQL may not know.
    pub fn former(&self) -> &[ProxyId] {
        &self.former
    }

    /// The rows of the former are gone: only `me` is left to remember.
    pub fn cleared(&mut self, me: ProxyId) -> io::Result<()> {
        self.former.clear();
        match &mut self.held {
            Some(file) => write(file, &[me]),
            None => Ok(()),
        }
    }
}

fn write(file: &mut File, ids: &[ProxyId]) -> io::Result<()> {
    let lines: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let text = lines.join("\n") + "\n";
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_one_that_is_gone_is_taken_over_and_that_of_a_living_one_is_not() {
        let directory = tempfile::tempdir().expect("a directory");
        let snapshot = directory.path().join("routes.json");
        let place = || Place::of(&snapshot).expect("one is kept");
        let [one, two, three] = [ProxyId::new(), ProxyId::new(), ProxyId::new()];

        let taken = |place: &mut Place, me| {
            place.take(me).expect("readable");
            place.former().to_vec()
        };
        let mut first = place();
        assert_eq!(taken(&mut first, one), []);
        let mut second = place();
        assert_eq!(taken(&mut second, two), [], "the first lives");
        drop(first);
        assert_eq!(taken(&mut second, two), [one]);
        assert_eq!(taken(&mut second, two), [one], "until its row is gone");
        // Killed before the row of the first was gone.
        drop(second);
        let mut third = place();
        assert_eq!(taken(&mut third, three), [one, two]);
        third.cleared(three).expect("writable");
        assert_eq!(third.former(), []);
        drop(third);
        assert_eq!(taken(&mut place(), one), [three]);
        assert!(Place::of(Path::new("")).is_none());
    }
}
