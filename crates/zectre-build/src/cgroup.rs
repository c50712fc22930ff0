//! A memory limit for one build, by a cgroup of its own (v1 or v2), where this process may make one.
//!
//! Where it may not (no root, nothing mounted) builds run without, and the build's log says so.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
}

/// Where builds' groups are made.
#[derive(Debug, Clone)]
pub struct Parent {
    version: Version,
    path: PathBuf,
    /// The most memory of one build.
    memory_bytes_max: u64,
    left: Left,
}

/// Groups that could not be removed yet: the kernel was still burying their last process.
type Left = Arc<Mutex<Vec<PathBuf>>>;

/// The group of one build; removed when dropped.
#[derive(Debug)]
pub struct Cgroup {
    version: Version,
    path: PathBuf,
    left: Left,
}

impl Parent {
    /// Finds the memory controller, makes `zectre-build` below it, and clears what a crash left there.
    pub fn open(memory_bytes_max: u64) -> Result<Self, String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(|error| error.to_string())?;
        let (version, root) = controller(&mounts).ok_or("the memory controller is not mounted")?;
        let path = root.join("zectre-build");
        let made = || -> io::Result<()> {
            fs::create_dir_all(&path)?;
            if version == Version::V2 {
                fs::write(root.join("cgroup.subtree_control"), "+memory")?;
                fs::write(path.join("cgroup.subtree_control"), "+memory")?;
            }
            for left in fs::read_dir(&path)?
                .flatten()
                .filter(|entry| entry.path().is_dir())
            {
                // One that is still in use belongs to another worker.
                let _ = fs::remove_dir(left.path());
            }
            Ok(())
        };
        made().map_err(|error| format!("no cgroup can be made in {}: {error}", root.display()))?;
        Ok(Self {
            version,
            path,
            memory_bytes_max,
            left: Left::default(),
        })
    }

    /// A group with the limit set.
    pub fn create(&self, name: &str) -> io::Result<Cgroup> {
        self.left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|path| fs::remove_dir(path).is_err());
        let path = self.path.join(name);
        fs::create_dir(&path)?;
        let group = Cgroup {
            version: self.version,
            path,
            left: self.left.clone(),
        };
        let limit = self.memory_bytes_max.to_string();
        match self.version {
            Version::V1 => fs::write(group.path.join("memory.limit_in_bytes"), limit)?,
            Version::V2 => {
                fs::write(group.path.join("memory.max"), limit)?;
                fs::write(group.path.join("memory.oom.group"), "1")?;
            }
        }
        Ok(group)
    }
}

impl Cgroup {
    /// A process that writes `0` here joins.
    pub fn procs(&self) -> PathBuf {
        self.path.join("cgroup.procs")
    }

    /// Whether a process was killed because the limit was reached.
    pub fn out_of_memory(&self) -> bool {
        let file = match self.version {
            Version::V1 => "memory.oom_control",
            Version::V2 => "memory.events",
        };
        let text = fs::read_to_string(self.path.join(file)).unwrap_or_default();
        text.lines()
            .filter_map(|line| line.split_once(' '))
            .any(|(key, count)| key == "oom_kill" && count != "0")
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if fs::remove_dir(&self.path).is_err() {
            self.left
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(self.path.clone());
        }
    }
}

/// The memory controller's mount in `/proc/self/mountinfo`.
fn controller(mounts: &str) -> Option<(Version, PathBuf)> {
    let mut unified = None;
    for line in mounts.lines() {
        let (left, right) = line.split_once(" - ")?;
        let path = Path::new(left.split(' ').nth(4)?);
        let mut right = right.split(' ');
        let (kind, options) = (right.next()?, right.nth(1)?);
        match kind {
            "cgroup" if options.split(',').any(|option| option == "memory") => {
                return Some((Version::V1, path.to_owned()));
            }
            "cgroup2" => unified = Some((Version::V2, path.to_owned())),
            _ => {}
        }
    }
    unified
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_gets_the_limit_that_is_configured() {
        const LIMIT: u64 = 300 << 20;
        match Parent::open(LIMIT) {
            Ok(parent) => {
                let group = parent
                    .create(&format!("test-{}", std::process::id()))
                    .expect("a group can be made");
                let file = match group.version {
                    Version::V1 => "memory.limit_in_bytes",
                    Version::V2 => "memory.max",
                };
                let limit = fs::read_to_string(group.path.join(file)).expect("it is there");
                assert_eq!(limit.trim(), LIMIT.to_string());
            }
            // Said in each build's log.
            Err(reason) => assert!(reason.contains("cgroup") || reason.contains("memory"), "{reason}"),
        }
    }

    #[test]
    fn the_controller_is_found_in_both_worlds() {
        let v1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n\
                  41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        assert_eq!(
            controller(v1),
            Some((Version::V1, "/sys/fs/cgroup/memory".into()))
        );
        let v2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(controller(v2), Some((Version::V2, "/sys/fs/cgroup".into())));
        assert_eq!(controller("23 1 0:5 / /proc rw - proc proc rw\n"), None);
    }
}
