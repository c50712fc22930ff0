//! The unprivileged users that native tasks run as: one an application, the same at every start.
//!
//! No account is made for them; a number is enough to keep applications from each other's files and processes.

use std::{
    collections::BTreeMap,
    io,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

/// How many applications can have a user of their own; whoever owns the numbers after these is nobody of ours.
const USERS_MAX: u32 = 1 << 16;

/// Which user id an application has.
#[derive(Debug)]
pub(crate) struct Users {
    path: PathBuf,
    uid_min: u32,
    known: Mutex<BTreeMap<String, u32>>,
}

impl Users {
    /// Takes up the map kept at `path`; `None` when this process may not become another user.
    pub(crate) fn open(path: &Path, uid_min: u32) -> io::Result<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let known = crate::record::read(path)?.unwrap_or_default();
        Ok(Some(Self {
            path: path.into(),
            uid_min,
            known: Mutex::new(known),
        }))
    }

    /// All numbers that are given to applications.
    pub(crate) const fn range(&self) -> RangeInclusive<u32> {
        self.uid_min..=self.uid_min.saturating_add(USERS_MAX - 1)
    }

    /// The user id of an application, a new one when it has none yet.
    pub(crate) fn uid(&self, namespace: &str, application: &str) -> io::Result<u32> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{namespace}/{application}");
        if let Some(uid) = known.get(&name) {
            return Ok(*uid);
        }
        let uid = known
            .values()
            .max()
            .map_or(self.uid_min, |last| last.saturating_add(1).max(self.uid_min));
        if !self.range().contains(&uid) {
            return Err(io::Error::other(format!(
                "all {USERS_MAX} user ids from {} on are given away",
                self.uid_min
            )));
        }
        known.insert(name.clone(), uid);
        // Kept before it is used: otherwise the next start could give the number to another application.
        if let Err(error) = crate::record::write_durably(&self.path, &*known) {
            known.remove(&name);
            return Err(error);
        }
        Ok(uid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_keeps_its_user() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("users.json");
        let Some(users) = Users::open(&path, 200_000).expect("opened") else {
            return;
        };
        let (a, b) = (
            users.uid("default", "a").expect("kept"),
            users.uid("default", "b").expect("kept"),
        );
        assert_ne!(a, b);
        let again = Users::open(&path, 200_000).expect("opened").expect("still root");
        assert_eq!(again.uid("default", "a").expect("kept"), a);
        assert_eq!(again.uid("other", "a").expect("kept"), b + 1);
    }

    #[test]
    fn numbers_that_are_not_ours_are_never_given() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("users.json");
        let last = 200_000 + USERS_MAX - 1;
        crate::record::write(&path, &BTreeMap::from([("default/last", last)])).expect("written");
        let Some(users) = Users::open(&path, 200_000).expect("opened") else {
            return;
        };
        assert!(users.range().contains(&last));
        assert!(users.uid("default", "one more").is_err());
        assert_eq!(users.uid("default", "last").expect("kept"), last);
    }
}
