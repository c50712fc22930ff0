//! The unprivileged users that native tasks run as: one an application, the same at every start.
//!
//! No account is made for them; a number is enough to keep applications from each other's files and processes.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

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
        known.insert(name.clone(), uid);
        // Kept before it is used: otherwise the next start could give the number to another application.
        if let Err(error) = crate::record::write(&self.path, &*known) {
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
}
