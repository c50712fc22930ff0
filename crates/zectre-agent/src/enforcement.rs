//! What this machine can hold native tasks to: found out by trying it at the agent's start, used for every task,
//! and told in the node's [`Enforcement`] report with a sentence for everything that can't be held.

use crate::{
    error::Error,
    metadata,
    shim::{Attempted, PORTS_SINCE, SCOPES_SINCE, Walls},
    users::Users,
};
use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::Command;
use zectre_common::wire::node::Enforcement;

/// The empty directory below the agent's on which tasks' roots are built, each in its own namespace.
const ROOT_DIR: &str = "root";
/// What is said of a kernel that can do everything else: landlock knows no UDP, up to its version 7.
const UDP_GAP: &str = "a native task can receive on any free UDP port of the node: the kernel has no rule against it (TCP ports are its own only)";
/// What is said where an engine is: Docker's storage driver can bound a container's own layer on few file systems only, and Podman's not at all.
const LAYER_GAP: &str = "a container can fill the disk that its engine keeps it on: what it writes outside of volumes has no bound; give the engine a disk of its own";
/// The attempts take some 20 ms.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(20);

/// Tries what there is, adds it to the report, and gives what tasks are held in by.
pub(crate) async fn find_out(
    shim: &Path,
    data_dir: &Path,
    users: Option<&Users>,
    report: &mut Enforcement,
) -> Result<Walls, Error> {
    let root_dir = data_dir.join(ROOT_DIR);
    make_empty(&root_dir).map_err(|source| Error::DataDir {
        path: root_dir.clone(),
        source,
    })?;
    report.users = users.is_some();
    if users.is_none() {
        report
            .gaps
            .push("native tasks run as the agent's own user: the agent is not run as root".into());
    }
    let refused = users.map(|users| metadata::refuse_users(&users.range(), &resolver()));
    let attempted = attempt(shim, &root_dir, users)
        .await
        .map_err(|source| Error::Io {
            doing: "trying what tasks can be held to",
            source,
        })?;
    let metadata = match refused {
        None => Err("the agent is not run as root".to_owned()),
        Some(Err(error)) => Err(format!("no routing rule could be made: {error}")),
        Some(Ok(())) => attempted.metadata.clone(),
    };
    tell(report, &attempted, &metadata);
    Ok(Walls {
        root_dir: attempted.root.is_ok().then_some(root_dir),
        landlock: attempted.landlock.is_ok(),
        seccomp: attempted.seccomp.is_ok(),
    })
}

/// Keeps containers from what native tasks are kept from, or says why that can't be.
pub(crate) fn hold_containers(report: &mut Enforcement) {
    report.gaps.push(LAYER_GAP.into());
    if let Err(why) = metadata::refuse_containers(&resolver()) {
        report.gaps.push(format!(
            "containers can reach the cloud's metadata addresses, as no routing rule could be made ({why}); let the \
             cloud itself ask for a token there (IMDSv2 with a hop limit of 1)"
        ));
    }
}

/// What names the machine's resolvers.
fn resolver() -> String {
    fs::read_to_string("/etc/resolv.conf").unwrap_or_default()
}

/// What a task's root would be mounted on must hold nothing, and nobody else may look.
fn make_empty(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

async fn attempt(shim: &Path, root_dir: &PathBuf, users: Option<&Users>) -> io::Result<Attempted> {
    let mut command = Command::new(shim);
    command
        .arg("attempt")
        .arg(root_dir)
        .env_clear()
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    if let Some(users) = users {
        command.arg(users.range().end().to_string());
    }
    let output = tokio::time::timeout(ATTEMPT_TIMEOUT, command.output())
        .await
        .map_err(|_| io::Error::other("no answer in time"))??;
    serde_json::from_slice(&output.stdout)
        .map_err(|error| io::Error::other(format!("zectre-shim ended with {}: {error}", output.status)))
}

fn tell(report: &mut Enforcement, attempted: &Attempted, metadata: &Result<(), String>) {
    let Enforcement { gaps, .. } = report;
    if let Err(why) = &attempted.root {
        gaps.push(format!(
            "native tasks see the node's processes and have no files of their own, so what they write is not \
             bounded: {why}"
        ));
    }
    match &attempted.landlock {
        Ok(version) if *version < PORTS_SINCE => gaps.push(format!(
            "a native task can listen on ports that are not its own: the kernel has version {version} of \
             landlock, and {PORTS_SINCE} is needed"
        )),
        Ok(version) if *version < SCOPES_SINCE => gaps.push(format!(
            "native tasks can reach abstract sockets of the node: the kernel has version {version} of landlock, \
             and {SCOPES_SINCE} is needed"
        )),
        Ok(_) => gaps.push(UDP_GAP.into()),
        Err(why) => gaps.push(format!(
            "native tasks are held to their files by file permissions alone, and can listen on any port: {why}"
        )),
    }
    if let Err(why) = &attempted.seccomp {
        gaps.push(format!("native tasks can make any system call: {why}"));
    }
    if let Err(why) = metadata {
        gaps.push(format!(
            "native tasks can reach the cloud's metadata addresses: {why}"
        ));
    }
    report.namespaces = attempted.root.is_ok();
    report.files = attempted.root.is_ok();
    report.landlock = attempted.landlock.clone().unwrap_or(0);
    report.ports = report.landlock >= PORTS_SINCE;
    report.seccomp = attempted.seccomp.is_ok();
    report.metadata = metadata.is_ok();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_can_do_everything_tells_of_udp_alone() {
        let mut report = Enforcement::default();
        let all = Attempted {
            root: Ok(()),
            landlock: Ok(SCOPES_SINCE),
            seccomp: Ok(()),
            metadata: Ok(()),
        };
        tell(&mut report, &all, &Ok(()));
        assert_eq!(report.gaps, [UDP_GAP]);
        assert!(report.namespaces && report.files && report.ports && report.seccomp && report.metadata);
    }

    #[test]
    fn every_gap_has_its_sentence() {
        let none = Attempted {
            root: Err("because".into()),
            landlock: Err("because".into()),
            seccomp: Err("because".into()),
            metadata: Ok(()),
        };
        let mut report = Enforcement::default();
        tell(&mut report, &none, &Err("because".into()));
        assert_eq!(report.gaps.len(), 4);
        assert!(
            report.gaps.iter().all(|gap| gap.ends_with("because")),
            "{:?}",
            report.gaps
        );
        let old = Attempted {
            landlock: Ok(3),
            root: Ok(()),
            seccomp: Ok(()),
            metadata: Ok(()),
        };
        let mut report = Enforcement::default();
        tell(&mut report, &old, &Ok(()));
        assert!(report.gaps.len() == 1 && !report.ports, "{report:?}");
    }
}
