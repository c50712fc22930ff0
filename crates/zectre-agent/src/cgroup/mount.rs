//! Where the control groups are mounted, from `/proc/self/mountinfo`.

use super::group::Controller;
use std::path::PathBuf;

/// The mounts of both versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// Mount point and controllers of each v1 hierarchy.
    v1: Vec<(PathBuf, Vec<String>)>,
    v2: Option<PathBuf>,
}

impl Mounts {
    /// Reads the text of mountinfo; lines of other kinds are passed over.
    pub(super) fn parse(text: &str) -> Self {
        let mut mounts = Self::default();
        for line in text.lines() {
            let Some((before, after)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = before.split(' ').nth(4) else {
                continue;
            };
            let mut after = after.split(' ');
            let (kind, options) = (after.next().unwrap_or_default(), after.nth(1).unwrap_or_default());
            match kind {
                "cgroup" => {
                    let controllers = options.split(',').map(str::to_owned).collect();
                    mounts.v1.push((unescape(point), controllers));
                }
                "cgroup2" => mounts.v2 = Some(unescape(point)),
                _ => {}
            }
        }
        mounts
    }

    /// `v1`, `v2`, `hybrid` or `none`.
    pub(super) fn kind(&self) -> &'static str {
        match (self.v1.is_empty(), self.v2.is_some()) {
            (true, false) => "none",
            (true, true) => "v2",
            (false, false) => "v1",
            (false, true) => "hybrid",
        }
    }

    /// Where a controller is: v1 where it is mounted there (then v2 can't have it), else v2.
    pub(super) fn controller(&self, name: &'static str) -> Result<(Controller, PathBuf), String> {
        let in_v1 = self
            .v1
            .iter()
            .find(|(_, controllers)| controllers.iter().any(|held| held == name));
        if let Some((point, _)) = in_v1 {
            return Ok((Controller::v1(name), point.clone()));
        }
        let point = self.v2.as_ref().ok_or_else(|| "none is mounted".to_owned())?;
        let held = std::fs::read_to_string(point.join("cgroup.controllers")).unwrap_or_default();
        if held.split_ascii_whitespace().any(|controller| controller == name) {
            Ok((Controller::v2(name), point.clone()))
        } else {
            Err(format!("{} doesn't have it", point.display()))
        }
    }
}

/// The kernel writes blanks and backslashes in octal.
fn unescape(path: &str) -> PathBuf {
    path.replace("\\040", " ")
        .replace("\\011", "\t")
        .replace("\\134", "\\")
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw";

    #[test]
    fn a_hybrid_is_told_apart() {
        let mounts = Mounts::parse(HYBRID);
        assert_eq!(mounts.kind(), "hybrid");
        let (memory, point) = mounts.controller("memory").expect("mounted");
        assert!(!memory.is_v2());
        assert_eq!(point, PathBuf::from("/sys/fs/cgroup/memory"));
        assert_eq!(
            mounts.controller("cpu").expect("mounted").1,
            PathBuf::from("/sys/fs/cgroup/cpu,cpuacct")
        );
    }

    #[test]
    fn other_machines_are_told_apart() {
        assert_eq!(
            Mounts::parse("30 1 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").kind(),
            "v2"
        );
        assert_eq!(Mounts::parse("nonsense").kind(), "none");
        assert!(Mounts::parse("").controller("memory").is_err());
    }
}
