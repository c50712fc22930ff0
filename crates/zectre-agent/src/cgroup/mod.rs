//! Control groups, v1, v2 and the mixture of both: memory, cpu and process limits for native tasks.
//!
//! What can be enforced is found out by trying it once at start, and what can't is said in the node's
//! [`Enforcement`] report. All groups of one agent are below `zectre/<agent>`, so that several agents on one
//! machine never touch each other's.

mod group;
mod mount;

pub(crate) use group::{Group, Limits};

use group::Controller;
use mount::Mounts;
use std::{
    fs, io,
    path::{Path, PathBuf},
};
use zectre_common::wire::node::Enforcement;

/// The directory above those of all agents.
const ROOT: &str = "zectre";

/// The control groups of this agent.
#[derive(Debug, Clone)]
pub(crate) struct Cgroups {
    /// In this order; the first is the one asked for members.
    controllers: Vec<(Controller, PathBuf)>,
}

/// The three kinds of limits, as they are called in both versions.
const NAMES: [&str; 3] = ["memory", "cpu", "pids"];

impl Cgroups {
    /// Finds out what this machine can enforce for the agent `scope` (a short name, unique on the machine).
    pub(crate) fn detect(scope: &str) -> (Self, Enforcement) {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::detect_in(&Mounts::parse(&text), scope)
    }

    fn detect_in(mounts: &Mounts, scope: &str) -> (Self, Enforcement) {
        let mut report = Enforcement {
            cgroups: mounts.kind().into(),
            ..Enforcement::default()
        };
        let mut controllers = Vec::new();
        for name in NAMES {
            match claim(mounts, name, scope) {
                Ok(claimed) => controllers.push(claimed),
                Err(why) => report.gaps.push(gap(name, &why)),
            }
        }
        let has = |name| {
            controllers
                .iter()
                .any(|(controller, _): &(Controller, _)| controller.name() == name)
        };
        (report.memory, report.cpu, report.pids) = (has("memory"), has("cpu"), has("pids"));
        (Self { controllers }, report)
    }

    /// Makes the group `name` (or takes it, when it is there).
    pub(crate) fn create(&self, name: &str) -> io::Result<Group> {
        for (_, base) in self.distinct() {
            match fs::create_dir(base.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => made?,
            }
        }
        Ok(self.group(name))
    }

    /// The group `name`, there or not.
    pub(crate) fn group(&self, name: &str) -> Group {
        let dirs = self
            .controllers
            .iter()
            .map(|(controller, base)| (*controller, base.join(name)));
        Group::new(name, dirs.collect())
    }

    /// The names of all groups of this agent.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self
            .distinct()
            .iter()
            .filter_map(|(_, base)| fs::read_dir(base).ok())
            .flat_map(Iterator::flatten)
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// Removes this agent's directories, unless a task is still in one.
    pub(crate) fn close(&self) {
        for (_, base) in self.distinct() {
            let _ = fs::remove_dir(base);
        }
    }

    /// In v2 all controllers share one directory.
    fn distinct(&self) -> Vec<&(Controller, PathBuf)> {
        let mut distinct: Vec<&(Controller, PathBuf)> = Vec::new();
        for claimed in &self.controllers {
            if distinct.iter().all(|(_, base)| *base != claimed.1) {
                distinct.push(claimed);
            }
        }
        distinct
    }
}

/// Makes our directory for one controller and tries whether a limit can be set below it.
fn claim(mounts: &Mounts, name: &'static str, scope: &str) -> Result<(Controller, PathBuf), String> {
    let (controller, top) = mounts.controller(name)?;
    let base = top.join(ROOT).join(scope);
    let said = |error: io::Error| format!("{}: {error}", base.display());
    if controller.is_v2() {
        for dir in [top.clone(), top.join(ROOT), base.clone()] {
            fs::create_dir_all(&dir).map_err(said)?;
            delegate(&dir, name)?;
        }
    } else {
        fs::create_dir_all(&base).map_err(said)?;
    }
    let trial = Group::new("trial", vec![(controller, base.join("trial"))]);
    let set = fs::create_dir_all(base.join("trial")).and_then(|()| {
        trial.limit(&Limits {
            memory_bytes: 64 << 20,
            cpu_millis: 1_000,
            pids_max: 16,
        })
    });
    let removed = trial.remove();
    set.and(removed).map_err(said)?;
    Ok((controller, base))
}

/// Lets the groups below `dir` (v2) use a controller.
fn delegate(dir: &Path, name: &str) -> Result<(), String> {
    fs::write(dir.join("cgroup.subtree_control"), format!("+{name}"))
        .map_err(|error| format!("{} can't be delegated to: {error}", dir.display()))
}

fn gap(name: &str, why: &str) -> String {
    let what = match name {
        "memory" => "memory limits are not enforced but by a resource limit on private memory",
        "cpu" => "cpu limits are not enforced",
        _ => "the number of processes of a task is not limited but by a resource limit of its user",
    };
    format!("{what}: no {name} control group ({why})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_without_control_groups_says_so() {
        let (cgroups, report) = Cgroups::detect_in(&Mounts::parse(""), "test");
        assert_eq!(report.cgroups, "none");
        assert_eq!(report.gaps.len(), NAMES.len());
        assert!(!report.memory && !report.cpu && !report.pids);
        assert!(cgroups.names().is_empty());
        assert!(cgroups.create("x").is_ok_and(|group| group.dirs().is_empty()));
    }

    #[test]
    fn a_group_is_killed_whole_and_spares_whom_it_must() {
        let scope = format!("test-{}", std::process::id());
        let (cgroups, report) = Cgroups::detect(&scope);
        let group = cgroups.create("one").expect("made");
        if !report.pids {
            assert!(report.gaps.iter().any(|gap| gap.contains("number of processes")));
            return;
        }
        let mut children: Vec<_> = (0..3)
            .map(|_| {
                let child = std::process::Command::new("sleep").arg("600").spawn();
                let child = child.expect("a child");
                for dir in group.dirs() {
                    fs::write(dir.join("cgroup.procs"), child.id().to_string()).expect("entered");
                }
                child
            })
            .collect();
        let spared = children.remove(0);
        let spared_pid = i32::try_from(spared.id()).expect("a pid");
        group.kill(Some(spared_pid));
        for child in &mut children {
            assert!(!child.wait().expect("it ends").success());
        }
        assert_eq!(group.members(), Some(vec![spared_pid]));
        children.push(spared);
        group.kill(None);
        assert!(!children[2].wait().expect("it ends").success());
        group.remove().expect("empty");
        cgroups.close();
    }
}
